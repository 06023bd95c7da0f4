"""What a Ray worker does with a job: it places the data, starts the same worker process as ever, and tells of it.

The process that fits the model is no Ray worker but a child of one, under the same hard limits on memory and time as on
one machine alone. It dies with its Ray worker.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from recscale import __version__, registry
from recscale.errors import UsageError
from recscale.measuring.machine import fingerprint
from recscale.records.owners import remove_abandoned
from recscale.running.checkpoints import checkpoint_of, forget_checkpoint, remove_old_checkpoints
from recscale.running.executor import TICK_SECONDS, Start
from recscale.running.job import COCLUSTER_FILE, PER_USER_FILE, Job, Request, Source, write_whole
from recscale.running.local_pool import ask
from recscale.running.prepare import cache_root
from recscale.running.process import WorkerProcess

STALE_SECONDS = 86_400  # after which what an earlier run has measured of a node is of no use any more


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way to a node.

    `run` names the run of the driver, `mark` a folder in its store: a node that sees it shares the file system.
    `files` are the files of the split as the driver has them.
    """

    request: Request
    run: str
    mark: str
    files: list[Source]
    version: str = __version__


class News(msgspec.Struct, kw_only=True):
    """What a node tells of a job: first `start`, then events, at last its outcome, with the files for the store.

    Or, in place of all that, `needs_files`: the split is not on this node.
    """

    needs_files: bool = False
    start: Start | None = None
    events: list[dict[str, Any]] = []
    peak_rss_bytes: int = 0
    wall_seconds: float | None = None
    outcome: dict[str, Any] | None = None


def serve(order_text: bytes, contents: Sequence[Any]) -> Iterator[tuple[bytes, dict[str, bytes]]]:
    """Run one job in a process of its own; yield News as JSON, each with the files that come with it.

    `contents` are references to the files of the split, in the order of `Order.files`, or none.
    Raises UsageError if this node has another recscale, model or plug-in than the driver.
    """
    order = msgspec.json.decode(order_text, type=Order)
    _check_version(order)
    job = order.request.job
    if job is None:
        raise UsageError("a Ray worker runs jobs alone")
    _check_code(job)
    split_path = _split_path(order, job, contents)
    if split_path is None:
        yield _told(News(needs_files=True))
        return
    work = _work_folder()
    checkpoint = _checkpoint(order, job, work)
    job = msgspec.structs.replace(job, prepared=msgspec.structs.replace(job.prepared, split_path=str(split_path)))
    request = msgspec.structs.replace(order.request, job=job, checkpoint=str(checkpoint))
    start = Start(
        machine=fingerprint(),
        calibration=_calibration(order.run, work, job.n_threads),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with contextlib.closing(WorkerProcess(request, work, n_threads=job.n_threads)) as worker:
        yield _told(News(start=start))
        peak = 0
        while not worker.is_done():
            time.sleep(TICK_SECONDS)
            if (events := worker.events()) or worker.peak_rss_bytes > peak:
                peak = worker.peak_rss_bytes
                yield _told(News(events=events, peak_rss_bytes=peak, wall_seconds=time.monotonic() - worker.started))
        wall_seconds = time.monotonic() - worker.started
        outcome = worker.outcome()
        files = [worker.folder / name for name in (PER_USER_FILE, COCLUSTER_FILE)]
        if outcome["status"] != "timeout":
            forget_checkpoint(job, work)
        last = News(
            events=worker.events(), peak_rss_bytes=worker.peak_rss_bytes, wall_seconds=wall_seconds, outcome=outcome
        )
        yield _told(last, {path.name: path.read_bytes() for path in files if path.exists()})


def _told(news: News, files: Mapping[str, bytes] | None = None) -> tuple[bytes, dict[str, bytes]]:
    return msgspec.json.encode(news), dict(files or {})


def _check_version(order: Order) -> None:
    if order.version != __version__:
        raise UsageError(
            f"the Ray node {platform.node()} has recscale {__version__}, this one is {order.version}; install the same"
        )


def _check_code(job: Job) -> None:
    """Make sure that the model of a job is here, and is the one that its key names. Raises UsageError."""
    for plugin in job.plugins:
        if not Path(plugin).is_file():
            raise UsageError(
                f"the plug-in {Path(plugin).name} is not on the Ray node {platform.node()}; put it on a file system"
                " that all nodes share, or install it there as a package"
            )
    entry = registry.entries("model", job.plugins).get(job.model)
    if entry is None or registry.code_fingerprint(entry) != job.code_fingerprint:
        raise UsageError(
            f"the Ray node {platform.node()} does not have the model {job.model} as it is here; install the same code"
            " on every node"
        )


def _split_path(order: Order, job: Job, contents: Sequence[Any]) -> Path | None:
    """Return where the split lies on this node, put there once if need be; None if it must be sent first."""
    prepared = job.prepared
    own = Path(prepared.split_path)
    if all(_is_here(source) for source in order.files):
        return own
    name = f"{own.parent.name}-{prepared.split_fingerprint[:16]}"
    place = cache_root().parent / "placed" / name
    if not place.is_dir():
        if not contents:
            return None
        _place(order.files, contents, place)
    return place / own.name


def _is_here(source: Source) -> bool:
    """Tell whether the driver's file is at the same place of a file system that this node shares."""
    try:
        return Source.of(Path(source.path)) == source
    except OSError:
        return False


def _place(files: Sequence[Source], contents: Sequence[Any], place: Path) -> None:
    """Write files to a folder, which appears when it is complete; another job may have been faster."""
    import ray

    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix="."))
    try:
        for source, content in zip(files, contents, strict=True):
            ray.get(content).tofile(folder / Path(source.path).name)
        with contextlib.suppress(OSError):
            folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not place.is_dir():
        raise UsageError(f"{place.parent} on the Ray node {platform.node()} cannot be written")


def _work_folder() -> Path:
    """Return the folder for running jobs of this node, without what dead ones have left there."""
    folder = cache_root().parent / "work" / platform.node()
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    remove_old_checkpoints(folder)
    for path in folder.glob("calibration-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
    return folder


def _checkpoint(order: Order, job: Job, work: Path) -> Path:
    """Return where the training keeps its checkpoint: in the store, where this node sees it."""
    return checkpoint_of(job, Path(order.mark).parent if Path(order.mark).is_dir() else work)


def _calibration(run: str, work: Path, n_threads: int) -> dict[str, float]:
    """Return the speed of this node, measured once a run, while no job of that run is under way here."""
    from filelock import FileLock

    path = work / f"calibration-{run}.json"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            found = ask(Request(task="calibrate"), work, n_threads=n_threads)["calibration"]
            write_whole(path, msgspec.json.encode(found))
        os.utime(path)
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
