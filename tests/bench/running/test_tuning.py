"""Tuning: as many trials for each model, on validation users, kept in the store and found again."""

import json

import numpy as np
import pytest

import recscale
from recscale.cli import main
from recscale.errors import MissingExtra, UsageError
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.suite import Suite
from recscale.running.tune_options import TuneOptions
from recscale.running.tuning import Tuner

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
def tune(tmp_path, data_file, trained):
    """Return a function that tunes the plug-in, and gives the studies, the records on test users and what was shown."""
    path, published = tmp_path / "tunable.py", tmp_path / "published.py"
    path.write_text(PLUGIN)
    published.write_text(PUBLISHED)

    def call(
        *models, protocol="hold-one-out", data=None, jobs=1, seeds=(0,), timeout=None, device="auto", profile=None,
        **options,
    ):  # fmt: skip
        data = data or {"file": {"path": str(data_file)}}
        suite = Suite(
            datasets=[data],
            protocols=[protocol],
            models=list(models),
            plugins=[str(path), str(published), trained],
            jobs=jobs,
            seeds=list(seeds),
            timeout=timeout,
            device=device,
            profile=profile,
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


def test_a_study_goes_on_from_what_another_machine_finished(tune, tmp_path):
    (first,), *_ = tune("tunable", trials=5)
    (tmp_path / "store" / "unknown").rename(tmp_path / "store" / "another-machine")
    (second,), records, shown = tune("tunable", trials=6)

    failed = {number for number, trial in enumerate(first.trials) if trial.status == "error"}
    on_validation = [job.key for job in shown.begun if job.evaluated_on == "validation"]
    assert 0 < len(failed) < 5  # a failure may be the other machine's own
    assert on_validation == [second.trials[number].key for number in sorted(failed | {5})]
    for number in set(range(5)) - failed:
        assert second.trials[number] == first.trials[number]
    assert [record.parameters for record in records] == [second.best.parameters]


def test_options_that_are_given_are_held_fast_and_each_of_a_list_is_a_study(tune):
    studies, records, shown = tune("tunable[sign=1,-1]", trials=2)

    assert [study.text for study in studies] == ["tunable[sign=1]", "tunable[sign=-1]"]
    for study, sign in zip(studies, (1, -1), strict=True):
        assert {trial.parameters["sign"] for trial in study.trials} == {sign}
        assert len(study.trials) == 2
    assert [record.parameters["sign"] for record in records] == [1, -1]
    told = studies[0].data.text
    assert shown.plans == [
        (2, f"of tunable[sign=1] on {told}, hold-one-out, by mrr", "trial"),
        (2, f"of tunable[sign=-1] on {told}, hold-one-out, by mrr", "trial"),
        (2, "of the best of 2 studies, for the test users", "job"),
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


def test_the_records_say_of_which_study_they_are_a_trial(tune, tmp_path):
    tune("tunable[sign=1]", trials=3, sampler="random", seed=5)

    places = sorted((r.trial for r in Store(tmp_path / "store").trials()), key=lambda trial: trial.number)
    assert [(t.study, t.number, t.metric, t.sampler, t.seed) for t in places] == [
        ("tunable[sign=1]", number, "mrr", "random", 5) for number in range(3)
    ]
    assert [record.trial for record in Store(tmp_path / "store").records()] == [None]


def places(path, metric):
    """Return the numbers that the trials of a store have in the study by a metric."""
    return sorted(place.number for r in Store(path / "store").trials() for place in r.places if place.metric == metric)


@pytest.mark.parametrize("other", ["hr@10", "gini@5"])  # measured at every trial, and only where it is asked for
def test_studies_that_share_trials_each_keep_them(tune, tmp_path, other):
    (first,), *_ = tune("tunable", trials=4, sampler="random", metric="mrr")
    (second,), _, shown = tune("tunable", trials=4, sampler="random", metric=other)

    assert [trial.key for trial in second.trials] == [trial.key for trial in first.trials]
    assert {t.key for t in Store(tmp_path / "store").trials()} == {trial.key for trial in first.trials}
    assert places(tmp_path, "mrr") == places(tmp_path, other) == [0, 1, 2, 3]
    on_validation = [job for job in shown.begun if job.evaluated_on == "validation"]
    assert bool(on_validation) == (other == "gini@5")
    (again,), *_ = tune("tunable", trials=4, sampler="random", metric="mrr")
    assert sorted(again.trials, key=lambda t: t.key) == sorted(Store(tmp_path / "store").trials(), key=lambda t: t.key)
    assert places(tmp_path, "mrr") == places(tmp_path, other) == [0, 1, 2, 3]


def test_a_study_takes_over_trials_of_another_machine_where_they_lie(tune, tmp_path):
    (first,), *_ = tune("tunable", trials=4, sampler="random", metric="mrr")
    (tmp_path / "store" / "unknown").rename(tmp_path / "store" / "another-machine")
    tune("tunable", trials=4, sampler="random", metric="hr@10")

    failed = {trial.key[:16] for trial in first.trials if trial.status == "error"}  # may be the other machine's own
    again = {path.stem.rpartition("-")[2] for path in tmp_path.glob("store/unknown/*/*/trials/*.json")}
    assert again == failed and len(failed) < 4
    assert places(tmp_path, "mrr") == places(tmp_path, "hr@10") == [0, 1, 2, 3]


def test_with_a_profile_each_size_is_a_study_of_the_same_effort(tune):
    studies, records, _ = tune("trained", trials=2, profile="quick")

    assert [study.text for study in studies] == [f"trained[epochs={size}]" for size in (1, 3, 4)]
    assert [len(study.trials) for study in studies] == [2, 2, 2]
    assert [record.parameters["epochs"] for record in records] == [1, 3, 4]


def test_a_trial_without_hope_is_pruned_which_is_no_failure_and_found_again(tune, tmp_path):
    (study,), (record,), shown = tune("trained[epochs=6]", trials=12, sampler="random", pruner="median", workers=1)

    pruned = [trial for trial in study.trials if trial.status == "pruned"]
    assert 0 < len(pruned) == study.n_pruned < 7 and study.n_failed == 0
    assert {trial.status for trial in study.trials[:5]} == {"ok"}  # until there are five to compare with
    for number, trial in enumerate(study.trials[5:], start=5):
        others = [t.parameters["skill"] for t in study.trials[:number] if t.status == "ok"]
        assert (trial.status == "pruned") == (trial.parameters["skill"] < np.median(others))
    assert pruned[0].history == {"validation mrr": [[n, 0.01 * pruned[0].parameters["skill"] * n] for n in range(1, 6)]}
    assert pruned[0].reason.startswith("at step 5: validation mrr 0.") and pruned[0].metrics == {}
    assert all(trial.job_wall_seconds > 0 for trial in pruned)
    assert study.best.status == record.status == "ok"

    (again,), _, shown = tune("trained[epochs=6]", trials=12, sampler="random", pruner="median", workers=1)
    assert again.trials == study.trials and shown.begun == []

    (whole,), *_ = tune("trained[epochs=6]", trials=12, sampler="random", workers=1)
    assert [trial.key for trial in whole.trials] == [trial.key for trial in study.trials]
    assert {trial.status for trial in whole.trials} == {"ok"}  # without a pruner those are run to their end


def test_a_device_that_is_not_here_ends_the_study(tune):
    (study,), records, _ = tune("tunable", trials=5, device="cuda:7")

    assert [trial.status for trial in study.trials] == ["skipped"] and records == []


def tune_by_hand(capsys, data_file, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--data", str(data_file), *arguments])
    return ended.value.code, capsys.readouterr().out


def test_the_command_line_prints_what_was_found_and_strict_tells_of_what_was_not(capsys, data_file, tmp_path):
    (tmp_path / "tunable.py").write_text(PLUGIN)
    flags = ["--store", str(tmp_path / "s"), "--plugin", str(tmp_path / "tunable.py")]
    flags += ["-m", "tunable[wanted=3,sign=1]", "-m", "popularity"]

    code, out = tune_by_hand(capsys, data_file, *flags, "--seeds", "0", "1")
    assert code == 0
    assert "tuned by ndcg@100 of the validation users" in out
    assert out.splitlines()[2].split() == ["model", "trials", "failed", "pruned", "time", "defaults", "best", "found"]
    found = {
        line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("tunable", "popularity"))
    }
    assert found["tunable[sign=1,wanted=3]"][:3] == ["1", "1", "0"] and "three is one too few" in out
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


def test_a_share_of_the_ratings_is_needed_to_tune_on(tune, tmp_path, data_file):
    path = tmp_path / "rated.csv"
    lines = [f"u{u},i{(3 * u + i) % 20},{1 + (u + i) % 5}" for u in range(30) for i in range(8)]
    path.write_text("\n".join(["user,item,rating", *lines]))

    with pytest.raises(UsageError, match=r"no validation ratings to tune on; .* 'ratings\[valid_share=0.1\]'"):
        tune("rating_means", protocol="ratings", data={"file": {"path": str(path)}})


def test_without_optuna_the_extra_is_named(tune, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)

    with pytest.raises(MissingExtra, match=r"pip install 'recscale\[tune\]'"):
        tune("tunable")


def test_the_profile_full_tunes_over_three_seeds_and_runs_the_rest_as_written(tmp_path, data_file):
    path, published = tmp_path / "tunable.py", tmp_path / "published.py"
    path.write_text(PLUGIN)
    published.write_text(PUBLISHED)
    suite = Suite(
        datasets=["published"],
        protocols=["fixed", "hold-one-out"],
        models=["tunable[wanted=15]"],
        plugins=[str(path), str(published)],
        profile="full",
    )
    shown = Told()

    studies, records = Tuner(suite, Store(tmp_path / "store"), shown, suite.tuning()).run()

    assert [(study.data.protocol, len(study.trials)) for study in studies] == [("hold-one-out", 2)]  # one for each sign
    assert sorted((r.protocol.partition("[")[0], r.seed) for r in records) == [
        (protocol, seed) for protocol in ("fixed", "hold-one-out") for seed in (0, 1, 2)
    ]
    assert all(r.parameters == {"wanted": 15, "sign": 1} for r in records if r.protocol.startswith("fixed"))
    assert "no validation users" in shown.plans[-1][1]
