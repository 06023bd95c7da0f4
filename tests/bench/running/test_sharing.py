"""Sizes of one model share a fit where the model can be shrunk."""

import numpy as np
import pytest

import recscale
from recscale.records.store import Store


def run(data_file, store, *models, **suite):
    """Run models on the file into a store, and return the records."""
    data = {"file": {"path": str(data_file)}}
    return recscale.run(data, models=list(models), store=store, progress=False, **suite)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "fits"


@pytest.fixture
def shrinkable(tmp_path, log):
    """Return a plug-in that writes down what it fits and what it is shrunk to."""
    path = tmp_path / "shrinks.py"
    path.write_text(f'''"""A model whose larger fits hold the smaller ones."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recscale.contract import Model, ModelSpec


@dataclass
class Shrinks(Model):
    """Scores by the first k popularities."""

    k: int | None = None

    def fit(self, train, context=None):
        self.counts_ = np.zeros(train.shape[1], np.float32)
        self.counts_[: self.k] = train.sum(axis=0)[: self.k]
        if train.shape[0] != 64:  # not the warm-up
            self.note(f"fit {{self.k}}")
        return self

    def shrunk(self, size, context=None):
        self.note(f"shrunk {{self.k}} to {{size}}")
        time.sleep(float(os.environ.get("SLOW", 0)))
        smaller = replace(self, k=size)
        smaller.counts_ = np.where(np.arange(self.counts_.size) < size, self.counts_, np.float32(0))
        return smaller

    def note(self, text):
        with Path({str(log)!r}).open("a") as file:
            file.write(text + "\\n")

    def score(self, history):
        return np.tile(self.counts_, (history.shape[0], 1))

    def state(self):
        return {{"counts": self.counts_}}

    def load_state(self, state):
        self.counts_ = state["counts"]
        return self


SPEC = ModelSpec(model=Shrinks, title="Shrinks", cite="none", size_knob="k", sizes=(1, 2, None))
''')
    return str(path)


def fits(log):
    return log.read_text().splitlines()


def test_the_largest_size_is_fitted_and_the_others_follow_from_it(tmp_path, data_file, shrinkable, log):
    frame = run(data_file, tmp_path / "s", "shrinks[k=2,none,3]", plugins=[shrinkable])

    assert fits(log) == ["fit None", "shrunk None to 3", "shrunk None to 2"]
    small, whole, middle = (frame.iloc[i] for i in range(3))  # in the order written
    assert (small["parameter.k"], middle["parameter.k"]) == (2, 3) and frame["status"].eq("ok").all()
    assert frame["shrunk_from"].notna().tolist() == [True, False, True]
    for row in (small, middle):
        assert row["shrunk_from"] == whole["key"]
        assert row["fit_wall_seconds"] > whole["fit_wall_seconds"] > 0
        assert row["fit_cpu_seconds"] >= whole["fit_cpu_seconds"]
        assert row["fit_peak_rss_bytes"] >= whole["fit_peak_rss_bytes"]
    assert not list((tmp_path / "s" / ".work").glob("*fits*"))


def test_what_is_shrunk_is_what_a_fit_of_its_own_would_be(tmp_path, data_file):
    models = ["ease[l2=5,k=3,none,6]", "popularity", "ease[l2=9,k=3]"]
    shared = run(data_file, tmp_path / "one", *models)
    alone = [
        run(data_file, tmp_path / f"{number}", model)
        for number, model in enumerate(
            ["ease[l2=5,k=3]", "ease[l2=5]", "ease[l2=5,k=6]", "popularity", "ease[l2=9,k=3]"]
        )
    ]

    assert shared["shrunk_from"].notna().tolist() == [True, False, True, False, False]
    for row, own in zip(shared.itertuples(), alone, strict=True):
        assert row.key == own["key"][0]
        assert row.n_bytes == own["n_bytes"][0]
        assert shared.loc[row.Index, "ndcg@100"] == own["ndcg@100"][0]
    one, other = (Store(tmp_path / name) for name in ("one", "0"))
    (record,) = other.records()
    for name, values in one.per_user(record).items():
        np.testing.assert_array_equal(values, other.per_user(record)[name])


def test_what_was_fitted_before_is_not_fitted_again_for_the_sake_of_smaller_sizes(tmp_path, data_file, shrinkable, log):
    for model in ("shrinks", "shrinks[k=1,2,none]"):
        run(data_file, tmp_path / "s", model, plugins=[shrinkable])

    assert fits(log) == ["fit None", "fit 2", "shrunk 2 to 1"]


def test_a_size_above_the_number_of_items_gives_its_fit_to_nobody(tmp_path, data_file, shrinkable, log):
    run(data_file, tmp_path / "s", "shrinks[k=1,2,5000]", plugins=[shrinkable])

    assert fits(log) == ["fit 5000", "fit 2", "shrunk 2 to 1"]


def test_the_fit_that_was_shared_counts_against_the_time_limit(
    tmp_path, data_file, shrinkable, enough_seconds, monkeypatch
):
    monkeypatch.setenv("SLOW", "600")
    frame = run(data_file, tmp_path / "s", "shrinks[k=1,none]", plugins=[shrinkable], timeout=enough_seconds)

    assert frame["status"].tolist() == ["timeout", "ok"]
