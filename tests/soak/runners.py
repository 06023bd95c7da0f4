"""The processes of the soak: runners that are started again whenever they end, and what they are seen to do."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil

HERE = Path(__file__).parent
N_USERS, N_ITEMS, HISTORY = 60, 20, 8
MAX_MEMORY = "2GB"
JOBS_AT_A_TIME = 2  # of each runner
PATIENCE_SECONDS = 60.0  # for a runner that was asked to end
DISK_FULL = "disk full"
ENDS = {  # by a fault: the exit code of a runner, and what it says
    "SIGKILL": (-signal.SIGKILL, ""),
    "SIGTERM": (130, "interrupted: finished jobs are kept"),
    "SIGINT": (130, "interrupted: finished jobs are kept"),
    DISK_FULL: (2, "cannot be written|could not be written"),
}


@dataclass(frozen=True)
class Bench:
    """Where a soak takes place, and its jobs: each of `n_widths` widths with each seed, and two that must fail."""

    folder: Path  # of everything but the store
    store: Path
    n_widths: int
    n_seeds: int
    timeout_seconds: int

    @property
    def jobs(self) -> set[tuple[str, int, int]]:
        """What each job does, its width and its seed."""
        acts = [("work", width) for width in range(1, self.n_widths + 1)] + [("allocate", 1), ("sleep", 1)]
        return {(act, width, seed) for act, width in acts for seed in range(self.n_seeds)}

    @property
    def clock(self) -> Path:
        """The file with the seconds by which the runners' clock is wrong."""
        return self.folder / "clock"

    @property
    def fits(self) -> Path:
        """The file with a line for every fit."""
        return self.folder / "fits"

    def make(self) -> None:
        """Write the data, and set the clock right."""
        rng = np.random.default_rng(0)
        pairs = [(user, item) for user in range(N_USERS) for item in rng.choice(N_ITEMS, HISTORY, replace=False)]
        lines = ["user,item", *(f"u{user},i{item}" for user, item in pairs)]
        (self.folder / "data.csv").write_text("\n".join(lines) + "\n")
        self.clock.write_text("0")
        self.fits.touch()

    def command(self, *flags: str) -> list[str]:
        """Return the command that runs all jobs."""
        widths = ",".join(str(width) for width in range(1, self.n_widths + 1))
        models = ["soaked[act=sleep]", f"soaked[width={widths}]", "soaked[act=allocate]"]
        command = [sys.executable, "-m", "recscale", "run", "--data", str(self.folder / "data.csv")]
        command += ["--plugin", str(HERE / "soaked.py"), *(word for model in models for word in ("-m", model))]
        command += ["--seeds", *(str(seed) for seed in range(self.n_seeds)), "--store", str(self.store)]
        command += ["--timeout", str(self.timeout_seconds), "--max-memory", MAX_MEMORY]
        return [*command, "--jobs", str(JOBS_AT_A_TIME), *flags]

    def environment(self) -> dict[str, str]:
        """Return the environment of a runner."""
        path = os.pathsep.join([str(HERE / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"RECSCALE_CACHE": str(self.folder / "cache"), "PYTHONPATH": path}
        return os.environ | own | {"SOAK_CLOCK": str(self.clock), "SOAK_FITS": str(self.fits)}

    def files(self) -> list[Path]:
        """Return the files of records and vectors, and whatever else lies beside them."""
        return list(self.store.glob("[!.]*/*/*/*"))


@dataclass
class Runner:
    """A `recscale run` that is started anew after each end but a good one."""

    bench: Bench
    name: str
    n_starts: int = 0
    ended_well: bool = False
    complaints: list[str] = field(default_factory=list)  # ends that no fault accounts for
    fault: str | None = None  # the last one that it has met
    process: psutil.Popen | None = None

    def start(self) -> None:
        """Start it."""
        self.n_starts += 1
        self.fault = None
        with self._log.open("w") as log:
            self.process = psutil.Popen(
                self.bench.command(), stdout=subprocess.DEVNULL, stderr=log, env=self.bench.environment()
            )

    def look(self) -> bool:
        """Take note of how it ended, if it did; return whether it runs."""
        if self.process is None:
            return False
        code = self.process.poll()
        if code is None:
            return True
        self.process = None
        told = self._log.read_text(errors="replace")
        if code == 0:
            self.ended_well = True
        elif not self._is_accounted_for(code, told):
            self.complaints.append(f"{self.name} ended with exit code {code}: {' | '.join(told.splitlines()[-12:])}")
        return False

    def workers(self) -> list[psutil.Process]:
        """Return the processes of its jobs."""
        found = []
        with contextlib.suppress(psutil.Error):
            for child in self.process.children() if self.process else []:
                with contextlib.suppress(psutil.Error, OSError, IndexError, msgspec.DecodeError):
                    request = Path(child.cmdline()[3]) / "request.json"
                    if msgspec.json.decode(request.read_bytes())["task"] == "run":
                        found.append(child)
        return found

    def rss_bytes(self) -> int | None:
        """Return the memory it holds."""
        with contextlib.suppress(psutil.Error):
            return self.process.memory_info().rss if self.process else None
        return None

    def end(self, number: int) -> None:
        """Send it a signal and wait until it is gone."""
        if self.process is None:
            return
        self.fault = signal.Signals(number).name
        self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except psutil.TimeoutExpired:
            self.complaints.append(f"{self.name} did not end by signal {number} within {PATIENCE_SECONDS:g} s")
            self.process.kill()
            self.process.wait()
        self.look()

    def _is_accounted_for(self, code: int, told: str) -> bool:
        """Tell whether it ended as the fault that it met should end it, and said so in a line."""
        expected, words = ENDS.get(self.fault or "", (0, ""))
        return code == expected and re.search(words, told) is not None and "Traceback" not in told

    @property
    def _log(self) -> Path:
        return self.bench.folder / f"{self.name}, start {self.n_starts}.log"


def processes_of(bench: Bench) -> list[psutil.Process]:
    """Return the processes whose command names the store of a soak, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(str(bench.store) in word for word in process.cmdline()):
                found.append(process)
    return found


def wait_for_none(bench: Bench, seconds: float = 10.0) -> list[psutil.Process]:
    """Return the processes of a soak that are left after a while."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(bench)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
