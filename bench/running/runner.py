"""Runs suites: prepares the data, plans the jobs, refuses what cannot fit, runs the rest and stores every record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from recscale.errors import UsageError
from recscale.measuring.machine import fingerprint, machine_name, source_commit
from recscale.measuring.size import format_bytes
from recscale.records.owners import owner_mark, remove_abandoned
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.checkpoints import checkpoint_of, forget_checkpoint, remove_old_checkpoints
from recscale.running.estimating import Forecast, PastFits, why_refused
from recscale.running.executor import Executor, Worker, open_executor
from recscale.running.job import COCLUSTER_FILE, PER_USER_FILE, Data, Job, Prepared, Request
from recscale.running.local_pool import ask
from recscale.running.prepare import find_prepared
from recscale.running.sharing import SharedFits, largest_first
from recscale.running.suite import Suite, all_data, check_suite, expand

Overwrite = Literal["never", "failed", "always"]
WAIT_SECONDS = 1.0  # until one looks again whether another runner has finished something


class Display(Protocol):
    """Shows what a run is doing. Every call returns at once."""

    def preparing(self, data: Data) -> None: ...
    def prepared(self, data: Data, prepared: Prepared) -> None: ...
    def planned(self, n_jobs: int | None, n_settled: int, told: str = "", name: str = "job") -> None: ...
    def started(self, job: Job) -> None: ...
    def event(self, job: Job, event: dict[str, Any]) -> None: ...
    def finished(self, job: Job, record: RunRecord) -> None: ...
    def waiting(self, job: Job) -> None: ...
    def note(self, text: str) -> None: ...
    def closed(self) -> None: ...


class Watch(Protocol):
    """Follows a running job, and may end it: `look` then returns what its record says beside the costs."""

    def start(self, job: Job, checkpoint: Path) -> None: ...
    def look(self, job: Job, event: dict[str, Any]) -> dict[str, Any] | None: ...


@dataclass
class Plan:
    """The jobs of a suite; by their keys the records that settle them, the reasons to refuse them, and forecasts."""

    jobs: list[Job]
    settled: dict[str, RunRecord]
    refusals: dict[str, str]
    forecasts: dict[str, Forecast] = field(default_factory=dict)


@dataclass
class Runner:
    """Runs one suite into one store.

    `overwrite` says which finished jobs are run again: none, those that failed, or all. With `is_any_machine` the
    finished records of other machines count as well, for those who look at accuracy and sizes alone.
    """

    suite: Suite
    store: Store
    display: Display
    overwrite: Overwrite = "never"
    is_any_machine: bool = False
    _machine: dict[str, Any] = field(default_factory=dict)
    _commit: str | None = field(default_factory=source_commit)
    _executor: Executor | None = field(init=False, default=None)
    _fits: SharedFits = field(init=False)
    _past_fits: PastFits | None = field(init=False, default=None)
    _watch: Watch | None = field(init=False, default=None)
    _has_told: bool = field(init=False, default=False)

    @property
    def executor(self) -> Executor:
        """Where the jobs run, opened when it is first asked for; `close` ends it. Raises MissingExtra or UsageError."""
        if self._executor is None:
            if self.suite.executor != "local":
                self.display.note(f"connecting to {self.suite.executor} ...")
            self._executor = open_executor(self.suite, self.store.work_folder())
        return self._executor

    def close(self) -> None:
        """End the executor, if one was opened, and the display."""
        try:
            if self._executor is not None:
                self._executor.close()
                self._executor = None
        finally:
            self.display.closed()

    def prepare(self) -> list[tuple[Data, Prepared]]:
        """Make sure that every split lies in the cache. Raises DataError, UsageError or StoreError."""
        check_suite(self.suite)
        self.store.make_writable()
        remove_abandoned(self.store.work_folder())
        remove_old_checkpoints(self.store.work_folder())
        return [(data, self._prepared(data)) for data in all_data(self.suite)]

    def plan(self) -> Plan:
        """Return the jobs with what is known before they run."""
        splits, suite = self.prepare(), self.budgeted()
        return self.plan_of([job for data, prepared in splits for job in self.expand(suite, data, prepared)])

    def expand(self, suite: Suite, data: Data, prepared: Prepared) -> list[Job]:
        """Return the jobs of a suite, with the devices of the executor."""
        return expand(suite, data, prepared, self.executor.device)

    def plan_of(self, jobs: Sequence[Job]) -> Plan:
        """Return the plan of these jobs, each once, on splits that are prepared."""
        self._machine = self._machine or fingerprint()
        self._past_fits = self._past_fits or PastFits(self.store, self._machine, self.suite.plugins)
        plan = Plan([], {}, {})
        once: dict[str, Job] = {}
        for job in jobs:
            once.setdefault(job.key, job)
        for known in once.values():
            record = self._stored(known)
            job = known.without_loss(record)
            plan.jobs.append(job)
            if record is not None and job.is_settled_by(record, self.overwrite, self.suite.limits()):
                plan.settled[job.key] = record
            plan.forecasts[job.key] = forecast = self._past_fits.forecast(job)
            if reason := why_refused(job, forecast):
                plan.refusals[job.key] = reason
        return plan

    def run(self) -> list[RunRecord]:
        """Run what is not settled yet; return the records of all jobs of the suite, in their order."""
        try:
            plan = self.plan()
            self.display.planned(len(plan.jobs), len(plan.settled))
            return self.run_plan(plan)
        finally:
            self.close()

    def run_plan(self, plan: Plan) -> list[RunRecord]:
        """Run what a plan has not settled; return the records of its jobs, in their order."""
        records = dict(plan.settled)
        waiting = largest_first([job for job in plan.jobs if job.key not in plan.settled])
        with self._working() as running:
            while waiting:
                waiting = self._pass(waiting, plan, records, running)
                if waiting:  # another runner has these; look again when it may have finished one
                    self.display.waiting(waiting[0])
                    time.sleep(WAIT_SECONDS)
        return [records[job.key] for job in plan.jobs]

    def run_free(self, plan: Plan, watch: Watch | None = None) -> list[RunRecord]:
        """Run what a plan has not settled and no other runner holds; return the records of all other jobs."""
        records = dict(plan.settled)
        waiting = largest_first([job for job in plan.jobs if job.key not in plan.settled])
        with self._working(watch) as running:
            self._pass(waiting, plan, records, running)
        return [records[job.key] for job in plan.jobs if job.key in records]

    def share(self, job: Job) -> RunRecord | None:
        """Write the place of a trial in its study into the record of another study that settles it, and return that.

        None if another runner holds the job, or there is no such record any more.
        """
        with self.store.claim(job.key) as is_free:
            record = self._stored(job) if is_free else None
            if record is None or job.trial is None or job.trial in record.places:
                return record
            return self.store.amend(record, other_trials=[*record.other_trials, job.trial])

    def _pass(
        self, jobs: list[Job], plan: Plan, records: dict[str, RunRecord], running: dict[str, _Running]
    ) -> list[Job]:
        """Go through `jobs` once; return those that another runner holds."""
        left = []
        for number, job in enumerate(jobs):
            while not self.executor.has_room(len(running)):
                self._tick(running, records)
            self._fits.keep_only({other.family for other in jobs[number:]} | {o.job.family for o in running.values()})
            with contextlib.ExitStack() as claim:  # freed whatever happens: a notebook keeps the frame of an exception
                if not claim.enter_context(self.store.claim(job.key)):
                    left.append(job)
                    continue
                record = self._stored(job)
                for file in self.store.unreadable:
                    self.display.note(f"  once more {job.label}: {file.path.name} cannot be read ({file.reason})")
                if record is not None and record.key not in plan.settled and self._is_news(job, record):
                    records[job.key] = record
                    self.display.finished(job, record)
                elif reason := plan.refusals.get(job.key):
                    records[job.key] = self._keep(job, {"status": "refused", "reason": reason})
                elif job.unavailable:
                    records[job.key] = self._keep(job, {"status": "skipped", "reason": job.unavailable})
                else:
                    later = [other for other in jobs[number + 1 :] if other.key not in plan.refusals]
                    wider = job.without_loss(record)
                    running[job.key] = _Running(wider, self._start(wider, later), claim.pop_all())
        while running:
            self._tick(running, records)
        return left

    def _is_news(self, job: Job, record: RunRecord) -> bool:
        """Tell whether another runner has settled `job` since the plan was made."""
        return self.overwrite != "always" and job.is_settled_by(record, self.overwrite, self.suite.limits())

    def _start(self, job: Job, later: list[Job]) -> Worker:
        shares = self.executor.shares_fits
        fitted = self._fits.of(job) if shares else None
        keeps_fit = shares and fitted is None and self._fits.is_wanted(job, later)
        request = Request(
            task="run",
            job=job,
            plugins=job.plugins,
            limits=job.limits,
            fitted=fitted,
            keeps_fit=keeps_fit,
            checkpoint=str(checkpoint_of(job, self.store.work_folder())),
        )
        if self._watch is not None:
            self._watch.start(job, checkpoint_of(job, self.store.work_folder()))
        return self.executor.launch(request)

    def _tick(self, running: dict[str, _Running], records: dict[str, RunRecord]) -> None:
        """Wait a moment for news of the running workers; store the records of those that ended."""
        self.executor.wait([one.worker for one in running.values()])
        for key, one in list(running.items()):
            done = one.worker.is_done()
            if not one.has_begun and one.worker.start is not None:
                one.has_begun = True
                self.display.started(one.job)
            for event in one.worker.events():
                self.display.event(one.job, event)
                if event.get("event") == "lost":
                    self.display.note(f"  once more {one.job.label}: {event.get('reason')}")
                if self._watch is not None and one.ended_as is None:
                    one.ended_as = self._watch.look(one.job, event)
            if one.ended_as is not None and not done:  # one that was just done is ended all the same: not by the clock
                one.worker.kill()
            elif not done:
                continue
            del running[key]
            with one.claim, contextlib.closing(one.worker):
                self._fits.take(one.job, one.worker.folder)
                records[one.job.key] = self._keep(one.job, one.outcome(), one)

    def _keep(self, job: Job, outcome: dict[str, Any], one: _Running | None = None) -> RunRecord:
        """Store the record of an ended job, at once, unless it failed and a finished one is there; return it."""
        record = self._record(job, outcome, one)
        before = None if record.status == "ok" else self._stored(job)
        is_kept = before is not None and before.status == "ok"
        if not is_kept:
            has_arrays = record.status == "ok" and job.evaluated_on == "test"
            self.store.put(record, _arrays(one.worker.folder) if one is not None and has_arrays else {})
        if one is not None and record.status != "timeout":  # with more time it goes on from there
            forget_checkpoint(job, self.store.work_folder())
        self.display.finished(job, record)
        if is_kept:
            self.display.note(f"  the store keeps the finished record of {job.label}, in place of this failure")
        return record

    def _record(self, job: Job, outcome: dict[str, Any], one: _Running | None) -> RunRecord:
        """Return the record of an ended job: an error where its outcome fits none."""
        start = one.worker.start if one else None
        of_run = {
            "machine": start.machine if start else self._machine,
            "commit": self._commit,
            "calibration": start.calibration if start else {},
            "started_at": start.at if start else datetime.now(UTC).isoformat(timespec="seconds"),
            "job_wall_seconds": one.worker.wall_seconds if one else None,
        }
        try:
            return msgspec.convert(job.blank_record() | outcome | of_run, RunRecord)
        except msgspec.ValidationError as error:
            failure = {"status": "error", "reason": f"what the worker wrote is no record: {error}"}
            return msgspec.convert(job.blank_record() | failure | of_run, RunRecord)

    def _stored(self, job: Job) -> RunRecord | None:
        self.store.unreadable.clear()
        described = {
            "dataset": job.data.text,
            "protocol": job.data.protocol_text,
            "model": job.model,
            "key": job.key,
            "evaluated_on": job.evaluated_on,
        }
        own = self.store.get(**described)
        if self.is_any_machine and (own is None or own.status != "ok"):
            return self.store.get_elsewhere(**described) or own
        return own

    def _prepared(self, data: Data) -> Prepared:
        found = find_prepared(data, self.suite.plugins)
        if found is None:
            self.display.preparing(data)
            outcome = ask(Request(task="prepare", data=data, plugins=self.suite.plugins), self.store.work_folder())
            found = msgspec.convert(outcome["prepared"], Prepared)
        self.display.prepared(data, found)
        return found

    def budgeted(self) -> Suite:
        """Return the suite with the cores and the memory of a machine divided among its jobs, where none were given.

        Raises UsageError for more threads than a machine has cores.
        """
        suite, n_cores = self.suite, self.executor.n_cores
        if suite.threads is not None and suite.threads > n_cores:
            raise UsageError(f"--threads {suite.threads} is more than there are cores for a job: {n_cores}")
        found = msgspec.structs.replace(
            suite,
            threads=suite.threads or max(1, n_cores // suite.jobs),
            max_memory=self.executor.memory_bytes // suite.jobs if suite.max_memory is None else suite.max_memory,
        )
        is_here = suite.executor == "local"  # Ray gives each job what it asks for, or has it wait
        if is_here and not self._has_told and (crowd := _crowd(found, n_cores, self.executor.memory_bytes)):
            self.display.note(f"note: {crowd}")
        self._has_told = True
        return found

    @contextlib.contextmanager
    def _working(self, watch: Watch | None = None) -> Iterator[dict[str, _Running]]:
        """Hold the running workers and the fits that they share, `watch` looking on."""
        self._fits, self._watch = SharedFits(self.store.work_folder() / f"{owner_mark()}-fits"), watch
        with contextlib.closing(self._fits), self._interruptible() as running:
            yield running

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[dict[str, _Running]]:
        """Hold the running workers; whatever ends the run ends them too."""
        running: dict[str, _Running] = {}
        try:
            yield running
        finally:
            for one in running.values():
                one.worker.kill()
            for one in running.values():
                with one.claim:
                    one.worker.close()


@dataclass
class _Running:
    job: Job
    worker: Worker
    claim: contextlib.ExitStack
    has_begun: bool = False
    ended_as: dict[str, Any] | None = None  # what its watch says of it, once that has ended it

    def outcome(self) -> dict[str, Any]:
        """Return what its worker, or its watch, says of it."""
        if self.ended_as is None:
            return self.worker.outcome()
        return {"peak_rss_bytes": self.worker.peak_rss_bytes or None} | self.ended_as


def _crowd(suite: Suite, n_cores: int, memory_bytes: int) -> str:
    """Return what the jobs that run at once may ask for beyond what a machine has; empty if nothing."""
    told = []
    if (n_threads := suite.jobs * (suite.threads or 1)) > n_cores:
        told.append(f"{n_threads} threads on {n_cores} cores: times are those of a crowded machine")
    limit = suite.limits().max_memory_bytes or 0
    if suite.jobs > 1 and suite.jobs * limit > memory_bytes:
        told.append(f"{format_bytes(suite.jobs * limit)} of memory where {format_bytes(memory_bytes)} are free")
    return f"{suite.jobs} jobs at once may take {' and '.join(told)}" if told else ""


def _arrays(folder: Path) -> dict[str, Any]:
    """Return the arrays that a worker has left for the store."""
    found = {}
    for path in (folder / PER_USER_FILE, folder / COCLUSTER_FILE):
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                found.update({name: file[name] for name in file})
    return found


def open_store(folder: str | Path) -> Store:
    """Return the store in `folder`, set to write under the name of this machine."""
    return Store(folder, machine_name())
