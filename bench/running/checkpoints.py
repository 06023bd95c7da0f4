"""Trainings that were killed go on: where their checkpoints lie in a store, and what they had cost until then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from recscale.checkpoint import Checkpoint
from recscale.records.record import Phase
from recscale.running.job import Job, SpentBefore, write_whole

INTERVAL_SECONDS = 20.0  # between two checkpoints: a second for the largest model here, so that they cost a few percent
KEPT_DAYS = 30.0
_MARK = "checkpoint"
_PEAKS = ("peak_rss_bytes", "peak_device_bytes", "peak_device_process_bytes")


def checkpoint_of(job: Job, work_folder: Path) -> Path:
    """Return where the training of a job keeps its checkpoint."""
    return work_folder / f"{_MARK}-{job.key}.pt"


def forget_checkpoint(job: Job, work_folder: Path) -> None:
    """Delete the checkpoint of a job that has a record now."""
    for path in work_folder.glob(f"{_MARK}-{job.key}.*"):
        path.unlink(missing_ok=True)


def remove_old_checkpoints(work_folder: Path) -> None:
    """Delete checkpoints of jobs that nobody has asked for again in `KEPT_DAYS`."""
    for path in work_folder.glob(f"{_MARK}-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_DAYS * 86_400:
                path.unlink()


def spent_before(checkpoint: Path) -> SpentBefore | None:
    """Return what a fit had cost at its checkpoint; None if there is none.

    A checkpoint without its cost, as a kill between the two leaves it, is removed, and so is a cost without it.
    """
    beside = _beside(checkpoint)
    with contextlib.suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode(beside.read_bytes(), type=SpentBefore)
        if found.written_ns == checkpoint.stat().st_mtime_ns:
            return found
    for path in (checkpoint, beside):
        path.unlink(missing_ok=True)
    return None


def checkpoint_at(path: Path, spent: Callable[[], SpentBefore]) -> Checkpoint:
    """Return a checkpoint at `path` that keeps beside it what the fit has cost so far."""

    def keep() -> None:
        found = msgspec.structs.replace(spent(), written_ns=path.stat().st_mtime_ns)
        write_whole(_beside(path), msgspec.json.encode(found))

    return Checkpoint(path, INTERVAL_SECONDS, keep)


def together(own: Phase, before: Phase) -> Phase:
    """Return the cost of two phases, one after the other, as one."""
    joules = [cost.energy_joules for cost in (own, before) if cost.energy_joules is not None]
    return Phase(
        wall_seconds=own.wall_seconds + before.wall_seconds,
        cpu_seconds=own.cpu_seconds + before.cpu_seconds,
        start_rss_bytes=before.start_rss_bytes,
        energy_joules=sum(joules) if len(joules) == 2 else None,
        **{name: _larger(getattr(own, name), getattr(before, name)) for name in _PEAKS},
    )


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _beside(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")
