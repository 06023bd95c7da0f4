"""Names written beside the lines of a figure, where they cover nothing; a legend is for figures where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Boxes = NDArray[np.float64]  # (n, 4): left, bottom, right, top in pixels

_MARKER_PIXELS = 8.0  # half the side of the box that a marker takes, at 100 dots per inch
_LINE_PIXELS = 3.0
_GAP_PIXELS = 3.0
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (-1, 1), (-1, 0), (1, -1), (0, -1), (-1, -1))


@dataclass(frozen=True)
class Named:
    """A line with its name: points in data coordinates, in drawing order."""

    text: str
    colour: str
    points: Sequence[tuple[float, float]]


def measured(figure: Figure, text: Text) -> tuple[float, float]:
    """Return the width and height of a text in pixels."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    box = text.get_window_extent(canvas.get_renderer())
    return float(box.width), float(box.height)


def write_names(
    axes: Axes, lines: Sequence[Named], *, soft: Sequence[Sequence[tuple[float, float]]] = (), font_size: float = 10.0
) -> bool:
    """Write each name beside its line so that it covers no marker, no line and no other name.

    No name stands nearer to another line than to its own. The polylines in `soft` are avoided where that is possible.
    Returns False, and writes nothing, if a name finds no place.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    hard = np.concatenate([np.empty((0, 4)), *(_boxes(axes, line.points) for line in lines)])
    avoided = np.concatenate([np.empty((0, 4)), *(_boxes(axes, points)[len(points) :] for points in soft)])
    frame = axes.get_window_extent()
    inside = np.array([frame.x0, frame.y0, frame.x1, frame.y1])
    written: list[Text] = []
    for line in sorted(lines, key=lambda named: (len(named.points), named.text)):
        text = axes.text(0, 0, line.text, color=line.colour, fontsize=font_size, fontweight="bold", transform=None)
        written.append(text)
        candidates = _candidates(axes, line, measured(figure, text))
        others = np.concatenate(
            [np.empty((0, 4)), *(_boxes(axes, other.points) for other in lines if other is not line)]
        )
        misleading = _nearest(candidates, others) < _nearest(candidates, _boxes(axes, line.points))
        box = _best_place(candidates[~misleading], hard, avoided, inside)
        if box is None:
            for name in written:
                name.remove()
            return False
        x, y = axes.transAxes.inverted().transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        text.set(x=x, y=y, transform=axes.transAxes, ha="center", va="center")
        hard = np.vstack([hard, box])
    return True


def _boxes(axes: Axes, points: Sequence[tuple[float, float]]) -> Boxes:
    """Return the boxes of the markers, then those of short pieces of the line between them."""
    pixels = axes.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))  # (n, 2)
    pieces = [np.empty((0, 2))]
    for start, end in pairwise(pixels):
        steps = max(2, int(np.hypot(*(end - start)) / (2 * _LINE_PIXELS)))
        pieces.append(start + (end - start) * np.linspace(0, 1, steps)[:, None])
    line = np.concatenate(pieces)
    return np.concatenate(
        [
            np.hstack([pixels - _MARKER_PIXELS, pixels + _MARKER_PIXELS]),
            np.hstack([line - _LINE_PIXELS, line + _LINE_PIXELS]),
        ]
    )


def _candidates(axes: Axes, line: Named, size: tuple[float, float]) -> Boxes:
    """Return the boxes around the points of a line in which its name could stand, the preferred ones first."""
    pixels = axes.transData.transform(np.asarray(line.points, dtype=float).reshape(-1, 2))
    half = np.array(size) / 2
    order = [len(pixels) - 1, 0, *range(len(pixels) - 2, 0, -1)][: len(pixels)]  # the largest, the smallest, the others
    centres = [
        pixels[index] + np.array(direction) * (half + _MARKER_PIXELS + gap * _GAP_PIXELS)
        for gap in (0, 2, 5)
        for index in order
        for direction in _DIRECTIONS
    ]
    return np.array([np.concatenate([centre - half, centre + half]) for centre in centres])


def _best_place(candidates: Boxes, hard: Boxes, avoided: Boxes, inside: Boxes) -> NDArray[np.float64] | None:
    """Return the first box that covers nothing hard and the fewest of what is better avoided; None if there is none."""
    best, fewest = None, None
    for box in candidates:
        is_inside = bool(np.all(box[:2] >= inside[:2]) and np.all(box[2:] <= inside[2:]))
        if not is_inside or _overlaps(box, hard):
            continue
        n_avoided = _overlaps(box, avoided)
        if fewest is None or n_avoided < fewest:
            best, fewest = box, n_avoided
    return best


def _nearest(candidates: Boxes, boxes: Boxes) -> NDArray[np.float64]:
    """Return for each candidate the distance to the nearest of the boxes, border to border; infinite without boxes."""
    below = boxes[None, :, :2] - candidates[:, None, 2:]  # (candidates, boxes, 2)
    above = candidates[:, None, :2] - boxes[None, :, 2:]
    apart = np.maximum(np.maximum(below, above), 0.0)
    distances: NDArray[np.float64] = np.hypot(apart[..., 0], apart[..., 1]).min(axis=1, initial=np.inf)
    return distances


def _overlaps(box: NDArray[np.float64], boxes: Boxes) -> int:
    apart = (boxes[:, 0] > box[2]) | (boxes[:, 2] < box[0]) | (boxes[:, 1] > box[3]) | (boxes[:, 3] < box[1])
    return int(np.count_nonzero(~apart))
