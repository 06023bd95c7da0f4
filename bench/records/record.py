"""The record of one job: flat, versioned, units in the names. What was not measured is None, never 0."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1

Status = Literal["ok", "pruned", "refused", "skipped", "out_of_memory", "out_of_gpu_memory", "timeout", "error"]
FAILURES: tuple[str, ...] = ("refused", "skipped", "out_of_memory", "out_of_gpu_memory", "timeout", "error")


VALIDATION = "validation "  # how a series of `history` is named that is of the validation users; its metric follows
JUDGE = "judge"  # the phase after all others, which is no cost of the model

Part = Literal["test", "validation"]


_LESS_IS_BETTER = frozenset({"mse", "rmse", "mae", "gini"})  # names before the @


class Phase(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What one phase of a job cost. Memory is that of the whole process, at its highest within the phase.

    The fit of a job on several devices is the sum over its processes.
    """

    wall_seconds: float
    cpu_seconds: float
    start_rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    peak_device_bytes: int | None = None  # the allocator of torch
    peak_device_process_bytes: int | None = None  # the whole process, as the driver sees it
    energy_joules: float | None = None


class CoClusterExample(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A co-cluster to which a test user belongs, by the names of its first items."""

    user: int  # row of the test part
    cluster: int
    affinity: float
    items: list[str]


class Trial(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The place of a trial of tuning: the study, and its number there."""

    study: str  # the model with the options that were held fast
    number: int  # from 0, the defaults
    metric: str  # of the validation users, by which the study is decided
    sampler: str
    seed: int  # of the sampler


class RunRecord(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One job: what was asked, what came of it, and what it cost."""

    schema_version: int = SCHEMA_VERSION
    key: str
    evaluated_on: Part = "test"  # validation: a trial of tuning
    trial: Trial | None = None  # in the study that ran it
    other_trials: list[Trial] = []  # in the studies that took it over
    status: Status
    reason: str | None = None  # one line; None when the status is ok
    failed_phase: str | None = None
    log_tail: list[str] = []

    model: str  # the registry name
    model_title: str
    parameters: dict[str, Any]
    configuration: str | None = None  # the model with its size and whatever else differs from its defaults
    size_knob: str | None = None  # the parameter that sets the size of this model
    dataset: str  # canonical text of data set, options and filter
    dataset_name: str
    filter: dict[str, Any]
    shares: dict[str, float] = {}  # of a subsample: what was kept of the users, items or interactions
    sampled_from: str | None = None  # and the canonical text of the data set that it is a part of
    protocol: str
    seed: int
    device_requested: str
    device_used: str | None = None
    n_threads: int
    timeout_seconds: float | None = None
    max_memory_bytes: int | None = None
    max_gpu_memory_bytes: int | None = None

    data_fingerprint: str
    split_fingerprint: str
    code_fingerprint: str
    commit: str | None = None  # of the git repository that the run was started in; + behind it: files were changed
    n_train_users: int
    n_items: int
    n_train_interactions: int
    n_train_pairs: int | None = None  # sum over training users of their interactions squared
    n_test_users: int | None = None  # or validation users, in a trial
    dropped_users: int | None = None

    metrics: dict[str, float] = {}  # by metric name, e.g. "ndcg@100"
    standard_errors: dict[str, float] = {}
    tied_target_share: float | None = None
    mrr_optimistic: float | None = None  # if every tie fell for the target, and against it
    mrr_pessimistic: float | None = None
    warnings: list[str] = []

    n_parameters: int | None = None
    n_bytes: int | None = None
    disk_bytes: int | None = None
    estimated_peak_bytes: int | None = None
    estimated_model_bytes: int | None = None

    job_wall_seconds: float | None = None  # of the whole process: imports, warm-up and what was left when it was killed
    phases: dict[str, Phase] = {}  # load, fit, save, score, and judge for models with co-clusters
    n_resumptions: int = 0  # how often the fit was killed and went on; the fit phase is the sum
    shrunk_from: str | None = None  # key of a larger size, whose fit is a part of the fit phase
    users_per_second: float | None = None
    scoring_seconds: float | None = None  # within the score phase: the model's own share
    ranking_seconds: float | None = None  # and that of ranking and metrics
    latency_median_seconds: float | None = None
    latency_p99_seconds: float | None = None
    update_median_seconds: float | None = None  # from one more item of a user to the new scores of the catalogue
    update_p99_seconds: float | None = None
    state_update_median_seconds: float | None = None  # of that, to update the state of the user, where there is one
    coclusters: dict[str, float] = {}  # by name: what evaluation.coclusters measures
    cocluster_source: Literal["model", "clustering"] | None = None  # its own, or k-means over its vectors
    cocluster_examples: list[CoClusterExample] = []
    peak_rss_bytes: int | None = None  # over all phases but judge; for a failed job, as far as it got
    memory_method: str | None = None  # how peaks were taken: vmhwm or sampled
    energy_sources: list[str] = []  # what energy_joules covers: cpu, gpu
    history: dict[str, list[list[float]]] = {}  # what the model logged: name -> [[step, value], ...]

    machine: dict[str, Any] = {}  # fingerprint of the machine
    calibration: dict[str, float] = {}  # gemm_gflops, read_gb_per_second of this machine at this time
    versions: dict[str, str] = {}
    started_at: str = ""  # ISO 8601, UTC

    @property
    def places(self) -> list[Trial]:
        """Its places in all studies that it is a trial of."""
        return [*([self.trial] if self.trial else []), *self.other_trials]

    def flat(self) -> dict[str, Any]:
        """Return one level of columns: parameters as `parameter.k`, phases as `fit_wall_seconds`, metrics by name."""
        row = {name: getattr(self, name) for name in self.__struct_fields__}
        for name, phase in row.pop("phases").items():
            for column in phase.__struct_fields__:
                row[f"{name}_{column}"] = getattr(phase, column)
        row.update({f"trial.{k}": v for k, v in msgspec.to_builtins(row.pop("trial") or {}).items()})
        row.update({f"parameter.{k}": v for k, v in row.pop("parameters").items()})
        row.update({f"share.{k}": v for k, v in row.pop("shares").items()})
        row.update({f"standard_error.{k}": v for k, v in row.pop("standard_errors").items()})
        row.update(row.pop("metrics"))
        return row


def renumbered(device: str) -> str:
    """Return a device with its GPUs numbered from 0: `cuda:0` for `cuda` and `cuda:3`, `cuda:0,1` for `cuda:2,3`.

    How many there are may decide a result, by the order of summation, and its costs; which of a machine's they are not.
    """
    kind, _, places = device.partition(":")
    return f"cuda:{','.join(map(str, range(len(places.split(',')))))}" if kind == "cuda" else device


def rises_with_quality(metric: str) -> bool:
    """Tell by the name of a metric whether more of it is better."""
    return metric.partition("@")[0] not in _LESS_IS_BETTER
