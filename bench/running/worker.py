"""The worker process: one request in, one outcome out. Everything heavy happens here and nowhere else.

Started as `python -m recscale.running.worker FOLDER FD PARENT`. Reads `request.json` in the folder, writes
`outcome.json` (and `per_user.npz`) there, each moved into place when complete, and reports what it is doing as JSON
lines on the open file descriptor FD. Standard output and error belong to the models: what they print ends in the log.
For a job on several devices it starts itself again, with two more arguments, RANK and STARTED.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from recscale.errors import ModelError, OutOfMemory, RecscaleError, StoreError
from recscale.measuring.budget import (
    Budget,
    apply_memory_limit,
    classify,
    data_bytes,
    die_with_parent,
)
from recscale.measuring.machine import each_device
from recscale.measuring.size import format_bytes
from recscale.records.record import JUDGE, VALIDATION
from recscale.running.job import Job, Request, to_disk, write_whole
from recscale.running.peers import Place, outcome_file

if TYPE_CHECKING:
    from recscale.measuring.meter import Meter

PROGRESS_INTERVAL_SECONDS = 0.1
MAX_HISTORY = 2_000  # points kept of each series that a model logs
LEAST_ROOM_BYTES = 2**16  # on the disk of a job that failed: with less, it may have failed of that


class Reporter:
    """Sends events to the parent and keeps what the model logged."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last: dict[str, float] = {}  # when each name was sent: what comes at the end of an epoch comes together
        self.history: dict[str, list[list[float]]] = {}
        self.phase = "start"

    def send(self, **event: Any) -> None:
        """Send one event; a parent that is gone is no error, since this process dies with it."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, msgspec.json.encode(event) + b"\n")

    def begin(self, phase: str) -> None:
        """Say that a phase begins."""
        self.phase = phase
        self.send(event="phase", name=phase)

    def log(self, name: str, step: int, value: float) -> None:
        """Take what a model logs: `progress` is shown, everything else is shown, and kept if it is a finite number."""
        if name != "progress" and math.isfinite(value):  # JSON has no other numbers
            series = self.history.setdefault(name, [])
            if len(series) < MAX_HISTORY:
                series.append([step, float(value)])
        now = time.monotonic()
        pause = now - self._last.get(name, -PROGRESS_INTERVAL_SECONDS)
        is_watched = name.startswith(VALIDATION)  # a trial of tuning may be ended for each of them
        if pause >= PROGRESS_INTERVAL_SECONDS or is_watched or (name == "progress" and step >= value):
            self._last[name] = now
            self.send(event="log", phase=self.phase, name=name, step=step, value=float(value))


def main(folder: Path, descriptor: int, parent_pid: int, rank: int = 0, started: float | None = None) -> int:
    """Serve the one request in `folder`, or the part of it of process `rank`; return the exit code.

    The time limit counts from `started`, a reading of `time.monotonic()`, or from now. Where a job ends for what is no
    fault of its own, as a full disk, there is no outcome, and the parent is told why.
    """
    started = time.monotonic() if started is None else started
    die_with_parent(parent_pid)
    request = msgspec.json.decode((folder / "request.json").read_bytes(), type=Request)
    reporter, path = Reporter(descriptor), outcome_file(folder, rank)
    outcome: dict[str, Any] = {}
    try:
        _apply(request.limits.of_each(_n_processes(request)))
        outcome = {"status": "ok"} | _serve(request, folder, reporter, (started, rank))
    except StoreError as error:
        reporter.send(event="stopped", reason=str(error))
        return 1
    except BaseException as error:
        outcome = getattr(error, "partial_outcome", {}) | _failure(error, reporter)
    try:
        with to_disk(folder):
            if outcome["status"] == "error":
                (folder / "room").write_bytes(bytes(LEAST_ROOM_BYTES))
            _write(outcome, path, reporter)
    except StoreError as error:
        reporter.send(event="stopped", reason=str(error))
        return 1
    return int(rank > 0 and outcome["status"] != "ok")


def _n_processes(request: Request) -> int:
    return len(each_device(request.job.device or "cpu")) if request.job else 1


def _write(outcome: dict[str, Any], path: Path, reporter: Reporter) -> None:
    content = msgspec.json.encode(outcome | {"history": reporter.history}, enc_hook=_plain)
    write_whole(path, content)


def _apply(limits: Budget) -> None:
    """Set the limit on memory, once the libraries are loaded that any job needs.

    Loaded under a limit that is too small, OpenBLAS asks for its buffers again and again and never comes back.
    Raises OutOfMemory if they have used the limit up.
    """
    if limits.max_memory_bytes is None:
        return
    for library in ("numpy", "scipy.sparse", "scipy.linalg", "numba.np.arraymath"):
        importlib.import_module(library)
    taken = data_bytes()
    if limits.max_memory_bytes < taken:
        limit = format_bytes(limits.max_memory_bytes)
        raise OutOfMemory(f"Python and its libraries take {format_bytes(taken)} before a model starts, of {limit}")
    apply_memory_limit(limits.max_memory_bytes)


def _serve(request: Request, folder: Path, reporter: Reporter, turn: tuple[float, int]) -> dict[str, Any]:
    if request.task == "prepare" and request.data is not None:
        from recscale.running.prepare import prepare

        reporter.begin("prepare")
        return {"prepared": prepare(request.data, request.plugins)}
    if request.task == "calibrate":
        from recscale.measuring.machine import calibrate

        reporter.begin("calibrate")
        return {"calibration": calibrate(n_threads=int(os.environ["OMP_NUM_THREADS"]))}
    if request.task == "run" and request.job is not None:
        return _run(request, request.job, folder, reporter, turn)
    raise RecscaleError(f"no worker task named {request.task!r}")


def _run(request: Request, job: Job, folder: Path, reporter: Reporter, turn: tuple[float, int]) -> dict[str, Any]:
    """Run a job, or the part of its process `rank` in the fit; `turn` is when it started, and the rank."""
    from recscale.measuring.machine import versions
    from recscale.measuring.meter import Meter
    from recscale.running.measurement import Measurement, Phases

    started, rank = turn
    place = Place(job, rank)
    # the first process takes the energy of the processors, which is that of all
    meter = Meter(device=place.device) if rank == 0 else Meter(device=place.device, system=Path(os.devnull))
    outcome: dict[str, Any] = {"device_used": job.device, "versions": versions()}

    def keep(**fields: Any) -> None:
        with to_disk(folder):
            _write({"status": "ok"} | outcome | _costs(meter) | fields, outcome_file(folder, rank), reporter)

    try:
        measurement = Measurement(request, place, folder, Phases(meter, reporter), outcome, keep)
        if rank:
            measurement.take_part(started)
        else:
            measurement.run(started)
    except BaseException as error:
        error.partial_outcome = outcome  # type: ignore[attr-defined]
        raise
    finally:
        outcome |= _costs(meter)
    return outcome


def _costs(meter: Meter) -> dict[str, Any]:
    """Return the fields of a record that the meter fills."""
    of_model = [cost for name, cost in meter.phases.items() if name != JUDGE]
    peaks = [cost.peak_rss_bytes for cost in of_model if cost.peak_rss_bytes is not None]
    return {
        "phases": dict(meter.phases),
        "memory_method": meter.method,
        "energy_sources": list(meter.energy_sources),
        "peak_rss_bytes": max(peaks, default=None),
    }


def _failure(error: BaseException, reporter: Reporter) -> dict[str, Any]:
    """Return the fields of a record that say how a job failed; the traceback goes to the log."""
    import traceback

    if not isinstance(error, RecscaleError) or isinstance(error, ModelError):
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exception(error)
    message = " ".join(str(error).split())
    kind = [] if isinstance(error, RecscaleError) else [type(error).__name__]
    reason = ": ".join([*kind, *([message] if message else [])])
    return {"status": classify(error), "reason": reason[:500], "failed_phase": reporter.phase}


def _plain(value: Any) -> Any:
    """Turn numpy scalars into numbers for JSON."""
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no place in an outcome")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), *map(float, sys.argv[5:])))
