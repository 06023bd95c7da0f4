"""One table a comparison: a row a configuration, the best first, failures in place with their reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from recscale.records.record import Phase, RunRecord
from recscale.reporting import units
from recscale.reporting.comparisons import Comparison, Configuration, Quantity, compare

Read = Callable[[RunRecord], float | None]
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, the number behind it (for sorting; None if there is none), and what kind of cell it is."""

    text: str
    value: float | None = None
    is_best: bool = False
    is_second: bool = False
    is_failure: bool = False
    note: str = ""  # smaller print behind the text: the standard error, the spread, an interval


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and whether the cells are numbers, or text of several lines."""

    heading: str
    is_number: bool = True
    is_long: bool = False


@dataclass(frozen=True)
class Row:
    """One configuration; the cells are in the order of the table's columns."""

    configuration: Configuration
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A comparison as it is printed."""

    comparison: Comparison
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """The title of the comparison."""
        return self.comparison.title


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table beside the main one: the first cell of a row names it; `note` stands below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    is_sortable: bool = False
    ranks_columns: bool = False  # whether the best and the second of each column are marked


@dataclass(frozen=True)
class _Measure:
    """A column of what a run cost: how it is read from a record and how it is written."""

    heading: str
    read: Read
    write: Callable[[float], str]


def build_tables(
    records: Iterable[RunRecord], *, metric: str | None = None, higher_is_better: bool | None = None
) -> list[Table]:
    """Return one table for each data set, filter, protocol and split, sorted by the main metric.

    Raises UsageError if there are no records, UnknownName for a metric that no record has.
    """
    return [build_table(c) for c in compare(records, metric=metric, higher_is_better=higher_is_better)]


def build_table(comparison: Comparison) -> Table:
    """Return the table of one comparison."""
    measures = _measures(comparison)
    shows_runs = any(c.n_planned > 1 for c in comparison.configurations)
    shows_reason = bool(comparison.failed)
    columns = [
        Column("model", is_number=False),
        *(Column(name) for name in comparison.metrics or ("result",)),
        *(Column(measure.heading) for measure in measures),
        *([Column("runs")] if shows_runs else []),
        Column("status", is_number=False),
        *([Column("reason", is_number=False)] if shows_reason else []),
    ]
    best = _best(comparison)
    rows = []
    for configuration in comparison.configurations:
        cells = [Cell(configuration.label), *_metric_cells(configuration, comparison, best)]
        cells += [_measured(configuration, measure) for measure in measures]
        cells += [_runs(configuration)] if shows_runs else []
        cells.append(Cell(configuration.word, is_failure=not configuration.succeeded))
        cells += [Cell(configuration.reason or NOTHING)] if shows_reason else []
        rows.append(Row(configuration, tuple(cells)))
    return Table(comparison, tuple(columns), tuple(rows))


def phase_of(name: str, read: Callable[[Phase], float | None]) -> Read:
    """Return a function that reads a figure of one phase of a record; None where the phase was not reached."""
    return lambda record: read(record.phases[name]) if name in record.phases else None


def fit_device_bytes(record: RunRecord) -> int | None:
    """Return the peak of device memory while fitting: of the whole process if known, else of torch's allocator."""
    fit = record.phases.get("fit")
    if fit is None:
        return None
    return fit.peak_device_bytes if fit.peak_device_process_bytes is None else fit.peak_device_process_bytes


def _calibrated_work(record: RunRecord) -> float | None:
    """Return the fit in operations that this machine's matrix product would have done meanwhile."""
    gflops = record.calibration.get("gemm_gflops")
    return record.phases["fit"].wall_seconds * gflops * 1e9 if gflops and "fit" in record.phases else None


def _measures(comparison: Comparison) -> list[_Measure]:
    """Return the columns of cost; those that only some runs have appear where at least one does."""
    always = [
        _Measure("parameters", lambda r: r.n_parameters, units.count),
        _Measure("bytes", lambda r: r.n_bytes, units.size),
        _Measure("peak memory of fit", phase_of("fit", lambda p: p.peak_rss_bytes), units.size),
        _Measure("fit", phase_of("fit", lambda p: p.wall_seconds), units.duration),
        _Measure("users per second", lambda r: r.users_per_second, units.rate),
        _Measure("latency", lambda r: r.latency_median_seconds, units.duration),
    ]
    sometimes = [
        _Measure("peak GPU memory of fit", fit_device_bytes, units.size),
        _Measure("energy of fit", phase_of("fit", lambda p: p.energy_joules), units.energy),
        _Measure("tied targets", lambda r: r.tied_target_share or None, lambda share: f"{100 * share:.3g} %"),
    ]
    if len(comparison.machines) > 1:
        sometimes.append(_Measure("fit, calibrated (FLOP)", _calibrated_work, units.count))
    return always + [m for m in sometimes if any(c.mean(m.read) is not None for c in comparison.configurations)]


def _best(comparison: Comparison) -> float | None:
    """Return the best score of the main metric; None if there is none."""
    scores = [c.score(comparison.metric) for c in comparison.succeeded] if comparison.metric else []
    finite = [score for score in scores if score is not None]
    return (max if comparison.higher_is_better else min)(finite, default=None)


def _metric_cells(configuration: Configuration, comparison: Comparison, best: float | None) -> list[Cell]:
    """Return the cells of the metrics; of a failure, its outcome under the main one."""
    if not configuration.succeeded:
        rest = [Cell(NOTHING)] * (len(comparison.metrics) - 1)
        return [Cell(configuration.outcome, is_failure=True), *rest]
    if not comparison.metrics:
        return [Cell(NOTHING)]
    return [
        scored(configuration.quantity(name), best if name == comparison.metric else None) for name in comparison.metrics
    ]


def scored(quantity: Quantity | None, best: float | None, *, with_note: bool = True) -> Cell:
    """Return the cell of a metric, marked if it is the best; the note says how sure it is."""
    if quantity is None:
        return Cell(NOTHING)
    parts = []
    if with_note and quantity.standard_error is not None:
        parts.append(f"± {units.score(quantity.standard_error)}")
    if with_note and quantity.spread is not None:
        parts.append(f"(s {units.score(quantity.spread)})")
    value = quantity.mean if math.isfinite(quantity.mean) else None
    return Cell(units.score(quantity.mean), value, is_best=best is not None and value == best, note=" ".join(parts))


def named(configuration: Configuration, name: str | None = None) -> Cell:
    """Return the first cell of a row: the model, or another name for it, its details in smaller print."""
    return Cell(name or configuration.model, note=", ".join(configuration.details))


def written(value: float | None, write: Callable[[float], str], note: str = "") -> Cell:
    """Return the cell of a figure; a dash if it was not measured."""
    return Cell(NOTHING) if value is None else Cell(write(value), value, note=note)


def _measured(configuration: Configuration, measure: _Measure) -> Cell:
    return written(configuration.mean(measure.read), measure.write)


def _runs(configuration: Configuration) -> Cell:
    """Return how many runs stand behind a row, of how many with other outcomes beside it."""
    n_runs = len(configuration.records)
    shown = str(n_runs) if n_runs == configuration.n_planned else f"{n_runs} of {configuration.n_planned}"
    return Cell(shown, n_runs)
