"""Figures over versions of the code: accuracy, parameters, memory and time of each job, a line a job."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from recscale.records.history import CALIBRATED_GFLOPS, MEMORY, TIME, JobHistory, Series
from recscale.reporting import units
from recscale.reporting.canvas import (
    WIDTH_INCHES,
    legend_inches,
    render,
    settings,
    shortened,
    write_heading,
    write_legend,
)
from recscale.reporting.files import plain_name, write_all
from recscale.reporting.palette import INK, Style, styles

_LABELS = {
    "parameters": "parameters",
    MEMORY: "memory of the fit, beyond what it began with",
    TIME: f"fit time, calibrated to {CALIBRATED_GFLOPS:.0f} GFLOP/s",
}
_LEFT, _RIGHT, _GAP, _TOP, _HEAD, _HEIGHT = 0.72, 0.2, 0.75, 0.62, 0.3, 1.9  # inches
_TICK_LETTER_INCHES = 0.063  # of a label at 7.5 points, written upwards
_MOST_TICKS = 16
_WIDEST_LINEAR = 8.0  # the largest value over the smallest, up to which an axis is linear: changes are seen better
_WRITE: dict[str, Callable[[float], str]] = {"bytes": units.size, "seconds": units.duration, "": units.count}
_SHORTEST = 1e-6  # seconds; a logarithmic axis has no zero


@dataclass(frozen=True)
class Chart:
    """The histories on one data set under one protocol, of jobs with more than one version; versions in their order."""

    dataset: str
    protocol: str
    versions: tuple[str, ...]
    jobs: tuple[JobHistory, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the jobs are followed by."""
        return tuple(dict.fromkeys(s.quantity for job in self.jobs for s in job.series if s.unit == "score"))


def charts(histories: Sequence[JobHistory]) -> list[Chart]:
    """Return a chart for each data set and protocol that has a job of more than one version."""
    groups: dict[tuple[str, str], list[JobHistory]] = defaultdict(list)
    for history in histories:
        if len(history.versions) > 1:
            groups[history.dataset, history.protocol].append(history)
    return [Chart(*key, _in_order(jobs), tuple(jobs)) for key, jobs in sorted(groups.items())]


def write_figures(histories: Sequence[JobHistory], folder: Path) -> list[Path]:
    """Draw every chart as SVG and PNG in `folder`; return the files. Raises StoreError if they cannot be written."""
    found = charts(histories)
    looks = styles(job.job for chart in found for job in chart.jobs)
    files: dict[str, bytes] = {}
    for chart in found:
        figure = draw_history(chart, looks)
        name = plain_name(f"history-{chart.dataset}-{chart.protocol}", [Path(file).stem for file in files])
        files |= {f"{name}.{form}": render(figure, form) for form in ("svg", "png")}
    return write_all(folder, files)


def draw_history(chart: Chart, looks: Mapping[str, Style]) -> Figure:
    """Return a figure of one chart: a panel for each metric, then parameters, memory and time; a line a job.

    A ring is a step that is worse, a square one that is better; a cross is a run that failed. No line joins versions
    that ran on other data or on another split, nor times on different processors.
    """
    panels = [*chart.metrics, *_LABELS]
    rows = math.ceil(len(panels) / 2)
    ticks = _ticks(chart.versions)
    foot = 0.2 + _TICK_LETTER_INCHES * max(len(text) for _, text in ticks)
    with settings():
        handles = _legend(chart, looks)
        height = _TOP + rows * (_HEAD + _HEIGHT + foot) + legend_inches(handles)
        figure = Figure(figsize=(WIDTH_INCHES, height))
        FigureCanvasAgg(figure)
        width = (WIDTH_INCHES - _LEFT - _RIGHT - _GAP) / 2
        for place, quantity in enumerate(panels):
            row, column = divmod(place, 2)
            left, bottom = _LEFT + column * (width + _GAP), height - _TOP - (row + 1) * (_HEAD + _HEIGHT) - row * foot
            axes = figure.add_axes((left / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, _HEIGHT / height))
            _draw(axes, chart, quantity, looks)
            _label(axes, quantity, ticks, len(chart.versions))
        title = shortened(f"{chart.dataset} · {chart.protocol}", 70)
        write_heading(
            figure, (title, f"over {len(chart.versions)} versions of the code, in the order of their runs"), _LEFT
        )
        write_legend(figure, handles, _LEFT)
        return figure


def _in_order(jobs: Sequence[JobHistory]) -> tuple[str, ...]:
    """Return the versions of all jobs, in the order of their first runs."""
    first: dict[str, str] = {}
    for version in (version for job in jobs for version in job.versions):
        first[version.label] = min(first.get(version.label, version.started_at), version.started_at)
    return tuple(sorted(first, key=lambda label: (first[label], label)))


def _series(job: JobHistory, quantity: str) -> Series | None:
    return next((series for series in job.series if series.quantity == quantity), None)


def _draw(axes: Axes, chart: Chart, quantity: str, looks: Mapping[str, Style]) -> None:
    """Draw a panel: each stretch of a job's versions that may be compared is a line of its own."""
    _scale(axes, chart, quantity)
    position = {label: index for index, label in enumerate(chart.versions)}
    for job in chart.jobs:
        series, look = _series(job, quantity), looks[job.job]
        if series is None:
            continue
        places = [position[version.label] for version in job.versions]
        for stretch in _stretches(series):
            xs, ys = [places[i] for i in stretch], [_drawable(series.values[i]) for i in stretch]
            axes.plot(xs, ys, color=look.colour, marker=look.marker, ls=look.line, lw=1.6, ms=4.6, mew=0)
        for index, step in enumerate(series.steps, start=1):
            marker = {"worse": "o", "better": "s"}.get(step.verdict)
            if marker and series.values[index] is not None:
                at = ([places[index]], [_drawable(series.values[index])])
                axes.plot(*at, marker=marker, ls="", ms=10.5, mfc="none", mec=INK, mew=1.3)
        failed = [places[i] for i, version in enumerate(job.versions) if version.status != "ok"]
        axes.plot(
            failed, [0.03] * len(failed), marker="x", ls="", ms=5.5, mew=1.6, color=look.colour,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _stretches(series: Series) -> Iterator[list[int]]:
    """Yield the places of values that a line may join: parted by failures, and where the data or split is another."""
    stretch: list[int] = []
    for index, value in enumerate(series.values):
        if stretch and (value is None or not series.steps[index - 1].is_joined):
            yield stretch
            stretch = []
        if value is not None:
            stretch.append(index)
    if stretch:
        yield stretch


def _drawable(value: float | None) -> float:
    return math.nan if value is None else max(value, _SHORTEST)


def _scale(axes: Axes, chart: Chart, quantity: str) -> None:
    """Set scale, limits and grid; all that is not data is thin and grey."""
    found = [series for job in chart.jobs if (series := _series(job, quantity)) is not None]
    values = [_drawable(value) for series in found for value in series.values if value is not None]
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=INK)
    elif found[0].unit != "score" and max(values) > _WIDEST_LINEAR * min(values):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 2, max(values) * 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        room = 0.12 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 0.1
        axes.set_ylim(min(values) - room, max(values) + room)
        axes.locator_params(axis="y", nbins=5)
    if values and found[0].unit != "score":
        write = _WRITE[found[0].unit]
        axes.yaxis.set_major_formatter(lambda value, _: write(value))
    axes.grid(True, color=INK, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=INK, linewidth=0.8)


def _label(axes: Axes, quantity: str, ticks: Sequence[tuple[int, str]], n_versions: int) -> None:
    """Write what a panel shows above it, and the versions below it."""
    axes.set_xlim(-0.5, n_versions - 0.5)
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], rotation=90, fontsize=7.5)
    axes.tick_params(colors=INK, length=0, pad=5)
    axes.set_title(_LABELS.get(quantity, quantity), loc="left", fontsize=9.5, color=INK, pad=7)


def _ticks(versions: Sequence[str]) -> list[tuple[int, str]]:
    """Return places and texts of so many versions as can be read, the last one always among them."""
    every = math.ceil(len(versions) / _MOST_TICKS)
    places = range(len(versions) - 1, -1, -every)
    return [(place, shortened(versions[place], 24)) for place in reversed(places)]


def _legend(chart: Chart, looks: Mapping[str, Style]) -> list[Line2D]:
    """Return the entries of the legend: the jobs, then what marks a step, as far as there is one."""
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, ls=look.line, lw=1.6, ms=5.5, label=shortened(job.job, 28)
        )
        for job in chart.jobs
        for look in [looks[job.job]]
    ]
    verdicts = {step.verdict for job in chart.jobs for series in job.series for step in series.steps}
    for verdict, marker in (("worse", "o"), ("better", "s")):
        if verdict in verdicts:
            handles.append(Line2D([], [], marker=marker, ls="", ms=9, mfc="none", mec=INK, mew=1.3, label=verdict))
    if any(version.status != "ok" for job in chart.jobs for version in job.versions):
        handles.append(Line2D([], [], marker="x", ls="", ms=5.5, mew=1.6, color=INK, label="failed"))
    return handles
