from itertools import pairwise
from xml.etree import ElementTree

import pytest

from recscale.reporting.canvas import render
from recscale.reporting.coclusters import judged
from recscale.reporting.comparisons import compare
from recscale.reporting.intrusion import draw_coclusters
from recscale.reporting.palette import INK, styles


def drawn(records):
    (comparison,) = compare(records)
    return draw_coclusters(comparison, judged(comparison), styles(r.model for r in records))


@pytest.fixture
def two(judged_record):
    return [
        judged_record("elfm", score=0.5, precision=0.7),
        judged_record("wrmf", score=0.4, precision=0.4, cocluster_source="clustering"),
    ]


def test_each_model_is_a_row_with_its_precision_and_interval(two):
    precision, _ = drawn(two).axes

    looks = styles(["elfm", "wrmf"])
    lines = [(line.get_color(), line.get_xydata().round(6).tolist()) for line in precision.lines]
    assert [label.get_text() for label in precision.get_yticklabels()] == ["ELFM", "WRMF clustering"]
    assert (looks["elfm"].colour, [[0.7, 0.0]]) in lines
    assert (looks["elfm"].colour, [[0.6, 0.0], [0.8, 0.0]]) in lines
    assert (looks["wrmf"].colour, [[0.4, 1.0]]) in lines
    assert precision.get_ylim() == (1.5, -0.5)  # the best on top


def test_chance_and_random_sets_are_drawn_beside_them(two):
    precision, _ = drawn(two).axes

    grey = [line.get_xydata()[:, 0].tolist() for line in precision.lines if line.get_color() == INK]
    assert grey == [[0.25, 0.25], [0.23], [0.23]]


def test_a_bar_for_each_rule_stands_within_the_outline_of_all(two):
    _, counts = drawn(two).axes

    bars = [(round(bar.get_width()), round(bar.get_y() + bar.get_height() / 2)) for bar in counts.patches]
    assert bars == [(width, y) for y in (0, 1) for width in (64, 60, 40, 10, 30)]
    outline, *rules = counts.patches[:5]
    for bar in rules:
        assert outline.get_y() < bar.get_y()
        assert bar.get_y() + bar.get_height() < outline.get_y() + outline.get_height()
    assert all(a.get_y() + a.get_height() < b.get_y() for a, b in pairwise(rules))


def test_a_model_none_of_whose_co_clusters_could_be_shown_says_so(judged_record):
    precision, counts = drawn([judged_record(precision=None)]).axes

    assert [text.get_text() for text in precision.texts] == ["none could be shown"]
    assert len(counts.patches) == 5


def test_counts_alone_make_a_figure_without_chance(judged_record):
    figure = drawn([judged_record(coclusters={"cocluster.n_coclusters": 8.0})])

    assert "all co-clusters" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert not any("chance" in text.get_text() for text in figure.legends[0].get_texts())


@pytest.mark.parametrize("n_models", [1, 30])
def test_no_label_leaves_the_figure_or_touches_another(judged_record, n_models):
    titles = [f"{i} A model with a title that is much too long" for i in range(n_models)]
    figure = drawn([judged_record(f"m{i}", model_title=title, score=i / 99) for i, title in enumerate(titles)])
    figure.canvas.draw()

    precision = figure.axes[0]
    boxes = [label.get_window_extent() for label in precision.get_yticklabels()]
    legend = figure.legends[0].get_window_extent()
    names = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert min(box.x0 for box in boxes) >= 0
    assert all(a.y0 > b.y1 for a, b in pairwise(boxes))
    assert legend.y0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert all(box.y0 > legend.y1 for box in names)
    assert max(box.y1 for box in titles) < min(text.get_window_extent().y0 for text in figure.texts)


def test_a_long_title_is_cut_and_where_its_co_clusters_are_from_is_not(judged_record):
    figure = drawn([judged_record(model_title="A title that is too long", cocluster_source="clustering")])

    assert figure.axes[0].get_yticklabels()[0].get_text() == "A title that is… clustering"


def test_hostile_titles_are_drawn_as_they_are(judged_record):
    content = render(drawn([judged_record("m", model_title="--><b>$\\frac{$")]), "svg")

    assert "b" not in {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(content).iter()}


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_the_same_records_give_the_same_bytes(two, form):
    assert render(drawn(two), form) == render(drawn(two[::-1]), form)
