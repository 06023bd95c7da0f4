"""One panel of a figure: scores or costs against a cost, a line a model, failures in a strip below."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib import transforms
from matplotlib.axes import Axes

from recscale.reporting.axes import PARAMETERS, Axis
from recscale.reporting.comparisons import Comparison, Configuration
from recscale.reporting.frontier import frontier
from recscale.reporting.labels import measured
from recscale.reporting.palette import INK, Style

Point = tuple[float, float]
ROW_INCHES = 0.19  # of one line in the strip of failures
STRIP_PADDING_INCHES = 0.1
_LETTER_INCHES = 0.085  # about the width of a digit at 9.5 points
_EDGE = 0.985  # where failures of unknown size stand, in parts of the width from the cheap end
LEAST_DECADES = 0.95  # of a cost axis: room for three round numbers, also around a single point


@dataclass(frozen=True)
class Failures:
    """The failures of one model with one outcome: where they would stand, None for those of unknown size."""

    model: str
    word: str
    places: tuple[float | None, ...]


@dataclass(frozen=True)
class Line:
    """A model over its sizes: the best configuration of each size, and the others of the same size."""

    model: str
    points: tuple[Point, ...]
    errors: tuple[float, ...]
    others: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """What is drawn on one pair of axes: the main metric or `upright`, against `axis`.

    Lines and failures come in the order of `styles`. A panel of `upright` shows the best of each size alone, and no
    frontier.
    """

    comparison: Comparison
    axis: Axis
    styles: Mapping[str, Style]
    upright: Axis | None = None
    has_frontier: bool = True

    def lines(self) -> list[Line]:
        """Return a line for each model that has points."""
        by_model: dict[str, list[tuple[Configuration, Point]]] = defaultdict(list)
        for configuration in self.comparison.succeeded:
            height, cost = self._height(configuration), self.axis.value(configuration)
            if height is not None and cost is not None:
                by_model[configuration.model].append((configuration, (cost, height)))
        return [self._line(model, by_model[model]) for model in self.styles if model in by_model]

    def _height(self, configuration: Configuration) -> float | None:
        """Return what is drawn upwards; None if it was not measured or is not finite."""
        metric = self.comparison.metric
        if self.upright is None:
            return configuration.score(metric) if metric else None
        value = self.upright.value(configuration)
        return value if value is not None and math.isfinite(value) else None

    def _line(self, model: str, members: Sequence[tuple[Configuration, Point]]) -> Line:
        metric = self.comparison.metric or ""
        best: dict[str, tuple[Configuration, Point]] = {}
        others: list[Point] = []
        for configuration, point in members:  # the best come first
            step = str(point[0] if self.axis.is_setting else configuration.knob_value)
            if best.setdefault(step, (configuration, point))[0] is not configuration:
                others.append(point)
        ordered = sorted(best.values(), key=lambda member: self._place(*member))
        points = tuple(point for _, point in ordered)
        if self.upright is not None:
            return Line(model, points, (0.0,) * len(points), ())
        quantities = [configuration.quantity(metric) for configuration, _ in ordered]
        errors = tuple(q.standard_error or 0.0 if q else 0.0 for q in quantities)
        return Line(model, points, errors, tuple(others))

    def _place(self, configuration: Configuration, point: Point) -> tuple[float, float]:
        """Order a line by what the model came to, on every axis: a knob's None may stand for all or for nothing."""
        return (0.0 if self.axis.is_setting else PARAMETERS.value(configuration) or 0.0, point[0])

    def failures(self) -> list[Failures]:
        """Return the failures by model and outcome."""
        places: dict[tuple[str, str], list[float | None]] = defaultdict(list)
        for configuration in self.comparison.failed:
            places[configuration.model, configuration.word].append(self.axis.expected(configuration))
        order = {model: index for index, model in enumerate(self.styles)}
        ordered = sorted(places.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        return [Failures(model, word, tuple(found)) for (model, word), found in ordered]

    def frontier(self) -> list[Point]:
        """Return the corners of the frontier, from the cheapest point to the dearest; nothing where none is drawn."""
        if self.upright is not None or not self.has_frontier:
            return []
        points = [point for line in self.lines() for point in (*line.points, *line.others)]
        found = frontier(points, lower_cost=self.axis.lower_is_better, higher_score=self.comparison.higher_is_better)
        return [points[index] for index in found]


def strip_inches(panel: Panel) -> float:
    """Return the height that the strip of failures takes; 0 if nothing failed."""
    n_rows = len(panel.failures())
    return n_rows * ROW_INCHES + STRIP_PADDING_INCHES if n_rows else 0.0


def draw_panel(axes: Axes, strip: Axes | None, panel: Panel, *, emphasis: bool) -> None:
    """Draw a panel; `emphasis` is for the one panel of a large figure: error bars and larger marks."""
    _frame(axes, panel)
    scale = 1.0 if emphasis else 0.72
    corners = staircase(panel, axes)
    if corners:
        axes.plot(*zip(*corners, strict=True), color=INK, alpha=0.22, linewidth=5.0 * scale, solid_joinstyle="round")
    for line in panel.lines():
        style = panel.styles[line.model]
        if line.others:
            axes.plot(
                *zip(*line.others, strict=True),
                color=style.colour,
                marker=style.marker,
                ls="",
                ms=3.4 * scale,
                alpha=0.4,
            )
        if emphasis:
            xs, ys = zip(*line.points, strict=True)
            axes.errorbar(xs, ys, yerr=line.errors, fmt="none", ecolor=style.colour, elinewidth=1.0, alpha=0.55)
        axes.plot(
            *zip(*line.points, strict=True),
            color=style.colour,
            marker=style.marker,
            ls=style.line,
            ms=7.0 * scale,
            lw=1.9 * scale,
            mew=0,
        )
    if strip is not None:
        _draw_failures(strip, panel, font_size=9.0 if emphasis else 7.5)


def staircase(panel: Panel, axes: Axes) -> list[Point]:
    """Return the frontier as a polyline: the score that a cost buys, drawn on to the dear end of the axis."""
    corners = panel.frontier()
    if not corners:
        return []
    low, high = axes.get_xlim()
    steps = [corners[0]]
    for (_, score), (next_cost, next_score) in pairwise(corners):
        steps += [(next_cost, score), (next_cost, next_score)]
    return [*steps, (high if panel.axis.lower_is_better else low, corners[-1][1])]


def _frame(axes: Axes, panel: Panel) -> None:
    """Set limits, ticks and grid; all that is not data is thin and grey."""
    _scale_sideways(axes, panel)
    _scale_upwards(axes, panel)
    axes.grid(True, color=INK, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=INK, linewidth=0.8)


def _scale_upwards(axes: Axes, panel: Panel) -> None:
    """Set scale, limits and ticks of the vertical axis."""
    heights = [y for line in panel.lines() for _, y in (*line.points, *line.others)]
    if not heights:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", va="center", color=INK)
    elif panel.upright is None:
        margin = 0.08 * (max(heights) - min(heights)) or 0.08 * abs(max(heights)) or 0.1
        axes.set_ylim(min(heights) - margin, max(heights) + margin)
        axes.locator_params(axis="y", nbins=6)
    elif panel.upright.is_share:
        axes.set_ylim(-0.05, 1.05)
        axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    else:
        low, high = _with_room(heights)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_yticks(_ticks(low, high))
        axes.set_yticks([], minor=True)
    if heights and panel.upright is not None:
        write = panel.upright.write
        axes.yaxis.set_major_formatter(lambda value, _: write(value))


def _scale_sideways(axes: Axes, panel: Panel) -> None:
    """Set scale, limits and ticks of the horizontal axis: all points, all failures of known place, and some room."""
    places = [x for line in panel.lines() for x, _ in (*line.points, *line.others)]
    places += [x for failures in panel.failures() for x in failures.places if x is not None]
    if panel.axis.is_linear:
        margin = 0.08 * (max(places) - min(places)) or 1.0
        low, high = min(places) - margin, max(places) + margin
    else:
        axes.set_xscale("log")
        low, high = _with_room(places or [1.0, 10.0])
    axes.set_xlim(low, high)
    axes.set_xticks(_apart(axes, panel, sorted(set(places)) if panel.axis.is_setting else _ticks(low, high)))
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: panel.axis.write(value))


def _apart(axes: Axes, panel: Panel, values: Sequence[float]) -> list[float]:
    """Return those of the ascending values whose labels would not touch that of a smaller one."""
    inches = axes.transData.transform([(value, 0.0) for value in values])[:, 0] / axes.figure.dpi
    ticks: list[float] = []
    end = -math.inf
    for value, centre in zip(values, inches, strict=True):
        half = _LETTER_INCHES * len(panel.axis.write(value)) / 2
        if centre - half >= end + _LETTER_INCHES:
            ticks.append(value)
            end = centre + half
    return ticks


def _with_room(values: Sequence[float]) -> Point:
    """Return the ends of a logarithmic axis around values above 0."""
    low, high = min(values), max(values)
    decades = math.log10(high / low)
    room = max(0.07 * decades, 0.12, (LEAST_DECADES - decades) / 2)
    return low / 10**room, high * 10**room


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the ends: 3 to 7 of them, powers of ten if there are enough."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for step in (4, 3, 2, 1):
        ticks = [10.0**e for e in range(first - first % step, last + 1, step) if low <= 10.0**e <= high]
        if len(ticks) >= 4 or (step == 1 and len(ticks) >= 3):
            return ticks
    for digits in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + i / 5 for i in range(45))):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in digits if low <= m * 10.0**e <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def _draw_failures(strip: Axes, panel: Panel, *, font_size: float) -> None:
    """Draw a strip below the axis: a row for each model and outcome, crosses where they would stand, and the word."""
    rows = panel.failures()
    _scale_sideways(strip, panel)
    strip.set_ylim(len(rows) - 0.5 + 0.25, -0.5 - 0.25)
    strip.set_yticks([])
    strip.grid(True, axis="x", color=INK, alpha=0.2, linewidth=0.6)
    strip.tick_params(colors=INK, length=0, pad=5)
    strip.patch.set(facecolor=INK, alpha=0.08)
    for side in strip.spines.values():
        side.set_visible(False)
    strip.text(-0.012, 0, "failed", transform=_mixed(strip), color=INK, fontsize=font_size, ha="right", va="center")
    for index, row in enumerate(rows):
        _draw_row(strip, row, index, panel, font_size)


def _mixed(strip: Axes) -> transforms.Transform:
    """Return a transform from parts of the width and numbers of rows."""
    return transforms.blended_transform_factory(strip.transAxes, strip.transData)


def _draw_row(strip: Axes, row: Failures, index: int, panel: Panel, font_size: float) -> None:
    to_width = strip.transData + strip.transAxes.inverted()
    edge = _EDGE if panel.axis.lower_is_better else 1 - _EDGE
    places = sorted({edge if x is None else float(to_width.transform((x, index))[0]) for x in row.places})
    colour = panel.styles[row.model].colour
    strip.plot(
        places,
        [index] * len(places),
        ls="",
        marker="x",
        ms=0.62 * font_size,
        mew=1.6,
        color=colour,
        transform=_mixed(strip),
    )
    text = strip.text(
        0, index, f"{row.model} {row.word}", fontsize=font_size, color=colour, transform=_mixed(strip), va="center"
    )
    figure = strip.get_figure(root=True)
    width = measured(figure, text)[0] / strip.get_window_extent().width  # type: ignore[arg-type]
    gap = 0.62 * font_size / 72 / (strip.get_window_extent().width / figure.dpi)  # type: ignore[union-attr]
    x, side = _beside(places, gap, width)
    text.set(x=x, ha=side)


def _beside(places: Sequence[float], gap: float, width: float) -> tuple[float, str]:
    """Return where a row's words stand: behind its crosses, else before them, else between two that leave room."""
    if places[-1] + gap + width <= 1:
        return places[-1] + gap, "left"
    room, start = max(((b - a, a) for a, b in pairwise(places)), default=(0.0, 0.0))
    if places[0] - gap - width < 0 and width + 2 * gap <= room:
        return start + gap, "left"
    return places[0] - gap, "right"
