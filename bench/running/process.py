"""One worker process as its parent sees it: started, listened to, killed when its time is up, and read out."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from recscale.errors import StoreError
from recscale.measuring.budget import classify_exit
from recscale.measuring.meter import peak_rss_of
from recscale.records.owners import owner_mark
from recscale.running.checkpoints import spent_before
from recscale.running.job import Fitted, Request, SpentBefore

GRACE_SECONDS = 3.0  # between the deadline, which a model may notice itself, and SIGKILL
LEAST_SECONDS = 60.0  # of a worker that goes on with a fit
LOG_TAIL_LINES = 20
_PACKAGE = Path(__file__).parent.parent
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def _seconds_left(request: Request) -> float | None:
    """Return the time limit less what the fit had taken before: up to its checkpoint, or for a larger size.

    A worker has at least the time to find out by itself that none is left, and to write down what was spent.
    """
    limit = request.limits.timeout_seconds
    if limit is None:
        return None
    before: Fitted | SpentBefore | None = request.fitted
    if before is None and request.checkpoint is not None:
        before = spent_before(Path(request.checkpoint))
    return limit if before is None else max(limit - before.fit.wall_seconds, min(limit, LEAST_SECONDS))


class WorkerProcess:
    """A fresh Python process that serves one request in a folder of its own below `work_folder`."""

    def __init__(self, request: Request, work_folder: Path, *, n_threads: int = 1) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(dir=work_folder, prefix=f"{owner_mark()}-"))
            (self.folder / "request.json").write_bytes(msgspec.json.encode(request))
            log = (self.folder / "log.txt").open("wb")
        except OSError as error:
            raise StoreError(f"{work_folder} cannot be written: {(error.strerror or str(error)).lower()}") from None
        self.timeout_seconds = request.limits.timeout_seconds
        self._seconds_left = _seconds_left(request)
        self.phase = "start"
        self.peak_rss_bytes = 0
        self.timed_out = False
        self._stopped: str | None = None  # why the worker has no outcome
        self._pending = b""
        environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(n_threads))
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "recscale.running.worker", str(self.folder), str(writing), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the workers
            )
        os.close(writing)
        self.descriptor = reading
        self.started = time.monotonic()

    def events(self) -> list[dict[str, Any]]:
        """Return the events that arrived since the last call, and take the memory in use."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.descriptor, 65536):
                self._pending += chunk
        *lines, self._pending = self._pending.split(b"\n")
        events: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # a model that writes to every open descriptor
                event = msgspec.json.decode(line)
                if isinstance(event, dict):
                    events.append(event)
                    if event.get("event") == "phase":
                        self.phase = str(event.get("name"))
                    elif event.get("event") == "stopped":
                        self._stopped = str(event.get("reason"))
        self._watch_memory()
        return events

    def is_done(self) -> bool:
        """Tell whether the process has ended, and everything that it started; kill it first if its time is up."""
        if self._process.returncode is not None:
            return True
        if self._has_ended():
            self.kill()  # what is left of its family
            return True
        limit = self._seconds_left
        if limit is not None and time.monotonic() - self.started > limit + GRACE_SECONDS:
            self.timed_out = True
            self.kill()
        return False

    def _has_ended(self) -> bool:
        """Tell whether the process has ended, without a wait for it, which would give its number away."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # where SIGCHLD is ignored the kernel has waited
            return True

    def kill(self) -> None:
        """End the process and everything that it started.

        As long as nobody has waited for a process, its number is its own, dead or alive.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def outcome(self) -> dict[str, Any]:
        """Return what the worker wrote, or what its end says about a worker that wrote nothing.

        Raises StoreError if it could not write, or its split is another: no fault of the job, which will run again.
        """
        if self._stopped is not None:
            raise StoreError(self._stopped)
        tail = self._log_tail()
        try:
            found: dict[str, Any] = msgspec.json.decode((self.folder / "outcome.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            found = self._death(tail)
        if found["status"] != "ok":
            found["log_tail"] = tail
            found["peak_rss_bytes"] = max(found.get("peak_rss_bytes") or 0, self.peak_rss_bytes) or None
        return found

    def close(self) -> None:
        """Remove the folder and the pipe; kill the process if it still runs."""
        self.kill()
        os.close(self.descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _death(self, tail: list[str]) -> dict[str, Any]:
        if self.timed_out:
            reason = f"killed {GRACE_SECONDS:g} s after its {self.timeout_seconds:g} s were over"
            return {"status": "timeout", "reason": reason, "failed_phase": self.phase}
        status, reason = classify_exit(self._process.returncode, tail)
        return {"status": status, "reason": reason, "failed_phase": self.phase}

    def _log_tail(self) -> list[str]:
        with (self.folder / "log.txt").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            text = log.read().decode("utf-8", errors="replace")
        for place, told in ((self.folder, "."), (_PACKAGE, "recscale"), (Path.home(), "~")):
            if place != Path(place.anchor):  # a home of "/" is nobody's
                text = text.replace(str(place), told)  # records are shared: they say nothing of whose machine it was
        return [line[:300] for line in text.replace("\r", "\n").splitlines() if line.strip()][-LOG_TAIL_LINES:]

    def _watch_memory(self) -> None:
        """Keep the highest memory seen, for a worker that dies before it can tell."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_of(self._process.pid) or 0)
