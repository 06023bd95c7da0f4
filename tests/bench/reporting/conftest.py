"""A small factory of realistic records."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from recscale.records.record import CoClusterExample, Phase, RunRecord

MACHINE = {"cpu": "AMD EPYC 9R14", "usable_cores": 2, "memory_bytes": 25_000_000_000, "gpus": [], "python": "3.11.2"}
MAIN_METRIC = {"fold-in": "ndcg@100", "hold-one-out": "mrr", "fixed": "recall_all@20"}
SECOND_METRIC = {"fold-in": "recall@50", "hold-one-out": "hr@50", "fixed": "ndcg@20"}


def make_record(model: str = "ease", *, score: float | None = None, **changes: Any) -> RunRecord:
    """Return a record; `score` is the main metric of its protocol, and what is not given is plausible."""
    protocol = changes.setdefault("protocol", "fold-in")
    dataset = changes.setdefault("dataset", "debian-depends")
    status = changes.setdefault("status", "ok")
    parameters = changes.setdefault("parameters", {"l2": 100.0})
    seed = changes.setdefault("seed", 0)
    identity = repr(
        (model, protocol, dataset, status, sorted(parameters.items()), seed, changes.get("split_fingerprint"))
    )
    values: dict[str, Any] = {
        "key": hashlib.sha256(identity.encode()).hexdigest(),
        "model": model,
        "model_title": model.upper(),
        "dataset_name": dataset,
        "filter": {
            "min_user_items": 5,
            "min_item_users": 5,
            "order": "items-first",
            "repeat": True,
            "min_rating": None,
        },
        "device_requested": "auto",
        "n_threads": 2,
        "data_fingerprint": "d" * 64,
        "split_fingerprint": "5" * 64,
        "code_fingerprint": "c" * 64,
        "n_train_users": 14_000,
        "n_items": 6_104,
        "n_train_interactions": 150_000,
        "n_test_users": 1_800,
        "machine": MACHINE,
        "started_at": "2026-02-03T04:05:06Z",
    }
    if status == "ok":
        values |= _outcome(protocol, 0.5 if score is None else score)
    return RunRecord(**(values | changes))


def _outcome(protocol: str, score: float) -> dict[str, Any]:
    metrics = {MAIN_METRIC[protocol]: score, SECOND_METRIC[protocol]: min(1.0, score * 1.2)}
    return {
        "metrics": metrics,
        "standard_errors": dict.fromkeys(metrics, 0.009),
        "device_used": "cpu",
        "n_parameters": 1_234_567,
        "n_bytes": 4_938_268,
        "phases": {
            "load": phase(0.4, 300_000_000),
            "fit": phase(12.34, 3_400_000_000),
            "score": phase(0.8, 500_000_000),
        },
        "users_per_second": 2_250.0,
        "latency_median_seconds": 0.0012,
        "latency_p99_seconds": 0.0034,
        "peak_rss_bytes": 3_400_000_000,
        "calibration": {"gemm_gflops": 200.0, "read_gb_per_second": 40.0},
        "versions": {"recscale": "0.1.0", "numpy": "2.4.6"},
    }


def phase(seconds: float, peak: int) -> Phase:
    return Phase(wall_seconds=seconds, cpu_seconds=2 * seconds, start_rss_bytes=200_000_000, peak_rss_bytes=peak)


def sized(model: str, knob: str, value: int, *, score: float, n_parameters: int, **changes: Any) -> RunRecord:
    """Return a finished record of a model with a size knob; cost grows with its parameters."""
    seconds = 0.05 + n_parameters / 2e6
    grown = {
        "parameters": {knob: value, "l2": 100.0},
        "size_knob": knob,
        "n_parameters": n_parameters,
        "n_bytes": 8 * n_parameters,
        "phases": {"fit": phase(seconds, 300_000_000 + 12 * n_parameters), "score": phase(0.5, 400_000_000)},
        "users_per_second": 5e8 / (n_parameters + 20_000),
    }
    return make_record(model, score=score, **(grown | changes))


def realistic(dataset: str = "debian-depends", protocol: str = "fold-in", scale: float = 1.0) -> list[RunRecord]:
    """Return what a run of several models and sizes leaves: finished runs, seeds, and every kind of failure."""
    common: dict[str, Any] = {"dataset": dataset, "protocol": protocol}
    n = 6_104
    records = [
        make_record("popularity", score=0.22 * scale, parameters={}, n_parameters=n, n_bytes=4 * n,
                    users_per_second=90_000.0, phases={"fit": phase(0.004, 210_000_000)}, **common),
        sized("ease", "k", n, score=0.560 * scale, n_parameters=n * n, **common),
        make_record("elfm", status="timeout", reason="the time budget ran out after step 12 of 40",
                    failed_phase="fit", parameters={"n_clusters": 4096, "d": 64}, size_knob="n_clusters",
                    timeout_seconds=600.0, estimated_model_bytes=4 * 6_000_000, **common),
        make_record("rglsvd", status="out_of_memory", reason="MemoryError: 23.1 GB on top of 1.9 GB",
                    failed_phase="fit", estimated_model_bytes=4 * 190_000_000, peak_rss_bytes=24_700_000_000, **common),
        make_record("slim", status="refused", reason="needs 729 GB, the limit is 8 GB",
                    estimated_peak_bytes=729_000_000_000, estimated_model_bytes=364_000_000_000, **common),
        make_record("deep", status="skipped", reason="no GPU on this machine", **common),
    ]  # fmt: skip
    for k, score in ((20, 0.49), (50, 0.525), (100, 0.545), (200, 0.556), (400, 0.559)):
        records.append(sized("chol", "k", k, score=score * scale, n_parameters=k * n, **common))
        records.append(sized("item_knn", "k", k, score=(score - 0.07) * scale, n_parameters=int(0.6 * k * n), **common))
    for d, score in ((16, 0.30), (32, 0.36), (64, 0.41), (128, 0.44), (256, 0.45)):
        for seed in (0, 1, 2):
            wobble = 0.004 * (seed - 1)
            records.append(sized("wrmf", "d", d, score=score * scale + wobble, n_parameters=d * n, seed=seed, **common))
        records.append(sized("bpr", "d", d, score=(score - 0.05) * scale, n_parameters=d * n, **common))
    return records


def judged(model: str = "elfm", *, precision: float | None = 0.6, **changes: Any) -> RunRecord:
    """Return a finished record with co-clusters, their examples, and the time of one more item.

    `precision` is that of the intrusion task, 0.1 each way its interval; None for no co-cluster that could be shown.
    """
    measures = {
        "n_coclusters": 64.0, "n_dead": 2.0, "n_judged": 60.0, "item_positive_share": 0.31,
        "user_positive_share": 0.5, "n_nondegenerate_positive": 60.0, "n_nondegenerate_strong": 40.0,
        "n_nondegenerate_top1": 10.0, "n_nondegenerate_top5": 30.0, "intrusion_chance": 0.25,
        "mean_jaccard@20": 0.02, "distinct_share@20": 0.43, "lift": 2.9, "lift_low": 2.5, "lift_high": 3.4,
    }  # fmt: skip
    if precision is not None:
        measures |= {"n_intrusion_groups": 60.0, "intrusion_precision_random": 0.23}
        measures |= _interval("intrusion_precision", precision, 0.1)
        for k in (5, 10, 20):
            measures |= {f"npmi@{k}": 0.3, f"npmi_random@{k}": 0.1} | _interval(f"npmi_excess@{k}", 0.2, 0.05)
    examples = [
        CoClusterExample(user=7, cluster=c, affinity=a, items=["Nina Simone", f"band {c}"])
        for c, a in ((3, 0.5), (41, 2.25))
    ]
    usual = {
        "coclusters": {f"cocluster.{name}": value for name, value in measures.items()},
        "cocluster_source": "model",
        "cocluster_examples": examples,
        "update_median_seconds": 0.0004,
        "update_p99_seconds": 0.0009,
        "state_update_median_seconds": 0.00002,
    }
    return make_record(model, **(usual | changes))


def _interval(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def sized_record() -> Callable[..., RunRecord]:
    return sized


@pytest.fixture(scope="session")
def realistic_records() -> Callable[..., list[RunRecord]]:
    return realistic


@pytest.fixture(scope="session")
def judged_record() -> Callable[..., RunRecord]:
    return judged
