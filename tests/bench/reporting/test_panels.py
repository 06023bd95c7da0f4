import pytest

from recscale.reporting.axes import PARAMETERS, THROUGHPUT
from recscale.reporting.comparisons import compare
from recscale.reporting.figures import draw_sizes
from recscale.reporting.palette import styles
from recscale.reporting.panels import Panel


def panel_of(records, axis=PARAMETERS):
    return Panel(compare(records)[0], axis, styles(r.model for r in records))


def test_a_model_is_one_line_over_its_sizes_and_the_lesser_settings_are_points(sized_record):
    records = [
        sized_record("chol", "k", 200, score=0.5, n_parameters=200),
        sized_record("chol", "k", 20, score=0.3, n_parameters=20),
        sized_record("chol", "k", 20, score=0.4, n_parameters=21, parameters={"k": 20, "l2": 7.0}),
    ]

    (line,) = panel_of(records).lines()

    assert line.points == ((21.0, 0.4), (200.0, 0.5))
    assert line.others == ((20.0, 0.3),)
    assert line.errors == pytest.approx((0.009, 0.009))


def test_a_line_runs_from_the_smallest_model_to_the_largest_whatever_the_knob_says(sized_record):
    records = [
        sized_record("ease", "k", None, score=0.6, n_parameters=900),
        sized_record("ease", "k", 20, score=0.3, n_parameters=20),
        sized_record("ease", "k", 200, score=0.5, n_parameters=200),
    ]

    (line,) = panel_of(records).lines()

    assert line.points == ((20.0, 0.3), (200.0, 0.5), (900.0, 0.6))


def test_failures_are_gathered_by_model_and_outcome(record):
    records = [
        record("a", status="refused", parameters={"k": 1}, estimated_model_bytes=400),
        record("a", status="refused", parameters={"k": 2}, estimated_model_bytes=800),
        record("a", status="out_of_memory", parameters={"k": 3}),
    ]

    found = {(f.model, f.word): f.places for f in panel_of(records).failures()}

    assert found == {("a", "OOM"): (None,), ("a", "refused"): (100.0, 200.0)}


def test_the_frontier_of_throughput_starts_with_the_fastest(record):
    records = [
        record("fast", score=0.2, users_per_second=100.0),
        record("slow", score=0.9, users_per_second=1.0),
        record("bad", score=0.1, users_per_second=50.0),
    ]

    assert panel_of(records, THROUGHPUT).frontier() == [(100.0, 0.2), (1.0, 0.9)]


def test_lines_and_failures_come_in_the_order_of_the_styles(record):
    records = [
        record("a"), record("b"), record("c", status="error"), record("d", status="error"),
    ]  # fmt: skip
    looks = dict(reversed(styles("abcd").items()))

    panel = Panel(compare(records)[0], PARAMETERS, looks)

    assert [line.model for line in panel.lines()] == ["b", "a"]
    assert [failures.model for failures in panel.failures()] == ["d", "c"]


def test_the_words_of_a_failure_at_both_ends_stand_between_its_crosses(record):
    records = [
        record("fine", n_parameters=50_000),
        record("slim", status="refused", parameters={"k": 1}, estimated_model_bytes=4_000),
        record("slim", status="refused", parameters={"k": 2}, estimated_model_bytes=4_000_000),
    ]

    _, strip = draw_sizes(compare(records)[0], styles(r.model for r in records)).axes

    first, last = strip.lines[0].get_xdata()
    (words,) = (text for text in strip.texts if text.get_text() == "slim refused")
    assert first < words.get_position()[0] < last
    assert words.get_horizontalalignment() == "left"
