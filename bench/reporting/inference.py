"""What a model costs to hold, to fit and to ask for one user: the measured counterpart of table 1 of the ELFM paper."""

from __future__ import annotations

from recscale.records.record import RunRecord
from recscale.reporting import units
from recscale.reporting.comparisons import Comparison, Configuration
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, named, phase_of, written

_NOTE = (
    "The best configuration of each model by {} that has an update measured, if one has. From scratch: from a user's "
    "history to the scores of the catalogue. One more item: from the next item of a user to new scores. State alone: "
    "of that, to update what is kept of the user; n/a where nothing is kept and the user is scored from scratch."
)
_HEADINGS = ("parameters", "bytes", "fit", "one user from scratch", "one more item of a user", "state alone")


def inference_table(comparison: Comparison) -> Grid | None:
    """Return a row for the best configuration of each model that finished; None where no update was measured.

    Among the configurations of a model those with an update go first.
    """
    rows = []
    for found in comparison.by_model().values():
        finished = [c for c in found if c.succeeded]
        best = next((c for c in finished if c.mean(_update) is not None), finished[0] if finished else None)
        if best is not None:
            rows.append(best)
    if not any(c.mean(_update) is not None for c in rows):
        return None
    return Grid(
        title="Cost of a model and of a user",
        columns=(Column("model", is_number=False), *map(Column, _HEADINGS)),
        rows=tuple(_row(c) for c in rows),
        note=_NOTE.format(comparison.metric or "its name"),
        is_sortable=True,
    )


def _update(record: RunRecord) -> float | None:
    return record.update_median_seconds


def _row(configuration: Configuration) -> tuple[Cell, ...]:
    scratch = configuration.mean(lambda r: r.latency_p99_seconds)
    update = configuration.mean(lambda r: r.update_p99_seconds)
    return (
        named(configuration),
        written(configuration.mean(lambda r: r.n_parameters), units.count),
        written(configuration.mean(lambda r: r.n_bytes), units.size),
        written(configuration.mean(phase_of("fit", lambda p: p.wall_seconds)), units.duration),
        written(configuration.mean(lambda r: r.latency_median_seconds), units.duration, _tail(scratch)),
        written(configuration.mean(_update), units.duration, _tail(update)),
        _state(configuration),
    )


def _tail(seconds: float | None) -> str:
    """Return the note of a median: the 99th percentile."""
    return "" if seconds is None else f"p99 {units.duration(seconds)}"


def _state(configuration: Configuration) -> Cell:
    """Return the time of the state's update; n/a for a model that keeps no state."""
    seconds = configuration.mean(lambda r: r.state_update_median_seconds)
    if seconds is None:
        return Cell("n/a" if configuration.mean(_update) is not None else NOTHING)
    return written(seconds, units.duration)
