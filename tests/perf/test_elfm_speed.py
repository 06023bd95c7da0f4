"""ELFM's kernels beside the forms they replace: the aggregator as printed, torch.cdist, and a GEMM of the same shape.

All in one process and in turn, on all threads, medians after a warm-up; peaks of memory in fresh processes.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sp

import recscale
from recscale.contract import FitContext
from recscale.errors import DataError

pytestmark = pytest.mark.perf

N_USERS, N_ITEMS, N_ENTRIES, N_CLUSTERS, FACTORS, N_NEGATIVES = 1024, 20_000, 51_000, 512, 64, 1000
N_BUCKETS, N_RUNS = 64, 7
PEAK = """
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_elfm_speed import histories, literal_step, our_step, tables

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

step = {"ours": our_step, "literal": literal_step}[sys.argv[2]]
step(histories(n_users=64, n_entries=3000), tables(int(sys.argv[3])))()
rows, parameters = histories(), tables(int(sys.argv[3]))
before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
step(rows, parameters)()
print("RESULT " + json.dumps(memory("VmHWM") - before))
"""


def histories(n_users=N_USERS, n_entries=N_ENTRIES, seed=0):
    """Return the histories of a batch (B, I), with skewed lengths and popularity."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0, 1, n_users)
    lengths = np.clip(lengths * n_entries / lengths.sum(), 2, 2000).astype(int)
    items = (rng.random(lengths.sum()) ** 1.5 * N_ITEMS).astype(int)
    rows = sp.csr_array((np.ones(items.size, np.float32), (np.repeat(np.arange(n_users), lengths), items)))
    rows.resize((n_users, N_ITEMS))
    rows.sum_duplicates()
    rows.data[:] = 1
    return rows


def tables(n_clusters=N_CLUSTERS):
    """Return parameters as they are initialised: e_i, h_c, e_c and W, with gradients."""
    import torch

    torch.manual_seed(0)
    scale = FACTORS**-0.5
    drawn = [scale * torch.randn(n, FACTORS) for n in (N_ITEMS, n_clusters, n_clusters, FACTORS)]
    drawn[3] = torch.eye(FACTORS) + 0.1 * drawn[3]
    return [table.requires_grad_() for table in drawn]


def task_of(rows):
    from recscale.models._sampled_loss import draw_task

    return draw_task(rows, N_NEGATIVES, np.random.default_rng(1))


def literal_affinities(rows, parameters):
    """Return a_uc (B, N) as equations 2 and 5 are printed: users of like length padded together, 64 buckets."""
    import torch

    items, heads, clusters, mixing = parameters
    lengths = np.diff(rows.indptr)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for bucket in np.array_split(order, N_BUCKETS):
        longest = max(int(lengths[bucket].max()), 1)
        places = np.zeros((bucket.size, longest), np.int64)
        padded = np.ones((bucket.size, longest), bool)
        for place, user in enumerate(bucket):
            own = rows.indices[rows.indptr[user] : rows.indptr[user + 1]]
            places[place, : own.size], padded[place, : own.size] = own, False
        known = items[torch.as_tensor(places)]  # (b, L, d)
        exponents = heads @ known.transpose(1, 2) / FACTORS**0.5  # (b, N, L)
        weights = exponents.masked_fill(torch.as_tensor(padded)[:, None], -torch.inf).softmax(2)
        users = weights @ known @ mixing.T  # (b, N, d)
        parts.append((users * clusters).sum(2).relu())
    back = torch.as_tensor(np.argsort(order, kind="stable"))
    return torch.cat(parts)[back]


def cdist_min_sum(left, right):
    """Return sum_c min(a, b) by the L1 distance."""
    import torch

    return (left.sum(1)[:, None] + right.sum(1) - torch.cdist(left, right, p=1)) / 2


def literal_step(rows, parameters):
    """Return a training step without its optimiser, the loss of a batch and its gradients, all under autograd."""
    import torch

    task = task_of(rows)
    taken, hidden, pool = task.taken, torch.as_tensor(task.hidden), torch.as_tensor(task.pool)

    def step():
        for table in parameters:
            table.grad = None
        items, clusters = parameters[0], parameters[2]
        users = literal_affinities(task.known, parameters)
        wanted, others = ((items[places] @ clusters.T).relu() for places in (hidden, pool))
        found = torch.minimum(users, wanted).sum(1, keepdim=True)
        scores = torch.cat([found, cdist_min_sum(users, others)], dim=1)
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed[taken[0], taken[1] + 1] = False
        logs = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
        spread = torch.where(allowed, logs, 0).sum(1) / allowed.sum(1)
        loss = -(0.9 * logs[:, 0] + 0.1 * spread).mean()
        loss.backward()
        return float(loss.detach())

    return step


def our_step(rows, parameters):
    """Return the same of ours, as its training runs it."""
    import torch

    from recscale.models._training import Batch
    from recscale.models.elfm import ELFM, _Trainer

    model = ELFM(n_clusters=len(parameters[1]), factors=FACTORS, n_negatives=N_NEGATIVES, l1=0)
    trainer = _Trainer(model, rows, FitContext())
    trainer.module = torch.nn.ParameterList(parameters)

    def step():
        for table in trainer.module:
            table.grad = None
        everybody = Batch(np.arange(rows.shape[0]), slice(0, rows.shape[0]), 0, 0, np.random.default_rng(1))
        loss = trainer.loss(everybody)
        loss.backward()
        return float(loss.detach())

    return step


def gemms(rows, parameters):
    """Return the GEMMs of a step, forwards and back: those of the tables, and one of the shape of min-sum."""
    import torch

    n_items, n_clusters = np.unique(rows.indices).size, len(parameters[1])
    own, joined = torch.randn(n_items, FACTORS), torch.randn(2 * n_clusters, FACTORS)
    users, pool = torch.randn(N_USERS, n_clusters), torch.randn(N_NEGATIVES + 1, n_clusters)

    def step():
        table, scores = own @ joined.T, users @ pool.T
        return table @ joined, table.T @ own, scores @ pool, scores.T @ users

    return step


def medians(contenders):
    """Return the median milliseconds of each contender, run in turn."""
    taken = {title: [] for title in contenders}
    for run in range(N_RUNS + 1):
        for title, function in contenders.items():
            started = time.perf_counter()
            function()
            if run:
                taken[title].append(1000 * (time.perf_counter() - started))
    return {title: statistics.median(values) for title, values in taken.items()}


def verdict(value, goal, at_least=True):
    reached = value >= goal if at_least else value <= goal
    return f"{value:6.2f} (goal {'>=' if at_least else '<='} {goal}: {'reached' if reached else 'missed'})"


def affinities_like(n_rows, seed):
    """Return affinities (R, N) of which half are zero."""
    import torch

    return torch.randn(n_rows, N_CLUSTERS, generator=torch.Generator().manual_seed(seed)).relu()


def test_a_training_step_beside_the_printed_form_and_its_gemms(capsys):
    rows, parameters = histories(), tables()
    contenders = {"as printed": literal_step(rows, parameters), "ours": our_step(rows, parameters)}
    losses = {title: step() for title, step in contenders.items()}

    found = medians(contenders | {"its GEMMs": gemms(rows, parameters)})

    with capsys.disabled():
        shape = f"{N_USERS} users, {rows.nnz:,} entries, {np.unique(rows.indices).size:,} items, N = {N_CLUSTERS}"
        print(f"\nELFM, a training step: {shape}, {os.cpu_count()} threads, medians of {N_RUNS}")
        for title, milliseconds in found.items():
            print(f"{title:12}{milliseconds:10.0f} ms")
        print(f"times the printed form: {verdict(found['as printed'] / found['ours'], 8)}")
        print(f"times its GEMMs: {verdict(found['ours'] / found['its GEMMs'], 2, at_least=False)}")
    np.testing.assert_allclose(losses["ours"], losses["as printed"], rtol=1e-4)  # the same, or no contest


def test_min_sum_beside_cdist_and_a_gemm(capsys):
    import torch

    from recscale.models._min_sum import min_sum

    left, right = (affinities_like(n, n).requires_grad_() for n in (N_USERS, N_NEGATIVES + 1))
    weights = torch.randn(N_USERS, N_NEGATIVES + 1)

    def both(product):
        left.grad = right.grad = None
        product(left, right).backward(weights)

    contenders = {
        "cdist": lambda: both(cdist_min_sum),
        "ours": lambda: both(min_sum),
        "ours, forward": lambda: min_sum(left.detach(), right.detach()),
        "a GEMM, forward": lambda: left.detach() @ right.detach().T,
    }
    found = medians(contenders)

    with capsys.disabled():
        print(f"\nmin-sum, {N_USERS} x {N_NEGATIVES + 1} x {N_CLUSTERS}, forward and backward")
        for title, milliseconds in found.items():
            print(f"{title:16}{milliseconds:10.1f} ms")
        print(f"times cdist: {verdict(found['cdist'] / found['ours'], 6)}")
    torch.testing.assert_close(min_sum(left, right), cdist_min_sum(left, right), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_scoring_a_catalogue_beside_a_gemm(capsys, density):
    import torch

    from recscale.models._min_sum import Catalogue

    items, users = affinities_like(N_ITEMS, 2), affinities_like(256, 3)
    threshold = float(torch.quantile(users, 1 - density / 2)) if density < 0.5 else 0.0
    users = (users - threshold).relu() if density <= 0.5 else users + 0.01
    catalogue = Catalogue(items)

    found = medians({"ours": lambda: catalogue.scores(users), "a GEMM": lambda: users @ items.T})

    with capsys.disabled():
        positive = float((users > 0).float().mean())
        print(f"\n256 users over {N_ITEMS} items, N = {N_CLUSTERS}, {positive:.0%} of the users' affinities positive")
        print(f"ours {256e3 / found['ours']:8.0f} users a second; a GEMM {256e3 / found['a GEMM']:8.0f}")
        print(f"times a GEMM: {verdict(found['ours'] / found['a GEMM'], 2, at_least=False)}")
    literal = torch.minimum(users[:4, None], items[None, :500]).sum(2)
    torch.testing.assert_close(catalogue.scores(users)[:4, :500], literal, rtol=1e-4, atol=1e-4)


def test_the_peak_of_a_step_beside_the_printed_form(capsys):
    peaks = {}
    for title in ("ours", "literal"):
        command = [sys.executable, "-c", PEAK, os.path.dirname(__file__), title, "2048"]  # noqa: PTH120
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[title] = int(done.stdout.split("RESULT ")[-1])

    with capsys.disabled():
        print(f"\nELFM, peak of a training step beyond the data, N = 2048: {N_USERS} users")
        for title, peak in peaks.items():
            print(f"{title:12}{peak / 1e6:10.0f} MB")
    assert peaks["ours"] < peaks["literal"]


def test_an_epoch_on_gowalla(capsys):
    try:
        data = recscale.dataset("gowalla")
    except DataError as error:
        pytest.skip(str(error))
    train = recscale.split(data, "hold-one-out").train
    marks, losses = [], []

    def log(name, step, value):
        if name == "loss":
            marks.append(time.perf_counter())
            losses.append(value)

    recscale.model("elfm", n_clusters=N_CLUSTERS, factors=FACTORS, epochs=4).fit(train, FitContext(log=log))

    seconds = statistics.median(np.diff(marks))
    with capsys.disabled():
        print(f"\nELFM, an epoch of Gowalla {train.shape}, {train.nnz:,} entries, N = {N_CLUSTERS}, d = {FACTORS}")
        print(f"seconds: {verdict(seconds, 20, at_least=False)}")
    assert losses[-1] < losses[0]  # it learns, or no contest
