"""What a model is weighed against: parameters, bytes, memory, time, throughput, coverage; each with its unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recscale.records.record import RunRecord
from recscale.reporting import units
from recscale.reporting.comparisons import Configuration
from recscale.reporting.tables import Read, phase_of

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Axis:
    """A cost on a logarithmic axis, a share (0 to 1) on a linear one, or a setting on either.

    `expect` reads what a run that failed would have needed, or the limit that it met, so that it can be marked where
    it would stand. Values below `smallest` are drawn there, since a logarithmic axis has no zero.
    """

    name: str
    label: str
    read: Read
    expect: Read
    write: Callable[[float], str]
    smallest: float = 1.0
    lower_is_better: bool = True
    depends_on_machine: bool = False
    is_share: bool = False
    is_setting: bool = False  # a value that was chosen: it has ticks at the values, and lines run along it
    is_linear: bool = False  # of a setting

    def value(self, configuration: Configuration) -> float | None:
        """Return the cost of a configuration: the mean over its runs."""
        value = configuration.mean(self.read)
        return None if value is None else max(value, self.smallest)

    def expected(self, configuration: Configuration) -> float | None:
        """Return where a failed configuration would stand, if that is known."""
        value = configuration.mean(self.expect)
        return None if value is None else max(value, self.smallest)


def _expected_parameters(record: RunRecord) -> float | None:
    """Return the counted parameters, else the estimated bytes in float32: exact for a dense model, an upper bound."""
    if record.n_parameters is not None or record.estimated_model_bytes is None:
        return record.n_parameters
    return record.estimated_model_bytes / FLOAT32_BYTES


def _expected_bytes(record: RunRecord) -> float | None:
    return record.estimated_model_bytes if record.n_bytes is None else record.n_bytes


def _expected_peak(record: RunRecord) -> float | None:
    """Return the estimated peak, or the peak as far as it came where that is more."""
    known = [value for value in (record.estimated_peak_bytes, record.peak_rss_bytes) if value is not None]
    return max(known, default=None)


def _expected_seconds(record: RunRecord) -> float | None:
    """Return the time of a fit that ended, or the limit that a run met."""
    if "fit" in record.phases and record.failed_phase != "fit":
        return record.phases["fit"].wall_seconds
    return record.timeout_seconds if record.status == "timeout" else None


def _tick_seconds(seconds: float) -> str:
    """Return the label of a tick; seconds stay seconds, since powers of ten are no round minutes."""
    return f"{seconds:,.0f} s" if seconds >= 1 else units.duration(seconds)


PARAMETERS = Axis("parameters", "parameters", lambda r: r.n_parameters, _expected_parameters, units.count)
BYTES = Axis("bytes", "model size", lambda r: r.n_bytes, _expected_bytes, units.size)
MEMORY = Axis(
    "memory", "peak memory of the fit", phase_of("fit", lambda p: p.peak_rss_bytes), _expected_peak, units.size
)
SECONDS = Axis(
    "seconds",
    "fit time",
    phase_of("fit", lambda p: p.wall_seconds),
    _expected_seconds,
    _tick_seconds,
    smallest=1e-3,
    depends_on_machine=True,
)
THROUGHPUT = Axis(
    "throughput",
    "users scored per second (more is better)",
    lambda r: r.users_per_second,
    lambda r: r.users_per_second,
    units.count,
    smallest=1e-3,
    lower_is_better=False,
    depends_on_machine=True,
)
COVERAGE = Axis(
    "coverage",
    "prediction coverage",
    lambda r: r.metrics.get("prediction_coverage"),
    lambda r: None,
    lambda share: f"{share:.1f}",
    smallest=0.0,
    lower_is_better=False,
    is_share=True,
)
COSTS = (BYTES, MEMORY, SECONDS, THROUGHPUT)
