"""Has anything got worse: the records of a candidate against those of a baseline, job by job.

Sizes are compared exactly, accuracy by paired tests over the same users, memory by a tolerance, time as a multiple of
what the machine's matrix product takes, by the fastest of several runs (what disturbs a run only ever makes it slower).
Runs on other data or another split are never compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from recscale.contract import Options
from recscale.errors import UsageError
from recscale.records.record import RunRecord, rises_with_quality
from recscale.records.statistics import ByUser, Paired, averaged, can_be_paired, holm, paired

Verdict = Literal["worse", "better", "level", "unsure", "not compared"]
VERDICTS: tuple[Verdict, ...] = ("worse", "not compared", "unsure", "better", "level")
LEAST_BYTES = 16 * 2**20
"""Memory that two runs of the same job may differ by: pages of libraries that are read or not, and of the allocator."""
LEAST_SECONDS = 0.5
"""A phase that takes less is not judged by time: start of threads and caches are a part of it that differs."""
NOT_COMPARED = "run"
"""The quantity of a finding that says why a job cannot be compared."""
_FINGERPRINTS = ("data_fingerprint", "split_fingerprint")
_TIMED = ("fit", "score")


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
class _Pair:
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

    def finished(self) -> _Pair | None:
        """Return the runs of the seeds that ended well on both sides; None if there are none."""
        both = [runs for runs in zip(*self.runs, strict=True) if all(run.record.status == "ok" for run in runs)]
        return _Pair((tuple(one for one, _ in both), tuple(other for _, other in both))) if both else None

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


Identity = tuple[str, ...]


def regressions(baseline: Recorded, candidate: Recorded, tolerances: Tolerances = Tolerances()) -> list[Finding]:
    """Return a finding for every figure that both stores hold, and for what cannot be compared.

    Of several records of one job and seed (after a change of the code, or on two machines) the last one counts. Raises
    UsageError where the two have nothing in common.
    """
    before, after = _jobs(baseline), _jobs(candidate)
    if not before.keys() & after.keys():
        raise UsageError(_nothing_in_common(before, after))
    steps = [(before.get(job, {}), after.get(job, {})) for job in sorted(before.keys() | after.keys())]
    return [finding for findings in judged(steps, tolerances) for finding in findings]


def judged(steps: Sequence[tuple[Runs, Runs]], tolerances: Tolerances = Tolerances()) -> list[list[Finding]]:
    """Return the findings of each step of a job from some runs to others; one family of paired tests over all steps.

    Of a step that cannot be compared there is one finding, of the quantity `run`, that says why.
    """
    paired_runs = [_pair(*step) for step in steps]
    finished = [pair.finished() if reason is None else None for pair, reason in paired_runs]
    accuracy = iter(_accuracy([pair for pair in finished if pair is not None], tolerances.level))
    found: list[list[Finding]] = []
    for (pair, reason), both in zip(paired_runs, finished, strict=True):
        if reason is not None:
            found.append([pair.finding(NOT_COMPARED, "not compared", note=reason)])
            continue
        found.append([*_status(pair)])
        if pair.lost:
            named = f"seed{'s' * (len(pair.lost) > 1)} {', '.join(map(str, pair.lost))}: only the baseline has them"
            found[-1].append(pair.finding("seeds", "not compared", note=named))
        if both is not None:
            found[-1] += [*_sizes(both), *next(accuracy), *_memory(both, tolerances), *_times(both, tolerances)]
    return found


def counts(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """Return how many figures there are of each verdict, the gravest first."""
    found = [finding.verdict for finding in findings]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def _jobs(store: Recorded) -> dict[Identity, dict[int, Run]]:
    """Return the runs of a store by job and seed, the last of each."""
    found: dict[Identity, dict[int, Run]] = defaultdict(dict)
    for record in sorted(store.records(), key=lambda r: r.started_at):
        found[identity(record)][record.seed] = Run(record, store)
    return dict(found)


def job_name(record: RunRecord) -> str:
    """Return what a person calls a job on its data: the model with whatever differs from its defaults."""
    return record.configuration or record.model


def identity(record: RunRecord) -> Identity:
    """Return what makes two records runs of one job; a default that was changed, and new options, do not part them."""
    options = record.configuration or msgspec.json.encode(record.parameters, order="deterministic").decode()
    return (record.dataset, record.protocol, record.model, options, record.device_requested)


def _pair(before: Runs, after: Runs) -> tuple[_Pair, str | None]:
    """Return the runs of a job, and why they cannot be compared, if so."""
    seeds = sorted(before.keys() & after.keys())
    lost = tuple(sorted(before.keys() - after.keys()))
    pair = _Pair((tuple(before[s] for s in seeds), tuple(after[s] for s in seeds)), lost)
    if not seeds:
        known = tuple((after or before).values())
        either = "only the candidate has it" if not before else "only the baseline has it"
        return _Pair((known, known)), "no seed in common" if before and after else either
    return pair, "; ".join(_differing(pair, name) for name in _FINGERPRINTS if _differing(pair, name)) or None


def _differing(pair: _Pair, name: str) -> str:
    """Return how the fingerprints called `name` differ, between the sides or within one; empty if they do not."""
    sides = [sorted({getattr(record, name) for record in side}) for side in (pair.before, pair.after)]
    if len({*sides[0], *sides[1]}) == 1:
        return ""
    if len(sides[0]) == len(sides[1]) == 1:
        return f"{name.replace('_', ' ')} {sides[0][0][:8]} is now {sides[1][0][:8]}"
    known = ", ".join(text[:8] for text in sorted({*sides[0], *sides[1]}))
    return f"{name.replace('_', ' ')} differs over the seeds: {known}"


def _nothing_in_common(before: Mapping[Identity, Any], after: Mapping[Identity, Any]) -> str:
    """Return why two stores cannot be compared at all."""
    if not before or not after:
        return f"the {'baseline' if not before else 'candidate'} has no records; make some by: recscale run"
    parts = ("data sets", "protocols", "models", "options", "devices")
    sides = [[{job[i] for job in side} for i in range(len(parts))] for side in (before, after)]
    apart = [i for i in range(len(parts)) if not sides[0][i] & sides[1][i]]
    if not apart:
        return "the baseline and the candidate have no job in common; run the same models on the same data for both"
    told = "; ".join(f"{parts[i]} {_some(sides[0][i])} against {_some(sides[1][i])}" for i in apart)
    return f"the baseline and the candidate have no job in common: {told}"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _status(pair: _Pair) -> Iterator[Finding]:
    """Say at which seeds a job fails now that did not, or the other way round; the gravest, which counts, first."""
    changes: list[tuple[Verdict, str]] = []
    for one, other in zip(pair.before, pair.after, strict=True):
        if one.status == other.status:
            continue
        verdict: Verdict = "worse" if one.status == "ok" else "better" if other.status == "ok" else "unsure"
        reason = f": {other.reason}" if other.reason else ""
        changes.append((verdict, f"seed {other.seed}: {one.status} before, {other.status} now{reason}"))
    changes.sort(key=lambda change: VERDICTS.index(change[0]))
    failed = [record.status for record in pair.after if record.status != "ok"]
    if changes:
        yield pair.finding("status", changes[0][0], note="; ".join(note for _, note in changes))
    elif failed:
        yield pair.finding("status", "level", note=f"{failed[0]}, as before")


def _sizes(pair: _Pair) -> Iterator[Finding]:
    """Compare what a model holds, exactly."""
    for quantity, field, unit in (("parameters", "n_parameters", ""), ("bytes", "n_bytes", "bytes")):
        one, other = _means(pair, field)
        if one is not None and other is not None:
            verdict: Verdict = "worse" if other > one else "better" if other < one else "level"
            yield pair.finding(quantity, verdict, unit=unit, baseline=one, candidate=other)


def _means(pair: _Pair, field: str) -> tuple[float | None, float | None]:
    sides = [[getattr(record, field) for record in side] for side in (pair.before, pair.after)]
    if any(value is None for values in sides for value in values):
        return None, None
    return sum(sides[0]) / len(sides[0]), sum(sides[1]) / len(sides[1])


def _accuracy(pairs: Sequence[_Pair], level: float) -> list[list[Finding]]:
    """Compare every metric that is known by user; one family of tests over all pairs."""
    places: list[tuple[int, str]] = []
    tests: list[Paired] = []
    means: list[tuple[float, float]] = []
    found: list[list[Finding]] = [[] for _ in pairs]
    for index, pair in enumerate(pairs):
        before, after = (_metrics(side) for side in pair.runs)
        shared = [name for name in after if name in before and before[name].n_users == after[name].n_users]
        if not shared:
            found[index].append(pair.finding("accuracy", "not compared", note="no figures by user in both"))
        for metric in sorted(before.keys() - after.keys()) if shared else ():
            found[index].append(pair.finding(metric, "not compared", note="only the baseline has it by user"))
        for metric in shared:
            if not can_be_paired(before[metric], after[metric]):
                note = "fewer than two users have a figure on both sides"
                found[index].append(pair.finding(metric, "not compared", note=note))
                continue
            (test,) = paired(
                after[metric], [before[metric]], higher_is_better=rises_with_quality(metric), n_resamples=1
            )
            places.append((index, metric))
            tests.append(test)
            means.append((before[metric].mean(), after[metric].mean()))
    adjusted = holm([test.p_value for test in tests])
    for (index, metric), test, p_value, (one, other) in zip(places, tests, adjusted, means, strict=True):
        corrected = replace(test, adjusted_p_value=p_value)
        found[index].append(_judged(pairs[index], metric, corrected, (one, other), level))
    return found


def _judged(pair: _Pair, metric: str, test: Paired, means: tuple[float, float], level: float) -> Finding:
    if test.difference == 0:
        return pair.finding(metric, "level", unit="score", baseline=means[0], candidate=means[1])
    certain = test.adjusted_p_value < level
    verdict: Verdict = "level" if not certain else "worse" if test.difference < 0 else "better"
    note = f"p = {test.adjusted_p_value:.2g}; {test.wins:,} users better, {test.losses:,} worse"
    return pair.finding(metric, verdict, unit="score", baseline=means[0], candidate=means[1], note=note)


def _metrics(runs: Sequence[Run]) -> dict[str, ByUser]:
    """Return the means over the runs of each metric by user, of the metrics that all of them have."""
    found = [run.source.by_user(run.record) for run in runs]
    return {
        name: averaged([one[name] for one in found])
        for name in found[0]
        if all(run.metrics is None or name in run.metrics for run in runs)
        and all(name in one and one[name].n_users == found[0][name].n_users for one in found)
    }


def _memory(pair: _Pair, tolerances: Tolerances) -> Iterator[Finding]:
    """Compare what each phase took beyond what the process had when it began: the most of the runs."""
    for name in _TIMED:
        sides = [[grown_bytes(record, name) for record in side] for side in (pair.before, pair.after)]
        known = [[value for value in side if value is not None] for side in sides]
        if not known[0] or not known[1]:
            continue
        one, other = float(max(known[0])), float(max(known[1]))
        verdict: Verdict = "level"
        note = _unlike(pair, name)
        if note:
            verdict = "not compared"
        elif abs(other - one) > max(tolerances.memory * one, LEAST_BYTES):
            verdict = "worse" if other > one else "better"
        yield pair.finding(f"memory of {name}", verdict, unit="bytes", baseline=one, candidate=other, note=note)


def _unlike(pair: _Pair, phase: str) -> str:
    """Return why the costs of a phase are not of one kind on both sides; empty if they are."""
    records = (*pair.before, *pair.after)
    kinds = sorted({(record.device_used or "cpu").partition(":")[0] for record in records})
    if len(kinds) > 1:
        return f"on {' and '.join(kinds)}"
    if phase != "fit":
        return ""
    if any(record.n_resumptions for record in records):
        return "a fit was resumed"
    if len({record.shrunk_from is None for record in records}) > 1:
        return "the fit is shared with another size in some of the runs alone"
    return ""


def grown_bytes(record: RunRecord, phase: str) -> int | None:
    """Return what a phase took beyond what the process had when it began; None if that is not known."""
    cost = record.phases.get(phase)
    if cost is None or cost.peak_rss_bytes is None:
        return None
    return max(0, cost.peak_rss_bytes - (cost.start_rss_bytes or 0))


def _times(pair: _Pair, tolerances: Tolerances) -> Iterator[Finding]:
    """Compare the fastest run of each phase, after the speed of the machine is taken out.

    On one and the same machine the seconds themselves have to agree: whatever else it does may slow the calibration
    and not the phase, or the other way round, and either alone would be an alarm about nothing.
    """
    sides = (pair.before, pair.after)
    speeds = [max(record.calibration.get("gemm_gflops", 0.0) for record in side) for side in sides]
    same_machine = pair.before[0].machine == pair.after[0].machine
    comparable = all(speeds) or same_machine
    relative = speeds[1] / speeds[0] if all(speeds) else 1.0
    for name in _TIMED:
        walls = [[record.phases[name].wall_seconds for record in side if name in record.phases] for side in sides]
        if not all(walls):
            continue
        one, other = (min(side) for side in walls)
        verdict: Verdict = "not compared"
        note = _unlike(pair, name) or ("" if comparable else "another machine, and no calibration")
        if not note and one > 0:
            ratios = (other / one * relative, other / one if same_machine else other / one * relative)
            verdict, note = _timed(ratios, max(one, other), len(sides[0]), tolerances)
        yield pair.finding(f"time of {name}", verdict, unit="seconds", baseline=one, candidate=other, note=note)


def _timed(ratios: tuple[float, float], seconds: float, n_runs: int, tolerances: Tolerances) -> tuple[Verdict, str]:
    """Return what is to be thought of a ratio of times, calibrated and as it has to be confirmed."""
    factor = 1 + tolerances.time
    told = f"{ratios[0]:.2f} times, calibrated"
    if seconds < LEAST_SECONDS or not (min(ratios) > factor or max(ratios) < 1 / factor):
        return "level", told
    if n_runs < tolerances.repeats:
        runs = "run" if n_runs == 1 else "runs"
        return "unsure", f"{told}, by {n_runs} {runs}; {tolerances.repeats} seeds or more would tell"
    return ("worse" if min(ratios) > factor else "better"), told
