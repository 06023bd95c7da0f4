"""`recscale repro`: verdicts by hand, and a small table from its file to what is printed."""

import json

import pytest

from recscale.cli import main
from recscale.datasets._files import Origin
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.repro import NotRun, cells_of, distance, orders_of, tally
from recscale.running.repro_tables import Column, Row, Table, Tolerance


def table(*rows, columns=("Theirs",), **more):
    columns = [column if isinstance(column, Column) else Column(name=column, dataset="any") for column in columns]
    fields = {"tolerance": Tolerance(absolute=0.0005, reason="a test"), "metrics": ["recall@20"], **more}
    return Table(name="main", title="A table", protocol="fold-in", columns=columns, rows=list(rows), **fields)


def record(*, status="ok", **metrics):
    return RunRecord(
        key="a" * 64, status=status, reason=None if status == "ok" else "it needs too much", model="m", model_title="M",
        parameters={}, dataset="d", dataset_name="d", filter={}, protocol="fold-in", seed=0, device_requested="auto",
        n_threads=1, data_fingerprint="d", split_fingerprint="s", code_fingerprint="c", n_train_users=1, n_items=1,
        n_train_interactions=1, n_parameters=1_000, metrics={k.replace("_", "@"): v for k, v in metrics.items()},
        standard_errors={k.replace("_", "@"): 0.01 for k in metrics},
    )  # fmt: skip


def one_cell(published, ours, **more):
    row = Row(name="A", model="m", cells={"Theirs": [published]})
    outcome = ours if not isinstance(ours, float) else record(recall_20=ours)
    (cell,) = cells_of(table(row, **more), row, Column(name="Theirs", dataset="any"), outcome)
    return cell


def test_a_tolerance_is_the_sum_of_its_parts():
    tolerance = Tolerance(absolute=0.001, relative=0.05, standard_errors=2, reason="a test")

    assert tolerance.bound(0.2, 0.01) == pytest.approx(0.001 + 0.05 * 0.2 + 2 * 0.01)
    assert tolerance.bound(0.2, None) == pytest.approx(0.011)


@pytest.mark.parametrize(
    ("published", "ours", "difference", "verdict"),
    [
        (0.1760, 0.1765, 0.0005, "within"),  # to the last bit the difference is larger than .0005
        (0.1760, 0.1755, -0.0005, "within"),
        (0.1760, 0.1766, 0.0006, "outside"),
        (0.1760, 0.1754, -0.0006, "outside"),
        ((0.06, 0.12), 0.09, 0.0, "within"),
        ((0.06, 0.12), 0.1204, 0.0004, "within"),
        ((0.06, 0.12), 0.05, -0.01, "outside"),
        ((0.06, 0.12), 0.13, 0.01, "outside"),
    ],
)
def test_a_figure_is_within_up_to_the_tolerance_and_outside_beyond_it(published, ours, difference, verdict):
    cell = one_cell(published, ours)

    assert cell.difference == pytest.approx(difference, abs=1e-12)
    assert (cell.verdict, cell.tolerance) == (verdict, pytest.approx(0.0005))
    assert distance(published, ours)[1] == cell.difference


def test_standard_errors_of_ours_widen_the_tolerance():
    assert one_cell(0.2, 0.229).verdict == "outside"
    assert one_cell(0.2, 0.229, tolerance=Tolerance(standard_errors=3, reason="a test")).verdict == "within"
    assert one_cell(0.2, 0.231, tolerance=Tolerance(standard_errors=3, reason="a test")).verdict == "outside"


def test_the_tolerance_of_a_row_goes_before_that_of_the_table():
    row = Row(name="A", model="m", cells={"Theirs": [0.2]}, tolerance=Tolerance(relative=0.1, reason="a test"))
    (cell,) = cells_of(table(row), row, Column(name="Theirs", dataset="any"), record(recall_20=0.219))

    assert (cell.verdict, cell.tolerance) == ("within", pytest.approx(0.02))


@pytest.mark.parametrize(
    ("published", "outcome", "verdict"),
    [
        (None, 0.3, "no published figure"),
        ("OOM", 0.3, "no published figure"),
        (0.3, record(status="refused"), "failed"),
        (None, record(status="timeout"), "failed"),
        (0.3, NotRun("failed", "the file is damaged"), "failed"),
        (0.3, NotRun("absent", "absent: fetch it"), "absent"),
    ],
)
def test_what_cannot_be_compared_says_why(published, outcome, verdict):
    cell = one_cell(published, outcome)

    assert cell.verdict == verdict
    assert (cell.difference, cell.tolerance) == (None, None)
    assert (cell.reason is not None) == (verdict in ("failed", "absent"))


def test_a_row_without_a_model_of_ours_keeps_the_figure_of_the_paper():
    row = Row(name="A", model="m", by_column={"Theirs": None}, cells={"Theirs": [0.2]})
    (cell,) = cells_of(table(row), row, Column(name="Theirs", dataset="any"), None)

    assert (cell.verdict, cell.published, cell.model) == ("no model", 0.2, None)


def test_sizes_stand_beside_the_metrics_without_a_verdict():
    row = Row(name="A", model="m")
    cells = cells_of(table(row, sizes=["n_parameters"]), row, Column(name="T", dataset="any"), record(recall_20=0.2))

    assert [(cell.metric, cell.ours, cell.verdict) for cell in cells] == [
        ("recall@20", 0.2, "no published figure"),
        ("n_parameters", 1_000, "no published figure"),
    ]


def test_a_cell_has_the_notes_of_its_table_column_and_row_each_once():
    row = Row(name="A", model="m", notes=["of the row", "of the table"])
    column = Column(name="Theirs", dataset="any", notes=["of the column"])
    (cell,) = cells_of(table(row, notes=["of the table"]), row, column, None)

    assert cell.notes == ["of the table", "of the column", "of the row"]


def test_the_order_of_rows_is_held_against_the_paper_and_against_what_a_column_stands_for():
    columns = [Column(name="Theirs", dataset="any"), Column(name="Other", dataset="any", stands_for="Theirs")]
    rows = [Row(name=n, model=n, cells={"Theirs": [p]}) for n, p in (("A", 0.1), ("B", 0.2), ("C", 0.2), ("D", 0.3))]
    ours = {"Theirs": {"A": 0.5, "B": 0.6, "C": 0.7, "D": 0.8}, "Other": {"A": 0.7, "B": 0.6, "D": 0.8}}
    made = table(*rows, columns=columns)
    cells = [
        cell
        for column in columns
        for row in rows
        for cell in cells_of(
            made, row, column, record(recall_20=ours[column.name][row.name]) if row.name in ours[column.name] else None
        )
    ]

    # Theirs: AB AC AD BD CD, and BC is level there; Other has no C: AB is the other way round, AD and BD are right
    assert [(o.column, o.n_agreeing, o.n_pairs) for o in orders_of(made, cells)] == [("Theirs", 5, 5), ("Other", 2, 3)]
    assert tally(cells) == {"outside": 4, "no published figure": 3, "no model": 1}


PAPER = """
title: A small paper
cite: somebody2020
notes:
  filtered: Ours is filtered in another way.
  unused-on-gone: A row of ours.
tables:
  - name: main
    title: Recall and NDCG
    protocol: fold-in
    metrics: [recall@20, ndcg@100]
    sizes: [n_parameters]
    tolerance: {absolute: 0.01, reason: a test}
    columns:
      - {name: Small, dataset: "file[path=data.csv]", notes: [filtered]}
      - {name: Gone, dataset: ml-20m}
      - {name: Secret, why_absent: never published}
      - {name: Damaged, dataset: "file[path=no.csv]", stands_for: Gone}
    rows:
      - {name: Popularity, model: popularity, cells: {Small: [1.0, .0], Gone: [.1, .2], Secret: [.3, OOM]}}
      - {name: Neighbours, model: "item_knn[k=5]", cells: {Gone: [.2, .3]}, notes: [unused-on-gone]}
      - {name: Unknown, cells: {Small: [.9, null]}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, data_file):
    monkeypatch.delenv("RECSCALE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").symlink_to(data_file)
    (tmp_path / "paper.yaml").write_text(PAPER)

    def refuse(self, remote, folder):
        raise AssertionError(f"{remote.url} was asked for")

    monkeypatch.setattr(Origin, "_download", refuse)
    return tmp_path


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["repro", *map(str, arguments)])
    return ended.value.code


def test_a_paper_is_run_printed_and_kept(folder, capfd):
    code = call("paper.yaml", "--store", "s", "--json", "--markdown", "out.md")

    document = json.loads(capfd.readouterr().out)
    cells = {(c["column"], c["row"], c["metric"]): c for c in document["tables"][0]["cells"]}
    verdicts = {key: cell["verdict"] for key, cell in cells.items()}
    kept = {r.model: r for r in Store(folder / "s").records()}
    assert code == 0
    assert len(cells) == 4 * 3 * 2 + 2  # four columns, three rows, two metrics, and the sizes of what was run
    assert verdicts["Small", "Popularity", "recall@20"] == "within"  # of 20 items all are listed, so all are found
    assert verdicts["Small", "Popularity", "ndcg@100"] == "outside"
    assert cells["Small", "Popularity", "ndcg@100"]["ours"] == kept["popularity"].metrics["ndcg@100"]
    assert verdicts["Small", "Neighbours", "recall@20"] == "no published figure"
    assert verdicts["Small", "Unknown", "recall@20"] == "no model"
    assert verdicts["Gone", "Popularity", "recall@20"] == verdicts["Gone", "Neighbours", "ndcg@100"] == "absent"
    assert cells["Gone", "Popularity", "recall@20"]["reason"] == "absent: recscale prepare ml-20m, or --download"
    assert cells["Secret", "Popularity", "recall@20"]["reason"] == "never published"
    assert verdicts["Damaged", "Popularity", "recall@20"] == "failed"
    assert "no.csv" in cells["Damaged", "Popularity", "recall@20"]["reason"]
    assert set(kept) == {"popularity", "item_knn"} and set(kept["popularity"].metrics) > {"recall@50", "ndcg@100"}

    text = (folder / "out.md").read_text()
    assert "recscale repro paper.yaml --store s" in text and "| Popularity | popularity | recall@20 | 1.0000 |" in text
    assert "1. Ours is filtered in another way." in text

    assert call("paper.yaml", "--store", "s", "--strict", "--column", "Small") == 1
    printed = capfd.readouterr()
    assert "2 jobs, 2 of them finished before" in printed.err
    assert "Known differences\n  1  Ours is filtered" in printed.out
    assert "main: 8 cells: 1 within, 1 outside, 4 no published figure, 2 no model" in printed.out


def test_what_another_machine_finished_is_not_run_again_and_named(folder, capfd):
    call("paper.yaml", "--store", "s", "--column", "Small")
    (own,) = (path for path in (folder / "s").iterdir() if not path.name.startswith("."))
    own.rename(folder / "s" / "another-machine")
    capfd.readouterr()

    code = call("paper.yaml", "--store", "s", "--column", "Small", "--json")

    printed = capfd.readouterr()
    assert code == 0 and "2 jobs, 2 of them finished before" in printed.err
    assert {c["verdict"] for c in json.loads(printed.out)["tables"][0]["cells"]} >= {"within", "outside"}
    assert not own.exists()


def test_stored_tables_are_printed_without_running_anything(folder, capfd):
    call("paper.yaml", "--store", "s", "--column", "Small", "--row", "Popularity")
    capfd.readouterr()

    code = call("paper.yaml", "--store", "s", "--column", "Small", "--stored", "--json", "--markdown", "out.md")

    cells = json.loads(capfd.readouterr().out)["tables"][0]["cells"]
    verdicts = {(c["row"], c["metric"]): c["verdict"] for c in cells}
    assert code == 0
    assert verdicts["Popularity", "recall@20"] == "within"
    assert verdicts["Neighbours", "recall@20"] == verdicts["Neighbours", "ndcg@100"] == "not run"
    assert {record.model for record in Store(folder / "s").records()} == {"popularity"}
    assert "--stored" not in (folder / "out.md").read_text()  # the command that gives all of them


def test_stored_tables_tell_of_the_failures_of_other_machines(folder, capfd):
    call("paper.yaml", "--store", "s", "--column", "Small", "--row", "Neighbours", "--max-memory", "1KB")
    (own,) = (path for path in (folder / "s").iterdir() if not path.name.startswith("."))
    own.rename(folder / "s" / "another-machine")
    capfd.readouterr()

    assert call("paper.yaml", "--store", "s", "--column", "Small", "--stored", "--json") == 0

    cells = json.loads(capfd.readouterr().out)["tables"][0]["cells"]
    found = {(c["row"], c["metric"]): (c["verdict"], c["status"]) for c in cells}
    assert found["Neighbours", "recall@20"] == ("failed", "refused")
    assert found["Popularity", "recall@20"] == ("not run", None)


def test_a_plan_runs_nothing_and_a_list_reads_nothing(folder, capfd):
    assert call("paper.yaml", "--column", "Small", "--plan", "--store", "s") == 0
    assert "item_knn" in capfd.readouterr().out
    assert not list((folder / "s").rglob("*.json"))

    assert call("paper.yaml", "--list") == 0
    listed = capfd.readouterr().out
    assert "Gone = ml-20m: absent: recscale prepare ml-20m, or --download" in listed
    assert "Secret: never published" in listed and "Small = file[path=data.csv]: here" in listed


def test_without_a_paper_those_that_there_are_are_listed(folder, capfd):
    assert call() == 0
    assert {"bars-gowalla", "chol", "elfm"} <= {line.partition(":")[0] for line in capfd.readouterr().out.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chool"], "did you mean 'chol'"),
        (["paper.yaml", "--table", "man"], "did you mean 'main'"),
        (["paper.yaml", "--row", "Popularty"], "did you mean 'Popularity'"),
        (["paper.yaml", "--column", "Smal"], "did you mean 'Small'"),
        (["paper.yaml", "--timeout", "soon"], "'soon'"),
        (["missing.yaml"], "missing.yaml cannot be read"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(folder, capfd, arguments, expected):
    assert call(*arguments, "--store", "s") == 2
    error = capfd.readouterr().err
    complaints = [line for line in error.splitlines() if line.startswith("recscale: ")]
    assert len(complaints) == 1 and expected in complaints[0], error


def test_a_refused_job_is_a_cell_with_its_reason(folder, capfd):
    code = call("paper.yaml", "--column", "Small", "--row", "Neighbours", "--store", "s", "--max-memory", "1kB")

    printed = capfd.readouterr().out
    assert code == 0
    assert "Neighbours: refused: needs about" in printed and "2 failed" in printed
