import math

import pytest

from recscale.reporting.comparisons import compare
from recscale.reporting.matrix import matrices


def matrices_of(records, **options):
    return matrices(compare(records, **options))


def shown(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def marked(table, column):
    best = [row[0].text for row in table.rows if row[column].is_best]
    return best, [row[0].text for row in table.rows if row[column].is_second]


@pytest.fixture
def two_sets(record):
    """Return three models on two data sets; hr@50 is 1.2 times mrr."""
    return [
        record(model, score=score, dataset=dataset, protocol="hold-one-out", parameters={"n": n})
        for dataset, factor in (("ml-1m", 1.0), ("web", 0.5))
        for model, scores in (("elfm", (0.5, 0.1)), ("ease", (0.3, 0.4)), ("bpr", (0.2,)))
        for n, score in enumerate(scores[i] * factor for i in range(len(scores)))
    ]


def test_models_are_rows_and_the_metrics_of_each_data_set_columns(two_sets):
    (table,) = matrices_of(two_sets)

    assert table.title == "Models by data set · hold-one-out"
    headings = [column.heading for column in table.columns]
    assert headings == ["model", "ml-1m mrr", "ml-1m hr@50", "web mrr", "web hr@50"]
    assert shown(table) == {
        "elfm": ["0.5000", "0.6000", "0.2500", "0.3000"],
        "ease": ["0.4000", "0.4800", "0.2000", "0.2400"],
        "bpr": ["0.2000", "0.2400", "0.1000", "0.1200"],
    }


def test_the_best_and_the_second_of_each_column_are_marked(two_sets):
    next(r for r in two_sets if r.model == "ease" and r.parameters == {"n": 1}).metrics["hr@50"] = 0.9

    (table,) = matrices_of(two_sets)

    assert [marked(table, column) for column in (1, 2, 3)] == [
        (["elfm"], ["ease"]),
        (["ease"], ["elfm"]),
        (["elfm"], ["ease"]),
    ]
    assert table.ranks_columns


def test_a_failure_is_a_word_and_what_was_not_run_a_dash(two_sets, record):
    usual = {"dataset": "web", "protocol": "hold-one-out", "parameters": {"k": 9}}
    records = [r for r in two_sets if (r.model, r.dataset_name) != ("ease", "web")]
    records += [record("ease", status=status, seed=i, **usual) for i, status in enumerate(("out_of_memory", "timeout"))]
    records += [record("elfm", status="refused", **usual), record("slim", status="refused", **usual)]

    (table,) = matrices_of(records)

    cells = shown(table)
    assert cells["ease"][2:] == ["OOM, timeout", "–"]  # noqa: RUF001
    assert cells["elfm"][2] == "0.2500"  # a configuration that failed beside one that did not
    assert cells["slim"] == ["–", "–", "refused", "–"]  # noqa: RUF001
    assert [row[3].is_failure for row in table.rows if row[0].text in ("ease", "slim")] == [True, True]
    assert marked(table, 3) == (["elfm"], ["bpr"])


def test_the_best_over_all_data_sets_stands_first_and_not_to_be_run_is_the_last_place(two_sets, record):
    two_sets.append(record("visitor", score=0.45, dataset="web", protocol="hold-one-out"))

    (table,) = matrices_of(two_sets)

    assert list(shown(table)) == ["elfm", "ease", "visitor", "bpr"]


def test_each_protocol_has_its_own_table(two_sets, record):
    fold_in = [record("ease", dataset=dataset) for dataset in ("ml-1m", "web", "more")]

    titles = [table.title for table in matrices_of([*two_sets, *fold_in])]

    assert titles == ["Models by data set · fold-in", "Models by data set · hold-one-out"]


def test_one_data_set_or_none_in_common_makes_no_table(record):
    assert matrices_of([record("ease"), record("bpr", protocol="hold-one-out")]) == []
    assert matrices_of([record("ease", dataset="a"), record("bpr", dataset="b")]) == []


def test_a_lone_model_and_scores_that_are_no_numbers_are_never_the_best(record):
    records = [record("ease", dataset=d, score=0.3) for d in ("a", "b")]
    records.append(record("bpr", dataset="b", score=math.nan))

    (table,) = matrices_of(records)

    assert marked(table, 1) == ([], [])
    column = [c.heading for c in table.columns].index("b ndcg@100")
    assert marked(table, column) == (["ease"], [])
    assert shown(table)["bpr"][column - 1] == "nan"


def test_where_less_is_better_the_main_metric_alone_is_marked(two_sets):
    (table,) = matrices_of(two_sets, higher_is_better=False)

    assert marked(table, 1) == (["elfm"], ["bpr"])
    assert marked(table, 2) == ([], [])


def test_a_data_set_where_nothing_finished_keeps_a_column_of_words(record):
    records = [record("ease", dataset="a"), record("ease", dataset="b", status="out_of_memory")]

    (table,) = matrices_of(records)

    assert [column.heading for column in table.columns] == ["model", "a ndcg@100", "a recall@50", "b"]
    assert shown(table) == {"ease": ["0.5000", "0.6000", "OOM"]}
