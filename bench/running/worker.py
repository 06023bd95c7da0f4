"""The worker process: one request in, one outcome out. Everything heavy happens here and nowhere else.

Started as `python -m recscale.running.worker FOLDER FD PARENT`. Reads `request.json` in the folder, writes
`outcome.json` (and `per_user.npz`) there, each moved into place when complete, and reports what it is doing as JSON
lines on the open file descriptor FD. Standard output and error belong to the models: what they print ends in the log.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from recscale.errors import DeadlineExceeded, FitWarning, ModelError, OutOfMemory, RecscaleError
from recscale.measuring.budget import (
    Budget,
    apply_memory_limit,
    classify,
    data_bytes,
    die_with_parent,
    limit_gpu_memory,
)
from recscale.measuring.size import format_bytes
from recscale.running.job import Job, Request

PROGRESS_INTERVAL_SECONDS = 0.1
WARM_UP_USERS = 64
WARM_UP_SHARES = {48: 0.2, 512: 0.01}  # items, and share of entries: full matrices may go another way than sparse ones
MAX_HISTORY = 2_000  # points kept of each series that a model logs


class Reporter:
    """Sends events to the parent and keeps what the model logged."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last = 0.0
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
        """Take what a model logs: `progress` is shown, everything else is shown and kept."""
        if name != "progress":
            series = self.history.setdefault(name, [])
            if len(series) < MAX_HISTORY:
                series.append([step, float(value)])
        now = time.monotonic()
        if now - self._last >= PROGRESS_INTERVAL_SECONDS or (name == "progress" and step >= value):
            self._last = now
            self.send(event="log", phase=self.phase, name=name, step=step, value=float(value))


def main(folder: Path, descriptor: int, parent_pid: int) -> int:
    """Serve the one request in `folder`; return the exit code."""
    started = time.monotonic()
    die_with_parent(parent_pid)
    request = msgspec.json.decode((folder / "request.json").read_bytes(), type=Request)
    reporter = Reporter(descriptor)
    outcome: dict[str, Any] = {}
    try:
        _apply(request.limits)
        outcome = _serve(request, folder, reporter, started)
        outcome.setdefault("status", "ok")
    except BaseException as error:
        outcome = getattr(error, "partial_outcome", {}) | _failure(error, reporter)
    outcome["history"] = reporter.history
    _write(folder / "outcome.json", msgspec.json.encode(outcome, enc_hook=_plain))
    return 0


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


def _serve(request: Request, folder: Path, reporter: Reporter, started: float) -> dict[str, Any]:
    if request.task == "prepare" and request.data is not None:
        from recscale.running.prepare import prepare

        reporter.begin("prepare")
        return {"prepared": prepare(request.data, request.plugins)}
    if request.task == "calibrate":
        from recscale.measuring.machine import calibrate

        reporter.begin("calibrate")
        return {"calibration": calibrate()}
    if request.task == "run" and request.job is not None:
        return _run(request.job, folder, reporter, started)
    raise RecscaleError(f"no worker task named {request.task!r}")


def _run(job: Job, folder: Path, reporter: Reporter, started: float) -> dict[str, Any]:
    from recscale.measuring.machine import versions
    from recscale.measuring.meter import Meter

    meter = Meter(device=job.device or "cpu")
    outcome: dict[str, Any] = {"device_used": job.device, "versions": versions()}
    try:
        _measure(job, folder, _Phases(meter, reporter), outcome, started)
    except BaseException as error:
        error.partial_outcome = outcome  # type: ignore[attr-defined]
        raise
    finally:
        outcome["phases"] = meter.phases
        outcome["memory_method"] = meter.method
        outcome["energy_sources"] = list(meter.energy_sources)
        peaks = [cost.peak_rss_bytes for cost in meter.phases.values() if cost.peak_rss_bytes is not None]
        outcome["peak_rss_bytes"] = max(peaks, default=None)
    return outcome


class _Phases:
    """Names a phase to the parent and measures it."""

    def __init__(self, meter: Any, reporter: Reporter) -> None:
        self.meter, self.reporter = meter, reporter

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.reporter.begin(name)
        with self.meter.phase(name):
            yield


def _measure(job: Job, folder: Path, phase: _Phases, outcome: dict[str, Any], started: float) -> None:
    """Load, fit, save and score, each measured on its own; fill `outcome` as far as it gets."""
    from recscale import registry
    from recscale.contract import FitContext
    from recscale.evaluation.evaluate import evaluate
    from recscale.evaluation.split_file import load_split
    from recscale.measuring.latency import single_user_latency

    with phase("load"):
        split = load_split(Path(job.prepared.split_path))
    if split.fingerprint != job.prepared.split_fingerprint:
        raise RecscaleError("the cached split has changed since the job was planned; run again")
    phase.reporter.begin("warm-up")
    spec = registry.model_spec(job.model, job.plugins)
    _ready_device(job)
    limit = job.limits.timeout_seconds
    context = FitContext(
        device=job.device or "cpu",
        seed=job.seed,
        n_threads=job.n_threads,
        deadline=None if limit is None else started + limit,
        log=phase.reporter.log,
        validation=split.valid if split.valid.n_users else None,
    )
    _warm_up(spec.model(**job.parameters), context)
    model = spec.model(**job.parameters)
    with phase("fit"), _kept_warnings(outcome.setdefault("warnings", [])):
        model.fit(split.train, context)
    size = model.size()
    outcome.update(n_parameters=size.n_parameters, n_bytes=size.n_bytes)
    with phase("save"):
        saved = folder / "model.npz"
        outcome["disk_bytes"] = model.save(saved)
    saved.unlink()
    test = split.test
    del split
    phase.reporter.begin("warm-up")
    evaluate(model.score, _first(test), job.metrics, n_threads=job.n_threads)
    with phase("score"):
        result = evaluate(model.score, test, job.metrics, n_threads=job.n_threads, progress=context.progress)
    outcome["users_per_second"] = test.n_users / phase.meter.phases["score"].wall_seconds
    outcome["metrics"], outcome["standard_errors"] = result.metrics, result.standard_errors
    outcome["tied_target_share"] = result.tied_target_share
    outcome.update(mrr_optimistic=result.mrr_optimistic, mrr_pessimistic=result.mrr_pessimistic)
    outcome.update(scoring_seconds=result.score_seconds, ranking_seconds=result.rank_seconds)
    if result.ties_matter:
        outcome["warnings"] += [f"ties matter: MRR {result.mrr_pessimistic:.4f} to {result.mrr_optimistic:.4f}"]
    _write_vectors(folder / "per_user.npz", result.per_user)
    phase.reporter.begin("latency")
    median, worst = single_user_latency(model.score, test.history, seed=job.seed)
    outcome.update(latency_median_seconds=median, latency_p99_seconds=worst)


@contextlib.contextmanager
def _kept_warnings(kept: list[str]) -> Iterator[None]:
    """Collect the messages of FitWarnings, each once; all other warnings go where they went, at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        try:
            yield
        finally:
            kept += dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, FitWarning))
    for other in caught:
        if not issubclass(other.category, FitWarning):
            warnings.showwarning(other.message, other.category, other.filename, other.lineno)


def _warm_up(model: Any, context: Any) -> None:
    """Fit a model to a few random rows and score them, so that imports and compilation are not taken for its own time.

    An error here is only logged: the fit that is measured will meet it again if it is real.
    """
    import dataclasses
    import traceback

    import numpy as np
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    tiny = dataclasses.replace(context, log=_ignore, validation=None)
    try:
        for n_items, share in WARM_UP_SHARES.items():
            rows = sp.csr_array((rng.random((WARM_UP_USERS, n_items)) < share).astype(np.float32))
            model.fit(rows, tiny)
            model.score(rows)  # many users at once may go another way than one alone, which is scored later
    except DeadlineExceeded:
        raise
    except Exception:
        sys.stderr.write("the warm-up on a tiny matrix failed:\n")
        traceback.print_exc()
    gc.collect()
    gc.freeze()  # what was imported stays: with torch this saves 0.1 s of every later collection


def _ignore(name: str, step: int, value: float) -> None:
    """Log nothing."""


def _first(held_out: Any) -> Any:
    """Return the first held-out user alone: one call compiles and loads whatever scoring needs."""
    return type(held_out)(held_out.history[:1], held_out.target[:1])


def _ready_device(job: Job) -> None:
    """Make sure that the device that was promised is there, and limit what may be taken of it."""
    device = job.device or "cpu"
    if device == "cpu":
        return
    import torch

    from recscale.measuring.machine import confirm_device

    confirm_device(device, torch)
    if job.limits.max_gpu_memory_bytes is not None:
        limit_gpu_memory(job.limits.max_gpu_memory_bytes, device)


def _failure(error: BaseException, reporter: Reporter) -> dict[str, Any]:
    """Return the fields of a record that say how a job failed; the traceback goes to the log."""
    import traceback

    if not isinstance(error, RecscaleError) or isinstance(error, ModelError):
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    kind = [] if isinstance(error, RecscaleError) else [type(error).__name__]
    reason = ": ".join([*kind, *([message] if message else [])])
    return {"status": classify(error), "reason": reason[:500], "failed_phase": reporter.phase}


def _write_vectors(path: Path, vectors: Any) -> None:
    import numpy as np

    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **vectors)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.replace(path)


def _plain(value: Any) -> Any:
    """Turn numpy scalars into numbers for JSON."""
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no place in an outcome")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
