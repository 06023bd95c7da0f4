"""The history of a job: what it came to with one version of the code after another, and which steps count.

A version is a commit, or the model's own code where no commit is known or files were changed since it. Versions stand
in the order in which they were first run. A step is judged as `regression` judges two stores: sizes exactly, accuracy
by the paired test (one family over all steps of all jobs), memory and time by a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

import msgspec

from recscale.errors import UnknownName, UsageError
from recscale.records.costs import grown_bytes, processor, processors
from recscale.records.pairs import VERDICTS, Finding, Recorded, Run, Tolerances, Verdict, job_name
from recscale.records.record import RunRecord
from recscale.records.regression import NOT_COMPARED, Identity, identity, judged

CALIBRATED_GFLOPS = 100.0
"""Speed of the machine's matrix product at which calibrated seconds are seconds."""
CODE_LETTERS = 8
_FIT = "fit"
_SIZES: tuple[tuple[str, Literal["", "bytes"], str], ...] = (
    ("parameters", "", "n_parameters"),
    ("bytes", "bytes", "n_bytes"),
)
MEMORY, TIME = f"memory of {_FIT}", f"time of {_FIT}"


@dataclass(frozen=True)
class Wanted:
    """Which jobs are asked for, by names of models or whole jobs and of data sets (none: all), and which metric.

    Without a metric, each job is followed by the first of its own.
    """

    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metric: str | None = None


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the code that a job was run with.

    `started_at` is when it was first run, by any job; `status` is `ok` if all seeds ended well.
    """

    label: str
    commit: str | None
    code_fingerprint: str
    started_at: str
    status: str
    seeds: list[int]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """From one version to the next one, `version`.

    `change`, a share of the value before, is over the seeds that finished with both, `seeds`, as is the verdict; None
    where that is about something else, such as a failure. Between versions that ran on other data or on another split
    nothing can be compared, and the values are not to be joined by a line (`is_joined`); nor are times on different
    processors.
    """

    version: str
    verdict: Verdict
    change: float | None = None
    note: str = ""
    is_joined: bool = True
    seeds: list[int] = []


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a job: a value for each version (None if no seed finished), a step for each version but the first.

    A value is over all seeds that finished. Seconds are calibrated: those of the fastest run, on a machine whose matrix
    product does 100 GFLOP/s.
    """

    quantity: str  # the name of a metric, parameters, bytes, memory of fit or time of fit
    unit: Literal["", "bytes", "seconds", "score"]
    values: list[float | None]
    steps: list[Step]


class JobHistory(msgspec.Struct, frozen=True, kw_only=True):
    """One job over the versions that it was run with."""

    dataset: str
    protocol: str
    model: str
    job: str
    versions: list[Version]
    series: list[Series]


_Key = tuple[str | None, str, str]  # commit, code fingerprint, and the store unless the commit says what the code was
_Versions = dict[_Key, dict[int, Run]]
_Jobs = dict[Identity, _Versions]


def histories(
    stores: Mapping[str, Recorded], wanted: Wanted = Wanted(), tolerances: Tolerances = Tolerances()
) -> list[JobHistory]:
    """Return the history of every job in `stores` (by name) that is wanted, those of one version too.

    Of several records of one job, version and seed the last one counts. Raises UsageError where there are no records,
    and UnknownName for a model, data set or metric that none of them has.
    """
    jobs, first = _by_version(stores, wanted)
    of_model: dict[str, set[_Key]] = defaultdict(set)
    for (_, _, model, *_), versions in jobs.items():
        of_model[model].update(versions)
    labels = {job: _labels(of_model[job[2]]) for job in jobs}
    places: dict[str, str] = {}
    for (job, key), started_at in first.items():
        places[labels[job][key]] = min(places.get(labels[job][key], started_at), started_at)
    ordered = {job: sorted(versions, key=lambda key: places[labels[job][key]]) for job, versions in jobs.items()}
    steps = [(jobs[job][before], jobs[job][after]) for job, keys in ordered.items() for before, after in pairwise(keys)]
    findings = iter(judged(steps, tolerances))
    found = []
    for job, keys in ordered.items():
        sides = [jobs[job][key] for key in keys]
        names = {labels[job][key]: places[labels[job][key]] for key in keys}
        found.append(_history(sides, names, [next(findings) for _ in keys[1:]]))
    return found


def _by_version(stores: Mapping[str, Recorded], wanted: Wanted) -> tuple[_Jobs, dict[tuple[Identity, _Key], str]]:
    """Return the runs of each job by version and seed, the last of each, and when a version was first run.

    A record that lies in several stores counts once.
    """
    known = [(name, store, record) for name, store in stores.items() for record in store.records()]
    if not known:
        raise UsageError(f"no records in {', '.join(stores) or 'no store'}; make some by: recscale run")
    chosen = _chosen([record for _, _, record in known], wanted)
    found: _Jobs = defaultdict(lambda: defaultdict(dict))
    first: dict[tuple[Identity, _Key], str] = {}
    seen: set[tuple[str, str, str | None]] = set()
    for name, store, record in sorted(known, key=lambda one: one[2].started_at):
        mark = (record.key, record.started_at, record.commit)
        if id(record) not in chosen or mark in seen:
            continue
        seen.add(mark)
        metric = wanted.metric or next(iter(record.metrics), None)
        run = Run(record, store, frozenset() if metric is None else frozenset({metric}))
        key = (record.commit, record.code_fingerprint, "" if _is_whole(record.commit) else name)
        found[identity(record)][key][record.seed] = run
        first.setdefault((identity(record), key), record.started_at)
    return dict(sorted(found.items())), first


def _chosen(records: Sequence[RunRecord], wanted: Wanted) -> set[int]:
    """Return the ids of the records that are wanted. Raises UnknownName for what none of them has."""
    models = {name for record in records for name in (record.model, job_name(record))}
    datasets = {name for record in records for name in (record.dataset, record.dataset_name)}
    metrics = {name for record in records for name in record.metrics}
    asked = (("model", wanted.models, models), ("data set", wanted.datasets, datasets))
    for kind, names, known in (*asked, ("metric", (wanted.metric,) if wanted.metric else (), metrics)):
        for name in names:
            if name not in known:
                raise UnknownName(f"recorded {kind}", name, known)
    found = [
        record
        for record in records
        if (not wanted.models or {record.model, job_name(record)} & set(wanted.models))
        and (not wanted.datasets or {record.dataset, record.dataset_name} & set(wanted.datasets))
    ]
    if not found:
        raise UsageError(f"no record of {', '.join(wanted.models)} on {', '.join(wanted.datasets)}; ask for less")
    return {id(record) for record in found}


def _is_whole(commit: str | None) -> bool:
    """Tell whether a commit says what the code was: one is known, and no file was changed since it."""
    return commit is not None and not commit.endswith("+")


def _labels(keys: Collection[_Key]) -> dict[_Key, str]:
    """Return a different label for each version of a model: the commit, else the code; with more where that is shared.

    A commit since which files were changed always has the code behind it.
    """
    found = {}
    for key in keys:
        commit, code, store = key
        told = [commit] if commit else []
        if not _is_whole(commit) or len({other for one, other, _ in keys if one == commit}) > 1:
            told.append(code[:CODE_LETTERS])
        if len({other for *same, other in keys if same == [commit, code]}) > 1:
            told.append(f"in {store}")
        found[key] = " ".join(told)
    return found


def _history(
    sides: Sequence[Mapping[int, Run]], labels: Mapping[str, str], steps: Sequence[list[Finding]]
) -> JobHistory:
    """Return the history of one job from its runs by seed at each version, and the findings of each step.

    `labels` has the name of each version with the time of its first run.
    """
    records = [[run.record for _, run in sorted(side.items())] for side in sides]
    last = records[-1][0]
    moves = [_move(*move) for move in zip(list(labels)[1:], pairwise(sides), steps, strict=True)]
    return JobHistory(
        dataset=last.dataset,
        protocol=last.protocol,
        model=last.model,
        job=job_name(last),
        versions=[_version(label, members) for label, members in zip(labels.items(), records, strict=True)],
        series=[
            Series(quantity=quantity, unit=unit, values=values, steps=_steps(quantity, values, moves))
            for quantity, unit, values in _figures(sides, records)
        ],
    )


def _version(label: tuple[str, str], records: Sequence[RunRecord]) -> Version:
    """Return a version from its name with the time of its first run, and the records of its seeds."""
    failed = [record.status for record in records if record.status != "ok"]
    return Version(
        label=label[0],
        commit=records[0].commit,
        code_fingerprint=records[0].code_fingerprint,
        started_at=label[1],
        status=failed[0] if failed else "ok",
        seeds=[record.seed for record in records],
    )


_Figure = tuple[str, Literal["", "bytes", "seconds", "score"], list[float | None]]


def _figures(sides: Sequence[Mapping[int, Run]], records: Sequence[Sequence[RunRecord]]) -> list[_Figure]:
    """Return the figures of a job with a value for each version, over the seeds that finished; None without any."""
    fine = [[r for r in members if r.status == "ok"] for members in records]
    names = [name for side in reversed(sides) for run in side.values() for name in run.metrics or ()]
    found: list[_Figure] = []
    if names:
        metric = names[0]
        found.append((metric, "score", [_mean([r.metrics.get(metric) for r in members]) for members in fine]))
    for quantity, unit, field in _SIZES:
        found.append((quantity, unit, [_mean([getattr(r, field) for r in members]) for members in fine]))
    grown = [[value for r in members if (value := grown_bytes(r, _FIT)) is not None] for members in fine]
    found.append((MEMORY, "bytes", [float(max(values)) if values else None for values in grown]))
    found.append((TIME, "seconds", [_calibrated(members) for members in fine]))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _calibrated(records: Sequence[RunRecord]) -> float | None:
    """Return the calibrated seconds of the fastest fit, by the speed of what it ran on; None without a calibration."""
    found = []
    for name in processors(records):
        same = [record for record in records if processor(record) == name]
        seconds = [record.phases[_FIT].wall_seconds for record in same if _FIT in record.phases]
        speed = max(record.calibration.get("gemm_gflops", 0.0) for record in same)
        if seconds and speed:
            found.append(min(seconds) * speed / CALIBRATED_GFLOPS)
    return min(found, default=None)


@dataclass(frozen=True)
class _Move:
    """What is found from one version to the next one, `version`, by quantity, and the runs that the findings are of.

    `processors` are those of all runs that finished with either.
    """

    version: str
    findings: Mapping[str, Finding]
    before: tuple[RunRecord, ...]
    after: tuple[RunRecord, ...]
    processors: Sequence[str]

    def about(self, quantity: str) -> Finding | None:
        """Return the gravest finding about a figure; times on different processors are not compared."""
        known = [self.findings[q] for q in (NOT_COMPARED, quantity, "status") if q in self.findings]
        if quantity == TIME and len(self.processors) > 1:
            told = f"on {' and '.join(self.processors)}"
            known = [
                msgspec.structs.replace(one, verdict="not compared", note=told) if one.quantity == TIME else one
                for one in known
            ]
        return min(known, key=lambda one: VERDICTS.index(one.verdict), default=None)

    @property
    def seeds(self) -> list[int]:
        """The seeds that finished with both versions."""
        return [record.seed for record in self.before]

    def change(self, finding: Finding) -> float | None:
        """Return the change that a finding is about, of times that of the calibrated ones."""
        one, other = _calibrated(self.before), _calibrated(self.after)
        if finding.quantity == TIME and one and other is not None:
            return (other - one) / one
        return finding.change


def _move(version: str, sides: tuple[Mapping[int, Run], Mapping[int, Run]], findings: Sequence[Finding]) -> _Move:
    """Return the move between the runs of two versions, by seed."""
    fine = [{seed: run.record for seed, run in sorted(side.items()) if run.record.status == "ok"} for side in sides]
    before, after = (tuple(side[seed] for seed in side if seed in other) for side, other in (fine, fine[::-1]))
    of_quantity = {finding.quantity: finding for finding in findings}
    return _Move(version, of_quantity, before, after, processors(record for side in fine for record in side.values()))


def _steps(quantity: str, values: Sequence[float | None], moves: Sequence[_Move]) -> list[Step]:
    """Return the steps of one figure, each with the gravest finding about it."""
    found = []
    for (before, after), move in zip(pairwise(values), moves, strict=True):
        finding = move.about(quantity)
        if finding is None:
            note = "not measured on both sides" if None in (before, after) else "no figures by user in both"
            found.append(Step(version=move.version, verdict="not compared", note=note, seeds=move.seeds))
            continue
        is_compared = finding.quantity == quantity and finding.verdict != "not compared"
        step = Step(
            version=move.version,
            verdict=finding.verdict,
            change=move.change(finding) if is_compared else None,
            note=finding.note,
            is_joined=finding.quantity != NOT_COMPARED and not (quantity == TIME and len(move.processors) > 1),
            seeds=move.seeds,
        )
        found.append(step)
    return found
