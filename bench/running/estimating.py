"""What the jobs of a plan will take, by the formulas of their models and the fits that the store holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
from threadpoolctl import threadpool_limits

from recscale import registry
from recscale.contract import Estimate, ModelSpec, Shape
from recscale.errors import RecscaleError
from recscale.measuring.budget import refusal
from recscale.measuring.machine import calibrate, each_device, kind_of
from recscale.measuring.size import format_bytes, format_seconds
from recscale.records.estimates import (
    MEMORY,
    TIME,
    Case,
    Corrected,
    Judged,
    PastFit,
    Resource,
    corrected,
    judged,
    past_fit,
)
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.job import Job, Prepared
from recscale.running.peers import for_all
from recscale.running.prepare import cache_root

PROCESS_BYTES = 200 * 10**6  # data memory of a worker before its model, on two cores; BLAS takes more on more
_SPEED = "gemm_gflops"
_Speeds = dict[tuple[str, int], float]  # of processors with so many threads


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the fit of a job will take: bytes beyond the data, and seconds; None where the model has no formula."""

    memory: Corrected | None
    time: Corrected | None


@dataclass
class PastFits:
    """The fits of a store, test runs and trials of tuning, read when they are first asked for.

    `machine` is the fingerprint of the machine for which seconds are predicted.
    """

    store: Store
    machine: dict[str, Any]
    plugins: list[str] = field(default_factory=list)
    _now: _Speeds = field(default_factory=dict)
    _formulas: dict[str, Estimate | None] = field(default_factory=dict)  # by the keys of records
    _specs: dict[str, ModelSpec | None] = field(default_factory=dict)

    def forecast(self, job: Job) -> Forecast:
        """Return what the fit of a job will take."""
        return Forecast(
            self._corrected(job, job.estimated_peak_bytes, MEMORY),
            self._corrected(job, job.estimated_fit_seconds, TIME),
        )

    def judged(self, resource: Resource, models: Sequence[str] = ()) -> list[Judged]:
        """Return every fit on a CPU of these models (all if none), predicted from those on other data sets."""
        return judged([fit for model in models or self._records for fit in self._fits(model, resource)], resource)

    def n_unknown(self, models: Sequence[str] = ()) -> int:
        """Return how many finished records that hold an estimate tell too little for the formula of today."""
        records = [record for model in models or self._records for record in self._records.get(model, [])]
        finished = [record for record in records if record.status == "ok" and record.estimated_peak_bytes is not None]
        return sum(self._needs(record) is None for record in finished)

    def _corrected(self, job: Job, formula: float | None, resource: Resource) -> Corrected | None:
        if formula is None or job.device is None:
            return None
        prepared = job.prepared
        case = Case(formula, prepared.n_train_users, prepared.n_items, prepared.n_train_interactions)
        return corrected(case, self._fits(job.model, resource, job), resource)

    @cached_property
    def _records(self) -> dict[str, list[RunRecord]]:
        """The records of each model."""
        found: dict[str, list[RunRecord]] = {}
        for record in (*self.store.records(), *self.store.trials()):
            found.setdefault(record.model, []).append(record)
        return found

    @cached_property
    def _entries(self) -> dict[str, registry.Entry]:
        return registry.entries("model", self.plugins)

    @cached_property
    def _n_pairs(self) -> dict[str, int]:
        """The pairs of each split in the cache, for records that do not hold them."""
        found = {}
        for path in cache_root().glob("*/prepared.json"):
            try:
                prepared = msgspec.json.decode(path.read_bytes(), type=Prepared)
            except (OSError, msgspec.DecodeError):
                continue
            found[prepared.split_fingerprint] = prepared.n_train_pairs
        return found

    @cached_property
    def _speeds(self) -> _Speeds:
        """The median calibration of each machine: a single one says as much of what else it did at the time."""
        found: dict[tuple[str, int], list[float]] = {}
        for record in (record for records in self._records.values() for record in records):
            if speed := record.calibration.get(_SPEED):
                found.setdefault(_place(record.machine, record.n_threads), []).append(speed)
        return {place: statistics.median(speeds) for place, speeds in found.items()}

    def _fits(self, model: str, resource: Resource, job: Job | None = None) -> list[PastFit]:
        """Return the fits of a model on the kind of device that a job has (a CPU without one), in its seconds."""
        kind, found = _kind(job.device if job else None), []
        for record in self._records.get(model, []):
            if _kind(record.device_used) != kind or (needs := self._needs(record)) is None:
                continue
            scale = 1.0 if resource is MEMORY else self._scale(record, job)
            if scale is not None and (fit := past_fit(record, needs, resource, scale=scale)) is not None:
                found.append(fit)
        return found

    def _scale(self, record: RunRecord, job: Job | None) -> float | None:
        """Return by what the seconds of a record become those of a job, or without one of the fastest machine."""
        if _kind(record.device_used) != "cpu":
            return 1.0 if record.machine.get("gpus") == self.machine.get("gpus") else None
        there = self._speeds.get(_place(record.machine, record.n_threads))
        if there is None:
            return None
        if job is None:
            return there / max(self._speeds.values())
        here = _place(self.machine, job.n_threads)
        if here not in self._speeds and here not in self._now:
            with threadpool_limits(job.n_threads, "blas"):
                self._now[here] = calibrate(n_threads=job.n_threads)[_SPEED]
        return there / (self._speeds.get(here) or self._now[here])

    def _needs(self, record: RunRecord) -> Estimate | None:
        """Return what the formula of today gives for a record; None if that is not known."""
        if record.key not in self._formulas:
            self._formulas[record.key] = self._formula(record)
        return self._formulas[record.key]

    def _formula(self, record: RunRecord) -> Estimate | None:
        """Evaluate the formula for the pairs of the split, from the record or else from the cache.

        Where neither holds them, what the formula gives without need of them stands: the same for the fewest and the
        most pairs that so many interactions can make.
        """
        spec = self._spec(record.model)
        if spec is None or spec.estimate is None:
            return None
        n_users, n_items, n_interactions = record.n_train_users, record.n_items, record.n_train_interactions
        n_pairs = record.n_train_pairs or self._n_pairs.get(record.split_fingerprint)
        ends = [n_interactions**2 // max(n_users, 1), n_interactions * n_items] if n_pairs is None else [n_pairs]
        try:
            model = spec.model(**record.parameters)
        except (TypeError, RecscaleError):  # an option of another version
            return None
        found = [spec.estimate(model, Shape(n_users, n_items, n_interactions, n)) for n in ends]
        if found[0].peak_bytes != found[-1].peak_bytes:
            return None
        found = [for_all(estimate, record.device_used or "cpu") for estimate in found]
        return found[0] if found[0] == found[-1] else replace(found[0], fit_seconds=None)

    def _spec(self, name: str) -> ModelSpec | None:
        """Return the specification of a model; None for one that is not known here."""
        if name not in self._specs:
            self._specs[name] = registry.model_spec(name, self.plugins) if name in self._entries else None
        return self._specs[name]


def why_refused(job: Job, forecast: Forecast) -> str | None:
    """Return why a job cannot fit its budget, in one line: even the lower end of its estimate is beyond the limit.

    The formula of memory refuses by itself. That of time does once earlier fits have corrected it, and never a trial
    that may be pruned, which is meant to end before its time.
    """
    return _too_large(job, forecast.memory) or _too_slow(job, forecast.time)


def _too_large(job: Job, memory: Corrected | None) -> str | None:
    if memory is None:
        return None
    least, value, limit, what = memory.low, memory.value, job.limits.max_gpu_memory_bytes, "GPU memory"
    if kind_of(job.device or "cpu") == "cpu":
        processes = PROCESS_BYTES * len(each_device(job.device or "cpu"))
        least, value, limit, what = least + processes, value + processes, job.limits.max_memory_bytes, ""
    reason = refusal(round(least), limit, what=what)
    return reason and reason + _expected(format_bytes(value), memory)


def _too_slow(job: Job, time: Corrected | None) -> str | None:
    limit = job.limits.timeout_seconds
    if time is None or limit is None or not time.n_fits or job.may_be_pruned or time.low <= limit:
        return None
    needed, allowed = format_seconds(time.low), format_seconds(limit)
    if needed == allowed:
        needed, allowed = f"{time.low:,.3f} s", f"{limit:,.3f} s"
    return f"the fit takes about {needed}, the limit is {allowed}{_expected(format_seconds(time.value), time)}"


def _expected(value: str, by: Corrected) -> str:
    fits = f"{by.n_fits} earlier fit{'s' * (by.n_fits != 1)}"
    return f"; that is the least, {value} are expected by {fits}" if by.n_fits else ""


def _kind(device: str | None) -> str:
    return ",".join(map(kind_of, each_device(device or "cpu")))


def _place(machine: dict[str, Any], n_threads: int) -> tuple[str, int]:
    return str(machine.get("cpu", "")), n_threads
