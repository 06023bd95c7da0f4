"""One model over its size and one other option, as in figure 2 of the CHOL paper and figure 4 of the ELFM paper."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recscale.records.record import RunRecord
from recscale.reporting.axes import PARAMETERS, Axis
from recscale.reporting.canvas import Layout, draw, legend_of, settings, shortened, subtitle
from recscale.reporting.comparisons import Comparison, Configuration, canonical, text
from recscale.reporting.palette import INK, ramp
from recscale.reporting.panels import Panel
from recscale.reporting.sizes import size_of

_LAYOUTS = (Layout(columns=2, panel_height=2.5, head=0.3, gap=0.45), Layout(columns=1, panel_height=3.2))
_LEAST_LINES = 2  # values of the option that have at least two sizes each
_LEAST_VALUES = 3  # of the option at one size, for a line along it
_WIDEST_LINEAR = 8  # the largest value over the smallest, up to which the axis of an option is linear


@dataclass(frozen=True)
class Sweep:
    """Runs of one model that differ in their size and in one numeric option, all other options equal.

    `others` are those options of which the model has other values elsewhere, such as `l1 = 0.1`. `comparison` holds
    the runs alone, each under the name of its line, and `names` are these names in order: those of the values of the
    option, such as `l2 = 70`, where the figure runs along the size; those of the sizes, such as `factors = 64`, where
    it runs along the option (`along_option`).
    """

    model: str
    option: str
    knob: str
    along_option: bool
    others: tuple[str, ...]
    comparison: Comparison
    names: tuple[str, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is drawn: the main metric, along an option the other headline metrics too."""
        comparison = self.comparison
        if not self.along_option:
            return comparison.metrics[:1]
        return tuple(m for m in comparison.headlines if any(c.score(m) is not None for c in comparison.succeeded))

    @property
    def measures(self) -> str:
        """The metrics in words."""
        return " and ".join(filter(None, (", ".join(self.metrics[:-1]), *self.metrics[-1:])))

    @property
    def words(self) -> str:
        """What the figure shows."""
        along, line = (self.option, self.knob) if self.along_option else ("its size", self.option)
        at = f", at {', '.join(self.others)}" if self.others else ""
        return f"{self.measures} of {self.model} against {along}, a line for each value of {line}{at}"


@dataclass
class _Grid:
    """The sizes measured at each value of the option, and the values measured at each size."""

    members: list[Configuration] = field(default_factory=list)
    sizes: dict[float, set[str]] = field(default_factory=lambda: defaultdict(set))
    values: dict[str, set[float]] = field(default_factory=lambda: defaultdict(set))

    def n_cells(self) -> int:
        """Count the pairs of a value and a size that have a score; 0 where neither figure can be drawn."""
        return sum(map(len, self.values.values())) if self.along_size() or self.along_option() else 0

    def along_size(self) -> int:
        """Return the points of the longest line along the size; 0 if there are too few lines."""
        lengths = [len(found) for found in self.sizes.values() if len(found) > 1]
        return max(lengths) if len(lengths) >= _LEAST_LINES else 0

    def along_option(self) -> int:
        """Return the points of the longest line along the option; 0 if all are too short."""
        longest = max(map(len, self.values.values()), default=0)
        return longest if longest >= _LEAST_VALUES else 0


def sweeps(comparison: Comparison) -> list[Sweep]:
    """Return for each model and numeric option the largest grid of sizes and values, where there is one.

    Its figure runs along whichever has more points on a line; along the option where they have as many, since other
    figures show the sizes already.
    """
    if comparison.metric is None:
        return []
    models: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
    for configuration in comparison.configurations:
        knob = configuration.records[0].size_knob
        if knob is not None:
            models[configuration.model, knob].append(configuration)
    found = []
    for (model, knob), members in sorted(models.items()):
        names = {name for c in members for name in c.records[0].parameters if _value(c.records[0], name) is not None}
        for option in sorted(names - {knob}):
            grid = _largest_grid(members, knob, option, comparison.metric)
            if grid.n_cells():
                along_option = grid.along_option() >= grid.along_size()
                others = _others(members, grid.members[0], (knob, option))
                sweep = Sweep(model, option, knob, along_option, others, comparison, ())
                found.append((_by_size if along_option else _by_value)(sweep, grid.members))
    return found


def draw_sweep(sweep: Sweep) -> Figure:
    """Return a figure of the metrics against the number of parameters or the option, a line for each of `names`."""
    comparison = sweep.comparison
    axis = _axis(sweep) if sweep.along_option else PARAMETERS
    shown = [replace(comparison, metrics=(metric,)) for metric in sweep.metrics]
    panels = [Panel(part, axis, ramp(sweep.names), has_frontier=False) for part in shown]
    along = f"{sweep.option} and {sweep.knob}" if sweep.along_option else f"size and {sweep.option}"
    title = shortened(f"{sweep.model} by {along} · {comparison.title}", 70)
    below = subtitle(replace(comparison, metrics=(sweep.measures,)))
    below = shortened(", ".join((below, *sweep.others)), 100)
    is_single = len(panels) == 1
    layout = _LAYOUTS[is_single]
    with settings():
        figure, found = draw(panels, layout, heading=(title, below), legend=legend_of(panels))
        for axes, panel in zip(found, panels, strict=True):
            if is_single:
                _hold_errors(axes, panel)
            else:
                axes.set_title(panel.comparison.metric or "", loc="left", fontsize=9.5, color=INK, pad=7)
        return figure


def _axis(sweep: Sweep) -> Axis:
    """Return the axis of an option: logarithmic where its values are positive and lie far apart."""

    def read(record: RunRecord) -> float | None:
        return _value(record, sweep.option)

    values = [value for c in sweep.comparison.configurations if (value := read(c.records[0])) is not None]
    low, high = min(values), max(values)
    is_linear = low <= 0 or high <= _WIDEST_LINEAR * low
    return Axis(
        sweep.option, sweep.option, read, read, _written, smallest=-math.inf, is_setting=True, is_linear=is_linear
    )


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


def _value(record: RunRecord, option: str) -> float | None:
    """Return an option as a number; None if it is no finite one."""
    value = record.parameters.get(option)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _largest_grid(members: Sequence[Configuration], knob: str, option: str, metric: str) -> _Grid:
    """Return the configurations with equal other options that fill the largest grid; an empty one if there is none."""
    groups: dict[str, _Grid] = defaultdict(_Grid)
    for configuration in members:
        first = configuration.records[0]
        value = _value(first, option)
        if value is None:
            continue
        grid = groups[canonical({name: v for name, v in first.parameters.items() if name not in (knob, option)})]
        grid.members.append(configuration)
        if configuration.succeeded and configuration.score(metric) is not None:
            grid.values[text(configuration.knob_value)].add(value)
            if PARAMETERS.value(configuration):
                grid.sizes[value].add(text(configuration.knob_value))
    return max(groups.values(), key=_Grid.n_cells, default=_Grid())  # of those that are as large that of the best score


def _others(members: Sequence[Configuration], one: Configuration, drawn: Sequence[str]) -> tuple[str, ...]:
    """Return the options of a configuration that are not drawn and that differ between the members."""
    first, parameters = one.records[0], [c.records[0].parameters for c in members]
    found = []
    for name, value in sorted(first.parameters.items()):
        if name not in drawn and any(canonical(p.get(name)) != canonical(value) for p in parameters):
            number = _value(first, name)
            found.append(f"{name} = {text(value) if number is None else _written(number)}")
    return tuple(found)


def _by_value(sweep: Sweep, members: Sequence[Configuration]) -> Sweep:
    """Return a sweep whose configurations are named by the value of the option."""
    values = [_value(c.records[0], sweep.option) or 0.0 for c in members]
    names = {value: f"{sweep.option} = {_written(value)}" for value in sorted(set(values))}
    return _renamed(sweep, members, [names[value] for value in values], tuple(names.values()))


def _by_size(sweep: Sweep, members: Sequence[Configuration]) -> Sweep:
    """Return a sweep whose configurations are named by their size."""
    sizes = {size_of(c.knob_value): c.knob_value for c in members}
    words = {size: "all" if value is None else text(value) for size, value in sorted(sizes.items())}
    names = {size: f"{sweep.knob} = {word}" for size, word in words.items()}
    return _renamed(sweep, members, [names[size_of(c.knob_value)] for c in members], tuple(names.values()))


def _renamed(sweep: Sweep, members: Sequence[Configuration], lines: Sequence[str], names: tuple[str, ...]) -> Sweep:
    renamed = tuple(replace(c, model=line) for c, line in zip(members, lines, strict=True))
    return replace(sweep, comparison=replace(sweep.comparison, configurations=renamed), names=names)


def _written(value: float) -> str:
    """Return a number as short as it can be without becoming another one: 70, 0.001, 1e-07."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else repr(float(value))
