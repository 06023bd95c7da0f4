import math
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from recscale.reporting.canvas import render
from recscale.reporting.comparisons import compare
from recscale.reporting.palette import ramp
from recscale.reporting.sweeps import draw_sweep, sweeps


@pytest.fixture
def tuned(sized_record):
    """Return a factory of records of a model with a size k and further options."""

    def make(k, score=0.5, *, model="ease", n_parameters=None, **options):
        size = n_parameters or 1_000 * (k or 1_000)
        return sized_record(model, "k", k, score=score, n_parameters=size, parameters={"k": k, **options})

    return make


def found(records):
    return sweeps(compare(records)[0])


def grid(tuned, ks=(20, 200), values=(70.0, 500.0), **options):
    return [tuned(k, round(0.3 + k / 1000 - value / 10_000, 6), l2=value, **options) for k in ks for value in values]


def test_a_grid_is_drawn_as_a_line_for_each_value(tuned):
    (sweep,) = found(grid(tuned))

    figure = draw_sweep(sweep)

    (axes,) = figure.axes
    lines = {line.get_color(): line.get_xydata().tolist() for line in axes.lines}
    looks = ramp(["l2 = 70", "l2 = 500"])
    assert (sweep.model, sweep.option, sweep.names) == ("ease", "l2", ("l2 = 70", "l2 = 500"))
    assert lines[looks["l2 = 70"].colour] == [[20_000, 0.313], [200_000, 0.493]]
    assert lines[looks["l2 = 500"].colour] == [[20_000, 0.27], [200_000, 0.45]]
    assert len(lines) == 2  # no frontier
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "parameters")


def test_the_legend_runs_from_the_smallest_value_to_the_largest(tuned):
    (sweep,) = found(grid(tuned, ks=(20, 50, 100, 200, 500), values=(1000.0, 0.5, 90, 1e-7)))

    legend = [text.get_text() for text in draw_sweep(sweep).legends[0].get_texts()]

    assert legend == ["l2 = 1e-07", "l2 = 0.5", "l2 = 90", "l2 = 1000"]


def test_title_and_axis_say_what_is_drawn(tuned):
    (sweep,) = found(grid(tuned))

    texts = [text.get_text() for text in draw_sweep(sweep).texts]

    assert texts == ["ease by size and l2 · debian-depends · fold-in", "ndcg@100, mean over 1,800 test users"]


def test_no_error_bar_leaves_the_axis(tuned):
    (sweep,) = found(grid(tuned))

    (axes,) = draw_sweep(sweep).axes

    low, high = axes.get_ylim()
    assert low < 0.27 - 0.009
    assert high > 0.493 + 0.009


def test_the_largest_group_of_equal_other_options_is_taken(tuned):
    small, large = grid(tuned, order="degree"), grid(tuned, ks=(20, 50, 200), order="natural")

    (sweep,) = found(small + large)

    assert {c.records[0].parameters["order"] for c in sweep.comparison.configurations} == {"natural"}
    assert len(sweep.comparison.configurations) == 6


def test_each_option_with_a_grid_has_its_own_figure_and_each_model_too(tuned):
    records = [
        tuned(k, model=model, l2=l2, dropout=dropout, verbose=verbose)
        for model in ("ease", "chol")
        for k in (1, 2)
        for l2 in (1.0, 2.0)
        for dropout in (0.1, 0.2)
        for verbose in (True, False)
    ]

    assert [(s.model, s.option) for s in found(records)] == [
        ("chol", "dropout"), ("chol", "l2"), ("ease", "dropout"), ("ease", "l2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        [(20, 70.0), (200, 70.0), (500, 70.0), (None, 70.0)],
        [(20, 70.0), (20, 80.0)],
        [(20, 70.0), (50, 80.0), (100, 90.0), (200, 95.0)],
        [(20, 70.0), (200, 70.0), (20, 80.0)],
        [(20, "a"), (200, "a"), (20, "b"), (200, "b")],
        [(20, True), (200, True), (20, False), (200, False)],
        [(20, math.inf), (200, math.inf), (20, None), (200, None)],
    ],
    ids=["one value", "one size", "a diagonal", "three of four", "words", "switches", "no finite numbers"],
)
def test_what_is_no_grid_is_not_drawn(tuned, settings):
    assert found([tuned(k, l2=value) for k, value in settings]) == []


def test_an_option_with_more_values_than_sizes_is_the_axis_and_the_sizes_are_lines(tuned):
    (sweep,) = found(grid(tuned, values=(70.0, 500.0, 1000.0)))

    figure = draw_sweep(sweep)

    main, second = figure.axes
    looks = ramp(["k = 20", "k = 200"])
    lines = {line.get_color(): line.get_xydata().tolist() for line in main.lines}
    assert (sweep.along_option, sweep.names) == (True, ("k = 20", "k = 200"))
    assert lines[looks["k = 20"].colour] == [[70, 0.313], [500, 0.27], [1000, 0.22]]
    assert lines[looks["k = 200"].colour] == [[70, 0.493], [500, 0.45], [1000, 0.4]]
    assert [axes.get_title("left") for axes in figure.axes] == ["ndcg@100", "recall@50"]
    assert second.lines[0].get_ydata().tolist() == pytest.approx([1.2 * y for y in (0.313, 0.27, 0.22)])
    assert {axes.get_xlabel() for axes in figure.axes} == {"l2"}
    assert [text.get_text() for text in figure.texts] == [
        "ease by l2 and k · debian-depends · fold-in", "ndcg@100 and recall@50, mean over 1,800 test users",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n_sizes", "n_values", "along_option"), [(2, 2, False), (4, 3, False), (3, 3, True), (1, 3, True), (3, 7, True)]
)
def test_the_figure_runs_along_what_has_more_points_and_is_drawn_once(tuned, n_sizes, n_values, along_option):
    (sweep,) = found(grid(tuned, ks=range(10, 10 + n_sizes), values=range(1, 1 + n_values)))

    assert sweep.along_option is along_option


def test_values_spread_over_sizes_are_no_line(tuned):
    (sweep,) = found([tuned(k, l2=value) for value in (1, 2, 3, 4) for k in (10 * value, 10 * value + 10)])

    assert not sweep.along_option  # two values at each size at most


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ((512, 1024, 2048), "linear", ["512", "1024", "2048"]),
        ((8, 32, 64), "linear", ["8", "32", "64"]),
        ((7, 32, 64), "log", ["7", "32", "64"]),
        ((0, 0.5, 100.0), "linear", ["0", "100"]),
        ((-1, 1, 100), "linear", ["-1", "100"]),
        ((1e-7, 1e-5, 0.1), "log", ["1e-07", "1e-05", "0.1"]),
    ],
)
def test_the_axis_of_an_option_has_its_values_as_ticks_and_spreads_what_lies_far_apart(tuned, values, scale, ticks):
    (sweep,) = found(grid(tuned, values=values))

    figure = draw_sweep(sweep)
    figure.canvas.draw()

    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert axes.get_xscale() == scale
        assert [label.get_text() for label in axes.get_xticklabels()] == ticks
        assert low < min(values)
        assert max(values) < high


def test_ticks_never_touch(tuned):
    (sweep,) = found(grid(tuned, values=[1000 + 7 * i for i in range(60)]))

    figure = draw_sweep(sweep)
    figure.canvas.draw()

    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) > 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_lines_run_along_the_option_also_where_it_changes_the_number_of_parameters(tuned):
    (sweep,) = found([tuned(20, 0.5, l2=value, n_parameters=1000 - value) for value in (1, 2, 3)])

    (line,) = draw_sweep(sweep).axes[0].lines

    assert line.get_xdata().tolist() == [1, 2, 3]


def test_failures_stand_at_their_value_of_the_option(tuned, record):
    failed = record(status="out_of_memory", parameters={"k": None, "l2": 9.0}, size_knob="k")

    (sweep,) = found([*grid(tuned, values=(1, 2, 3)), failed])

    strips = [axes for axes in draw_sweep(sweep).axes if axes.texts]
    to_width = [strip.transData + strip.transAxes.inverted() for strip in strips]
    assert sweep.names == ("k = 20", "k = 200", "k = all")
    assert [text.get_text() for text in strips[0].texts] == ["failed", "k = all OOM"]
    for strip, transform in zip(strips, to_width, strict=True):
        assert strip.lines[0].get_xdata() == pytest.approx([transform.transform((9.0, 0))[0]])


def test_of_grids_as_large_the_one_with_the_best_score_is_drawn_and_named(tuned):
    worse = grid(tuned, values=(1, 2, 3), decay=0.1, order="degree")
    better = [tuned(k, 0.9, l2=value, decay=1e-7, order="degree") for k in (20, 200) for value in (1, 2, 3)]

    sweep, *_ = [sweep for sweep in found(worse + better) if sweep.option == "l2"]

    assert sweep.others == ("decay = 1e-07",)
    assert sweep.words == "ndcg@100 and recall@50 of ease against l2, a line for each value of k, at decay = 1e-07"
    assert draw_sweep(sweep).texts[1].get_text().endswith("test users, decay = 1e-07")


def test_three_metrics_are_three_panels_and_a_list_in_words(tuned):
    records = grid(tuned, values=(1, 2, 3))
    for one in records:
        one.metrics["recall@20"] = 0.1

    (sweep,) = found(records)

    assert sweep.measures == "ndcg@100, recall@20 and recall@50"
    assert len(draw_sweep(sweep).axes) == 3


def test_a_metric_that_these_runs_do_not_have_is_not_drawn(tuned, record):
    records = grid(tuned, values=(1, 2, 3))
    for one in records:
        del one.metrics["recall@50"]

    (sweep,) = found([*records, record("other")])

    assert sweep.metrics == ("ndcg@100",)
    assert len(draw_sweep(sweep).axes) == 1


def test_a_model_without_a_size_or_a_metric_is_not_drawn(record):
    assert found([record(parameters={"l2": x, "b": y}, size_knob=None) for x in (1, 2) for y in (1, 2)]) == []
    grid_of_failures = [
        record(status="error", parameters={"l2": x, "k": y}, size_knob="k") for x in (1, 2) for y in (1, 2)
    ]
    assert found(grid_of_failures) == []
    assert found([*grid_of_failures, record("fine")]) == []


def test_scores_that_are_no_numbers_and_unknown_sizes_are_left_out(tuned):
    records = grid(tuned, ks=(20, 100, 200))
    records[0].metrics["ndcg@100"] = math.nan
    records[-1].n_parameters = None

    (sweep,) = found(records)

    (axes,) = draw_sweep(sweep).axes
    drawn = sorted(line.get_xdata().tolist() for line in axes.lines)
    assert drawn == [[20_000, 100_000], [100_000, 200_000]]


def test_failures_stand_below_under_the_name_of_their_value(tuned, record):
    failed = [
        record(status="out_of_memory", parameters={"k": None, "l2": l2}, size_knob="k") for l2 in (500.0, 70.0, 2000.0)
    ]

    (sweep,) = found([*grid(tuned), *failed])

    texts = [text.get_text() for axes in draw_sweep(sweep).axes for text in axes.texts]
    assert texts == ["failed", "l2 = 70 OOM", "l2 = 500 OOM", "l2 = 2000 OOM"]


def test_hostile_names_are_drawn_as_they_are(tuned):
    hostile = "--><b>$\\frac{$"
    records = [tuned(k, model=hostile, **{hostile: value}) for k in (1, 2) for value in (1, 2)]

    (sweep,) = found(records)

    tags = {
        element.tag.rpartition("}")[2] for element in ElementTree.fromstring(render(draw_sweep(sweep), "svg")).iter()
    }
    assert "b" not in tags
    assert sweep.names == (f"{hostile} = 1", f"{hostile} = 2")


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_the_same_grid_gives_the_same_bytes_whatever_the_users_settings(tuned, form):
    records = grid(tuned, values=(1.0, 5.0, 25.0))
    first = render(draw_sweep(found(records)[0]), form)

    with mpl.rc_context({"font.size": 20.0, "axes.grid": True, "lines.linewidth": 9.0}):
        second = render(draw_sweep(found(records[::-1])[0]), form)

    assert first == second
