"""The executor `local`: jobs are processes of this machine, `jobs` at a time."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from recscale.errors import RecscaleError
from recscale.measuring.budget import machine_memory_limit
from recscale.measuring.gpu import visible_gpus
from recscale.measuring.machine import each_device, fingerprint, torch_device, usable_cores
from recscale.running.executor import TICK_SECONDS, Start
from recscale.running.job import Request
from recscale.running.process import WorkerProcess

if TYPE_CHECKING:
    from recscale.running.suite import Suite

CALIBRATION_HOLDS_SECONDS = 600.0  # for the runs of one Python process: measuring takes longer than many a job
_calibrations: dict[int, tuple[float, dict[str, float]]] = {}  # by threads: when it was measured, and what


class LocalWorker(WorkerProcess):
    """A worker process of this machine."""

    def __init__(self, request: Request, work_folder: Path, start: Start, *, n_threads: int) -> None:
        super().__init__(request, work_folder, n_threads=n_threads)
        self.start = start
        self.devices = each_device(request.job.device) if request.job and request.job.device else []

    @property
    def wall_seconds(self) -> float:
        """How long the process has run."""
        return time.monotonic() - self.started


class LocalExecutor:
    """Runs jobs on this machine. Its speed is measured before the first of them, unless it was a short while ago."""

    shares_fits = True

    def __init__(self, suite: Suite, work_folder: Path) -> None:
        self._n_jobs, self._work_folder = suite.jobs, work_folder
        self._machine: dict[str, Any] = {}
        self._calibration: dict[str, float] = {}
        self._running: list[LocalWorker] = []

    @property
    def n_cores(self) -> int:
        """The cores that this process may keep busy."""
        return usable_cores()

    @property
    def memory_bytes(self) -> int:
        """The memory that can be used now."""
        return machine_memory_limit()

    def device(self, requested: str, allowed: tuple[str, ...]) -> str:
        """Return the device of this machine for a job. Raises UsageError or DeviceUnavailable."""
        return torch_device(requested, allowed)

    def has_room(self, n_running: int) -> bool:
        """Tell whether fewer than `jobs` are running."""
        return n_running < self._n_jobs

    def launch(self, request: Request) -> LocalWorker:
        """Start the process of a job."""
        n_threads = request.job.n_threads if request.job else 1
        if not self._calibration:
            self._machine = fingerprint()
            self._calibration = _calibration(self._work_folder, n_threads)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        start = Start(machine=self._machine, calibration=self._calibration, at=now)
        worker = LocalWorker(self._placed(request), self._work_folder, start, n_threads=n_threads)
        self._running.append(worker)
        return worker

    def _placed(self, request: Request) -> Request:
        """Return the request with the GPU of the first one's kind that the fewest jobs use now, where any will do."""
        self._running = [worker for worker in self._running if not worker.is_done()]
        job = request.job
        if job is None or job.device != "cuda:0" or job.device_requested not in ("auto", "cuda"):
            return request
        taken = [device for worker in self._running for device in worker.devices]
        gpus = visible_gpus()
        alike = (f"cuda:{place}" for place, gpu in enumerate(gpus) if gpu.name == gpus[0].name)
        device = min(alike, key=taken.count)
        return msgspec.structs.replace(request, job=msgspec.structs.replace(job, device=device))

    def wait(self, workers: Sequence[LocalWorker]) -> None:
        """Wait until one of the workers says something, a moment at most."""
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.descriptor, selectors.EVENT_READ)
            selector.select(timeout=TICK_SECONDS)

    def close(self) -> None:
        """Do nothing: each worker frees what it holds."""


def _calibration(work_folder: Path, n_threads: int) -> dict[str, float]:
    """Return the speed of this machine on so many threads, measured by a process of its own or a short while ago."""
    measured, calibration = _calibrations.get(n_threads, (float("-inf"), {}))
    if time.monotonic() - measured > CALIBRATION_HOLDS_SECONDS:
        calibration = ask(Request(task="calibrate"), work_folder, n_threads=n_threads)["calibration"]
        _calibrations[n_threads] = time.monotonic(), calibration
    return calibration


def ask(request: Request, work_folder: Path, *, n_threads: int = 1) -> dict[str, Any]:
    """Have a process of this machine serve a request that is no job. Raises RecscaleError with its reason."""
    with contextlib.closing(WorkerProcess(request, work_folder, n_threads=n_threads)) as worker:
        while not worker.is_done():
            time.sleep(TICK_SECONDS / 4)
            worker.events()
        outcome = worker.outcome()
    if outcome["status"] != "ok":
        raise RecscaleError(outcome["reason"])
    return outcome
