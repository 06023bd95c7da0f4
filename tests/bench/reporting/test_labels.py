import itertools

import numpy as np
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


def test_a_name_steps_aside_for_what_stands_in_its_first_place():
    axes = empty_axes()
    blocked = Named("first", "black", [(5.0, 5.0)])
    crowd = Named("crowd", "black", [(5.5, 5.0), (9.0, 5.0), (9.0, 9.0)])

    assert write_names(axes, [blocked, crowd])

    box = next(text.get_window_extent() for text in axes.texts if text.get_text() == "first")
    line = np.linspace(crowd.points[0], crowd.points[1], 200)
    assert not any(box.contains(*axes.transData.transform(point)) for point in line)


def test_no_name_stands_nearer_to_another_line_than_to_its_own():
    axes = empty_axes()
    lower = Named("lower", "black", [(2.0, 5.0), (8.0, 5.0)])
    # The free places above the lower line, its preferred ones, lie right under the upper line.
    upper = Named("upper", "black", [(1.0, 6.0), (9.5, 6.0), (9.5, 5.0)])

    assert write_names(axes, [lower, upper])

    for text, own, other in zip(axes.texts, (lower, upper), (upper, lower), strict=True):
        assert text.get_text() == own.text
        assert distance(axes, text, own) < distance(axes, text, other)


def distance(axes, text, named):
    """Return the pixels between the box of a text and a line."""
    box = text.get_window_extent()
    corners = axes.transData.transform(named.points)
    line = np.concatenate([np.linspace(a, b, 500) for a, b in itertools.pairwise(corners)])
    nearest = np.clip(line, [box.x0, box.y0], [box.x1, box.y1])
    return np.hypot(*(line - nearest).T).min()


def test_nothing_is_written_where_a_name_finds_no_place():
    axes = empty_axes()

    assert not write_names(axes, [Named("a name that is far too long for the figure " * 3, "black", [(5, 5)])])
    assert not axes.texts
