"""A job: one model on one split, with everything that a worker needs and the key under which its record lies."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import msgspec

from recscale.errors import StoreError
from recscale.measuring.budget import Budget
from recscale.records.record import JUDGE, SCHEMA_VERSION, Part, Phase, RunRecord, Trial, renumbered

FIT_FILE, FITTED_FILE = "model.npz", "fitted.json"  # in the folder of a worker: a saved model, and the Fitted of it
PER_USER_FILE, COCLUSTER_FILE = "per_user.npz", "coclusters.npz"  # there too: arrays that go into the store
_LIMITS = {  # by what ran out
    "timeout": "timeout_seconds",
    "out_of_memory": "max_memory_bytes",
    "out_of_gpu_memory": "max_gpu_memory_bytes",
}
CLEARLY_LARGER = 1.25  # free memory, the limit where none is given, is never the same twice


class Source(msgspec.Struct, frozen=True):
    """A file that a data set was read from, so that a change is noticed."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Source:
        """Describe the file at `path`."""
        status = path.stat()
        return cls(str(path), status.st_size, status.st_mtime_ns)


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """A data set with its options, filter and protocol, all checked and complete."""

    name: str
    text: str  # canonical: what a person would type to get the same again
    options: dict[str, Any]
    filter: dict[str, Any]
    filter_name: str | None
    protocol: str
    protocol_options: dict[str, Any]
    protocol_text: str
    shares: dict[str, float] = {}  # of a subsample: what is kept of the users, items or interactions
    sampled_from: str | None = None  # and the canonical text of what it is a part of


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a split once it lies in the cache."""

    split_path: str
    data_fingerprint: str
    split_fingerprint: str
    n_users: int  # all users that survived the filter, held-out ones included
    n_train_users: int
    n_items: int
    n_interactions: int  # after the filter
    n_train_interactions: int
    n_train_pairs: int
    n_valid_users: int
    n_test_users: int
    dropped_users: int
    load_seconds: float
    sources: list[Source]


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A larger size of the same model, fitted in this run and kept on disk for the smaller ones."""

    key: str
    path: str
    fit: Phase
    warnings: list[str]


class Job(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One model on one split.

    `family` is the same for jobs that differ in the size knob alone, where a model can share a fit between sizes.
    """

    model: str
    model_title: str
    text: str  # the model with its size and whatever else differs from its defaults
    parameters: dict[str, Any]
    size_knob: str | None
    data: Data
    prepared: Prepared
    seed: int
    device_requested: str
    device: str | None  # None: this machine has no such device, and `unavailable` says why
    unavailable: str | None
    n_threads: int
    metrics: list[str]
    limits: Budget
    code_fingerprint: str
    plugins: list[str]
    estimated_peak_bytes: int | None = None
    estimated_model_bytes: int | None = None
    estimated_fit_seconds: float | None = None
    family: str | None = None
    evaluated_on: Part = "test"
    trial: Trial | None = None
    other_trials: list[Trial] = []  # its places in other studies
    may_be_pruned: bool = False  # whether a trial that was ended for want of hope settles this job

    @property
    def size_rank(self) -> float:
        """The value of the size knob as a number: None, which stands for all, is the largest."""
        value = self.parameters.get(self.size_knob) if self.size_knob else None
        return math.inf if value is None else float(value)

    @cached_property
    def key(self) -> str:
        """SHA-256 of what decides the result: not the budget, the metrics, the number of threads or which GPU it is."""
        decisive = {
            "schema": SCHEMA_VERSION,
            "model": self.model,
            "parameters": self.parameters,
            "dataset": self.data.text,
            "protocol": self.data.protocol_text,
            "seed": self.seed,
            "device": renumbered(self.device) if self.device else self.device_requested,
            "data_fingerprint": self.prepared.data_fingerprint,
            "split_fingerprint": self.prepared.split_fingerprint,
            "code_fingerprint": self.code_fingerprint,
            **({} if self.evaluated_on == "test" else {"evaluated_on": self.evaluated_on}),
        }
        return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()

    @property
    def label(self) -> str:
        """What a person calls this job."""
        trial = "" if self.evaluated_on == "test" else ", trial on validation users"
        return f"{self.text} on {self.data.text}, {self.data.protocol_text}, seed {self.seed}{trial}"

    def without_loss(self, record: RunRecord | None) -> Self:
        """Return the job with what its record would lose if it was replaced: metrics, and its other studies."""
        if record is None:
            return self
        metrics = dict.fromkeys([*self.metrics, *(record.metrics if record.status == "ok" else ())])
        others = [place for place in record.places if place != self.trial]
        return msgspec.structs.replace(self, metrics=list(metrics), other_trials=others)

    def is_settled_by(self, record: RunRecord, overwrite: str, asked: Budget) -> bool:
        """Tell whether `record` makes running this job again needless.

        A finished record settles it if it has every metric asked for and keeps to the budget that a person has `asked`
        for, without the share of the free memory that is the limit where none is given; one that was pruned does where
        this job may be, too, as the same trial. A failure settles it unless `overwrite` is "failed", or it failed for
        want of memory or time and the limit is clearly larger now; any of the limits, where it was refused. One that
        was skipped is tried again, which takes seconds: what was missing may be there now.
        """
        if overwrite == "always" or record.status == "skipped":
            return False
        if record.status == "ok":
            return set(self.metrics) <= set(record.metrics) and _keeps_to(asked, record)
        if record.status == "pruned":
            return self.may_be_pruned and record.trial == self.trial  # others, of another study, ended it there
        if overwrite == "failed":
            return False
        limits = list(_LIMITS.values()) if record.status == "refused" else [_LIMITS.get(record.status)]
        pairs = [(getattr(self.limits, limit), getattr(record, limit)) for limit in limits if limit]
        return not any(then is not None and (now or math.inf) > then * CLEARLY_LARGER for now, then in pairs)

    def blank_record(self) -> dict[str, Any]:
        """Return the fields of a record that are known before the job runs."""
        return {
            "key": self.key,
            "evaluated_on": self.evaluated_on,
            "trial": self.trial,
            "other_trials": self.other_trials,
            "model": self.model,
            "model_title": self.model_title,
            "parameters": self.parameters,
            "configuration": self.text,
            "size_knob": self.size_knob,
            "dataset": self.data.text,
            "dataset_name": self.data.name,
            "filter": self.data.filter,
            "shares": self.data.shares,
            "sampled_from": self.data.sampled_from,
            "protocol": self.data.protocol_text,
            "seed": self.seed,
            "device_requested": self.device_requested,
            "n_threads": self.n_threads,
            "timeout_seconds": self.limits.timeout_seconds,
            "max_memory_bytes": self.limits.max_memory_bytes,
            "max_gpu_memory_bytes": self.limits.max_gpu_memory_bytes,
            "data_fingerprint": self.prepared.data_fingerprint,
            "split_fingerprint": self.prepared.split_fingerprint,
            "code_fingerprint": self.code_fingerprint,
            "n_train_users": self.prepared.n_train_users,
            "n_items": self.prepared.n_items,
            "n_train_interactions": self.prepared.n_train_interactions,
            "n_train_pairs": self.prepared.n_train_pairs,
            "n_test_users": self.prepared.n_test_users if self.evaluated_on == "test" else self.prepared.n_valid_users,
            "dropped_users": self.prepared.dropped_users,
            "estimated_peak_bytes": self.estimated_peak_bytes,
            "estimated_model_bytes": self.estimated_model_bytes,
        }


class SpentBefore(msgspec.Struct, frozen=True, kw_only=True):
    """What a fit had cost, and logged, at its last checkpoint, before it was killed."""

    fit: Phase
    history: dict[str, list[list[float]]]
    n_resumptions: int
    n_threads: int
    machine: str = ""  # of which kind
    written_ns: int = 0  # when the checkpoint was written that this belongs to


class Request(msgspec.Struct, kw_only=True):
    """What a parent asks of a worker process."""

    task: str  # "run", "prepare", "calibrate" or "check"
    job: Job | None = None
    fitted: Fitted | None = None
    keeps_fit: bool = False
    checkpoint: str | None = None  # file for a training to go on from; what it had cost lies beside it
    data: Data | None = None
    name: str | None = None
    split_path: str | None = None
    plugins: list[str] = []
    limits: Budget = Budget()
    deadline_seconds: float | None = None


def _keeps_to(budget: Budget, record: RunRecord) -> bool:
    """Tell whether a finished job was held to limits as tight as those of `budget`, or took no more than they allow.

    The first is for memory: a limit counts private pages alone, and a peak all that lie in memory.
    """
    phases = [phase for name, phase in record.phases.items() if name != JUDGE]
    took = {
        "timeout_seconds": sum(phase.wall_seconds for phase in phases),
        "max_memory_bytes": record.peak_rss_bytes or 0,
        "max_gpu_memory_bytes": max((phase.peak_device_bytes or 0 for phase in phases), default=0),
    }
    limits = {name: (getattr(budget, name), getattr(record, name) or math.inf) for name in took}
    return all(limit is None or min(held_to, took[name]) <= limit for name, (limit, held_to) in limits.items())


@contextlib.contextmanager
def to_disk(folder: Path) -> Iterator[None]:
    """Write to the folder of a job within the body. Raises StoreError where that cannot be, for no fault of it."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder.parent} cannot be written: {(error.strerror or str(error)).lower()}; finished jobs are kept: run"
            " the same command again once that is mended"
        ) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there when it is complete."""
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.replace(path)
