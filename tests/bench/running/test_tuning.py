"""Tuning: as many trials for each model, on validation users, kept in the store and found again."""

import json
import math

import numpy as np
import pytest

import recscale
from recscale.cli import main
from recscale.contract import Choice, Range
from recscale.errors import MissingExtra, UsageError
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.suite import Suite
from recscale.running.tuning import TuneOptions, Tuner, _n_choices

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
        self.begun, self.ended, self.plans = [], [], []

    def planned(self, n_jobs, n_settled, told="", name="job"):
        self.plans.append((n_jobs, told, name))

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

    def call(*models, protocol="hold-one-out", data=None, jobs=1, seeds=(0,), timeout=None, device="auto", **options):
        data = data or {"file": {"path": str(data_file)}}
        suite = Suite(
            datasets=[data],
            protocols=[protocol],
            models=list(models),
            plugins=[str(path), str(published)],
            jobs=jobs,
            seeds=list(seeds),
            timeout=timeout,
            device=device,
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
    (study,), records, shown = tune("tunable", trials=6, seeds=(0, 1), sampler="random")

    trials, path = study.trials, str(tmp_path / "tunable.py")
    assert trials[0].parameters == {"wanted": 40, "sign": 1}  # the defaults, although 40 is none of the values
    assert len({json.dumps(trial.parameters) for trial in trials}) == len(trials) == 6
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
    assert len(shown.begun) == len(shown.ended) == 8
    seconds = [trial.job_wall_seconds for trial in trials]
    assert study.seconds == pytest.approx(sum(seconds))
    assert all(s > sum(p.wall_seconds for p in t.phases.values()) for s, t in zip(seconds, trials, strict=True))


def test_what_was_tried_is_found_again_and_more_trials_go_on_from_there(tune):
    (first,), *_ = tune("tunable", trials=3)
    (second,), _, shown = tune("tunable", trials=4)

    assert second.trials[:3] == first.trials
    assert len(second.trials) == 4
    on_validation = [job.key for job in shown.begun if job.evaluated_on == "validation"]
    assert on_validation == [second.trials[3].key]
    assert [job.key for job in shown.ended[:4]] == [trial.key for trial in second.trials]  # all are shown


def test_options_that_are_given_are_held_fast_and_each_of_a_list_is_a_study(tune):
    studies, records, shown = tune("tunable[sign=1,-1]", trials=2)

    assert [study.text for study in studies] == ["tunable[sign=1]", "tunable[sign=-1]"]
    for study, sign in zip(studies, (1, -1), strict=True):
        assert {trial.parameters["sign"] for trial in study.trials} == {sign}
        assert len(study.trials) == 2
    assert [record.parameters["sign"] for record in records] == [1, -1]
    told = studies[0].data.text
    assert shown.plans[:2] == [
        (2, f"of tunable[sign=1] on {told}, hold-one-out, by mrr", "trial"),
        (1, f"of the best tunable[sign=1] on {told}, for the test users", "job"),
    ]


def test_a_model_without_a_search_space_has_one_trial(tune):
    (study,), (record,), _ = tune("popularity", trials=5)

    assert [trial.parameters for trial in study.trials] == [record.parameters]


def test_a_study_ends_when_its_time_is_spent_and_may_find_nothing(tune):
    (short,), *_ = tune("tunable", trials=5, seconds=1e-6)
    assert len(short.trials) == 1

    (failed,), records, _ = tune("tunable[wanted=3,sign=1]", trials=5)
    assert (failed.best, records, failed.trials[0].status) == (None, [], "error")


def test_the_time_of_a_trial_that_was_killed_counts(tune, tmp_path):
    source = (tmp_path / "tunable.py").read_text()
    hangs = source.replace(
        "if self.wanted == 3:", "if len(train.indptr) > 46:\n            import time; time.sleep(60)\n        if 0:"
    )
    (tmp_path / "tunable.py").write_text(hangs)

    (study,), *_ = tune("tunable", trials=5, seconds=1.0, timeout=1)

    assert [trial.status for trial in study.trials] == ["timeout"]
    assert study.seconds >= 1


def test_a_metric_of_which_less_is_better_is_brought_down_and_stands_in_the_record_of_the_test(tune):
    (study,), (record,), _ = tune("tunable", "tunable", trials=4, metric="gini@5")  # named twice, studied once

    values = [trial.metrics["gini@5"] for trial in study.trials if trial.status == "ok"]
    assert study.best.metrics["gini@5"] == min(values) < max(values)
    assert {"gini@5", "mrr"} <= record.metrics.keys()


@pytest.mark.parametrize("is_better_higher", [True, False])
def test_the_sampler_learns_from_values_and_draws_the_same_from_the_same(is_better_higher):
    tuner = Tuner(Suite(), Store("nowhere"), Silent())
    space, sign = {"x": Range(0.001, 1000.0, log=True), "y": Range(1, 50)}, 1 if is_better_higher else -1

    def drawn(n, reached):
        draws, value, found = tuner.draws(space, {"x": 1.0, "y": 7}, is_better_higher=is_better_higher), None, []
        for _ in range(n):
            found.append(draws.send(value))
            value = reached(**found[-1])
        return found

    near_400 = drawn(40, lambda x, y: -sign * abs(math.log(x / 400)))

    assert near_400[0] == {"x": 1.0, "y": 7}
    assert all(0.001 <= one["x"] <= 1000 and 1 <= one["y"] <= 50 and type(one["y"]) is int for one in near_400)
    assert all(one["x"] == float(f"{one['x']:.4g}") for one in near_400)
    assert np.median([abs(math.log(one["x"] / 400)) for one in near_400[20:]]) < 1  # of 13 in all
    assert drawn(40, lambda x, y: -sign * abs(math.log(x / 400))) == near_400
    near_001 = drawn(40, lambda x, y: -sign * abs(math.log(x / 0.01)))
    assert near_001[:5] == near_400[:5] and near_001[8:] != near_400[8:]
    assert len(drawn(12, lambda x, y: None)) == 12  # failures are no values


def test_there_are_no_more_trials_than_different_ones():
    choices = {"x": Choice((1, 2, 3)), "y": Choice((None, "a"))}

    assert _n_choices(choices, {"x": 2, "y": None}) == 6
    assert _n_choices(choices, {"x": 7, "y": None}) == 7  # and the defaults
    assert _n_choices({}, {}) == 1
    assert _n_choices({**choices, "z": Range(0, 1)}, {"x": 2, "y": None, "z": 0}) == math.inf


def test_a_device_that_is_not_here_ends_the_study(tune):
    (study,), records, _ = tune("tunable", trials=5, device="cuda:7")

    assert [trial.status for trial in study.trials] == ["skipped"] and records == []


def tune_by_hand(capsys, data_file, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--data", str(data_file), "--store", str(data_file.parent / "s"), *arguments])
    return ended.value.code, capsys.readouterr().out


def test_the_command_line_prints_what_was_found_and_strict_tells_of_what_was_not(capsys, data_file, tmp_path):
    (tmp_path / "tunable.py").write_text(PLUGIN)
    flags = ["--plugin", str(tmp_path / "tunable.py"), "-m", "tunable[wanted=3,sign=1]", "-m", "popularity"]

    code, out = tune_by_hand(capsys, data_file, *flags, "--seeds", "0", "1")
    assert code == 0
    assert "tuned by ndcg@100 of the validation users" in out
    found = {
        line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("tunable", "popularity"))
    }
    assert found["tunable[sign=1,wanted=3]"][:2] == ["1", "1"] and "three is one too few" in out
    assert tune_by_hand(capsys, data_file, *flags, "--seeds", "0", "1", "--strict")[0] == 1

    code, out = tune_by_hand(capsys, data_file, *flags, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(r["model"], r["evaluated_on"]) for r in records] == [
        ("tunable", "validation"), ("popularity", "validation"), ("popularity", "test"),
    ]  # fmt: skip


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
