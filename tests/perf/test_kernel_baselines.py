"""Kernels against committed baselines: CPU seconds on one thread, as multiples of a GEMM measured beside them.

results/baselines/kernels.json has the multiples for each machine that they were taken on. A kernel that takes more than
`FACTOR` times its baseline fails; on a machine without a baseline there is nothing to compare with. To take them anew:

    RENEW_KERNEL_BASELINES=1 tox -e perf -- -k kernel_baselines
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from recscale.contract import FitContext, HeldOut
from recscale.evaluation.evaluate import evaluate
from recscale.measuring.machine import fingerprint, machine_name, versions

pytestmark = pytest.mark.perf

BASELINES = Path(__file__).parents[2] / "results" / "baselines" / "kernels.json"
RENEW = "RENEW_KERNEL_BASELINES"
# CPU seconds hide what others take of the machine, not that they empty its caches and lower its clock; a loop that
# loses its vector instructions, or scans twice, costs more than this.
FACTOR = 1.4
ROUNDS = 9  # the best counts: what disturbs a round only ever adds
N_USERS, N_ITEMS, N_INTERACTIONS = 8_000, 2_000, 200_000
GEMM_SIZE = 1_024  # 2.1 GFLOP
ONE_THREAD = FitContext(n_threads=1)


def power_law():
    """Return (U, I) interactions: items by a power law, users log-normal."""
    rng = np.random.default_rng(0)
    popularity = np.arange(1, N_ITEMS + 1) ** -0.8
    activity = rng.lognormal(0, 1, N_USERS)
    users = rng.choice(N_USERS, N_INTERACTIONS, p=activity / activity.sum())
    items = rng.choice(N_ITEMS, N_INTERACTIONS, p=popularity / popularity.sum())
    train = sp.csr_array((np.ones(N_INTERACTIONS, np.float32), (users, items)), shape=(N_USERS, N_ITEMS))
    train.sum_duplicates()
    train.data[:] = 1
    return train


def ranking(train):
    rng = np.random.default_rng(1)
    entries = train.tocoo()
    in_target = rng.random(entries.nnz) < 0.2
    history, target = (
        sp.csr_array((entries.data[m], (entries.row[m], entries.col[m])), shape=train.shape)
        for m in (~in_target, in_target)
    )
    kept = (np.diff(target.indptr) > 0) & (np.diff(history.indptr) > 0)
    held_out = HeldOut(history[kept], target[kept])
    given = rng.standard_normal(train.shape, np.float32)
    return lambda: evaluate(lambda rows: given[: rows.shape[0]], held_out, ("recall@20", "ndcg@100"))


def gram_matrix(train):
    from recscale.models._gram import gram

    return lambda: gram(train, ONE_THREAD)


def inverse(train):
    from recscale.models._gram import gram
    from recscale.models._inverse import invert

    matrix = gram(train, ONE_THREAD)
    matrix[np.diag_indices_from(matrix)] += 100.0
    return lambda: invert(matrix.copy(), ONE_THREAD)


def sparse_gram_matrix(train):
    from recscale.models._sparse_gram import Keep, cosine, interactions, sparse_gram

    data, measure = interactions(train), cosine(train)
    return lambda: sparse_gram(data, measure, Keep(k=50), ONE_THREAD)


def min_sum(train):
    from recscale.models._min_sum import min_sum as sums

    rng = np.random.default_rng(2)
    left, right = (torch.from_numpy(rng.random((n, 256), np.float32)) for n in (512, N_ITEMS))
    return lambda: sums(left, right)


def neighbours(train):
    from recscale.models.item_knn import ItemKNN

    return lambda: ItemKNN(k=50).fit(train, ONE_THREAD)


def least_squares(train):
    from recscale.models.ials import IALS

    return lambda: IALS(factors=32, epochs=1).fit(train, ONE_THREAD)


def coordinate_descent(train):
    from recscale.models.slim import SLIM

    few = sp.csr_array(train[:, :300])
    few.sort_indices()
    return lambda: SLIM(l1=1.0, l2=10.0).fit(few, ONE_THREAD)


KERNELS = {
    "ranking": ranking,
    "gram": gram_matrix,
    "inverse": inverse,
    "sparse gram": sparse_gram_matrix,
    "min-sum": min_sum,
    "item neighbours": neighbours,
    "alternating least squares": least_squares,
    "coordinate descent": coordinate_descent,
}


@pytest.fixture(name="train", scope="module")
def _train():
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield power_law()


@pytest.fixture(name="measured", scope="module")
def _measured():
    """Collect the multiples of all kernels; write them down where they are to be renewed."""
    found = {}
    yield found
    print("\n\n| kernel | GEMMs | of its baseline |\n|---|---|---|")
    known = baselines().get(machine_name(), {}).get("kernels", {})
    for name, ratio in found.items():
        print(f"| {name} | {ratio:.3g} | {f'{ratio / known[name]:.2f}' if name in known else 'none'} |")
    if os.environ.get(RENEW) and found.keys() == KERNELS.keys():
        write_baselines(found)


def gemm_seconds():
    """Return the CPU seconds of a float32 matrix product, the best of some."""
    rng = np.random.default_rng(3)
    left, right = (rng.standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32) for _ in range(2))
    product = np.empty_like(left)
    found = []
    for _ in range(ROUNDS + 1):
        started = time.process_time()
        np.matmul(left, right, out=product)
        found.append(time.process_time() - started)
    return min(found[1:])


def baselines():
    """Return what is committed, by machine."""
    return json.loads(BASELINES.read_text())["machines"]


def write_baselines(found):
    """Write the multiples of this machine beside those of others."""
    document = json.loads(BASELINES.read_text())
    document["machines"][machine_name()] = {
        "cpu": fingerprint()["cpu"],
        "versions": {name: versions()[name] for name in ("blas", "numba", "numpy", "torch") if name in versions()},
        "kernels": {name: float(f"{ratio:.4g}") for name, ratio in found.items()},
    }
    BASELINES.write_text(json.dumps(document, indent=2) + "\n")


@pytest.mark.benchmark(timer=time.process_time, group="kernels")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_takes_no_more_gemms_than_its_baseline(benchmark, train, measured, kernel):
    run = KERNELS[kernel](train)
    before = gemm_seconds()

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)

    measured[kernel] = benchmark.stats.stats.min / min(before, gemm_seconds())
    if os.environ.get(RENEW):
        return
    known = baselines().get(machine_name())
    if known is None:
        pytest.skip(f"no baseline of {machine_name()}: {RENEW}=1 tox -e perf -- -k kernel_baselines makes one")
    assert measured[kernel] <= FACTOR * known["kernels"][kernel]
