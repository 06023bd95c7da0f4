"""What tuning has cost and found: the best validation score so far against trials and time, and a table.

All of it is read from the trials that a store keeps; a winner's test score is that of the records with its options.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import msgspec
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recscale.records.record import RunRecord, Trial, renumbered, rises_with_quality
from recscale.reporting import units
from recscale.reporting.canvas import WIDTH_INCHES, legend_inches, settings, shortened, write_heading, write_legend
from recscale.reporting.comparisons import Comparison, canonical, compare
from recscale.reporting.palette import INK, Style, styles
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, written

_PANEL_INCHES, _LEFT_INCHES, _GAP_INCHES, _RIGHT_INCHES = 2.7, 0.62, 0.35, 0.2
_HEAD_INCHES, _FOOT_INCHES = 0.75, 0.55  # title and subtitle; tick labels and names of the axes
_LINES = ("-", "--", ":", "-.")  # of the studies of one model, which share its colour
_LONGEST_NAME = 34
_SMALLEST_SECONDS = 0.1  # of a logarithmic axis: a trial that was refused took none
_CAPTION = (
    "The best {metric} of the validation users so far, against the trials and against the time of their jobs. A mark "
    "is a trial that found something better, a cross one that failed."
)
_MEANING = (
    "By {metric} of the validation users; the gain is that of the best trial over the defaults, in parts of their "
    "score. The last column is of the test users, the mean over seeds, for the options of the best trial. All "
    "{n_trials:,} trials together took {time}. A trial that studies share stands with each and counts once here."
)


@dataclass(frozen=True)
class Search:
    """One study: its trials in their order. `notes` tell it from other studies of the same name."""

    name: str
    trials: tuple[RunRecord, ...]
    metric: str
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The registry name of the model."""
        return self.trials[0].model

    @property
    def label(self) -> str:
        """The study and what tells it from others."""
        return ", ".join((self.name, *self.notes))

    @property
    def rises(self) -> bool:
        """Whether more of the metric is better."""
        return rises_with_quality(self.metric)

    def value(self, trial: RunRecord) -> float | None:
        """Return the validation score of a trial; None if it has none."""
        value = trial.metrics.get(self.metric) if trial.status == "ok" else None
        return value if value is not None and math.isfinite(value) else None

    @property
    def default(self) -> float | None:
        """The score of the defaults, the first trial; None where that failed or is not of this study."""
        first = self.trials[0]
        return self.value(first) if first.trial is None or first.trial.number == 0 else None

    @property
    def best(self) -> RunRecord | None:
        """The first trial of the best score; None if none has one."""
        sign = 1 if self.rises else -1
        scored = [(sign * value, trial) for trial in self.trials if (value := self.value(trial)) is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def so_far(self) -> list[float | None]:
        """Return the best score after each trial; None before there is one."""
        better = max if self.rises else min
        found: list[float | None] = []
        for value in map(self.value, self.trials):
            known = [score for score in (found[-1] if found else None, value) if score is not None]
            found.append(better(known) if known else None)
        return found

    def seconds(self) -> list[float]:
        """Return the time of the jobs up to and with each trial."""
        return list(accumulate(trial.job_wall_seconds or 0.0 for trial in self.trials))

    def count(self, *statuses: str) -> int:
        """Count the trials that ended so."""
        return sum(trial.status in statuses for trial in self.trials)


@dataclass(frozen=True)
class TuningCurves:
    """What a report says of the tuning on one split: a figure (None where no trial has a score), and the ledger."""

    title: str
    first: RunRecord  # what all trials share: data, filter, protocol, split
    metric: str
    searches: tuple[Search, ...]
    figure: Figure | None
    table: Grid

    @property
    def caption(self) -> str:
        """What stands below the figure."""
        return _CAPTION.format(metric=self.metric)

    @property
    def alternative(self) -> str:
        """The figure in words."""
        return f"{self.title}: best validation {self.metric} so far against trials and time"

    def belongs_to(self, comparison: Comparison) -> bool:
        """Tell whether the trials were made on the data and the split of a comparison."""
        return _identity(self.first) == _identity(comparison.first)


def tuning_section(
    trials: Sequence[RunRecord], records: Sequence[RunRecord], looks: Mapping[str, Style] | None = None
) -> list[TuningCurves]:
    """Return the curves and the ledger of each data set, protocol, split and metric that was tuned by, by title.

    `records` are those of test users, `looks` the styles of the models in the report.
    """
    if not trials:
        return []
    looks = looks or styles(record.model for record in (*trials, *records))
    found = []
    for comparison in compare(trials):
        members = [record for configuration in comparison.configurations for record in configuration.records]
        by_metric: dict[str, list[RunRecord]] = defaultdict(list)
        for trial in (placed for record in members for placed in _in_each_study(record)):
            by_metric[_metric(trial, comparison)].append(trial)
        tested = [record for record in records if _identity(record) == _identity(comparison.first)]
        for metric, group in sorted(by_metric.items()):
            searches = _searches(group, metric)
            title = comparison.title if len(by_metric) == 1 else f"{comparison.title} · by {metric}"
            figure = _draw(title, metric, searches, looks)
            table = _ledger(searches, metric, tested)
            found.append(TuningCurves(title, comparison.first, metric, searches, figure, table))
    return found


def _identity(record: RunRecord) -> tuple[str, ...]:
    """Return what records must share to be compared."""
    return (record.dataset, record.protocol, canonical(record.filter), record.split_fingerprint)


def _in_each_study(record: RunRecord) -> list[RunRecord]:
    """Return a trial as each study has it that it is a trial of."""
    return [msgspec.structs.replace(record, trial=place) for place in record.places] or [record]


def _metric(trial: RunRecord, comparison: Comparison) -> str:
    """Return the metric of the study of a trial; in records that do not tell, the first that was measured."""
    return trial.trial.metric if trial.trial else next(iter(trial.metrics), comparison.metric or "")


def _searches(trials: Sequence[RunRecord], metric: str) -> tuple[Search, ...]:
    """Sort trials into studies, the studies by name, those of one name with what tells them apart."""
    groups: dict[tuple[str, tuple[str, ...]], list[RunRecord]] = defaultdict(list)
    for trial in trials:
        place = trial.trial or Trial(study=trial.model, number=0, metric=metric, sampler="tpe", seed=0)
        marks: tuple[str, ...] = (
            f"{place.sampler} sampler",
            f"sampler seed {place.seed}",
            f"seed {trial.seed}",
            f"device {renumbered(trial.device_requested)}",
            f"code {trial.code_fingerprint[:8]}",
        )
        groups[place.study, marks].append(trial)
    found = []
    for (name, told), members in sorted(groups.items(), key=lambda group: (_natural(group[0][0]), group[0][1])):
        others = [other for study, other in groups if study == name]
        notes = tuple(mark for i, mark in enumerate(told) if len({other[i] for other in others}) > 1)
        ordered = sorted(_each_once(members), key=lambda r: (r.trial.number if r.trial else 0, r.started_at, r.key))
        found.append(Search(name, tuple(ordered), metric, notes))
    return tuple(found)


def _each_once(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return a record of each job, of several machines' the first that came to an end: a study goes over machines."""
    found: dict[str, RunRecord] = {}
    for record in sorted(records, key=lambda r: (r.status not in ("ok", "pruned"), r.started_at)):
        found.setdefault(record.key, record)
    return list(found.values())


def _natural(name: str) -> list[tuple[float, str]]:
    """Return a key that sorts the numbers in a name as numbers: 5 before 50, 50 before 200."""
    return [(float(part), "") if part.isdecimal() else (-1.0, part) for part in re.split(r"(\d+)", name)]


def _ledger(searches: Sequence[Search], metric: str, tested: Sequence[RunRecord]) -> Grid:
    """Return a row a study: what it has cost, and what it has found."""
    scores = [value for s in searches if s.best is not None and (value := s.value(s.best)) is not None]
    top = (max if rises_with_quality(metric) else min)(scores, default=None)
    different = {trial.key: trial for search in searches for trial in search.trials}
    seconds = sum(trial.job_wall_seconds or 0.0 for trial in different.values())
    numbers = ("trials", "failed", "pruned", "time", "defaults", "best", "gain")
    return Grid(
        title="What tuning cost and found",
        columns=(
            Column("model", is_number=False),
            *map(Column, numbers),
            Column("found", is_number=False),
            Column("test users"),
        ),
        rows=tuple(_row(search, top, tested) for search in searches),
        note=_MEANING.format(metric=metric, n_trials=len(different), time=units.duration(seconds)),
        is_sortable=True,
    )


def _row(search: Search, top: float | None, tested: Sequence[RunRecord]) -> tuple[Cell, ...]:
    best, default, seconds = search.best, search.default, search.seconds()[-1]
    n_failed = len(search.trials) - search.count("ok", "pruned")
    value = search.value(best) if best is not None else None
    gain = None if value is None or not default else (value - default) / abs(default) * (1 if search.rises else -1)
    number = search.trials.index(best) + 1 if best is not None else 0
    return (
        Cell(search.name, note=", ".join(search.notes)),
        Cell(f"{len(search.trials):,}", len(search.trials)),
        Cell(f"{n_failed:,}", n_failed, is_failure=n_failed == len(search.trials)),
        Cell(f"{search.count('pruned'):,}", search.count("pruned")),
        Cell(units.duration(seconds), seconds),
        written(default, units.score),
        Cell(NOTHING)
        if value is None
        else Cell(units.score(value), value, is_best=value == top, note=f"trial {number}"),
        written(gain, lambda share: f"{100 * share:+.2g} %"),
        Cell(NOTHING if best is None else best.configuration or best.model),
        _test_cell(search, best, tested),
    )


def _test_cell(search: Search, best: RunRecord | None, tested: Sequence[RunRecord]) -> Cell:
    """Return what the options of the best trial reach for test users: the mean over seeds."""
    if best is None:
        return Cell(NOTHING)
    values = [
        record.metrics[search.metric]
        for record in _each_once(tested)
        if _settings(record) == _settings(best) and record.status == "ok" and search.metric in record.metrics
    ]
    if not values:
        return Cell(NOTHING)
    mean = statistics.fmean(values)
    return Cell(units.score(mean), mean, note=f"{len(values)} seeds" if len(values) > 1 else "")


def _settings(record: RunRecord) -> tuple[str, ...]:
    """Return what the runs of a winner share with its trial: all but the seed."""
    return (
        record.model,
        canonical(record.parameters),
        record.code_fingerprint,
        renumbered(record.device_requested),
    )


def _draw(title: str, metric: str, searches: Sequence[Search], looks: Mapping[str, Style]) -> Figure | None:
    """Return two panels that share the score upwards: against trials, and against time; None without any score."""
    shown = [search for search in searches if search.best is not None]
    if not shown:
        return None
    lines = _styled(shown, looks)
    with settings():
        legend = _legend(lines)
        below = _FOOT_INCHES + legend_inches(legend)
        height = _HEAD_INCHES + _PANEL_INCHES + below
        figure = Figure(figsize=(WIDTH_INCHES, height))
        FigureCanvasAgg(figure)
        width = (WIDTH_INCHES - _LEFT_INCHES - _GAP_INCHES - _RIGHT_INCHES) / 2
        panels = [
            figure.add_axes((x / WIDTH_INCHES, below / height, width / WIDTH_INCHES, _PANEL_INCHES / height))
            for x in (_LEFT_INCHES, _LEFT_INCHES + width + _GAP_INCHES)
        ]
        for search, style in lines:
            _draw_line(panels[0], search, [float(n + 1) for n in range(len(search.trials))], style)
            _draw_line(panels[1], search, [max(s, _SMALLEST_SECONDS) for s in search.seconds()], style)
        _frame(panels, searches=shown)
        n_users = shown[0].trials[0].n_test_users
        over = f", mean over {n_users:,} validation users" if n_users else ""
        direction = "" if shown[0].rises else " (less is better)"
        heading = (shortened(f"tuning · {title}", 70), f"best {metric} so far{direction}{over}")
        write_heading(figure, heading, _LEFT_INCHES)
        write_legend(figure, legend, _LEFT_INCHES)
        return figure


def _styled(searches: Sequence[Search], looks: Mapping[str, Style]) -> list[tuple[Search, Style]]:
    """Return the studies with their styles: colour and marker of the model, a line for each of its studies."""
    seen: dict[str, int] = defaultdict(int)
    found = []
    for search in searches:
        look = looks[search.model]
        found.append((search, Style(look.colour, look.marker, _LINES[seen[search.model] % len(_LINES)])))
        seen[search.model] += 1
    return found


def _draw_line(axes: Axes, search: Search, places: Sequence[float], style: Style) -> None:
    """Draw the best score as a step after each trial, a mark where it got better, and crosses at failures."""
    scores = search.so_far()
    steps = [(x, y) for x, y in zip(places, scores, strict=True) if y is not None]
    axes.step(*zip(*steps, strict=True), where="post", color=style.colour, ls=style.line, lw=1.7)
    better = steps[:1] + [step for before, step in pairwise(steps) if before[1] != step[1]]
    axes.plot(*zip(*better, strict=True), color=style.colour, marker=style.marker, ls="", ms=4.6, mew=0)
    first = steps[0][1]
    failed = [
        (x, first if y is None else y)
        for x, y, trial in zip(places, scores, search.trials, strict=True)
        if trial.status not in ("ok", "pruned")
    ]
    if failed:
        axes.plot(*zip(*failed, strict=True), color=style.colour, marker="x", ls="", ms=5.5, mew=1.4)


def _frame(panels: Sequence[Axes], searches: Sequence[Search]) -> None:
    """Set limits, ticks, names and grid; all that is not data is thin and grey."""
    scores = [score for search in searches for score in search.so_far() if score is not None]
    margin = 0.08 * (max(scores) - min(scores)) or 0.08 * abs(max(scores)) or 0.1
    most = max(len(search.trials) for search in searches)
    for axes, label in zip(panels, ("trials", "time of their jobs"), strict=True):
        axes.set_ylim(min(scores) - margin, max(scores) + margin)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel(label, color=INK, fontsize=9, labelpad=4)
        axes.grid(True, color=INK, alpha=0.2, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=0, pad=5, labelsize=9)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set(color=INK, linewidth=0.8)
    trials, seconds = panels
    trials.set_xlim(1 - 0.04 * most, most + 0.04 * most)
    trials.locator_params(axis="x", nbins=6, integer=True)
    seconds.tick_params(labelleft=False)
    seconds.set_xscale("log")
    _scale_time(seconds, [place for search in searches for place in search.seconds() if place > 0])


def _scale_time(axes: Axes, places: Sequence[float]) -> None:
    """Set limits and ticks of the axis of time: round durations."""
    low, high = min(places, default=_SMALLEST_SECONDS), max(places, default=1.0)
    low, high = max(low, _SMALLEST_SECONDS) / 1.3, max(high, _SMALLEST_SECONDS) * 1.3
    round_ones = [m * unit for unit, most in ((1.0, 60), (60.0, 60), (3600.0, 1000)) for m in _rounds(most)]
    ticks = [t for t in (0.1, 0.2, 0.5, *round_ones) if low <= t <= high]
    every = max(1, math.ceil(len(ticks) / 5))
    axes.set_xlim(low, high)
    axes.set_xticks(ticks[::every])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: _tick(value))


def _rounds(most: int) -> list[int]:
    """Return round numbers of a unit below the next one."""
    return [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n < most]


def _tick(seconds: float) -> str:
    """Return the label of a tick in the unit in which it is round."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _legend(lines: Sequence[tuple[Search, Style]]) -> list[Line2D]:
    handles = []
    for search, style in lines:
        name = shortened(search.label, _LONGEST_NAME)
        # A leading underscore hides an entry of a legend; a space of no width in front of it shows it.
        name = f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
        handles.append(Line2D([], [], color=style.colour, marker=style.marker, ls=style.line, lw=1.6, ms=5, label=name))
    return handles
