"""One job under measurement: load, fit, save and score, each on its own. Runs in the worker process."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from recscale.checkpoint import Checkpoint
from recscale.errors import DeadlineExceeded, FitWarning, StoreError
from recscale.measuring.budget import limit_gpu_memory
from recscale.measuring.machine import kind_of, machine_name
from recscale.records.record import JUDGE, Phase
from recscale.records.store import HISTORY_SIZES, TOP_ITEMS, WEIGHTS
from recscale.running.checkpoints import checkpoint_at, spent_before, together
from recscale.running.job import (
    COCLUSTER_FILE,
    FIT_FILE,
    FITTED_FILE,
    PER_USER_FILE,
    Fitted,
    Job,
    Request,
    SpentBefore,
    to_disk,
    write_whole,
)
from recscale.running.peers import Peers, Place

WARM_UP_USERS, WARM_UP_JUDGES = 64, 4
LONGEST_WAIT = timedelta(days=30)  # of processes for each other: budgets end a job, and so does the end of one
WARM_UP_SHARES = {48: 0.2, 512: 0.01}  # items, and share of entries: full matrices may go another way than sparse ones


class Phases:
    """Names a phase to the parent and measures it."""

    def __init__(self, meter: Any, reporter: Any) -> None:
        self.meter, self.reporter = meter, reporter

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the body of a `with` statement as the phase of that name."""
        self.reporter.begin(name)
        with self.meter.phase(name):
            yield


@dataclass
class Measurement:
    """A job, and the outcome, which is filled as far as it gets."""

    request: Request
    place: Place
    folder: Path
    phase: Phases
    outcome: dict[str, Any]
    keep: Callable[..., None]  # writes the outcome as it stands, for the case that this process is killed
    before: SpentBefore | None = None  # what a fit had cost that was killed and now goes on

    @property
    def job(self) -> Job:
        """The job that is measured."""
        return self.place.job

    def run(self, started: float) -> None:
        """Measure everything. `started` is the reading of `time.monotonic()` from which the time limit counts."""
        self.before = spent_before(Path(self.request.checkpoint)) if self.request.checkpoint else None
        peers = Peers(self.place, self.folder, self._give_up)
        with contextlib.closing(peers):
            peers.start(started)
            cls, split, context = self._ready(started)
            self.outcome["warnings"] = []
            if self.request.fitted is None:
                model = self._fitted(cls(**self.job.parameters), split, context, peers)
            else:
                model = self._shrunk(cls, self.request.fitted, context)
        size = model.size()
        self.outcome.update(n_parameters=size.n_parameters, n_bytes=size.n_bytes)
        self._save(model)
        is_trial = self.job.evaluated_on == "validation"
        held_out = split.valid if is_trial else split.test
        del split
        self._evaluate(model, held_out, context)
        if not is_trial:
            self._time_single_users(model, held_out)
            self._judge(model)

    def take_part(self, started: float) -> None:
        """Fit together with the first process, which measures what comes of it."""
        cls, split, context = self._ready(started)
        if self.request.checkpoint is not None:
            context = dataclasses.replace(context, checkpoint=Checkpoint(Path(self.request.checkpoint)))
        context = dataclasses.replace(context, n_threads=self.place.n_threads, log=_ignore)
        with _joined(self.place, self.folder), self.phase("fit"):
            cls(**self.job.parameters).fit(split.train, context)

    def _ready(self, started: float) -> tuple[Any, Any, Any]:
        """Load the data and warm up; return the class of the model, the split and the context of its fit."""
        from recscale import registry
        from recscale.evaluation.split_file import load_split

        with self.phase("load"):
            split = load_split(Path(self.job.prepared.split_path))
        if split.fingerprint != self.job.prepared.split_fingerprint:
            raise StoreError(
                f"the cached split of {self.job.data.text} has changed since the job was planned; finished jobs are"
                " kept: run the same command again"
            )
        self.phase.reporter.begin("warm-up")
        cls = registry.model_spec(self.job.model, self.job.plugins).model
        _ready_device(self.place)
        context = self._context(started, split)
        _warm_up(cls(**self.job.parameters), context)
        return cls, split, context

    def _give_up(self, failure: dict[str, Any]) -> None:
        """End this process with a failure, from whatever thread."""
        self.keep(**failure, failed_phase=self.phase.reporter.phase)
        os._exit(0)

    def _context(self, started: float, split: Any) -> Any:
        from recscale.contract import FitContext

        limit = self.job.limits.timeout_seconds
        return FitContext(
            device=self.place.device,
            seed=self.job.seed,
            n_threads=self.job.n_threads,
            deadline=None if limit is None else started + limit,
            log=self.phase.reporter.log,
            validation=split.valid if split.valid.n_users else None,
        )

    def _fitted(self, model: Any, split: Any, context: Any, peers: Peers) -> Any:
        """Fit a model, or go on where a fit that was killed had written a checkpoint; count both."""
        before, meter, reporter, machine = self.before, self.phase.meter, self.phase.reporter, machine_name()
        n_resumptions = before.n_resumptions + 1 if before else 0
        self.outcome["n_resumptions"] = n_resumptions
        if before is not None:
            reporter.history = dict(before.history)
            context = _with_less_time(context, before.fit.wall_seconds)
            if before.n_threads != self.job.n_threads:
                told = f"the fit went on with {self.job.n_threads} threads after {before.n_threads}"
                self.outcome["warnings"].append(told)
            if before.machine != machine:
                told = f"the fit went on on {machine} after {before.machine or 'another machine'}: its time is of both"
                self.outcome["warnings"].append(told)

        def spent() -> SpentBefore:
            now = msgspec.convert(meter.so_far(), Phase, from_attributes=True)
            cost = together(now, before.fit) if before else now
            return SpentBefore(
                fit=cost,
                history=reporter.history,
                n_resumptions=n_resumptions,
                n_threads=self.job.n_threads,
                machine=machine,
            )

        if self.request.checkpoint is not None:
            kept = checkpoint_at(Path(self.request.checkpoint), spent)
            context = dataclasses.replace(context, checkpoint=kept)
        context = dataclasses.replace(context, n_threads=self.place.n_threads)
        try:
            with (
                peers.watched(),
                _joined(self.place, self.folder),
                self.phase("fit"),
                _kept_warnings(self.outcome["warnings"]),
            ):
                model.fit(split.train, context)
            meter.phases["fit"] = peers.together(msgspec.convert(meter.phases["fit"], Phase, from_attributes=True))
        finally:
            if before is not None:
                meter.phases["fit"] = together(meter.phases["fit"], before.fit)
        return model

    def _shrunk(self, cls: Any, fitted: Fitted, context: Any) -> Any:
        """Return the model of this size from a larger one, whose fit counts as a part of this one's."""
        self.phase.reporter.begin("reload")
        larger, context = cls.load(fitted.path), _with_less_time(context, fitted.fit.wall_seconds)
        self.outcome["warnings"] += fitted.warnings
        with self.phase("fit"), _kept_warnings(self.outcome["warnings"]):
            model = larger.shrunk(self.job.parameters[str(self.job.size_knob)], context)
            context.progress(1, 1)
        self.outcome["shrunk_from"] = fitted.key
        self.phase.meter.phases["fit"] = together(self.phase.meter.phases["fit"], fitted.fit)
        return model

    def _save(self, model: Any) -> None:
        """Save the model, to measure that, and keep the file where smaller sizes wait for it."""
        saved = self.folder / FIT_FILE
        with to_disk(self.folder), self.phase("save"):
            self.outcome["disk_bytes"] = model.save(saved)
        if not self.request.keeps_fit:
            saved.unlink()
            return
        fit = msgspec.convert(self.phase.meter.phases["fit"], Phase, from_attributes=True)
        fitted = Fitted(key=self.job.key, path=str(saved), fit=fit, warnings=self.outcome["warnings"])
        with to_disk(self.folder):
            write_whole(self.folder / FITTED_FILE, msgspec.json.encode(fitted))

    def _evaluate(self, model: Any, test: Any, context: Any) -> None:
        """Score for the held-out users, and rank the items or compare the ratings."""
        from recscale.evaluation.evaluate import evaluate
        from recscale.evaluation.metrics import metric

        job, outcome = self.job, self.outcome
        self.phase.reporter.begin("warm-up")
        # one user alone: one call compiles and loads whatever scoring needs
        evaluate(model.score, test.some(slice(0, 1)), job.metrics, n_threads=job.n_threads)
        with self.phase("score"):
            result = evaluate(model.score, test, job.metrics, n_threads=job.n_threads, progress=context.progress)
        outcome["users_per_second"] = test.n_users / self.phase.meter.phases["score"].wall_seconds
        outcome["metrics"], outcome["standard_errors"] = result.metrics, result.standard_errors
        outcome["tied_target_share"] = result.tied_target_share  # None where nothing was ranked, as are the next two
        outcome.update(mrr_optimistic=result.mrr_optimistic, mrr_pessimistic=result.mrr_pessimistic)
        outcome.update(scoring_seconds=result.score_seconds, ranking_seconds=result.rank_seconds)
        if result.ties_matter:
            outcome["warnings"] += [f"ties matter: MRR {result.mrr_pessimistic:.4f} to {result.mrr_optimistic:.4f}"]
        sizes = test.history.indptr[1:] - test.history.indptr[:-1]
        weights = {WEIGHTS + name: values for name, values in result.weights.items()}
        beside = {HISTORY_SIZES: sizes.astype("int32"), **weights}
        kept = {name: values for name, values in result.per_user.items() if metric(name).is_kept}
        _write_vectors(self.folder / PER_USER_FILE, kept | beside)

    def _time_single_users(self, model: Any, test: Any) -> None:
        """Time scores and updates of one user at a time; where the process is ended in it, the rest is kept."""
        from recscale.abilities import Incremental
        from recscale.measuring.latency import single_user_latency, update_latency

        seed, outcome = self.job.seed, self.outcome
        self._keep_unless("the latency was not measured: the process was ended before")
        self.phase.reporter.begin("latency")
        median, worst = single_user_latency(model.score, test.history, seed=seed)
        outcome.update(latency_median_seconds=median, latency_p99_seconds=worst)
        state = None
        if isinstance(model, Incremental):
            median, worst, state = update_latency(model, test.history, seed=seed)
        outcome.update(update_median_seconds=median, update_p99_seconds=worst, state_update_median_seconds=state)

    def _keep_unless(self, warning: str) -> None:
        """Keep what was measured so far, with a warning that stands unless the job goes on to its end."""
        self.outcome["warnings"].append(warning)
        self.keep()
        self.outcome["warnings"].pop()

    def _judge(self, model: Any) -> None:
        """Judge the co-clusters of a model that has some; what was measured before is kept, whatever comes of it."""
        from recscale.running.judging import can_be_judged, judged

        if not can_be_judged(model):
            return
        self._keep_unless("the co-clusters were not judged: the process was ended before")
        try:
            with self.phase(JUDGE):
                fields, first_items = judged(model, self.job)
        except Exception as error:
            told = type(error).__name__ + (f": {' '.join(str(error).split())}" if str(error) else "")
            self.outcome["warnings"].append(f"the co-clusters were not judged: {told[:300]}")
            return
        _write_vectors(self.folder / COCLUSTER_FILE, {TOP_ITEMS: first_items})
        self.outcome.update(fields)


@contextlib.contextmanager
def _joined(place: Place, folder: Path) -> Iterator[None]:
    """Be one of the processes of a job within the body; alone, where the job has a single device, there is no group."""
    if len(place.devices) == 1:
        yield
        return
    import torch
    from torch import distributed

    is_gpu = kind_of(place.device) == "cuda"
    if is_gpu:
        torch.cuda.set_device(place.device)
    distributed.init_process_group(
        "nccl" if is_gpu else "gloo",
        init_method=f"file://{folder.resolve()}/meeting",
        rank=place.rank,
        world_size=len(place.devices),
        timeout=LONGEST_WAIT,
    )
    yield
    distributed.destroy_process_group()  # not after a failure: others may wait for this one, and it for them


def _with_less_time(context: Any, spent_seconds: float) -> Any:
    """Return the context of a fit of which a part has been paid for before."""
    deadline = None if context.deadline is None else context.deadline - spent_seconds
    return dataclasses.replace(context, deadline=deadline)


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
    import traceback

    import numpy as np
    import scipy.sparse as sp

    from recscale.contract import HeldOut, canonical

    rng = np.random.default_rng(0)
    try:
        for n_items, share in WARM_UP_SHARES.items():
            full = (rng.random((WARM_UP_USERS, n_items)) < share).astype(np.float32)
            rows, is_known = sp.csr_array(full), np.arange(n_items) % 2
            known, wanted = (sp.csr_array(full[:WARM_UP_JUDGES] * part) for part in (is_known, 1 - is_known))
            users = None if context.validation is None else HeldOut(canonical(known), canonical(wanted))
            model.fit(rows, dataclasses.replace(context, log=_ignore, validation=users))
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


def _ready_device(place: Place) -> None:
    """Make sure that the device that was promised is there, and limit what may be taken of it."""
    device, limits = place.device, place.job.limits.of_each(len(place.devices))
    if device == "cpu":
        return
    import torch

    from recscale.measuring.machine import confirm_device

    confirm_device(device, torch)
    if limits.max_gpu_memory_bytes is not None:
        limit_gpu_memory(limits.max_gpu_memory_bytes, device)


def _write_vectors(path: Path, vectors: Any) -> None:
    import numpy as np

    with to_disk(path.parent), open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **vectors)
