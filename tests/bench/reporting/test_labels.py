import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recscale.reporting.labels import Named, write_names


def empty_axes():
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 10), ylim=(0, 10))
    return axes


def test_names_cover_neither_each_other_nor_a_point():
    axes = empty_axes()
    lines = [Named(f"model {i}", "black", [(2 + i, 3 + i), (3 + i, 4 + 0.5 * i)]) for i in range(4)]

    assert write_names(axes, lines)

    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == [line.text for line in lines]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    points = [axes.transData.transform(point) for line in lines for point in line.points]
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_nothing_is_written_where_a_name_finds_no_place():
    axes = empty_axes()

    assert not write_names(axes, [Named("a name that is far too long for the figure " * 3, "black", [(5, 5)])])
    assert not axes.texts
