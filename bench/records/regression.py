"""Has anything got worse: the records of a candidate against those of a baseline, job by job.

Sizes are compared exactly, accuracy by paired tests over the same users, memory by a tolerance, time as a multiple of
what the machine's matrix product takes, by the fastest of several runs (what disturbs a run only ever makes it slower).
Runs on other data or another split are never compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from recscale.errors import UsageError
from recscale.records.costs import memory_findings, time_findings
from recscale.records.pairs import VERDICTS, Finding, Pair, Recorded, Run, Runs, Tolerances, Verdict
from recscale.records.record import RunRecord, renumbered, rises_with_quality
from recscale.records.statistics import ByUser, Paired, averaged, can_be_paired, holm, paired

NOT_COMPARED = "run"
"""The quantity of a finding that says why a job cannot be compared."""
AGGREGATE_TOLERANCE = 0.01
"""Share that a figure of all lists together may differ by: it is no mean over users, so there is no test."""
_FINGERPRINTS = ("data_fingerprint", "split_fingerprint")


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
            found[-1] += [*_sizes(both), *next(accuracy), *memory_findings(both, tolerances)]
            found[-1] += time_findings(both, tolerances)
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


def identity(record: RunRecord) -> Identity:
    """Return what makes two records runs of one job; a default that was changed, and new options, do not part them."""
    options = record.configuration or msgspec.json.encode(record.parameters, order="deterministic").decode()
    return (record.dataset, record.protocol, record.model, options, renumbered(record.device_requested))


def _pair(before: Runs, after: Runs) -> tuple[Pair, str | None]:
    """Return the runs of a job, and why they cannot be compared, if so."""
    seeds = sorted(before.keys() & after.keys())
    lost = tuple(sorted(before.keys() - after.keys()))
    pair = Pair((tuple(before[s] for s in seeds), tuple(after[s] for s in seeds)), lost)
    if not seeds:
        known = tuple((after or before).values())
        either = "only the candidate has it" if not before else "only the baseline has it"
        return Pair((known, known)), "no seed in common" if before and after else either
    return pair, "; ".join(_differing(pair, name) for name in _FINGERPRINTS if _differing(pair, name)) or None


def _differing(pair: Pair, name: str) -> str:
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


def _status(pair: Pair) -> Iterator[Finding]:
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


def _sizes(pair: Pair) -> Iterator[Finding]:
    """Compare what a model holds, exactly."""
    for quantity, field, unit in (("parameters", "n_parameters", ""), ("bytes", "n_bytes", "bytes")):
        one, other = _means(pair, field)
        if one is not None and other is not None:
            verdict: Verdict = "worse" if other > one else "better" if other < one else "level"
            yield pair.finding(quantity, verdict, unit=unit, baseline=one, candidate=other)


def _means(pair: Pair, field: str) -> tuple[float | None, float | None]:
    sides = [[getattr(record, field) for record in side] for side in (pair.before, pair.after)]
    if any(value is None for values in sides for value in values):
        return None, None
    return sum(sides[0]) / len(sides[0]), sum(sides[1]) / len(sides[1])


def _accuracy(pairs: Sequence[Pair], level: float) -> list[list[Finding]]:
    """Compare every metric; one family of tests over all pairs, of the metrics that are known by user."""
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
        found[index] += _aggregates(pair, {*before, *after})
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


def _aggregates(pair: Pair, by_user: Collection[str]) -> Iterator[Finding]:
    """Compare the metrics that are not known by user, such as the coverage of the catalogue."""
    runs = (*pair.runs[0], *pair.runs[1])
    asked = [run.record.metrics.keys() & (run.record.metrics if run.metrics is None else run.metrics) for run in runs]
    for name in sorted(set.intersection(*asked).difference(by_user)):
        one, other = (sum(record.metrics[name] for record in side) / len(side) for side in (pair.before, pair.after))
        is_near = abs(other - one) <= AGGREGATE_TOLERANCE * abs(one)
        note = "" if is_near else "not known by user: there is no test"
        verdict: Verdict = "level" if is_near else "unsure"
        yield pair.finding(name, verdict, unit="score", baseline=one, candidate=other, note=note)


def _judged(pair: Pair, metric: str, test: Paired, means: tuple[float, float], level: float) -> Finding:
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
