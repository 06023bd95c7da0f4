import math

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.evaluation import coclusters as measuring
from recscale.records.record import CoClusterExample
from recscale.reporting.coclusters import RULES, cocluster_table, example_table, judged
from recscale.reporting.comparisons import compare
from recscale.reporting.tables import NOTHING


def table_of(*records):
    return cocluster_table(compare(records)[0])


def examples_of(*records):
    return example_table(compare(records)[0])


def cell_of(table, row, heading):
    return table.rows[row][[column.heading for column in table.columns].index(heading)]


def names(table):
    return [row[0].text for row in table.rows]


@pytest.fixture
def measured():
    """Return what evaluation makes of four planted co-clusters of 30 items and 40 users each."""
    group = np.eye(4, dtype=np.float32)
    items, users = np.repeat(group, 30, axis=0), np.repeat(group, 40, axis=0)
    rng = np.random.default_rng(0)
    items = items * rng.uniform(0.5, 1.0, items.shape).astype(np.float32)
    entries = sp.csr_array((rng.random((160, 120)) < 0.05 + 0.5 * (users @ items.T > 0)).astype(np.float32))
    return measuring.judge(items, users, measuring.Evidence(entries, entries.sum(axis=0))).as_record()


def test_every_column_finds_the_measure_that_evaluation_makes(measured, judged_record):
    table = table_of(judged_record(coclusters=measured))

    (row,) = table.rows
    assert [c.heading for c, cell in zip(table.columns, row, strict=True) if cell.text == NOTHING] == [
        "stability over seeds"  # there is one seed
    ]
    assert RULES == measuring.RULES


def test_the_fixture_has_no_measure_that_evaluation_does_not_make(measured, judged_record):
    assert judged_record().coclusters.keys() <= measured.keys()


def test_stability_is_shown_with_the_number_of_seeds_where_it_is_known(judged_record):
    seeds = [judged_record(seed=seed) for seed in range(3)]
    (comparison,) = compare(seeds)

    shown = cell_of(cocluster_table(comparison, lambda records: (0.25, len(records))), 0, "stability over seeds")

    assert (shown.text, shown.note) == ("0.250", "3 seeds")
    assert cell_of(cocluster_table(comparison, lambda records: (None, 1)), 0, "stability over seeds").text == NOTHING


def test_a_measure_is_shown_with_its_interval_and_npmi_with_its_excess(judged_record):
    table = table_of(judged_record())

    shown = {column.heading: (cell.text, cell.note) for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert shown["co-clusters"] == ("64", "")
    assert [shown[f"non-degenerate, {rule}"][0] for rule in RULES] == ["60", "40", "10", "30"]
    assert shown["intrusion precision"] == ("0.600", "[0.500, 0.700], 60 shown")
    assert shown["intrusion precision of random sets"] == ("0.230", "")
    assert shown["NPMI@10, excess"] == ("0.300", "+0.200 [0.150, 0.250]")
    assert shown["lift"] == ("2.9", "[2.5, 3.4]")
    assert shown["items above 0"] == ("31 %", "")


def test_clusters_of_vectors_are_named_after_the_model_they_come_from(judged_record):
    table = table_of(
        judged_record("elfm", score=0.5),
        judged_record("wrmf", score=0.4, cocluster_source="clustering"),
        judged_record("odd", score=0.3, cocluster_source=None),
    )

    assert names(table) == ["ELFM", "WRMF clustering", "ODD"]


def test_the_best_configuration_of_each_model_and_source_stands_for_it(judged_record):
    table = table_of(
        judged_record(score=0.9, parameters={"n": 1}, coclusters={}, cocluster_examples=[]),
        judged_record(score=0.5, parameters={"n": 2}, precision=0.5),
        judged_record(score=0.4, parameters={"n": 3}, precision=0.9),
        judged_record(score=0.3, parameters={"n": 4}, cocluster_source="clustering"),
    )

    assert [(row[0].text, row[0].note) for row in table.rows] == [("ELFM", "n=2"), ("ELFM clustering", "n=4")]
    assert cell_of(table, 0, "intrusion precision").text == "0.500"


def test_measures_are_means_over_seeds(judged_record):
    records = [judged_record(seed=seed, precision=precision) for seed, precision in enumerate((0.4, 0.5))]
    records[0].coclusters["cocluster.n_dead"] = 5.0

    table = table_of(*records)

    assert cell_of(table, 0, "intrusion precision").note.startswith("[0.350, 0.550]")
    assert cell_of(table, 0, "dead").text == "3.5"


def test_what_was_not_measured_is_a_dash(judged_record):
    record = judged_record(precision=None)
    record.coclusters["cocluster.lift"] = math.inf

    table = table_of(record)

    for heading in ("intrusion precision", "intrusion precision of random sets", "NPMI@5, excess", "lift"):
        assert cell_of(table, 0, heading).text == NOTHING
    assert cell_of(table, 0, "dead").text == "2"


def test_the_note_says_that_these_are_proxies(judged_record):
    note = table_of(judged_record()).note

    assert "automated proxies for the study with people" in note
    assert "Hoyle et al. 2021, Is Automated Topic Model Evaluation Broken?" in note


def test_records_without_co_clusters_and_failures_make_no_table(record, judged_record):
    failed = judged_record("elfm", status="timeout")

    (comparison,) = compare([record("ease"), failed])

    assert judged(comparison) == []
    assert cocluster_table(comparison) is None
    assert example_table(comparison) is None


def test_examples_stand_by_user_then_model_then_affinity(judged_record):
    other = [CoClusterExample(user=2, cluster=0, affinity=0.1, items=["a", "b"])]

    table = examples_of(
        judged_record("elfm", score=0.5),
        judged_record("wrmf", score=0.4, cocluster_source="clustering"),
        judged_record("wrmf", score=0.3, parameters={"d": 1}, cocluster_source="clustering", cocluster_examples=other),
        judged_record("bpr", score=0.2, cocluster_source="clustering", cocluster_examples=other),
    )

    assert [[cell.text for cell in row] for row in table.rows] == [
        ["2", "BPR clustering", "0", "0.100", "a · b"],
        ["7", "ELFM", "41", "2.250", "Nina Simone · band 41"],
        ["7", "ELFM", "3", "0.500", "Nina Simone · band 3"],
        ["7", "WRMF clustering", "41", "2.250", "Nina Simone · band 41"],
        ["7", "WRMF clustering", "3", "0.500", "Nina Simone · band 3"],
    ]


def test_a_co_cluster_without_items_is_a_dash(judged_record):
    table = examples_of(judged_record(cocluster_examples=[CoClusterExample(user=1, cluster=2, affinity=3, items=[])]))

    assert table.rows[0][-1].text == NOTHING
