"""The figure of co-clusters, figure 5 of the ELFM paper: precision of the intrusion task, and how many hold enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from recscale.reporting.canvas import WIDTH_INCHES, legend_inches, settings, shortened, write_heading, write_legend
from recscale.reporting.coclusters import CLUSTERING, RULES, Judged
from recscale.reporting.comparisons import Comparison
from recscale.reporting.palette import INK, Style, ramp

_WORDS = {"positive": "affinity > 0", "strong": "strong", "top1": "top 1", "top5": "top 5"}
_ROW_INCHES = 0.46
_HEAD_INCHES, _FOOT_INCHES = 0.95, 0.52  # title, subtitle and names of the panels; tick labels and names of axes
_GAP_INCHES, _RIGHT_INCHES = 0.35, 0.25
_LETTER_INCHES = 0.074  # of a name at 9 points
_LONGEST_NAME = 28
_BAR = 0.19  # of the height of a row


def draw_coclusters(comparison: Comparison, rows: Sequence[Judged], styles: Mapping[str, Style]) -> Figure:
    """Return two panels with a row a model: intrusion precision with its interval, non-degenerate co-clusters."""
    names = [_short(row.name) for row in rows]
    left = 0.25 + _LETTER_INCHES * max(map(len, names))
    width = (WIDTH_INCHES - left - _GAP_INCHES - _RIGHT_INCHES) / 2
    rows_inches = _ROW_INCHES * len(rows)
    with settings():
        legend = _legend(rows)
        below = _FOOT_INCHES + legend_inches(legend)
        height = _HEAD_INCHES + rows_inches + below
        figure = Figure(figsize=(WIDTH_INCHES, height))
        FigureCanvasAgg(figure)
        panels = [
            figure.add_axes((x / WIDTH_INCHES, below / height, width / WIDTH_INCHES, rows_inches / height))
            for x in (left, left + width + _GAP_INCHES)
        ]
        _draw_precision(panels[0], rows, styles)
        _draw_counts(panels[1], rows)
        panels[0].set_yticks(range(len(rows)), names)
        heading = (shortened(comparison.title, 70), "co-clusters of the best configuration of each model")
        write_heading(figure, heading, 0.2)
        write_legend(figure, legend, 0.2)
        return figure


def _short(name: str) -> str:
    """Return a name that leaves room for the panels; where its co-clusters are from stays at its end."""
    ending = CLUSTERING if name.endswith(CLUSTERING) else ""
    return shortened(name.removesuffix(ending), _LONGEST_NAME - len(ending)) + ending


def _draw_precision(axes: Axes, rows: Sequence[Judged], styles: Mapping[str, Style]) -> None:
    """Draw the precision of each model, the level of random sets, and the line of chance."""
    _frame(axes, len(rows), "intrusion precision, 95 % interval", "share of intruders found")
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    chance = _chance(rows)
    if chance is not None:
        axes.axvline(chance, color=INK, ls="--", lw=1.2)
    for y, row in enumerate(rows):
        style, precision = styles[row.configuration.model], row.read("intrusion_precision")
        if precision is None:
            axes.text(0.29, y, "none could be shown", color=INK, fontsize=8, va="center")
            continue
        random, ends = row.read("intrusion_precision_random"), row.interval("intrusion_precision")
        if random is not None:
            axes.plot([random], [y], marker="|", ms=13, mew=2.2, color=INK, ls="")
        if ends is not None:
            axes.plot(ends, [y, y], color=style.colour, lw=2.2, solid_capstyle="butt")
        axes.plot([precision], [y], marker=style.marker, ms=7.5, mew=0, color=style.colour, ls="")


def _draw_counts(axes: Axes, rows: Sequence[Judged]) -> None:
    """Draw a bar for each rule of membership, within the outline of all co-clusters."""
    _frame(axes, len(rows), "non-degenerate co-clusters, by rule", "co-clusters")
    for y, row in enumerate(rows):
        every = row.read("n_coclusters")
        if every is not None:
            axes.barh(y, every, 4 * _BAR + 0.06, facecolor="none", edgecolor=INK, lw=0.9)
        for place, (rule, style) in enumerate(_rule_styles().items()):
            count = row.read(f"n_nondegenerate_{rule}")
            if count is not None:
                axes.barh(y + (place - 1.5) * _BAR, count, 0.85 * _BAR, color=style.colour)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _frame(axes: Axes, n_rows: int, title: str, label: str) -> None:
    """Set rows from the top, names and grid; all that is not data is thin and grey."""
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=6)
    axes.set_xlabel(label, color=INK, fontsize=9, labelpad=4)
    axes.grid(True, axis="x", color=INK, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=5, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=INK, linewidth=0.8)


def _legend(rows: Sequence[Judged]) -> list[Artist]:
    """Return what is drawn beside the points: chance, random sets, the rules and the outline of all co-clusters."""
    chance = _chance(rows)
    handles: list[Artist] = []
    if chance is not None:
        handles.append(Line2D([], [], color=INK, ls="--", lw=1.2, label=f"chance, {chance:.2g}"))
    if any(row.read("intrusion_precision_random") is not None for row in rows):
        handles.append(Line2D([], [], color=INK, ls="", marker="|", ms=11, mew=2.2, label="random sets"))
    handles += [
        Patch(color=style.colour, label=_WORDS[rule])
        for rule, style in _rule_styles().items()
        if any(row.read(f"n_nondegenerate_{rule}") is not None for row in rows)
    ]
    return [*handles, Patch(facecolor="none", edgecolor=INK, lw=0.9, label="all co-clusters")]


def _rule_styles() -> dict[str, Style]:
    return ramp(RULES)


def _chance(rows: Sequence[Judged]) -> float | None:
    return next((chance for row in rows if (chance := row.read("intrusion_chance")) is not None), None)
