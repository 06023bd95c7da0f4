"""The runs of one job before and after, and what is found about a figure of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from recscale.contract import Options
from recscale.records.record import RunRecord
from recscale.records.statistics import ByUser

Verdict = Literal["worse", "better", "level", "unsure", "not compared"]
VERDICTS: tuple[Verdict, ...] = ("worse", "not compared", "unsure", "better", "level")


@dataclass(frozen=True)
class Tolerances(Options):
    """From when on a difference counts.

    `level` is that of the paired tests, after Holm's correction over all of them. `memory` and `time` are shares of the
    baseline; a time is only judged where both sides have `repeats` runs (seeds) or more.
    """

    level: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    memory: Annotated[float, Meta(ge=0)] = 0.15
    time: Annotated[float, Meta(ge=0)] = 0.3
    repeats: Annotated[int, Meta(ge=1)] = 3


class Recorded(Protocol):
    """Where records are: a store."""

    def records(self) -> list[RunRecord]:
        """Return every record of test users."""
        ...

    def by_user(self, record: RunRecord) -> Mapping[str, ByUser]:
        """Return what a record has of each user, by the name of the metric."""
        ...


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one job in both stores, and what is to be thought of it."""

    dataset: str
    protocol: str
    job: str  # the model with its size and whatever else differs from its defaults
    quantity: str  # status, parameters, bytes, the name of a metric, memory or time of a phase
    unit: Literal["", "bytes", "seconds", "score"] = ""
    baseline: float | None = None
    candidate: float | None = None
    verdict: Verdict
    note: str = ""

    @property
    def change(self) -> float | None:
        """The difference as a share of the baseline; None where there is none."""
        if self.baseline is None or self.candidate is None or self.baseline == 0:
            return None
        return (self.candidate - self.baseline) / abs(self.baseline)


@dataclass(frozen=True)
class Run:
    """A record, the store that has the vectors of its users, and the metrics to be tested (None: all of them)."""

    record: RunRecord
    source: Recorded
    metrics: frozenset[str] | None = None


Runs = Mapping[int, Run]
"""The runs of one job by their seeds."""


@dataclass(frozen=True)
class Pair:
    """The runs of one job before and after, of the seeds that both have, in the order of the seeds."""

    runs: tuple[tuple[Run, ...], tuple[Run, ...]]
    lost: tuple[int, ...] = ()  # seeds that only the baseline has

    @property
    def before(self) -> tuple[RunRecord, ...]:
        """The records of the baseline."""
        return tuple(run.record for run in self.runs[0])

    @property
    def after(self) -> tuple[RunRecord, ...]:
        """The records of the candidate."""
        return tuple(run.record for run in self.runs[1])

    def finished(self) -> Pair | None:
        """Return the runs of the seeds that ended well on both sides; None if there are none."""
        both = [runs for runs in zip(*self.runs, strict=True) if all(run.record.status == "ok" for run in runs)]
        return Pair((tuple(one for one, _ in both), tuple(other for _, other in both))) if both else None

    def finding(self, quantity: str, verdict: Verdict, **fields: Any) -> Finding:
        """Return a finding about this job."""
        first = self.after[0]
        return Finding(
            dataset=first.dataset,
            protocol=first.protocol,
            job=job_name(first),
            quantity=quantity,
            verdict=verdict,
            **fields,
        )


def job_name(record: RunRecord) -> str:
    """Return what a person calls a job on its data: the model with whatever differs from its defaults."""
    return record.configuration or record.model
