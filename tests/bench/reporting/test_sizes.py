import math

import pytest

from recscale.reporting.canvas import render
from recscale.reporting.comparisons import compare
from recscale.reporting.palette import styles
from recscale.reporting.sizes import draw_by_size, size_panels, size_tables


@pytest.fixture
def measured(sized_record):
    """Return a factory of records with a size, a score, a coverage and a fit time that are all known."""

    def make(model, value, score, *, coverage=None, seconds=None, knob="k", **changes):
        record = sized_record(model, knob, value, score=score, n_parameters=1_000 * (value or 1_000), **changes)
        if coverage is not None:
            record.metrics["prediction_coverage"] = coverage
        if seconds is not None:
            record.phases["fit"].wall_seconds = seconds
        return record

    return make


def tables(records, **options):
    return size_tables(compare(records, **options)[0])


def shown(table):
    return [[cell.text for cell in row] for row in table.rows]


def best(table):
    return [[cell.text for cell in row if cell.is_best] for row in table.rows]


def panels_of(records):
    return size_panels(compare(records)[0], styles(r.model for r in records))


def lines_of(axes):
    return {tuple(map(tuple, line.get_xydata())) for line in axes.lines}


def test_two_models_stand_side_by_side_by_size_and_none_is_all_and_last(measured):
    records = [
        measured("ssvd", None, 0.35), measured("ssvd", 100, 0.32), measured("ssvd", 20, 0.30),
        measured("chol", 100, 0.39), measured("chol", None, 0.34), measured("chol", 20, 0.25),
    ]  # fmt: skip

    (table,) = tables(records)

    assert (table.knob, table.metric) == ("k", "ndcg@100")
    assert [column.heading for column in table.columns] == ["k", "chol", "ssvd"]
    assert shown(table) == [["20", "0.2500", "0.3000"], ["100", "0.3900", "0.3200"], ["all", "0.3400", "0.3500"]]
    assert best(table) == [["0.3000"], ["0.3900"], ["0.3500"]]


def test_where_less_is_better_the_least_of_a_row_is_marked(measured):
    records = [measured(model, k, score) for model, score in (("a", 0.2), ("b", 0.3)) for k in (1, 2)]

    (table,) = tables(records, higher_is_better=False)

    assert best(table) == [["0.2000"], ["0.2000"]]


def test_each_size_shows_the_best_of_its_configurations(measured):
    records = [
        measured("a", 10, 0.4), measured("a", 10, 0.5, parameters={"k": 10, "l2": 7.0}), measured("a", 20, 0.6),
        measured("b", 10, 0.1), measured("b", 20, 0.1),
    ]  # fmt: skip

    (table,) = tables(records)

    assert shown(table) == [["10", "0.5000", "0.1000"], ["20", "0.6000", "0.1000"]]


def test_a_failure_shows_its_words_and_what_was_not_run_a_dash(measured, record):
    records = [
        measured("a", 10, 0.5), measured("a", 20, 0.6), measured("a", 30, 0.7),
        measured("b", 10, 0.4),
        record("b", status="timeout", parameters={"k": 20, "l2": 1.0}, size_knob="k", timeout_seconds=60.0),
        record("b", status="out_of_memory", parameters={"k": 20, "l2": 2.0}, size_knob="k"),
        record("b", status="refused", parameters={"k": 10, "l2": 2.0}, size_knob="k"),
    ]  # fmt: skip

    (table,) = tables(records)

    assert shown(table) == [
        ["10", "0.5000", "0.4000"],
        ["20", "0.6000", "timeout, OOM"],
        ["30", "0.7000", "–"],  # noqa: RUF001
    ]
    assert [cell.is_failure for cell in table.rows[1]] == [False, False, True]
    assert best(table) == [["0.5000"], ["0.6000"], []]  # nothing was run beside the last one


def test_a_knob_needs_two_values_in_common_and_each_knob_has_its_own_table(measured):
    records = [
        *(measured("a", k, 0.5) for k in (1, 2)),
        *(measured("b", k, 0.5) for k in (2, 3)),
        *(measured(model, d, 0.5, knob="factors") for model in ("c", "d") for d in (8, 16)),
        *(measured(model, d, 0.5, knob="clusters") for model in ("e", "f") for d in (4, 5)),
        *(measured("g", k, 0.5, knob="depth") for k in (1, 2)),
    ]

    assert [table.knob for table in tables(records)] == ["clusters", "factors"]


def test_a_score_that_is_no_number_is_shown_and_never_the_best(measured):
    records = [measured("a", k, math.nan) for k in (1, 2)] + [measured("b", k, 0.1) for k in (1, 2)]

    (table,) = tables(records)

    assert shown(table)[0] == ["1", "nan", "0.1000"]
    assert best(table) == [["0.1000"], ["0.1000"]]


def test_failures_alone_make_no_table_and_no_figure(record):
    records = [record(m, status="error", parameters={"k": k}, size_knob="k") for m in "ab" for k in (1, 2)]

    assert tables(records) == []
    assert panels_of(records) == []


def test_fit_time_and_coverage_are_lines_over_the_parameters(measured):
    records = [
        measured("a", 20, 0.3, coverage=0.25, seconds=3.0),
        measured("a", 200, 0.4, coverage=0.75, seconds=50.0),
        measured("a", 200, 0.2, coverage=0.10, seconds=900.0, parameters={"k": 200, "l2": 1.0}),
        measured("b", 20, 0.1, coverage=1.0, seconds=0.0),
    ]

    figure = draw_by_size(panels_of(records))

    time, coverage = figure.axes
    assert lines_of(time) == {((20_000, 3.0), (200_000, 50.0)), ((20_000, 1e-3),)}
    assert lines_of(coverage) == {((20_000, 0.25), (200_000, 0.75)), ((20_000, 1.0),)}
    assert [time.get_title("left"), coverage.get_title("left")] == ["fit time", "prediction coverage"]
    assert (time.get_yscale(), coverage.get_yscale()) == ("log", "linear")
    assert coverage.get_ylim() == (-0.05, 1.05)
    assert {axes.get_xlabel() for axes in figure.axes} == {"parameters"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_the_ticks_of_fit_time_are_durations_and_those_of_coverage_shares(measured):
    records = [measured("a", k, 0.3, coverage=0.5, seconds=s) for k, s in ((20, 0.005), (200, 50.0))]

    figure = draw_by_size(panels_of(records))
    figure.canvas.draw()

    time, coverage = ([label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes)
    assert time == ["10 ms", "100 ms", "1 s", "10 s"]
    assert coverage == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_colours_are_those_of_the_other_figures(measured):
    records = [measured(model, k, 0.3, coverage=0.5) for model in ("x", "y", "z") for k in (1, 2)]
    looks = styles(["a", "b", "x", "y", "z"])

    figure = draw_by_size(size_panels(compare(records)[0], looks))

    drawn = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
    assert drawn == [(looks[model].colour, looks[model].marker) for model in "xyz"]


def test_without_coverage_the_panel_of_fit_time_stands_alone(measured):
    (panel,) = panels_of([measured("a", k, 0.3, coverage=math.nan) for k in (20, 200)])

    figure = draw_by_size([panel])
    assert [axes.get_title("left") for axes in figure.axes] == ["fit time"]


def test_a_figure_by_size_needs_a_model_of_two_sizes(measured, record):
    assert panels_of([measured("a", 20, 0.3, coverage=0.5), measured("b", 20, 0.3, coverage=0.5)]) == []
    assert panels_of([record("a", n_parameters=None), record("b", phases={})]) == []


def test_failures_stand_below_both_panels(measured, record):
    records = [measured("a", k, 0.3, coverage=0.5) for k in (20, 200)]
    records.append(record("b", status="refused", estimated_model_bytes=4_000_000))

    figure = draw_by_size(panels_of(records))

    assert [text.get_text() for axes in figure.axes for text in axes.texts].count("b refused") == 2


def test_times_of_two_machines_are_drawn_with_a_warning(measured):
    records = [measured("a", 20, 0.3), measured("a", 200, 0.4, machine={"cpu": "other"})]

    figure = draw_by_size(panels_of(records))

    assert figure.axes[0].get_title("left") == "fit time (2 machines: not comparable)"


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_the_same_records_give_the_same_bytes_by_size(realistic_records, form):
    records = realistic_records()

    assert render(draw_by_size(panels_of(records)), form) == render(draw_by_size(panels_of(records[::-1])), form)
