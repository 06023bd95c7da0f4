"""The co-clusters of a model stand in its record, by name."""

import pytest

import recscale
from recscale.records.store import Store

PLUGIN = '''"""A model with two co-clusters: the first items, and the others."""

from dataclasses import dataclass

import numpy as np

from recscale.contract import Model, ModelSpec


@dataclass
class Halves(Model):
    """Everybody likes both halves."""

    def fit(self, train, context=None):
        self.n_items_ = np.array([train.shape[1]])
        return self

    def score(self, history):
        return np.ones(history.shape, np.float32)

    def state(self):
        return {{"n_items": self.n_items_}}

    def load_state(self, state):
        self.n_items_ = state["n_items"]
        return self

    def item_affinity(self):
        {body}
        first = np.arange(self.n_items_[0]) < self.n_items_[0] // 2
        return np.stack([first * np.arange(self.n_items_[0], 0, -1), ~first], axis=1).astype(np.float32)

    def user_affinity(self, history):
        return np.tile(np.array([2, 1], np.float32), (history.shape[0], 1))


SPEC = ModelSpec(model=Halves, title="Halves", cite="none")
'''


@pytest.fixture
def halves(tmp_path):
    """Return a function that writes the plug-in; `body` is done before the items are told."""

    def write(body="pass"):
        path = tmp_path / "halves.py"
        path.write_text(PLUGIN.format(body=body))
        return str(path)

    return write


def run(data_file, store, plugin, **suite):
    recscale.run(
        {"file": {"path": str(data_file)}}, models=["halves"], plugins=[plugin], store=store, progress=False, **suite
    )
    (record,) = Store(store).records()
    return record


def test_the_record_holds_figures_and_examples_by_name(tmp_path, data_file, halves):
    record = run(data_file, tmp_path / "s", halves())

    assert record.status == "ok" and record.cocluster_source == "model" and not record.warnings[1:]
    assert record.coclusters["cocluster.n_coclusters"] == 2 and record.coclusters["cocluster.n_dead"] == 0
    assert record.phases["judge"].wall_seconds > 0
    assert [one.cluster for one in record.cocluster_examples] == [0, 1] * 3
    assert [one.affinity for one in record.cocluster_examples[:2]] == [2, 1]
    assert len({one.user for one in record.cocluster_examples}) == 3
    first, second = (one.items for one in record.cocluster_examples[:2])
    assert len(first) == len(second) == 10 and not set(first) & set(second)
    assert set(first) | set(second) == {f"i{item}" for item in range(20)}


def test_a_model_without_coclusters_has_none_in_its_record(tmp_path, data_file):
    recscale.run({"file": {"path": str(data_file)}}, models=["popularity"], store=tmp_path / "s", progress=False)

    (record,) = Store(tmp_path / "s").records()
    assert record.coclusters == {} and record.cocluster_source is None and record.cocluster_examples == []
    assert record.update_median_seconds == record.latency_median_seconds
    assert record.state_update_median_seconds is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import os; os._exit(3)", "the process was ended before"),
        ("raise MemoryError", "MemoryError"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("return np.full((self.n_items_[0], 2), np.nan, np.float32)", "NaN"),
    ],
)
def test_a_model_whose_coclusters_cannot_be_judged_keeps_its_scores(tmp_path, data_file, halves, body, reason):
    record = run(data_file, tmp_path / "s", halves(body))

    assert record.status == "ok" and record.metrics and record.latency_median_seconds is not None
    assert record.coclusters == {}
    assert [line for line in record.warnings if "the co-clusters were not judged" in line and reason in line]


ENDS = """
from dataclasses import dataclass
import os
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Ends(Model):
    def fit(self, train, context=FitContext()):
        self.counts_ = np.asarray(train.sum(axis=0), np.float32).ravel()
        self.n_alone_ = 0
        return self
    def score(self, history):
        self.n_alone_ += history.shape[0] == 1
        if self.n_alone_ > 3: os._exit(3)
        return np.tile(self.counts_, (history.shape[0], 1))
    def state(self): return {"counts": self.counts_}
    def load_state(self, state): self.counts_ = state["counts"]; self.n_alone_ = 0; return self

SPEC = ModelSpec(model=Ends, title="Ends", cite="none")
"""


def test_a_model_that_is_ended_while_single_users_are_timed_keeps_its_scores(tmp_path, data_file):
    path = tmp_path / "ends.py"
    path.write_text(ENDS)

    recscale.run(
        {"file": {"path": str(data_file)}}, models=["ends"], plugins=[str(path)], store=tmp_path / "s", progress=False
    )  # fmt: skip

    (record,) = Store(tmp_path / "s").records()
    assert record.status == "ok" and record.metrics and record.users_per_second
    assert record.latency_median_seconds is None
    assert "the latency was not measured: the process was ended before" in record.warnings
    assert Store(tmp_path / "s").per_user(record)


def test_an_incremental_model_has_the_latency_of_an_update(tmp_path, data_file):
    recscale.run(
        {"file": {"path": str(data_file)}}, store=tmp_path / "s", progress=False,
        models=["elfm[n_clusters=4,factors=4,epochs=2]"],
    )  # fmt: skip

    (record,) = Store(tmp_path / "s").records()
    assert record.update_p99_seconds >= record.update_median_seconds >= record.state_update_median_seconds > 0
    assert record.cocluster_source == "model"


def test_the_vectors_of_a_model_without_coclusters_are_clustered(tmp_path, data_file):
    recscale.run(
        {"file": {"path": str(data_file)}}, models=["wrmf[factors=4]"], store=tmp_path / "s", progress=False
    )  # fmt: skip

    (record,) = Store(tmp_path / "s").records()
    assert record.status == "ok" and record.cocluster_source == "clustering"
    assert record.coclusters["cocluster.n_coclusters"] == 1  # 48 users and 20 items, a hundred to each at least
    assert "cocluster.n_nondegenerate_top1" in record.coclusters
    assert "cocluster.n_nondegenerate_positive" not in record.coclusters
    assert record.cocluster_examples == []
    assert Store(tmp_path / "s").top_items(record).shape == (1, 20)
