"""Size against accuracy, in the manner of figure 3 of the ELFM paper, and the same against the other costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recscale.reporting.axes import COSTS, PARAMETERS
from recscale.reporting.canvas import Layout, draw, legend_of, settings, shortened, subtitle
from recscale.reporting.comparisons import Comparison
from recscale.reporting.labels import Named, write_names
from recscale.reporting.palette import INK, Style
from recscale.reporting.panels import Panel, staircase

_MOST_DIRECT_LABELS = 12


def draw_sizes(comparison: Comparison, styles: Mapping[str, Style]) -> Figure:
    """Return the main figure of a comparison: the main metric against the number of parameters."""
    panel = Panel(comparison, PARAMETERS, styles)
    layout = Layout(columns=1, panel_height=3.6)
    with settings():
        if len({line.model for line in panel.lines()}) <= _MOST_DIRECT_LABELS:
            figure, axes = draw([panel], layout, heading=_heading(comparison), legend=None)
            if _name_lines(axes[0], panel):
                return figure
        return draw([panel], layout, heading=_heading(comparison), legend=legend_of([panel]))[0]


def draw_costs(comparison: Comparison, styles: Mapping[str, Style]) -> Figure:
    """Return four panels: the main metric against bytes, memory, fit time and throughput."""
    panels = [Panel(comparison, axis, styles) for axis in COSTS]
    layout = Layout(columns=2, panel_height=2.1)
    with settings():
        return draw(panels, layout, heading=_heading(comparison), legend=legend_of(panels))[0]


def draw_overview(comparisons: Sequence[Comparison], styles: Mapping[str, Style]) -> Figure:
    """Return a panel for each comparison: its main metric against the number of parameters."""
    panels = [Panel(comparison, PARAMETERS, styles) for comparison in comparisons]
    layout = Layout(columns=2 if len(panels) in (2, 4) else 3, panel_height=1.9, gap=0.42, top=0.4, head=0.42)
    with settings():
        figure, axes = draw(panels, layout, heading=("accuracy against size", ""), legend=legend_of(panels))
        for pair, panel in zip(axes, panels, strict=True):
            title = panel.comparison.title
            pair.set_title(
                shortened(title, 96 // layout.columns), loc="left", fontsize=9.5, color=INK, weight="bold", pad=14
            )
            pair.text(0, 1.02, panel.comparison.metric or "", transform=pair.transAxes, color=INK, fontsize=8)
        return figure


def _heading(comparison: Comparison) -> tuple[str, str]:
    """Return title and subtitle: what was run, and what the vertical axis is."""
    return shortened(comparison.title, 70), subtitle(comparison)


def _name_lines(axes: Axes, panel: Panel) -> bool:
    """Write the names of the models beside their lines; return False if they do not all find a place."""
    lines = [Named(line.model, panel.styles[line.model].colour, [*line.points, *line.others]) for line in panel.lines()]
    corners = staircase(panel, axes)
    if not corners:
        return write_names(axes, lines)
    named = [*lines, Named("frontier", INK, corners[-1:])]
    return write_names(axes, named, soft=[corners]) or write_names(axes, lines, soft=[corners])
