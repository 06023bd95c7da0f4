"""Tuning: as many trials for each model, on validation users, kept in the store and found again."""

import json

import pytest

import recscale
from recscale.errors import MissingExtra, UsageError
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.suite import Suite
from recscale.running.tuning import TuneOptions, Tuner

pytest.importorskip("optuna")

PLUGIN = '''"""A model that prefers items of which it has seen about `wanted`, and cannot do so for 3."""

from dataclasses import dataclass

import numpy as np

from recscale.contract import Choice, FitContext, Model, ModelSpec


@dataclass
class Tunable(Model):
    """Near enough is good."""

    wanted: int = 40
    sign: int = 1

    def fit(self, train, context=FitContext()):
        if self.wanted == 3:
            raise ValueError("three is one too few")
        self.scores_ = -self.sign * np.abs(np.asarray(train.sum(axis=0), np.float32) - self.wanted)
        return self

    def score(self, history):
        return np.tile(self.scores_, (history.shape[0], 1))

    def state(self):
        return {"scores": self.scores_}

    def load_state(self, state):
        self.scores_ = state["scores"]
        return self


SPEC = ModelSpec(
    model=Tunable, title="Tunable", cite="none", space={"wanted": Choice((1, 3, 15, 20, 60)), "sign": Choice((1, -1))}
)
'''

PUBLISHED = '''"""A data set with a published split of two parts, none of them for validation."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from recscale.contract import Dataset, DatasetSpec, Source


@dataclass(frozen=True)
class Published(Source):
    """Thirty users who have all four items."""

    def load(self):
        rows = sp.csr_array((np.ones(120, np.float32), np.tile(np.arange(4), 30), np.arange(0, 121, 4)), shape=(30, 4))
        parts = np.tile(np.array([0, 0, 0, 1], np.int8), 30)
        return Dataset("published", rows, np.arange(30), np.arange(4), "of no change", parts=parts)


SPEC = DatasetSpec(source=Published, title="Published", cite="none", has_fixed_split=True)
'''


class Told(Silent):
    """Remembers which jobs were started, and of which it was told the end."""

    def __init__(self):
        self.begun, self.ended = [], []

    def started(self, job):
        self.begun.append(job)

    def finished(self, job, record):
        self.ended.append(job)


@pytest.fixture
def tune(tmp_path, data_file):
    """Return a function that tunes the plug-in, and gives the studies, the records on test users and what was shown."""
    path, published = tmp_path / "tunable.py", tmp_path / "published.py"
    path.write_text(PLUGIN)
    published.write_text(PUBLISHED)

    def call(*models, protocol="hold-one-out", data=None, jobs=1, seeds=(0,), **options):
        data = data or {"file": {"path": str(data_file)}}
        suite = Suite(
            datasets=[data],
            protocols=[protocol],
            models=list(models),
            plugins=[str(path), str(published)],
            jobs=jobs,
            seeds=list(seeds),
        )
        shown = Told()
        studies, records = Tuner(suite, Store(tmp_path / "store"), shown, TuneOptions(**options)).run()
        return studies, records, shown

    return call


def value_by_hand(data_file, parameters, path, part):
    """Return the MRR of the plug-in with these options on a part of the held-out users."""
    split = recscale.split(recscale.dataset("file", path=str(data_file)), "hold-one-out")
    model = recscale.model("tunable", plugins=[path], **parameters).fit(split.train)
    return recscale.evaluate(model, getattr(split, part), ["mrr"]).means["mrr"]


def test_the_best_trial_on_validation_users_is_run_once_on_the_test_users(tune, tmp_path, data_file):
    (study,), records, shown = tune("tunable", trials=7, seeds=(0, 1), sampler="random")

    trials, path = study.trials, str(tmp_path / "tunable.py")
    assert trials[0].parameters == {"wanted": 40, "sign": 1}  # the defaults, although 40 is none of the values
    assert len({json.dumps(trial.parameters) for trial in trials}) == len(trials) == 7
    for trial in trials:
        assert (trial.status == "ok") == (trial.parameters["wanted"] != 3)
        assert (trial.evaluated_on, trial.seed, trial.n_test_users) == ("validation", 0, 6)
        if trial.status == "ok":
            assert trial.metrics["mrr"] == pytest.approx(value_by_hand(data_file, trial.parameters, path, "valid"))
    assert {"ok", "error"} == {trial.status for trial in trials}
    values = [trial.metrics.get("mrr", 0) for trial in trials]
    assert max(values) > min(value for value in values if value)
    assert study.best == trials[values.index(max(values))]
    assert [(r.parameters, r.seed, r.evaluated_on) for r in records] == [
        (study.best.parameters, s, "test") for s in (0, 1)
    ]
    assert records[0].metrics["mrr"] == pytest.approx(value_by_hand(data_file, study.best.parameters, path, "test"))

    store = Store(tmp_path / "store")
    assert sorted(r.key for r in store.records()) == sorted(r.key for r in records)
    assert sorted(r.key for r in store.trials()) == sorted(r.key for r in trials)
    assert len(shown.begun) == len(shown.ended) == 9
    assert study.seconds == pytest.approx(sum(p.wall_seconds for t in trials for p in t.phases.values()))


def test_what_was_tried_is_found_again_and_more_trials_go_on_from_there(tune):
    (first,), *_ = tune("tunable", trials=3)
    (second,), _, shown = tune("tunable", trials=4)

    assert second.trials[:3] == first.trials
    assert len(second.trials) == 4
    on_validation = [job.key for job in shown.begun if job.evaluated_on == "validation"]
    assert on_validation == [second.trials[3].key]
    assert [job.key for job in shown.ended[:4]] == [trial.key for trial in second.trials]  # all are shown


def test_options_that_are_given_are_held_fast_and_each_of_a_list_is_a_study(tune):
    studies, records, _ = tune("tunable[sign=1,-1]", trials=9)

    assert [study.text for study in studies] == ["tunable[sign=1]", "tunable[sign=-1]"]
    for study, sign in zip(studies, (1, -1), strict=True):
        assert {trial.parameters["sign"] for trial in study.trials} == {sign}
        assert len(study.trials) == 6  # 40 and the five values: there are no more
    assert [record.parameters["sign"] for record in records] == [1, -1]


def test_a_model_without_a_search_space_has_one_trial(tune):
    (study,), (record,), _ = tune("popularity", trials=5)

    assert [trial.parameters for trial in study.trials] == [record.parameters]


def test_a_study_ends_when_its_time_is_spent_and_may_find_nothing(tune):
    (short,), *_ = tune("tunable", trials=5, seconds=1e-6)
    assert len(short.trials) == 1

    (failed,), records, _ = tune("tunable[wanted=3,sign=1]", trials=5)
    assert (failed.best, records, failed.trials[0].status) == (None, [], "error")


@pytest.mark.parametrize(
    ("suite", "options", "message"),
    [
        ({"jobs": 2}, {}, "run one at a time"),
        ({}, {"metric": "ndgc@10"}, "did you mean 'ndcg"),
        ({"data": "published", "protocol": "fixed"}, {}, "published, fixed has no validation users to tune on"),
        ({}, {"trials": 0}, "trials"),
        ({}, {"sampler": "grid"}, "sampler"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_a_line(tune, suite, options, message):
    with pytest.raises(UsageError, match=message):
        tune("tunable", **suite, **options)


def test_without_optuna_the_extra_is_named(tune, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)

    with pytest.raises(MissingExtra, match=r"pip install 'recscale\[tune\]'"):
        tune("tunable")
