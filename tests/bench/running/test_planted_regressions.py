"""Regressions planted in a model of one's own: run, stored, compared. Times are planted in the records."""

import msgspec
import numpy as np
import pytest

import recscale
from recscale.cli import main
from recscale.measuring.machine import source_commit
from recscale.records.regression import regressions
from recscale.records.store import Store

MODEL = '''
from dataclasses import dataclass
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Together(Model):
    """Items that occur together, by counts."""
    width: int = 4
    def fit(self, train, context=FitContext()):
        self.counts_ = np.asarray((train.T @ train).todense(), np.float32)
        self.held_ = np.zeros({extra}, np.float32)
        scratch = np.ones(({megabytes} << 20) // 8)
        self.counts_ += np.float32(0 * scratch[0])
        return self
    def score(self, history):
        scores = np.asarray(history @ self.counts_, np.float32)
        noise = np.random.default_rng(0).random(scores.shape, np.float32)
        return scores * (1 - np.float32({noise}) * (noise < 0.5))
    def state(self): return {{"counts": self.counts_, "held": self.held_}}
    def load_state(self, state): self.counts_, self.held_ = state["counts"], state["held"]; return self

SPEC = ModelSpec(model=Together, title="Together", cite="none", size_knob="width", sizes=(4, 8))
'''
HONEST = {"extra": 1, "megabytes": 64, "noise": 0.0}


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    """Return a function that runs a copy of the model, as changed, into a store of its own."""
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines, popularity = ["user,item"], 1 / np.arange(1, 31)
    for user in range(1_000):  # of two tastes, so that what occurs together tells
        own = rng.choice(30, size=8, replace=False, p=popularity / popularity.sum()) + 30 * (user % 2)
        lines += [f"u{user},i{item}" for item in own]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    plugin = tmp_path / "together.py"

    def run(name, **changes):
        plugin.write_text(MODEL.format(**(HONEST | changes)))
        recscale.run(
            {"file": {"path": str(tmp_path / "data.csv")}},
            models=["together"], plugins=[str(plugin)], store=tmp_path / name, progress=False,
        )  # fmt: skip
        return Store(tmp_path / name, "machine")

    return run


def verdicts(before, after):
    return {f.quantity: f.verdict for f in regressions(before, after) if not f.quantity.startswith("time")}


@pytest.mark.slow
def test_every_planted_regression_is_caught_and_identical_runs_are_level(run, tmp_path, capsys):
    before = run("before")
    (record,) = before.records()
    assert record.status == "ok", record.reason

    again = verdicts(before, run("again"))
    assert set(again.values()) == {"level"}
    for name, changes, quantities in (
        ("disturbed", {"noise": 0.8}, {"ndcg@100"}),
        ("larger", {"extra": 1 + 180}, {"parameters", "bytes"}),  # 5 % of 60 x 60
        ("heavier", {"megabytes": 128}, {"memory of fit"}),
    ):
        after = run(name, **changes)
        found = {quantity for quantity, verdict in verdicts(before, after).items() if verdict == "worse"}
        assert quantities <= found, (name, found)
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(before.root), str(after.root)])
        assert ended.value.code == 1
        assert "something got worse" in capsys.readouterr().out


@pytest.mark.slow
def test_versions_of_a_plug_in_in_one_store_are_a_history(run, capsys):
    run("s")
    store = run("s", extra=181)
    assert len(store.records()) == 2  # the key holds the code

    with pytest.raises(SystemExit) as ended:
        main(["history", str(store.root), "--metric", "recall@20"])

    assert ended.value.code == 0
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if " parameters " in line]
    assert "worse at" in row and "+5 %" in row


def test_a_record_has_its_commit_and_one_from_before_commits_were_kept_is_still_read(run):
    store = run("s")
    (record,) = store.records()
    assert record.commit == source_commit()

    (path,) = store.root.glob("*/*/*/*.json")
    fields = msgspec.json.decode(path.read_bytes())
    del fields["commit"]
    path.write_bytes(msgspec.json.encode(fields))
    (record,) = store.records()
    assert record.commit is None
    assert not store.unreadable
