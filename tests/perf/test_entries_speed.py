"""A training step of MF-BPR, GMF and uCML, items read in place, beside one that looks their vectors up first."""

import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest

import recscale
from recscale.contract import FitContext
from recscale.models._entry_trainer import EntryTrainer
from recscale.models._training import session

pytestmark = pytest.mark.perf

PLANTED = {"n_users": 6_000, "n_items": 3_000, "n_interactions": 800_000, "n_clusters": 32}  # about ml-1m
N_ENTRIES, N_STEPS = 4_096, 10
ALONE = FitContext(n_threads=1)


def step_seconds(trainer):
    """Return the median seconds of a step, after a warm-up."""
    seconds = []
    for step in range(N_STEPS + 2):
        batch = SimpleNamespace(
            rows=np.arange(step * N_ENTRIES, (step + 1) * N_ENTRIES), rng=np.random.default_rng(step)
        )
        start = time.perf_counter()
        trainer.loss(batch).backward()
        trainer.optimiser.step()
        trainer.optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


@pytest.mark.parametrize(("name", "at_least"), [("mf_bpr", 1.5), ("gmf", 2.0), ("ucml", 4.0)])
def test_a_step_that_reads_in_place_is_faster(name, at_least):
    rows = recscale.split(recscale.dataset("planted", **PLANTED), "fold-in").train
    model = recscale.model(name)
    model.n_items_ = rows.shape[1]
    with session(ALONE):
        trainers = [EntryTrainer(model, rows, ALONE) for _ in range(2)]
        trainers[1].reads_in_place = False
        in_place, looked_up = map(step_seconds, trainers)

    print(f"{name}: {1e3 * in_place:.1f} ms, looked up {1e3 * looked_up:.1f} ms, {looked_up / in_place:.1f} x")
    assert looked_up > at_least * in_place
