from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from recscale.errors import UnknownName
from recscale.reporting.canvas import render
from recscale.reporting.comparisons import compare
from recscale.reporting.figures import draw_costs, draw_overview, draw_sizes
from recscale.reporting.palette import styles


def drawn(records, draw=draw_sizes):
    comparisons = compare(records)
    looks = styles(r.model for r in records)
    return draw(comparisons, looks) if draw is draw_overview else draw(comparisons[0], looks)


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("draw", [draw_sizes, draw_costs, draw_overview])
@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_the_same_records_give_the_same_bytes_whatever_the_users_settings(realistic_records, draw, form):
    records = [*realistic_records(), *realistic_records("ml-1m", "hold-one-out", 0.25)]
    first = render(drawn(records, draw), form)

    with mpl.rc_context({"font.size": 20.0, "axes.grid": True, "svg.fonttype": "none", "xtick.labelsize": 20.0}):
        second = render(drawn(records[::-1], draw), form)

    assert first == second


def test_every_model_is_named_beside_its_line_and_every_failure_in_the_strip(realistic_records):
    found = texts(drawn(realistic_records()))

    assert {"popularity", "ease", "chol", "item_knn", "wrmf", "bpr", "frontier"} <= set(found)
    assert {"elfm timeout", "rglsvd OOM", "slim refused", "deep skipped", "failed"} <= set(found)


def test_labels_of_ticks_never_touch_where_less_than_a_decade_is_shown(realistic_records):
    failed = [r for r in realistic_records() if r.status != "ok"]

    figure = drawn(failed, draw_costs)
    figure.canvas.draw()

    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_visible()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), axes.get_xlabel()


def test_many_models_are_named_in_a_legend_instead(record):
    records = [record(f"model_{i:02}", score=0.01 * i, n_parameters=1000 + i) for i in range(30)]

    figure = drawn(records)

    assert len(figure.legends) == 1
    assert set(texts(figure)) == {*(r.model for r in records), "frontier"}


def test_a_failure_is_marked_at_its_estimate_and_at_the_edge_without_one(record):
    records = [
        record("fine", n_parameters=1_000),
        record("known", status="refused", estimated_model_bytes=4_000_000),
        record("unknown", status="error"),
    ]

    figure = drawn(records)

    _, strip = figure.axes
    known, unknown = (line.get_xdata()[0] for line in strip.lines)
    figure.canvas.draw()
    place = strip.transAxes.inverted().transform(strip.transData.transform((1_000_000, 0)))[0]
    assert known == pytest.approx(place)
    assert unknown == pytest.approx(0.985)


def test_a_failure_of_unknown_throughput_stands_at_the_slow_end(record):
    figure = drawn([record("fine"), record("broken", status="error")], draw_costs)

    strips = [
        axes
        for axes in figure.axes
        if axes.get_yscale() == "linear" and any(t.get_text() == "failed" for t in axes.texts)
    ]
    assert [strip.lines[0].get_xdata()[0] for strip in strips] == pytest.approx([0.985, 0.985, 0.985, 0.015])


def test_a_comparison_of_failures_alone_says_that_no_run_finished(record):
    figure = drawn([record(status="error", reason="broken")], draw_costs)

    assert texts(figure).count("no run finished") == 4
    assert render(figure, "png").startswith(b"\x89PNG")


def test_hostile_names_are_drawn_as_they_are_and_the_svg_stays_well_formed(record):
    names = ["<script>alert(1)</script>", "$\\frac{$", "--><b>", "_hidden", "a&b\"'"]
    records = [record(name, score=0.1 * i + 0.1, n_parameters=10**i) for i, name in enumerate(names, 1)]

    for draw in (draw_sizes, draw_costs):
        markup = render(drawn(records, draw), "svg")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(markup).iter()}
        assert "script" not in tags
        assert "b" not in tags
        assert b"alert(1)</script>" not in markup


def test_a_model_looks_the_same_in_every_figure(realistic_records):
    records = [*realistic_records(), *realistic_records("ml-1m")]
    comparisons = compare(records)
    looks = styles(r.model for r in records)

    colours = [
        {line.get_color() for line in draw_sizes(comparison, looks).axes[0].lines if line.get_marker() == "P"}
        for comparison in comparisons
    ]

    assert colours[0] == colours[1] == {looks["item_knn"].colour}


def test_an_unknown_format_is_named(realistic_records):
    with pytest.raises(UnknownName, match="did you mean 'png'"):
        render(drawn(realistic_records()), "pngg")
