"""Which trials a study has: the same from the same outcomes, whoever ran them and in whatever order they ended."""

import hashlib
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from recscale.contract import Choice, Range
from recscale.records.record import RunRecord
from recscale.running.draws import MOST_REFUSED, Course, Draws, n_choices
from recscale.running.tune_options import TuneOptions

pytest.importorskip("optuna")

SPACE = {"x": Range(0.001, 1000.0, log=True), "y": Range(1, 50)}
DEFAULTS = {"x": 1.0, "y": 7}


def near(wanted, sign=1):
    """Return a value that is the higher, or with sign -1 the lower, the nearer x is to `wanted`."""
    return lambda x, y: -sign * abs(math.log(x / wanted))


def course(space=SPACE, defaults=DEFAULTS, *, is_better_higher=True, most=math.inf, **options):
    """Return a course over jobs that are no more than a key and their options."""
    given = TuneOptions(**({"trials": 40} | options))

    def job_of(drawn, number):
        key = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
        return SimpleNamespace(key=key, options=drawn, number=number)

    draws = Draws(space, defaults, given, is_better_higher=is_better_higher)
    return Course(given, draws, "m", job_of, min(given.most_trials, most))


def ended(job, *, status="ok", value=None, seconds=1.0, history=None):
    """Return the record of a job that ended."""
    return RunRecord(
        key=job.key, evaluated_on="validation", status=status, model="m", model_title="M", parameters=job.options,
        dataset="d", dataset_name="d", filter={}, protocol="fold-in", seed=0, device_requested="auto", n_threads=1,
        data_fingerprint="d", split_fingerprint="s", code_fingerprint="c", n_train_users=1, n_items=1,
        n_train_interactions=1, metrics={"m": value} if status == "ok" else {}, job_wall_seconds=seconds,
        history=history or {},
    )  # fmt: skip


def run(one, reached, choose=lambda jobs: jobs[0], **more):
    """Run a course to its end: `choose` says which of the trials that may begin ends next; return their options."""
    while jobs := one.open():
        job = choose(jobs)
        value = reached(**job.options)
        one.take(ended(job, value=value, **more) if value is not None else ended(job, status="error"))
    return [trial.parameters for trial in one.trials]


@pytest.mark.parametrize("is_better_higher", [True, False])
def test_the_sampler_learns_from_values_and_draws_the_same_from_the_same(is_better_higher):
    sign = 1 if is_better_higher else -1

    near_400 = run(course(is_better_higher=is_better_higher), near(400, sign))

    assert len(near_400) == 40 and near_400[0] == {"x": 1.0, "y": 7}
    assert all(0.001 <= one["x"] <= 1000 and 1 <= one["y"] <= 50 and type(one["y"]) is int for one in near_400)
    assert all(one["x"] == float(f"{one['x']:.4g}") for one in near_400)
    assert np.median([abs(math.log(one["x"] / 400)) for one in near_400[20:]]) < 1  # of 13 in all
    assert run(course(is_better_higher=is_better_higher), near(400, sign)) == near_400
    near_001 = run(course(is_better_higher=is_better_higher), near(0.01, sign))
    assert near_001[:5] == near_400[:5] and near_001[9:] != near_400[9:]
    assert run(course(seed=1, is_better_higher=is_better_higher), near(400, sign))[1:] != near_400[1:]
    assert len(run(course(trials=12), lambda x, y: None)) == 12  # failures are no values


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_in_whatever_order_trials_end_the_study_is_the_same(sampler):
    one_after_another = run(course(sampler=sampler, trials=15), near(30))

    for seed in range(2):
        order = random.Random(seed)
        assert run(course(sampler=sampler, trials=15), near(30), choose=order.choice) == one_after_another


def test_as_many_trials_may_begin_at_a_time_as_there_are_workers():
    for workers in (1, 3):
        one = course(workers=workers)
        assert len(one.open()) == workers
        *_, last = one.open()
        one.take(ended(one.open()[0], value=1.0))
        assert len(one.open()) == workers
        assert one.before(last) == []
        assert one.before(one.open()[-1]) == list(one.trials)


def test_what_was_drawn_before_is_no_trial_and_a_space_that_is_used_up_ends_the_study():
    space = {"x": Choice((1, 2, 3)), "y": Choice((None, "a"))}
    most = n_choices(space, {"x": 7, "y": None})

    found = run(course(space, {"x": 7, "y": None}, most=most), lambda x, y: float(x))

    assert found[0] == {"x": 7, "y": None}  # the defaults, although 7 is none of the values
    assert len({json.dumps(one) for one in found}) == len(found) == 7


def test_there_are_no_more_trials_than_different_ones():
    choices = {"x": Choice((1, 2, 3)), "y": Choice((None, "a"))}

    assert n_choices(choices, {"x": 2, "y": None}) == 6
    assert n_choices(choices, {"x": 7, "y": None}) == 7  # and the defaults
    assert n_choices({}, {}) == 1
    assert n_choices({**choices, "z": Range(0, 1)}, {"x": 2, "y": None, "z": 0}) == math.inf


def test_a_study_is_what_ran_before_its_time_was_spent_one_after_another():
    one = course(trials=None, seconds=10.0)

    assert len(run(one, near(30), seconds=3.0)) == 4  # after 9 seconds the last begins
    assert len(one.records) == 4

    shared = course(trials=None, seconds=10.0)
    first, second, third, fourth = shared.open()
    for job in (second, third, fourth):  # others were fast, and the first is still under way
        shared.take(ended(job, value=1.0, seconds=4.0))
    assert shared.open() == [first]  # 12 seconds are known to be spent: no fifth
    shared.take(ended(first, value=1.0, seconds=9.0))
    assert [trial.key for trial in shared.trials] == [first.key, second.key]  # the others came too late
    assert shared.open() == []


def test_trials_that_take_no_time_or_have_no_device_do_not_go_on_for_ever():
    refused = course(trials=None, seconds=10.0)
    while jobs := refused.open():
        refused.take(ended(jobs[0], status="refused", seconds=None))
    skipped = course()
    skipped.take(ended(skipped.open()[0], status="skipped", seconds=None))

    assert len(refused.trials) == MOST_REFUSED
    assert skipped.open() == [] and len(skipped.trials) == 1


@pytest.mark.parametrize("other", [lambda x: -x, None])
def test_the_sampler_is_told_where_a_pruned_trial_stood(other):
    def drawn(figure):
        one = course(trials=12)
        while jobs := one.open():
            history = {"validation m": [[1, figure(jobs[0].options["x"])]]} if figure else {}
            one.take(ended(jobs[0], status="pruned", history=history))
        return [trial.parameters for trial in one.trials]

    assert drawn(lambda x: x) == drawn(lambda x: x)
    assert drawn(lambda x: x)[:5] == drawn(other)[:5]
    assert drawn(lambda x: x) != drawn(other)  # what is better among the pruned leads elsewhere


def test_a_value_that_is_no_number_is_a_failure():
    assert len(run(course(trials=8), lambda x, y: math.nan)) == 8
