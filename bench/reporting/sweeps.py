"""One model over its size and one other option, in the manner of figure 2 of the CHOL paper."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recscale.reporting.axes import PARAMETERS
from recscale.reporting.canvas import Layout, draw, legend_of, settings, shortened, subtitle
from recscale.reporting.comparisons import Comparison, Configuration, canonical, text
from recscale.reporting.palette import ramp
from recscale.reporting.panels import Panel

_LEAST_LINES = 2  # values of the option that have at least two sizes each


@dataclass(frozen=True)
class Sweep:
    """Runs of one model that differ in their size and in one numeric option, all other options equal.

    `comparison` holds them alone, each under the name of its value, such as `l2 = 70`; `names` are these from the
    smallest value to the largest.
    """

    model: str
    option: str
    comparison: Comparison
    names: tuple[str, ...]


def sweeps(comparison: Comparison) -> list[Sweep]:
    """Return for each model and numeric option the largest grid of sizes and values, where there is one."""
    if comparison.metric is None:
        return []
    models: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
    for configuration in comparison.configurations:
        knob = configuration.records[0].size_knob
        if knob is not None:
            models[configuration.model, knob].append(configuration)
    found = []
    for (model, knob), members in sorted(models.items()):
        names = {name for c in members for name in c.records[0].parameters if _value(c, name) is not None}
        for option in sorted(names - {knob}):
            group = _largest_grid(members, knob, option, comparison.metric)
            if group:
                found.append(_sweep(comparison, model, option, group))
    return found


def draw_sweep(sweep: Sweep) -> Figure:
    """Return a figure of the main metric against the number of parameters, a line a value of the option."""
    panel = Panel(sweep.comparison, PARAMETERS, ramp(sweep.names), has_frontier=False)
    title = shortened(f"{sweep.model} by size and {sweep.option} · {sweep.comparison.title}", 70)
    layout = Layout(columns=1, panel_height=3.2)
    with settings():
        heading = (title, subtitle(sweep.comparison))
        figure, (axes,) = draw([panel], layout, heading=heading, legend=legend_of([panel]))
        _hold_errors(axes, panel)
        return figure


def _hold_errors(axes: Axes, panel: Panel) -> None:
    """Widen the vertical axis until no error bar leaves it."""
    low, high = axes.get_ylim()
    ends = [
        y + sign * e
        for line in panel.lines()
        for (_, y), e in zip(line.points, line.errors, strict=True)
        for sign in (-1.03, 1.03)
    ]
    axes.set_ylim(min(low, *ends), max(high, *ends))


def _value(configuration: Configuration, option: str) -> float | None:
    """Return an option as a number; None if it is no finite one."""
    value = configuration.records[0].parameters.get(option)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _largest_grid(members: Sequence[Configuration], knob: str, option: str, metric: str) -> list[Configuration] | None:
    """Return the configurations with equal other options that fill the largest grid; None if none has enough lines."""
    groups: dict[str, list[Configuration]] = defaultdict(list)
    for configuration in members:
        if _value(configuration, option) is not None:
            parameters = configuration.records[0].parameters
            rest = {name: value for name, value in parameters.items() if name not in (knob, option)}
            groups[canonical(rest)].append(configuration)
    best, most = None, 0
    for _, group in sorted(groups.items()):
        sizes: dict[float | None, set[str]] = defaultdict(set)
        for configuration in group:
            if configuration.succeeded and configuration.score(metric) is not None and PARAMETERS.value(configuration):
                sizes[_value(configuration, option)].add(text(configuration.knob_value))
        n_cells = sum(map(len, sizes.values()))
        if sum(len(found) > 1 for found in sizes.values()) >= _LEAST_LINES and n_cells > most:
            best, most = group, n_cells
    return best


def _sweep(comparison: Comparison, model: str, option: str, group: Sequence[Configuration]) -> Sweep:
    values = [_value(c, option) or 0.0 for c in group]
    names = {value: f"{option} = {_written(value)}" for value in sorted(set(values))}
    renamed = tuple(replace(c, model=names[value]) for c, value in zip(group, values, strict=True))
    return Sweep(model, option, replace(comparison, configurations=renamed), tuple(names.values()))


def _written(value: float) -> str:
    """Return a number as short as it can be without becoming another one: 70, 0.001, 1e-07."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else repr(value)
