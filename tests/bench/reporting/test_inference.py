import pytest

from recscale.reporting.comparisons import compare
from recscale.reporting.inference import inference_table


def table_of(*records):
    return inference_table(compare(records)[0])


def shown(table):
    return [[f"{cell.text} {cell.note}".strip() for cell in row] for row in table.rows]


def test_a_model_shows_what_it_takes_to_hold_to_fit_and_to_ask(judged_record):
    table = table_of(judged_record("elfm"))

    headings = [column.heading for column in table.columns]
    assert dict(zip(headings, shown(table)[0], strict=True)) == {
        "model": "elfm",
        "parameters": "1.23 M",
        "bytes": "4.94 MB",
        "fit": "12.3 s",
        "one user from scratch": "1.2 ms p99 3.4 ms",
        "one more item of a user": "400 µs p99 900 µs",
        "state alone": "20 µs",
    }
    assert table.rows[0][-1].value == pytest.approx(2e-5)


def test_the_best_configuration_of_each_model_that_has_an_update_stands_for_it(judged_record):
    table = table_of(
        judged_record("elfm", score=0.6, parameters={"n": 1}, update_median_seconds=None),
        judged_record("elfm", score=0.5, parameters={"n": 2}),
        judged_record("elfm", score=0.4, parameters={"n": 3}),
        judged_record("wrmf", score=0.7),
    )

    assert [row[0] for row in shown(table)] == ["wrmf", "elfm n=2"]


def test_no_state_is_n_a_and_no_measurement_a_dash(judged_record, record):
    table = table_of(
        judged_record("bpr", score=0.6, state_update_median_seconds=None, update_p99_seconds=None), record("ease")
    )

    assert shown(table)[0][-2:] == ["400 µs", "n/a"]
    assert shown(table)[1][-2:] == ["–", "–"]  # noqa: RUF001


def test_records_without_an_update_make_no_table(realistic_records, record):
    assert table_of(*realistic_records()) is None
    assert table_of(record(status="error")) is None
