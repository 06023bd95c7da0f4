"""Models side by side at equal sizes, and what each size costs and covers: table 2 and figure 3 of the CHOL paper."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from matplotlib.figure import Figure

from recscale.reporting.axes import COVERAGE, PARAMETERS, SECONDS
from recscale.reporting.canvas import Layout, draw, label_of, legend_of, settings, shortened
from recscale.reporting.comparisons import Comparison, Configuration, text
from recscale.reporting.palette import INK, Style
from recscale.reporting.panels import Panel
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, scored

_LEAST_COMMON = 2  # sizes that two models must share for a table
_NOTE = "The best configuration of each model at each size; the best of each row is marked."
Size = tuple[int, float, str]  # sorts numbers as numbers, text after them, None last
Sized = dict[Size, list[Configuration]]


@dataclass(frozen=True, kw_only=True)
class SizeTable(Grid):
    """The main metric by size: a row a value of the knob, a column a model, the best configuration of each size."""

    knob: str
    metric: str


def size_tables(comparison: Comparison) -> list[SizeTable]:
    """Return a table for each size knob that two models share with at least two values in common, by name."""
    metric = comparison.metric
    if metric is None:
        return []
    by_knob: dict[str, dict[str, Sized]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for configuration in comparison.configurations:
        knob = configuration.records[0].size_knob
        if knob is not None:
            by_knob[knob][configuration.model][size_of(configuration.knob_value)].append(configuration)
    return [
        _table(knob, comparison, dict(sorted(models.items())))
        for knob, models in sorted(by_knob.items())
        if any(len(a.keys() & b.keys()) >= _LEAST_COMMON for a, b in combinations(models.values(), 2))
    ]


def size_of(value: Any) -> Size:
    """Return the value of a size knob so that it sorts."""
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return (0, float(value), "")
    return (1, 0.0, text(value))


def _table(knob: str, comparison: Comparison, models: Mapping[str, Sized]) -> SizeTable:
    metric = comparison.metric or ""
    sizes = sorted({size for found in models.values() for size in found})
    rows = []
    for size in sizes:
        members = [found.get(size, []) for found in models.values()]
        first = next(configuration for found in members for configuration in found)
        label = "all" if first.knob_value is None else text(first.knob_value)
        rows.append((Cell(label), *_cells(members, comparison)))
    return SizeTable(
        title=f"{metric} by {knob}",
        columns=(Column(knob), *map(Column, models)),
        rows=tuple(rows),
        note=_NOTE,
        knob=knob,
        metric=metric,
    )


def _cells(members: Sequence[Sequence[Configuration]], comparison: Comparison) -> list[Cell]:
    """Return a row: the best score of each model, the word of one that only failed; the best of several is marked."""
    metric = comparison.metric or ""
    finished = [next((c for c in found if c.succeeded), None) for found in members]  # the best come first
    scores = [score for c in finished if c and (score := c.score(metric)) is not None]
    is_contest = sum(map(bool, members)) > 1
    best = (max if comparison.higher_is_better else min)(scores, default=None) if is_contest else None
    cells = []
    for configuration, found in zip(finished, members, strict=True):
        if configuration is not None:
            cells.append(scored(configuration.quantity(metric), best, with_note=False))
        elif found:
            cells.append(Cell(", ".join(dict.fromkeys(c.word for c in found)), is_failure=True))
        else:
            cells.append(Cell(NOTHING))
    return cells


def size_panels(comparison: Comparison, styles: Mapping[str, Style]) -> list[Panel]:
    """Return fit time and coverage against the parameters, each where it was measured.

    There are none where no model has two sizes.
    """
    panels = [Panel(comparison, PARAMETERS, styles, upright=upright) for upright in (SECONDS, COVERAGE)]
    if not any(len(line.points) > 1 for panel in panels for line in panel.lines()):
        return []
    return [panel for panel in panels if panel.lines()]


def draw_by_size(panels: Sequence[Panel]) -> Figure:
    """Return the figure of `size_panels`: side by side, a line a model over its sizes, the legend below."""
    comparison = panels[0].comparison
    layout = Layout(columns=len(panels), panel_height=2.6, left=0.72, head=0.3)
    words = " and ".join(panel.upright.label for panel in panels if panel.upright)
    heading = (shortened(comparison.title, 70), f"{words}, at the best configuration of each size")
    with settings():
        figure, axes = draw(panels, layout, heading=heading, legend=legend_of(panels))
        for pair, panel in zip(axes, panels, strict=True):
            if panel.upright is not None:
                pair.set_title(label_of(panel.upright, comparison), loc="left", fontsize=9.5, color=INK, pad=7)
        return figure
