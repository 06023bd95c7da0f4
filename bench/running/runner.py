"""Runs suites: prepares the data, plans the jobs, refuses what cannot fit, runs the rest and stores every record."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from recscale.errors import RecscaleError
from recscale.measuring.budget import machine_memory_limit, refusal
from recscale.measuring.machine import fingerprint, machine_name, source_commit
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.checkpoints import checkpoint_of, forget_checkpoint, remove_old_checkpoints
from recscale.running.job import COCLUSTER_FILE, PER_USER_FILE, Data, Job, Prepared, Request
from recscale.running.prepare import find_prepared
from recscale.running.process import WorkerProcess, owner_mark, remove_abandoned
from recscale.running.sharing import SharedFits, largest_first
from recscale.running.suite import Suite, all_data, check_suite, expand

Overwrite = Literal["never", "failed", "always"]
TICK_SECONDS = 0.1
WAIT_SECONDS = 1.0  # until one looks again whether another runner has finished something
PROCESS_BYTES = 200 * 10**6  # data memory of a worker before its model, on two cores; BLAS takes more on more


class Display(Protocol):
    """Shows what a run is doing. Every call returns at once."""

    def preparing(self, data: Data) -> None: ...
    def prepared(self, data: Data, prepared: Prepared) -> None: ...
    def planned(self, n_jobs: int | None, n_settled: int, told: str = "", name: str = "job") -> None: ...
    def started(self, job: Job) -> None: ...
    def event(self, job: Job, event: dict[str, Any]) -> None: ...
    def finished(self, job: Job, record: RunRecord) -> None: ...
    def waiting(self, job: Job) -> None: ...
    def closed(self) -> None: ...


class Watch(Protocol):
    """Follows a running job, and may end it: `look` then returns what its record says beside the costs."""

    def start(self, job: Job, checkpoint: Path) -> None: ...
    def look(self, job: Job, event: dict[str, Any]) -> dict[str, Any] | None: ...


@dataclass
class Plan:
    """The jobs of a suite, each with the record that settles it (or None) and the reason to refuse it (or None)."""

    jobs: list[Job]
    settled: dict[str, RunRecord]
    refusals: dict[str, str]


@dataclass
class Runner:
    """Runs one suite into one store.

    `overwrite` says which finished jobs are run again: none, those that failed, or all.
    """

    suite: Suite
    store: Store
    display: Display
    overwrite: Overwrite = "never"
    _calibration: dict[str, float] = field(default_factory=dict)
    _machine: dict[str, Any] = field(default_factory=dict)
    _commit: str | None = field(default_factory=source_commit)
    _fits: SharedFits = field(init=False)
    _watch: Watch | None = field(init=False, default=None)

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
        return self.plan_of([job for data, prepared in splits for job in expand(suite, data, prepared)])

    def plan_of(self, jobs: Sequence[Job]) -> Plan:
        """Return the plan of these jobs, each once, on splits that are prepared."""
        self._machine = self._machine or fingerprint()
        plan = Plan([], {}, {})
        for job in jobs:
            if any(job.key == other.key for other in plan.jobs):
                continue
            plan.jobs.append(job)
            record = self._stored(job)
            if record is not None and job.is_settled_by(record, self.overwrite):
                plan.settled[job.key] = record
            if reason := _refusal(job):
                plan.refusals[job.key] = reason
        return plan

    def run(self) -> list[RunRecord]:
        """Run what is not settled yet; return the records of all jobs of the suite, in their order."""
        try:
            plan = self.plan()
            self.display.planned(len(plan.jobs), len(plan.settled))
            return self.run_plan(plan)
        finally:
            self.display.closed()

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

    def _pass(
        self, jobs: list[Job], plan: Plan, records: dict[str, RunRecord], running: dict[int, _Running]
    ) -> list[Job]:
        """Go through `jobs` once; return those that another runner holds."""
        left = []
        for number, job in enumerate(jobs):
            while len(running) >= self.suite.jobs:
                self._tick(running, records)
            self._fits.keep_only({other.family for other in jobs[number:]} | {o.job.family for o in running.values()})
            claim = contextlib.ExitStack()
            if not claim.enter_context(self.store.claim(job.key)):
                left.append(job)
                continue
            record = self._stored(job)
            if record is not None and record.key not in plan.settled and self._is_news(job, record):
                records[job.key] = record
                self.display.finished(job, record)
            elif reason := plan.refusals.get(job.key):
                records[job.key] = self._keep(job, {"status": "refused", "reason": reason})
            elif job.unavailable:
                records[job.key] = self._keep(job, {"status": "skipped", "reason": job.unavailable})
            else:
                later = [other for other in jobs[number + 1 :] if other.key not in plan.refusals]
                started = self._start(job, claim, later)
                running[started.worker.descriptor] = started
                continue
            claim.close()
        while running:
            self._tick(running, records)
        return left

    def _is_news(self, job: Job, record: RunRecord) -> bool:
        """Tell whether another runner has settled `job` since the plan was made."""
        return self.overwrite != "always" and job.is_settled_by(record, self.overwrite)

    def _start(self, job: Job, claim: contextlib.ExitStack, later: list[Job]) -> _Running:
        if not self._calibration:
            self._calibration = self._ask(Request(task="calibrate"), n_threads=job.n_threads)["calibration"]
        self.display.started(job)
        fitted = self._fits.of(job)
        keeps_fit = fitted is None and self._fits.is_wanted(job, later)
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
        worker = WorkerProcess(request, self.store.work_folder(), n_threads=job.n_threads)
        return _Running(job, worker, claim, datetime.now(UTC).isoformat(timespec="seconds"))

    def _tick(self, running: dict[int, _Running], records: dict[str, RunRecord]) -> None:
        """Wait a moment for news of the running workers; store the records of those that ended."""
        with selectors.DefaultSelector() as selector:
            for one in running.values():
                selector.register(one.worker.descriptor, selectors.EVENT_READ)
            selector.select(timeout=TICK_SECONDS)
        for descriptor, one in list(running.items()):
            done = one.worker.is_done()
            for event in one.worker.events():
                self.display.event(one.job, event)
                if self._watch is not None and one.ended_as is None:
                    one.ended_as = self._watch.look(one.job, event)
            if one.ended_as is not None and not done:  # one that was just done is ended all the same: not by the clock
                one.worker.kill()
            elif not done:
                continue
            del running[descriptor]
            with one.claim, contextlib.closing(one.worker):
                self._fits.take(one.job, one.worker.folder)
                records[one.job.key] = self._keep(one.job, one.outcome(), one)

    def _keep(self, job: Job, outcome: dict[str, Any], one: _Running | None = None) -> RunRecord:
        """Store the record of an ended job, at once; return it."""
        fields = job.blank_record() | outcome
        fields["machine"] = self._machine
        fields["commit"] = self._commit
        fields["calibration"] = self._calibration
        fields["started_at"] = one.started_at if one else datetime.now(UTC).isoformat(timespec="seconds")
        fields["job_wall_seconds"] = time.monotonic() - one.worker.started if one else None
        record = msgspec.convert(fields, RunRecord)
        has_arrays = record.status == "ok" and job.evaluated_on == "test"
        self.store.put(record, _arrays(one.worker.folder) if one is not None and has_arrays else {})
        if one is not None and record.status != "timeout":  # with more time it goes on from there
            forget_checkpoint(job, self.store.work_folder())
        self.display.finished(job, record)
        return record

    def _stored(self, job: Job) -> RunRecord | None:
        return self.store.get(
            dataset=job.data.text,
            protocol=job.data.protocol_text,
            model=job.model,
            key=job.key,
            evaluated_on=job.evaluated_on,
        )

    def _prepared(self, data: Data) -> Prepared:
        found = find_prepared(data, self.suite.plugins)
        if found is None:
            self.display.preparing(data)
            outcome = self._ask(Request(task="prepare", data=data, plugins=self.suite.plugins))
            found = msgspec.convert(outcome["prepared"], Prepared)
        self.display.prepared(data, found)
        return found

    def _ask(self, request: Request, *, n_threads: int = 1) -> dict[str, Any]:
        """Have a worker serve a request that is no job. Raises RecscaleError with its reason."""
        with contextlib.closing(WorkerProcess(request, self.store.work_folder(), n_threads=n_threads)) as worker:
            while not worker.is_done():
                time.sleep(TICK_SECONDS / 4)
                worker.events()
            outcome = worker.outcome()
        if outcome["status"] != "ok":
            raise RecscaleError(outcome["reason"])
        return outcome

    def budgeted(self) -> Suite:
        """Return the suite with the machine's own memory as the limit where none was given."""
        if self.suite.max_memory is not None:
            return self.suite
        return msgspec.structs.replace(self.suite, max_memory=machine_memory_limit() // self.suite.jobs)

    @contextlib.contextmanager
    def _working(self, watch: Watch | None = None) -> Iterator[dict[int, _Running]]:
        """Hold the running workers and the fits that they share, `watch` looking on."""
        self._fits, self._watch = SharedFits(self.store.work_folder() / f"{owner_mark()}-fits"), watch
        with contextlib.closing(self._fits), self._interruptible() as running:
            yield running

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[dict[int, _Running]]:
        """Hold the running workers; whatever ends the run ends them too."""
        running: dict[int, _Running] = {}
        try:
            yield running
        finally:
            for one in running.values():
                with one.claim:
                    one.worker.close()


@dataclass
class _Running:
    job: Job
    worker: WorkerProcess
    claim: contextlib.ExitStack
    started_at: str
    ended_as: dict[str, Any] | None = None  # what its watch says of it, once that has ended it

    def outcome(self) -> dict[str, Any]:
        """Return what its worker, or its watch, says of it."""
        if self.ended_as is None:
            return self.worker.outcome()
        return {"peak_rss_bytes": self.worker.peak_rss_bytes or None} | self.ended_as


def _arrays(folder: Path) -> dict[str, Any]:
    """Return the arrays that a worker has left for the store."""
    found = {}
    for path in (folder / PER_USER_FILE, folder / COCLUSTER_FILE):
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                found.update({name: file[name] for name in file})
    return found


def _refusal(job: Job) -> str | None:
    """Return why a job cannot fit its budget, by its estimate; None if it may."""
    if job.device == "cpu":
        estimate = job.estimated_peak_bytes
        return refusal(None if estimate is None else estimate + PROCESS_BYTES, job.limits.max_memory_bytes)
    return refusal(job.estimated_peak_bytes, job.limits.max_gpu_memory_bytes, what="GPU memory")


def open_store(folder: str | Path) -> Store:
    """Return the store in `folder`, set to write under the name of this machine."""
    return Store(folder, machine_name())
