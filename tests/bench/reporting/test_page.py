import re
from html.parser import HTMLParser

import pytest

from recscale.errors import StoreError, UnknownName, UsageError
from recscale.records.record import CoClusterExample
from recscale.reporting.page import write_report
from recscale.reporting.rendering import escape_markdown

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>--><b>|`*[x](javascript:alert(3))'


class Reader(HTMLParser):
    """Gathers the tags, attributes and text of a page, as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text, self.ids, self.references = [], [], [], [], []
        self.scripts = 0  # that a browser would run, not data

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.scripts += tag == "script" and "type" not in dict(attrs)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("href", "xlink:href", "src")]

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    return reader


def test_a_report_is_pages_and_figures_and_nothing_half_written(realistic_records, tmp_path):
    written = write_report(realistic_records(), tmp_path / "new" / "folder")

    names = [path.name for path in written]
    assert names[-2:] == ["report.md", "report.html"]
    assert set(names) == {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert {"debian-depends-fold-in-parameters.svg", "debian-depends-fold-in-costs.png"} <= set(names)
    assert all(path.stat().st_size for path in written)


def test_the_formats_asked_for_are_the_files_written(realistic_records, tmp_path):
    written = write_report(realistic_records(), tmp_path, formats=("html", "pdf"), interactive=False)

    assert {path.suffix for path in written} == {".html", ".pdf"}
    assert "<svg" in written[-1].read_text()


def test_an_interactive_page_holds_no_still_figure_of_the_same(realistic_records, tmp_path):
    written = write_report(realistic_records(), tmp_path, formats=("html", "svg"), interactive=True)

    assert {path.name for path in written[:-1]} >= {
        "debian-depends-fold-in-parameters.svg", "debian-depends-fold-in-costs.svg",
    }  # fmt: skip
    assert "<svg" not in written[-1].read_text()


def test_without_the_library_the_page_is_still_and_says_what_would_change_that(
    realistic_records, tmp_path, monkeypatch
):
    monkeypatch.setattr("recscale.reporting.interactive.is_there", lambda: False)

    (page,) = write_report(realistic_records(), tmp_path, formats=("html",))

    assert "<svg" in page.read_text()
    assert "data-chart" not in page.read_text()
    assert "pip install &#34;recscale[report]&#34;" in page.read_text()


def test_a_report_without_figures_refers_to_none(realistic_records, tmp_path):
    (page,) = write_report(realistic_records(), tmp_path, formats=("md",))

    assert "![" not in page.read_text()


def test_the_same_records_give_the_same_report(realistic_records, tmp_path):
    first = write_report(realistic_records(), tmp_path / "a")
    second = write_report(realistic_records()[::-1], tmp_path / "b")

    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_page_needs_nothing_from_outside_and_no_id_is_there_twice(realistic_records, tmp_path):
    records = [*realistic_records(), *realistic_records("gowalla", "fixed")]
    write_report(records, tmp_path)

    page = read(tmp_path / "report.html")

    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)


def test_failures_stand_in_both_pages_with_their_reason(realistic_records, tmp_path):
    write_report(realistic_records(), tmp_path)

    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        for words in ("refused (needs 729 GB)", "OOM", "timeout (10 min)", "no GPU on this machine", "23.1 GB on top"):
            assert words in text, (name, words)


def test_the_markdown_table_has_a_cell_for_every_column_and_the_best_in_bold(realistic_records, tmp_path):
    (page,) = write_report(realistic_records(), tmp_path, formats=("md",))

    table = [line for line in page.read_text().partition("± is")[0].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| ease k=6104 | **0.5600** ± 0.0090 |" in table[2]
    assert sum("**" in line for line in table) == 1


def test_sizes_have_their_tables_and_figures_in_both_pages(sized_record, tmp_path):
    records = [
        sized_record(model, "k", k, score=score - l2 / 1000, n_parameters=100 * k, parameters={"k": k, "l2": l2})
        for model in ("chol", "item_knn")
        for k, score in ((20, 0.4), (50, 0.5 if model == "chol" else 0.45))
        for l2 in (7.0, 70.0)
    ]
    for record in records:
        record.metrics["prediction_coverage"] = 0.5

    written = write_report(records, tmp_path, interactive=False)

    names = [path.name for path in written if path.suffix == ".svg"]
    anchor = "debian-depends-fold-in"
    assert names == [f"{anchor}-{n}.svg" for n in ("parameters", "costs", "by-size", "chol-l2", "item-knn-l2")]
    markdown = (tmp_path / "report.md").read_text()
    assert "| k | chol | item_knn |\n| --: | --: | --: |\n| 20 | **0.3930** | **0.3930** |\n" in markdown
    assert "| 50 | **0.4930** | 0.4430 |\n" in markdown
    assert re.findall(r"\((\S+\.svg)\)", markdown) == names
    page = (tmp_path / "report.html").read_text()
    assert '<th scope="row" class="number">50</th>\n<td class="number best">0.4930</td>\n' in page
    assert page.count("<svg") == len(names)
    assert "ndcg@100 of item_knn against its size, a line for each value of l2." in page
    assert (
        "Against the number of parameters: fit time and prediction coverage (the share of items with a non-zero score)"
        in page
    )


def test_figures_whose_names_would_be_the_same_get_one_each(sized_record, tmp_path):
    records = [
        sized_record(model, "k", k, score=0.4, n_parameters=k, parameters={"k": k, option: value})
        for model, option in (("by", "size"), ("a b", "c"), ("a-b", "c"))
        for k in (1, 2)
        for value in (1, 2)
    ]

    written = write_report(records, tmp_path, formats=("svg",))

    names = [path.name.removeprefix("debian-depends-fold-in-") for path in written]
    assert names == ["parameters.svg", "costs.svg", "by-size.svg", "a-b-c.svg", "a-b-c-2.svg", "by-size-2.svg"]


def test_only_failures_make_a_report_that_says_so(record, tmp_path):
    write_report([record(status="error", reason="it broke")], tmp_path)

    for name in ("report.md", "report.html"):
        assert "No run finished" in (tmp_path / name).read_text()
        assert "it broke" in (tmp_path / name).read_text()


def test_hostile_strings_are_shown_and_never_run(record, tmp_path):
    places = {
        "model_title": HOSTILE, "dataset": HOSTILE, "dataset_name": HOSTILE, "parameters": {HOSTILE: HOSTILE},
        "size_knob": HOSTILE, "device_requested": HOSTILE, "machine": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "log_tail": [HOSTILE], "split_fingerprint": HOSTILE, "filter": {HOSTILE: HOSTILE}, "started_at": HOSTILE,
        "calibration": {HOSTILE: 1.0},
    }  # fmt: skip
    examples = [CoClusterExample(user=1, cluster=2, affinity=1.0, items=[HOSTILE])]
    judged = {"coclusters": {"cocluster.n_dead": 1.0}, "cocluster_examples": examples, "update_median_seconds": 1.0}
    records = [
        record(HOSTILE, **judged, metrics={HOSTILE: 0.5}, standard_errors={HOSTILE: 0.1}, **places),
        record(HOSTILE + "2", status="error", reason=HOSTILE, failed_phase=HOSTILE, **places),
        record(HOSTILE, **(places | {"dataset": HOSTILE + "3"})),
    ]

    written = write_report(records, tmp_path)

    page = read(tmp_path / "report.html")
    assert page.scripts == 1
    assert not {"img", "b", "iframe"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert HOSTILE in "".join(page.text)
    assert not re.search(r"<(script|img|b)\b", (tmp_path / "report.md").read_text().split("## Commands")[0])
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) and path.parent == tmp_path for path in written)


def test_only_the_scripts_own_hash_is_allowed_to_run(realistic_records, tmp_path):
    write_report(realistic_records(), tmp_path, formats=("html",))

    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (tmp_path / "report.html").read_text())[1]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src( 'sha256-[A-Za-z0-9+/=]{44}'){2};", policy)
    assert "connect-src" not in policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item_knn k=5", "item_knn k=5"),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("two\nlines", "two lines"),
        ("[x](y)", r"\[x\](y)"),
        ("__init__", r"\_\_init\_\_"),
        ("`*~#$", r"\`\*\~\#\$"),
    ],
)
def test_markdown_shows_text_as_it_is(text, expected):
    assert escape_markdown(text) == expected


def test_names_that_share_a_file_name_get_one_each(record, tmp_path):
    records = [record(dataset="a b"), record(dataset="a/b"), record(dataset="../../etc")]

    written = write_report(records, tmp_path)

    names = {path.name for path in written}
    assert {"a-b-fold-in-costs.svg", "a-b-fold-in-2-costs.svg", "etc-fold-in-costs.svg"} <= names
    assert len(names) == len(written)


def test_runs_of_two_machines_come_with_a_warning(record, tmp_path):
    write_report([record(), record(machine={"cpu": "other"})], tmp_path, formats=("md",))

    text = (tmp_path / "report.md").read_text()
    assert "Machines A, B made these records" in text
    assert "not comparable, except as ratios to the calibration" in text


def test_co_clusters_costs_and_data_sets_stand_in_both_pages(judged_record, tmp_path):
    records = [
        judged_record(model, dataset=dataset, score=score, cocluster_source=source, parameters={})
        for dataset in ("ml-1m", "web")
        for model, score, source in (("elfm", 0.5, "model"), ("wrmf", 0.4, "clustering"))
    ]

    names = [path.name for path in write_report(records, tmp_path, interactive=False) if path.suffix == ".svg"]

    assert {"ml-1m-fold-in-coclusters.svg", "web-fold-in-coclusters.svg"} <= set(names)
    markdown, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert re.findall(r"\((\S+\.svg)\)", markdown) == names
    assert page.count("<svg") == len(names)
    assert "## Models by data set · fold-in\n\n| model | ml-1m ndcg@100 |" in markdown
    assert "| elfm | **0.5000** |" in markdown
    assert "| wrmf | *0.4000* |" in markdown
    assert '<td class="number second" data-value="0.4">0.4000</td>' in page
    for text in (markdown, page):
        for words in ("WRMF clustering", "Cost of a model and of a user", "state alone", "Nina Simone · band 41"):
            assert words in text
        assert text.count("automated proxies for the study with people") == 2


def test_every_table_of_the_page_is_named_and_can_be_reached_and_each_row_has_a_head(judged_record, tmp_path):
    write_report([judged_record(dataset=dataset) for dataset in ("ml-1m", "web")], tmp_path, formats=("html",))

    page = (tmp_path / "report.html").read_text()

    tables = re.findall(r'<div class="scroll" tabindex="0" role="region" aria-label="Table: ([^"]+)">\n<table', page)
    assert len(tables) == len(set(tables)) == page.count("<table") == 1 + 2 * 4
    grids = [body for body in re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL) if "<th" in body]
    assert len(grids) == 1 + 2 * 4
    assert all(body.count('<th scope="row"') == body.count("<tr>") for body in grids)
    ids = read(tmp_path / "report.html").ids
    assert {name for name in ids if name.startswith("recscale-") and "-run-" not in name} == {
        "recscale-matrix-1", "recscale-machines", "recscale-commands", "recscale-library",
    }  # fmt: skip
    assert sum(name.startswith("recscale-run-") for name in ids) == 2


def test_records_without_the_new_measures_make_none_of_their_tables(realistic_records, tmp_path):
    write_report(realistic_records(), tmp_path)

    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert not re.search("o-cluster|Cost of a model|Models by data set", text), name


@pytest.mark.parametrize("interactive", [True, False])
def test_a_thousand_records_stay_small(sized_record, record, tmp_path, interactive):
    records = [
        sized_record(
            f"model_{i % 25:02}", "k", i // 100, score=0.2 + 0.0007 * i, n_parameters=1000 + 37 * i, seed=i % 3,
            protocol=("fold-in", "hold-one-out")[i // 25 % 2], dataset=("ml-1m", "gowalla")[i // 50 % 2],
            log_tail=["a line of the log " * 5] * 20,
        )
        for i in range(900)
    ] + [
        record(f"model_{i % 25:02}", status="error", reason=f"reason {i}", parameters={"k": i}, dataset="ml-1m")
        for i in range(100)
    ]  # fmt: skip

    written = write_report(records, tmp_path, interactive=interactive)

    assert sum(path.stat().st_size for path in written) < 10_000_000


def test_no_records_are_a_usage_error_and_nothing_is_written(tmp_path):
    with pytest.raises(UsageError, match="no records"):
        write_report([], tmp_path / "report")

    assert not (tmp_path / "report").exists()


def test_records_of_data_that_is_gone_need_nothing_but_themselves(record, tmp_path):
    (page,) = write_report(
        [record(dataset="file[path=/gone/away.csv]", dataset_name="file")], tmp_path, formats=("md",)
    )

    assert "file[path=/gone/away.csv]" in page.read_text()


def test_wrong_formats_are_named(record, tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'html'"):
        write_report([record()], tmp_path, formats=("htm",))
    with pytest.raises(UsageError, match="no format"):
        write_report([record()], tmp_path, formats=())


def test_an_unknown_metric_is_named_before_anything_is_written(record, tmp_path):
    with pytest.raises(UnknownName, match="ndcg@100"):
        write_report([record()], tmp_path / "report", metric="ndcg")

    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written_is_one_line(record, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match="cannot be written") as caught:
        write_report([record()], tmp_path / "file" / "report", formats=("md",))

    assert "\n" not in str(caught.value)
