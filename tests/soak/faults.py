"""What goes wrong in a soak: the kinds of faults, when each falls by the draw of the seed, and how it is made."""

import contextlib
import errno
import functools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from runners import DISK_FULL, Bench, Runner

FULL_SECONDS = 15.0  # a disk stays full until a runner has met it, but no longer than this
LAST_SHARE = 0.95  # of the jobs: later there may be nobody left to hit
SPARED_AFTER = 0.25  # of the jobs: from there on nothing ends the first runner, whose memory is watched
JOBS_A_FAULT = {
    "kill a worker": 25,
    "kill a runner": 50,
    "end a runner": 50,
    "damage a record": 50,
    "damage vectors": 50,
    DISK_FULL: 125,
    "clock set back": 50,
}


DAMAGES = {"damage a record": ".json", "damage vectors": ".npz"}


@dataclass
class Faults:
    """The faults of one soak, drawn by `rng`, and what came of them."""

    bench: Bench
    runners: list[Runner]
    rng: random.Random
    can_fill: bool
    made: Counter[str] = field(default_factory=Counter)
    damaged: set[Path] = field(default_factory=set)
    _due: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw when each fault falls, as a number of finished jobs."""
        n_jobs = len(self.bench.jobs)
        for kind, jobs in JOBS_A_FAULT.items():
            share = SPARED_AFTER if kind == DISK_FULL else LAST_SHARE  # it ends all runners
            if kind != DISK_FULL or self.can_fill:
                self._due += [(self.rng.uniform(0.02, share) * n_jobs, kind) for _ in range(max(1, n_jobs // jobs))]
        self._due.sort()

    @property
    def n_left(self) -> int:
        """How many have not been made yet."""
        return len(self._due)

    @property
    def n_damages(self) -> int:
        """How many files were damaged, some of them perhaps twice."""
        return sum(self.made[kind] for kind in DAMAGES)

    def damage(self) -> None:
        """Damage a record and vectors now."""
        for kind, suffix in DAMAGES.items():
            self.made[kind] += self._damage(suffix)

    def make(self, n_done: int) -> None:
        """Make the first fault that is due, if it finds something to hit."""
        if not self._due or n_done < self._due[0][0]:
            return
        kind = self._due[0][1]
        hit: dict[str, Callable[[], bool]] = {
            "kill a worker": self._kill_worker,
            "kill a runner": lambda: self._end_runner(n_done, signal.SIGKILL),
            "end a runner": lambda: self._end_runner(n_done, self.rng.choice([signal.SIGTERM, signal.SIGINT])),
            **{kind: functools.partial(self._damage, suffix) for kind, suffix in DAMAGES.items()},
            DISK_FULL: self._fill_disk,
            "clock set back": self._set_clock_back,
        }
        if hit[kind]():
            self.made[kind] += 1
            del self._due[0]

    def _kill_worker(self) -> bool:
        workers = [worker for runner in self.runners for worker in runner.workers()]
        if not workers:
            return False
        with contextlib.suppress(psutil.Error):
            self.rng.choice(workers).kill()
            return True
        return False

    def _end_runner(self, n_done: int, number: int) -> bool:
        """End one that has jobs running: before, it is Python that starts and no runner yet."""
        spared = n_done > SPARED_AFTER * len(self.bench.jobs)
        busy = [runner for runner in self.runners[1 if spared else 0 :] if runner.workers()]
        if not busy:
            return False
        self.rng.choice(busy).end(number)
        return True

    def _damage(self, suffix: str) -> bool:
        """Cut a file of a finished job short, or write garbage into it."""
        files = sorted(path for path in self.bench.files() if path.suffix == suffix)
        if not files:
            return False
        path = self.rng.choice(files)
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            size = path.stat().st_size
            if self.rng.random() < 0.5:
                file.truncate(self.rng.randrange(size))
            else:
                file.seek(self.rng.randrange(size - 64))
                file.write(self.rng.randbytes(64))
            self.damaged.add(path)
            return True
        return False

    def _set_clock_back(self) -> bool:
        hours = self.rng.randint(1, 48)
        now = int(self.bench.clock.read_text())
        beside = self.bench.clock.with_suffix(".new")
        beside.write_text(str(now - 3600 * hours))
        beside.replace(self.bench.clock)
        return True

    def _fill_disk(self) -> bool:
        """Take every byte of the store's file system, or every file that it may hold, for a while."""
        if not all(runner.workers() for runner in self.runners):
            return False
        for runner in self.runners:
            runner.fault = DISK_FULL
        filler = self.bench.store.parent / "filler"
        filler.mkdir()
        try:
            (self._take_bytes if self.rng.random() < 0.5 else self._take_files)(filler)
            deadline = time.monotonic() + FULL_SECONDS
            while all(runner.look() for runner in self.runners) and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            for path in filler.iterdir():
                path.unlink()
            filler.rmdir()
        return True

    def _take_bytes(self, filler: Path) -> None:
        with _until_full(), (filler / "bytes").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def _take_files(self, filler: Path) -> None:
        number = 0
        with _until_full():
            while True:
                (filler / str(number)).touch()
                number += 1


@contextlib.contextmanager
def _until_full():
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
