"""The files of papers: the shipped ones are whole and true to a second listing; a wrong one is said so in one line."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from recscale.errors import UsageError
from recscale.running.repro_tables import FOLDER, check_references, chosen, load_paper, paper_files

ROOT = Path(__file__).parents[3]

# typed from the publications a second time, a row a line; - where nothing is published
LISTED = {
    ("bars-gowalla", "leaderboard", "Gowalla"): """
        ItemCF | .1570 | .1214 | .2549 | .1527 | .5094
        MF-BPR | .1627 | .1378 | .2533 | .1662 | .5544
        MF-BPR, by implicit | .1627 | .1378 | .2533 | .1662 | .5544
        SLIM | .1699 | .1382 | .2658 | .1687 | .5564
        CML | .1670 | .1292 | .2602 | .1587 | .5410
        MultVAE | .1641 | .1335 | - | - | -
        NeuMF | .1399 | .1212 | - | - | -
        EASE | .1765 | .1467 | .2701 | .1760 | .5727
        YoutubeDNN | .1754 | .1473 | .2711 | .1772 | .5628
        LightGCN | .1820 | .1547 | .2821 | .1859 | .5924
        UltraGCN | .1862 | .1580 | - | - | -
        SimpleX | .1872 | .1557 | .2874 | .1868 | .5927
        GF-CF | .1849 | .1518 | - | - | -""",
    ("bars-gowalla", "independent", "Gowalla"): """
        MostPop | .0416 | .0317
        UserKNN | .1654 | .1354
        EASE, l2 = 80 | .176493 | .146657""",
    ("ultragcn", "published", "Movielens-1M"): """
        UltraGCN | .2787 | .2642
        MF-BPR | .2532 | .2440
        MF-BPR, by implicit | .2532 | .2440""",
    ("ultragcn", "published", "Amazon-CDs"): """
        UltraGCN | .1622 | .1043
        MF-BPR | .1312 | .0811
        MF-BPR, by implicit | .1312 | .0811""",
    ("ultragcn", "independent", "Movielens-1M"): """
        MostPop | .1160 | .1176
        UserKNN | .2408 | .2350
        EASE, l2 = 100 | .2616 | .2493
        EASE, l2 = 300 | .2741 | .2631
        EASE, l2 = 1000 | .2755 | .2674""",
    ("ultragcn", "independent", "Amazon-CDs"): """
        MostPop | .0122 | .0072
        UserKNN | .1499 | .0991""",
    ("elfm", "table-3", "Web-35M"): """
        Popularity | .0162 | .1570
        UserKNN | .0510 | .1626
        BPR | .0567 | .2479
        WRMF | .0654 | .2965
        NeuMF (GMF) | .0800 | .3138
        uCML | .0195 | .1216
        rGLSVD | OOM | OOM
        ELFM | .0878 | .3308""",
    ("elfm", "table-3", "LastFM-17M"): """
        Popularity | .0312 | .1763
        UserKNN | .0844 | .3373
        BPR | .0871 | .3758
        WRMF | .0885 | .3745
        NeuMF (GMF) | .0714 | .3562
        uCML | .0760 | .3470
        rGLSVD | .0843 | .3357
        ELFM | .1002 | .4020""",
    ("elfm", "table-3", "MovieLens-10M"): """
        Popularity | .0247 | .1993
        UserKNN | .0483 | .2897
        BPR | .0491 | .3054
        WRMF | .0489 | .2915
        NeuMF (GMF) | .0420 | .2982
        uCML | .0466 | .2852
        rGLSVD | .0521 | .3020
        ELFM | .0505 | .3118""",
    ("chol", "table-3", "ML-20M"): """
        EASE | .521 | .420
        CHOL, all | .521 | .420
        EASE pruned, k = 200 | .516 | .417
        CHOL, k = 200 | .516 | .417
        H+Vamp | .551 | .445
        Mult-VAE | .537 | .426
        Mult-DAE | .524 | .419
        WMF | .498 | .386""",
    ("chol", "table-3", "Netflix"): """
        EASE | .445 | .395
        CHOL, all | .445 | .395
        EASE pruned, k = 200 | .440 | .390
        CHOL, k = 200 | .440 | .390
        H+Vamp | .463 | .409
        Mult-VAE | .444 | .386
        Mult-DAE | .438 | .380
        WMF | .404 | .351""",
    ("chol", "table-3", "MSD"): """
        EASE | .430 | .390
        CHOL, all | .430 | .390
        EASE pruned, k = 200 | .427 | .389
        CHOL, k = 200 | .429 | .390
        Mult-VAE | .364 | .316
        Mult-DAE | .363 | .313
        WMF | .312 | .257""",
    ("chol", "table-2", "ML-20M"): """
        SSVD, all | .416
        SSVD, k = 6000 | .415
        SSVD, k = 2000 | .408
        SSVD, k = 600 | .360
        SSVD, k = 200 | .224
        CHOL, all | .416
        CHOL, k = 6000 | .416
        CHOL, k = 2000 | .417
        CHOL, k = 600 | .417
        CHOL, k = 200 | .416""",
    **{
        ("chol", "figure-3b", column): """
        CHOL, k = 200 | .99 to .999
        EASE pruned, k = 200 | .06 to .12"""
        for column in ("ML-20M", "Netflix", "MSD")
    },
    ("efficientrec", "precision", "the authors' data"): "EfficientRec | .9536 | - | -",
}


def read_listing(text):
    """Return {row: values} of a listing."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        row, *values = (part.strip() for part in line.split("|"))
        found[row] = [read_value(value) for value in values]
    return found


def read_value(text):
    if text == "-":
        return None
    if " to " in text:
        return tuple(map(float, text.split(" to ")))
    return float(text) if text.startswith(".") else text


def test_the_published_cells_are_those_of_the_second_listing_and_no_others():
    shipped = {}
    for name in paper_files():
        for table in load_paper(name).tables:
            for row in table.rows:
                for column, cells in row.cells.items():
                    shipped.setdefault((name, table.name, column), {})[row.name] = cells

    assert shipped == {key: read_listing(text) for key, text in LISTED.items()}


@pytest.mark.parametrize("name", sorted(paper_files()))
def test_every_model_data_set_protocol_and_metric_of_a_shipped_paper_exists(name):
    check_references(load_paper(name))


@pytest.mark.parametrize("name", sorted(paper_files()))
def test_a_shipped_paper_is_cited(name):
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "citations.bib").read_text(), flags=re.MULTILINE)

    assert load_paper(name).cite in keys


def test_the_papers_of_the_documentation_are_those_that_are_shipped():
    text, _, _ = (ROOT / "docs" / "reproduction.md").read_text().partition("\n## ")

    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE)) == set(paper_files())


def test_the_rows_that_have_standard_errors_on_a_published_split_are_those_of_the_documentation():
    text = " ".join((ROOT / "docs" / "reproduction.md").read_text().split())
    ((table, rows, errors, absolute),) = re.findall(
        r"in one place: (table \d) of CHOL allows .*?\((.*?)\) (\w+) of it beside (\.\d+),", text
    )

    found = {
        (name, table.name, row.name): (row.tolerance.standard_errors, row.tolerance.absolute)
        for name in paper_files()
        for table in load_paper(name).tables
        for row in table.rows
        if row.tolerance is not None and row.tolerance.standard_errors
    }

    assert errors == "three"
    told = {("chol", table.replace(" ", "-"), row): (3, float(absolute)) for row in rows.split(", ")}
    assert found == told


def test_the_example_of_the_documentation_is_a_file_that_can_be_run(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "reproduction.md").read_text(), flags=re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)

    paper = load_paper(str(tmp_path / "example.yaml"))

    check_references(paper)
    assert [row.cells["MovieLens"] for row in paper.tables[0].rows] == [[0.41, 0.43], [0.2, None], [0.42, (0.43, 0.45)]]


def test_the_files_are_part_of_the_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["recscale.running"]
    folder = ROOT / "bench" / "running"

    written = {path.name for path in (folder / "papers").iterdir()}
    assert {path.name for pattern in patterns for path in folder.glob(pattern)} >= written
    assert {path.name for path in FOLDER.iterdir()} == written  # the installed ones, where the tests run on a wheel


GOOD = """
title: A paper
cite: somebody2020
tables:
  - name: main
    title: Recall
    protocol: fold-in
    metrics: [recall@20]
    tolerance: {absolute: 0.001, reason: a test}
    columns:
      - {name: Small, dataset: debian-depends}
    rows:
      - {name: Popularity, model: popularity, cells: {Small: [.5]}}
"""
WRONG = {
    "no YAML": ("title: A paper", "title: [A paper", "not YAML"),
    "an unknown key": ("    title: Recall", "    titel: Recall", "unknown field `titel`"),
    "a missing key": ("cite: somebody2020\n", "", "missing required field `cite`"),
    "a figure that is a list of three": ("[.5]", "[[.1, .2, .3]]", "length"),
    "too many cells": ("[.5]", "[.5, .6]", "Small has 2 cells, and the table 1 metrics"),
    "a range from large to small": ("[.5]", "[[.7, .5]]", "write the smaller first"),
    "a cell of a column that there is not": ("{Small: [.5]}", "{Smal: [.5]}", "did you mean 'Small'"),
    "figures without a tolerance": ("    tolerance: {absolute: 0.001, reason: a test}\n", "", "there is no tolerance"),
    "a tolerance without a reason": (", reason: a test", "", "missing required field `reason`"),
    "neither data nor a reason": ("{name: Small, dataset: debian-depends}", "{name: Small}", "why_absent"),
    "a stand-in for nothing": ("debian-depends}", "debian-depends, stands_for: Smal}", "no column of the paper"),
    "two rows of one name": (
        "    rows:\n", "    rows:\n      - {name: Popularity, model: popularity}\n", "two rows are named",
    ),
    "no rows": ("      - {name: Popularity, model: popularity, cells: {Small: [.5]}}", "      []", "there is no row"),
    "a note that is not there": ("model: popularity", "model: popularity, notes: [odd]", "no note"),
    "a note that nothing has": ("tables:", "notes: {odd: Odd.}\ntables:", "has the note odd"),
    "a column without a model": ("model: popularity, ", "", "no row has a model of ours"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_clear_line(tmp_path, name):
    old, new, expected = WRONG[name]
    assert GOOD.count(old) == 1
    (tmp_path / "paper.yaml").write_text(GOOD.replace(old, new))

    with pytest.raises(UsageError) as raised:
        load_paper(str(tmp_path / "paper.yaml"))

    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


WRONG_REFERENCES = {
    "a model": ("model: popularity", "model: popularit", "did you mean 'popularity'"),
    "an option": ("model: popularity", 'model: "ease[l3=1]"', "did you mean 'l2'"),
    "a grid": ("model: popularity", 'model: "ease[l2=1,2]"', "is a grid of 2 models"),
    "a data set": ("dataset: debian-depends", "dataset: debian-depend", "did you mean 'debian-depends'"),
    "a filter": ("debian-depends}", '"debian-depends[filter=6-core]"}', "did you mean '5-core'"),
    "a protocol": ("protocol: fold-in", "protocol: foldin", "did you mean 'fold-in'"),
    "a metric": ("recall@20", "recal@20", "did you mean 'recall"),
}


@pytest.mark.parametrize("name", WRONG_REFERENCES)
def test_a_reference_to_what_does_not_exist_says_where(tmp_path, name):
    old, new, expected = WRONG_REFERENCES[name]
    (tmp_path / "paper.yaml").write_text(GOOD.replace(old, new))
    paper = load_paper(str(tmp_path / "paper.yaml"))

    with pytest.raises(UsageError) as raised:
        check_references(paper)

    assert "table main, column Small: " in str(raised.value) and expected in str(raised.value)


def test_a_file_that_is_not_there_and_a_paper_that_is_not_known_are_told_apart():
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        load_paper("none.yaml")
    with pytest.raises(UsageError, match="no paper named 'chool'; did you mean 'chol'"):
        load_paper("chool")


def test_what_is_chosen_is_left_and_nothing_else(tmp_path):
    (tmp_path / "paper.yaml").write_text(GOOD)
    paper = load_paper(str(tmp_path / "paper.yaml"))
    second = msgspec.structs.replace(
        paper.tables[0], name="second", rows=[msgspec.structs.replace(paper.tables[0].rows[0], name="Other")]
    )
    both = msgspec.structs.replace(paper, tables=[paper.tables[0], second])

    assert [t.name for t in chosen(both, [], [], []).tables] == ["main", "second"]
    assert [t.name for t in chosen(both, ["second"], [], []).tables] == ["second"]
    assert [t.name for t in chosen(both, [], [], ["Other"]).tables] == ["second"]
    with pytest.raises(UsageError, match="no table named 'secnd'; did you mean 'second'"):
        chosen(both, ["secnd"], [], [])
    with pytest.raises(UsageError, match="no row named 'Othr'; did you mean 'Other'"):
        chosen(both, [], [], ["Othr"])
    with pytest.raises(UsageError, match="no column named 'Smal'"):
        chosen(both, [], ["Smal"], [])
