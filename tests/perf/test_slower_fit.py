"""A fit that takes half as long again is caught by `recscale compare`, in real runs; identical ones raise no alarm."""

import pytest

import recscale
from recscale.records.regression import regressions
from recscale.records.store import Store

pytestmark = pytest.mark.perf
SEEDS, N_ALIKE = [0, 1, 2], 3
MODEL = '''
from dataclasses import dataclass
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Worker(Model):
    """Counts, and so many matrix products."""
    width: int = 4
    def fit(self, train, context=FitContext()):
        matrix = np.random.default_rng(0).random((700, 700), np.float32)
        for step in range({steps}):
            matrix = matrix @ matrix / 700
        self.counts_ = np.asarray(train.sum(axis=0), np.float32) + 0 * matrix[0, 0]
        return self
    def score(self, history):
        return np.tile(self.counts_, (history.shape[0], 1))
    def state(self): return {{"counts": self.counts_}}
    def load_state(self, state): self.counts_ = state["counts"]; return self

SPEC = ModelSpec(model=Worker, title="Worker", cite="none", size_knob="width", sizes=(4, 8))
'''
STEPS = 300


def run(folder, name, steps):
    plugin = folder / "worker.py"
    plugin.write_text(MODEL.format(steps=steps))
    recscale.run(
        "debian-depends[filter=10-core]", models=["worker"], plugins=[str(plugin)], seeds=SEEDS, threads=1,
        store=folder / name, progress=False,
    )  # fmt: skip
    return Store(folder / name)


def verdicts(before, after):
    return {f.quantity: f for f in regressions(before, after) if f.quantity.startswith("time")}


def test_a_fit_half_as_long_again_is_worse_and_the_same_fit_is_not(tmp_path):
    before = run(tmp_path, "before", STEPS)

    alike = [verdicts(before, run(tmp_path, f"again-{n}", STEPS)) for n in range(N_ALIKE)]
    slower = verdicts(before, run(tmp_path, "slower", STEPS * 3 // 2))

    for n, found in enumerate([*alike, slower]):
        print(n, [(f.quantity, f.baseline, f.candidate, f.verdict, f.note) for f in found.values()])
    assert slower["time of fit"].verdict == "worse"
    assert [found["time of fit"].verdict for found in alike] == ["level"] * N_ALIKE
