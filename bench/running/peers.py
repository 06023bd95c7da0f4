"""Training on several devices: the processes that fit one model together, a device each.

The worker of a job is the first of them, and starts the others before it reads anything. Each loads the data and warms
up on its own, and all join in one group of torch.distributed for the fit: NCCL on GPUs, Gloo on processors. They meet
by a file in the folder of the job, so that no port has to be free. The model that the first has then is measured.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from recscale.contract import Estimate
from recscale.errors import RecscaleError
from recscale.measuring.budget import classify_exit
from recscale.measuring.machine import each_device
from recscale.records.record import Phase
from recscale.running.job import Job

GRACE_SECONDS = 5.0  # in which the first may still say itself why a fit failed, before another's reason counts
POLL_SECONDS = 0.1
_SUMS = ("cpu_seconds", "start_rss_bytes", "peak_rss_bytes", "peak_device_bytes", "peak_device_process_bytes")


class PeerFailed(RecscaleError):
    """Another process of the group failed, which ended the fit of all."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Place:
    """Which of the processes that fit a job together this is."""

    job: Job
    rank: int = 0

    @property
    def devices(self) -> list[str]:
        """The devices of the job."""
        return each_device(self.job.device or "cpu")

    @property
    def device(self) -> str:
        """The device of this process."""
        return self.devices[self.rank]

    @property
    def n_threads(self) -> int:
        """The threads that each process has while they fit."""
        return max(1, self.job.n_threads // len(self.devices))


class Peers:
    """The other processes of a job, as the first sees them. There are none where the job has a single device.

    `give_up` is called, from another thread, with the fields of a failure: if one of them ends while the first waits
    for it, nothing else would end that.
    """

    def __init__(self, place: Place, folder: Path, give_up: Callable[[dict[str, Any]], None]) -> None:
        self._folder, self._give_up = folder, give_up
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_over = threading.Event()
        self._n, self._n_threads = len(place.devices), place.n_threads

    def start(self, started: float) -> None:
        """Start them. `started` is the reading of `time.monotonic()` from which the time limit counts."""
        threads = {name: str(self._n_threads) for name in os.environ if name.endswith("_NUM_THREADS")}
        for rank in range(1, self._n):
            arguments = [str(self._folder), "-1", str(os.getpid()), str(rank), repr(started)]
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "recscale.running.worker", *arguments],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | threads,
                )
            )
        if self._processes:
            threading.Thread(target=self._watch, name="recscale-peers", daemon=True).start()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise what another process failed of, where it is what ended the body. Raises PeerFailed."""
        try:
            yield
        except RuntimeError as error:  # what torch raises where the group broke
            if isinstance(error, RecscaleError) or (failure := self._failure(GRACE_SECONDS)) is None:
                raise
            raise PeerFailed(failure["status"], failure["reason"]) from error
        finally:
            self._is_over.set()

    def together(self, own: Phase) -> Phase:
        """Return the cost of the fit of all. Memory is the sum of the peaks, energy what all devices took."""
        return summed([own, *(self._fit_of(process, rank) for rank, process in enumerate(self._processes, start=1))])

    def close(self) -> None:
        """End the other processes."""
        self._is_over.set()
        for process in self._processes:
            process.kill()
            process.wait()

    def _watch(self) -> None:
        """Give up for the first process where it waits for one that has failed."""
        while not self._is_over.wait(POLL_SECONDS):
            if (failure := self._failure()) is not None:
                if not self._is_over.wait(GRACE_SECONDS):
                    self._give_up(failure)
                return

    def _failure(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """Return status and reason of the first process that failed; None if within so many seconds none has."""
        end = time.monotonic() + seconds
        while True:
            for rank, process in enumerate(self._processes, start=1):
                if process.poll() not in (None, 0):
                    return self._reason_of(rank, process.returncode)
            if time.monotonic() >= end:
                return None
            time.sleep(POLL_SECONDS)

    def _reason_of(self, rank: int, return_code: int) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(outcome_file(self._folder, rank).read_bytes())
        except (OSError, msgspec.DecodeError):
            found = dict(zip(("status", "reason"), classify_exit(return_code), strict=True))
        return {"status": found["status"], "reason": f"process {rank + 1} of {self._n}: {found['reason']}"}

    def _fit_of(self, process: subprocess.Popen[bytes], rank: int) -> Phase:
        """Return the cost of the fit of another process, which ends as the first does. Raises PeerFailed."""
        if code := process.wait():
            failure = self._reason_of(rank, code)
            raise PeerFailed(failure["status"], failure["reason"])
        return msgspec.convert(
            msgspec.json.decode(outcome_file(self._folder, rank).read_bytes())["phases"]["fit"], Phase
        )


def summed(costs: Sequence[Phase]) -> Phase:
    """Return the cost of a fit from those of its processes: seconds, and the energy of processors, are the first's."""
    own, joules = costs[0], [cost.energy_joules for cost in costs if cost.energy_joules is not None]
    values = {name: [getattr(cost, name) for cost in costs] for name in _SUMS}
    totals = {name: None if None in found else sum(found) for name, found in values.items()}
    return msgspec.structs.replace(own, **totals, energy_joules=None if own.energy_joules is None else sum(joules))


def outcome_file(folder: Path, rank: int) -> Path:
    """Return where a process of a job writes what came of its part; the first writes that of the job."""
    return folder / (f"outcome-{rank}.json" if rank else "outcome.json")


def for_all(estimate: Estimate, device: str) -> Estimate:
    """Return what a fit needs on all devices of a job: each has the whole model, and a part of every batch."""
    n, seconds = len(each_device(device)), estimate.fit_seconds
    return replace(estimate, peak_bytes=n * estimate.peak_bytes, fit_seconds=None if seconds is None else seconds / n)
