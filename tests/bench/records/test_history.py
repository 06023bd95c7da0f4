"""A job's history: its versions in order, its figures at each, and the steps that count."""

import numpy as np
import pytest

from recscale.errors import UnknownName, UsageError
from recscale.records.history import Wanted, histories
from recscale.records.record import Phase, RunRecord
from recscale.records.statistics import ByUser

MB = 2**20
USERS = np.random.default_rng(0).random(200)


class Kept:
    """Records with the vectors of their users, as a store keeps them."""

    def __init__(self, *jobs):
        self.jobs = list(jobs)

    def records(self):
        return [record for record, _ in self.jobs]

    def by_user(self, record):
        vectors = next(vectors for one, vectors in self.jobs if one is record)
        return {name: ByUser.of(values) for name, values in vectors.items()}


def run(day, *, scale=1.0, model="ease", seed=0, **changes):
    fields = {
        "key": f"{model}{day}{seed}".ljust(64, "0"), "status": "ok", "model": model, "model_title": model.upper(),
        "parameters": {"k": 50}, "configuration": f"{model}[k=50]", "dataset": "shop[filter=5-core]",
        "dataset_name": "shop", "filter": {}, "protocol": "fold-in", "seed": seed, "device_requested": "auto",
        "n_threads": 2, "data_fingerprint": "d" * 64, "split_fingerprint": "s" * 64,
        "code_fingerprint": f"{day}".rjust(2, "c") * 32, "commit": f"commit{day}", "n_train_users": 10, "n_items": 5,
        "n_train_interactions": 30, "metrics": {"ndcg@100": float(scale * USERS.mean()), "mrr": 0.5},
        "n_parameters": 1_000, "n_bytes": 8_000, "machine": {"cpu": "one"}, "calibration": {"gemm_gflops": 200.0},
        "phases": {"fit": Phase(wall_seconds=2.0, cpu_seconds=3.0, start_rss_bytes=100 * MB, peak_rss_bytes=400 * MB)},
        "started_at": f"2026-01-{day:02}T00:00:0{seed}+00:00",
    }  # fmt: skip
    values = (scale * USERS).astype(np.float32)
    return RunRecord(**(fields | changes)), {"ndcg@100": values, "mrr": values}


def one(*jobs, **stores):
    (found,) = histories({"results": Kept(*jobs), **stores})
    return found


def series(history, quantity):
    return next(series for series in history.series if series.quantity == quantity)


def verdicts(history, quantity):
    return [step.verdict for step in series(history, quantity).steps]


def test_versions_stand_in_the_order_of_their_runs_with_the_figures_of_each():
    found = one(run(3, n_parameters=1_100), run(1), run(2, scale=0.98))

    assert [version.label for version in found.versions] == ["commit1", "commit2", "commit3"]
    assert [s.quantity for s in found.series] == ["ndcg@100", "parameters", "bytes", "memory of fit", "time of fit"]
    assert series(found, "ndcg@100").values == pytest.approx([USERS.mean(), 0.98 * USERS.mean(), USERS.mean()])
    assert series(found, "parameters").values == [1_000, 1_000, 1_100]
    assert series(found, "memory of fit").values == [300 * MB] * 3
    assert series(found, "time of fit").values == [4.0] * 3  # 2 s at 200 GFLOP/s are 4 s at 100


def test_a_step_counts_by_the_paired_test_and_by_exact_sizes():
    found = one(run(1), run(2, scale=0.98), run(3, n_parameters=1_050))

    assert verdicts(found, "ndcg@100") == ["worse", "better"]
    assert series(found, "ndcg@100").steps[0].change == pytest.approx(-0.02)
    assert "200 worse" in series(found, "ndcg@100").steps[0].note
    assert verdicts(found, "parameters") == ["level", "worse"]
    assert series(found, "parameters").steps[1].change == pytest.approx(0.05)
    assert verdicts(found, "bytes") == ["level", "level"]


def test_noise_is_no_step():
    noisy = run(2)
    rng = np.random.default_rng(1)
    noisy[1]["ndcg@100"] = (USERS + 0.05 * rng.standard_normal(len(USERS))).astype(np.float32)

    assert verdicts(one(run(1), noisy), "ndcg@100") == ["level"]


def test_twice_the_memory_and_a_slower_fit_of_three_seeds_are_steps():
    heavy = {"fit": Phase(wall_seconds=3.0, cpu_seconds=3.0, start_rss_bytes=100 * MB, peak_rss_bytes=700 * MB)}
    before = [run(1, seed=seed) for seed in (0, 1, 2)]

    found = one(*before, *(run(2, seed=seed, phases=heavy) for seed in (0, 1, 2)))

    assert found.versions[0].seeds == [0, 1, 2]
    assert verdicts(found, "memory of fit") == ["worse"]
    assert verdicts(found, "time of fit") == ["worse"]
    assert verdicts(one(before[0], run(2, phases=heavy)), "time of fit") == ["unsure"]


def test_other_data_or_another_split_is_not_compared_and_not_joined():
    found = one(run(1), run(2, split_fingerprint="t" * 64), run(3, split_fingerprint="t" * 64, scale=0.9))

    steps = series(found, "ndcg@100").steps
    assert [step.verdict for step in steps] == ["not compared", "worse"]
    assert [step.is_joined for step in steps] == [False, True]
    assert steps[0].change is None
    assert steps[0].note == "split fingerprint ssssssss is now tttttttt"


def test_a_failure_is_a_version_without_values():
    found = one(run(1), run(2, status="out_of_memory", reason="9 GB", phases={}, metrics={}), run(3))

    assert [version.status for version in found.versions] == ["ok", "out_of_memory", "ok"]
    assert series(found, "parameters").values == [1_000, None, 1_000]
    assert verdicts(found, "ndcg@100") == ["worse", "better"]
    assert "out_of_memory now: 9 GB" in series(found, "ndcg@100").steps[0].note


def test_seeds_that_finished_have_values_and_steps_where_another_fails():
    failed = {"status": "error", "reason": "why", "phases": {}, "metrics": {}}

    found = one(run(1), run(1, seed=1, **failed), run(2, scale=0.9), run(2, seed=1, **failed))

    assert [version.status for version in found.versions] == ["error", "error"]
    assert series(found, "ndcg@100").values == pytest.approx([USERS.mean(), 0.9 * USERS.mean()])
    assert (verdicts(found, "ndcg@100"), verdicts(found, "parameters")) == (["worse"], ["level"])
    assert "200 worse" in series(found, "ndcg@100").steps[0].note


def test_a_new_failure_of_one_seed_is_a_step_of_every_figure():
    failed = {"status": "timeout", "reason": "1 h", "phases": {}, "metrics": {}}

    found = one(run(1), run(1, seed=1), run(2, scale=1.1), run(2, seed=1, **failed))

    assert {step.verdict for s in found.series for step in s.steps} == {"worse"}
    assert {step.note for s in found.series for step in s.steps} == {"seed 1: ok before, timeout now: 1 h"}


def test_a_change_is_over_the_seeds_that_both_versions_have():
    higher = {"scale": 1.2, "n_parameters": 1_200}
    slow = {"fit": Phase(wall_seconds=3.0, cpu_seconds=3.0, start_rss_bytes=100 * MB, peak_rss_bytes=500 * MB)}

    found = one(run(1), run(1, seed=1, **higher), run(2, scale=0.9, phases=slow), run(3, seed=1, **higher))

    assert series(found, "parameters").values == [1_100, 1_000, 1_200]
    for quantity, change in (("ndcg@100", -0.1), ("parameters", 0.0), ("memory of fit", 1 / 3), ("time of fit", 0.5)):
        first, second = series(found, quantity).steps
        assert (first.change, first.seeds) == (pytest.approx(change), [0])
        assert (second.verdict, second.change, second.seeds) == ("not compared", None, [])


def test_a_step_that_counts_for_a_failure_has_no_change():
    found = one(run(1), run(1, seed=1), run(2, scale=1.1), run(2, seed=1, status="timeout", reason="1 h", metrics={}))

    (step,) = series(found, "ndcg@100").steps
    assert (step.verdict, step.change, step.seeds) == ("worse", None, [0])


def test_times_on_different_processors_are_not_compared_and_not_joined():
    other = {"machine": {"cpu": "two"}, "calibration": {"gemm_gflops": 400.0}}

    found = one(run(1), run(2, scale=0.9, **other), run(3, scale=0.9, **other))

    first, second = series(found, "time of fit").steps
    assert (first.verdict, first.change, first.is_joined, first.note) == ("not compared", None, False, "on one and two")
    assert (second.verdict, second.change, second.is_joined) == ("level", 0, True)
    assert series(found, "time of fit").values == [4.0, 8.0, 8.0]
    assert all(step.is_joined for step in series(found, "ndcg@100").steps)
    assert verdicts(found, "ndcg@100") == ["worse", "level"]


def test_a_time_is_calibrated_by_the_speed_of_what_it_was_measured_on():
    fast = {"fit": Phase(wall_seconds=1.0, cpu_seconds=1.0)}
    gpu = {"device_used": "cuda:0", "machine": {"cpu": "one", "gpus": [{"name": "big"}, {"name": "big"}]}}
    other = {"machine": {"cpu": "two"}, "calibration": {"gemm_gflops": 1_000.0}, "phases": fast}

    found = one(run(1), run(1, seed=1, **other), run(2), run(2, seed=1, **other), run(3, **gpu), run(3, seed=1, **gpu))

    assert series(found, "time of fit").values == [4.0, 4.0, 4.0]  # 2 s at 200 GFLOP/s, and not 1 s at 1000
    assert [step.note for step in series(found, "time of fit").steps] == [
        "on one and two", "on one and one with big and two",
    ]  # fmt: skip


def test_a_fit_that_was_resumed_is_no_step_of_time_and_memory():
    slow = {"fit": Phase(wall_seconds=9.0, cpu_seconds=9.0, start_rss_bytes=100 * MB, peak_rss_bytes=900 * MB)}

    found = one(run(1), run(2, phases=slow, n_resumptions=2))

    for quantity in ("memory of fit", "time of fit"):
        (step,) = series(found, quantity).steps
        assert (step.verdict, step.change, step.note) == ("not compared", None, "a fit was resumed")
    assert verdicts(found, "parameters") == ["level"]


def test_without_commits_the_code_tells_versions_apart_and_a_store_where_the_code_is_the_same():
    first, second = run(1, commit=None), run(2, commit=None)
    assert [version.label for version in one(first, second).versions] == ["c1c1c1c1", "c2c2c2c2"]

    again = run(4, commit=None, code_fingerprint=first[0].code_fingerprint)
    labels = [version.label for version in one(first, after=Kept(again)).versions]
    assert labels == ["c1c1c1c1 in results", "c1c1c1c1 in after"]


def test_one_commit_with_two_codes_has_two_versions():
    found = one(run(1, commit="abc+"), run(2, commit="abc+"))

    assert [version.label for version in found.versions] == ["abc+ c1c1c1c1", "abc+ c2c2c2c2"]


def test_where_files_were_changed_since_a_commit_the_code_and_the_store_tell_versions_apart():
    first = run(1, commit="abc+")
    assert [version.label for version in one(first, run(2)).versions] == ["abc+ c1c1c1c1", "commit2"]

    again = run(4, commit="abc+", code_fingerprint=first[0].code_fingerprint, n_parameters=1_100)
    found = one(first, after=Kept(again))
    assert [version.label for version in found.versions] == ["abc+ c1c1c1c1 in results", "abc+ c1c1c1c1 in after"]
    assert verdicts(found, "parameters") == ["worse"]


def test_jobs_of_a_model_share_a_label_where_they_ran_with_the_same_code():
    other = {"configuration": "ease[k=9]", "parameters": {"k": 9}}
    jobs = [run(1, commit="abc+"), run(2, commit="abc+", **other), run(3, commit="def"), run(4, commit="def", **other)]

    found = histories({"results": Kept(*jobs)}, Wanted(models=("ease",)))

    labels = {history.job: [version.label for version in history.versions] for history in found}
    assert labels == {
        "ease[k=50]": ["abc+ c1c1c1c1", "def c3c3c3c3"],
        "ease[k=9]": ["abc+ c2c2c2c2", "def c4c4c4c4"],
    }


def test_a_record_that_lies_in_two_stores_counts_once_and_a_repetition_moves_no_version():
    first, second = run(1), run(2)
    assert len(one(first, copied=Kept(first)).versions) == 1

    again = run(3, commit="commit1", code_fingerprint=first[0].code_fingerprint, n_parameters=900)
    found = one(first, second, again)
    assert [version.label for version in found.versions] == ["commit1", "commit2"]
    assert series(found, "parameters").values == [900, 1_000]  # the last run of a version counts


def test_jobs_and_figures_can_be_chosen():
    store = {"results": Kept(run(1), run(2), run(1, model="bpr"), run(3, dataset="web", dataset_name="web"))}

    assert len(histories(store)) == 3
    assert [h.job for h in histories(store, Wanted(models=("bpr",)))] == ["bpr[k=50]"]
    assert [h.job for h in histories(store, Wanted(models=("bpr[k=50]",)))] == ["bpr[k=50]"]
    assert [h.dataset for h in histories(store, Wanted(datasets=("web",)))] == ["web"]
    assert len(histories(store, Wanted(datasets=("shop",)))) == 2
    assert {h.series[0].quantity for h in histories(store, Wanted(metric="mrr"))} == {"mrr"}


def test_names_that_no_record_has_are_refused():
    store = {"results": Kept(run(1))}

    with pytest.raises(UnknownName, match="recorded model named 'eas'; did you mean 'ease'"):
        histories(store, Wanted(models=("eas",)))
    with pytest.raises(UnknownName, match="recorded data set named 'shpo'; did you mean 'shop'"):
        histories(store, Wanted(datasets=("shpo",)))
    with pytest.raises(UnknownName, match="recorded metric named 'mr'; did you mean 'mrr'"):
        histories(store, Wanted(metric="mr"))
    with pytest.raises(UsageError, match="no records in results"):
        histories({"results": Kept()})
    two = {"results": Kept(run(1), run(1, model="bpr", dataset="web", dataset_name="web"))}
    with pytest.raises(UsageError, match="no record of bpr on shop"):
        histories(two, Wanted(models=("bpr",), datasets=("shop",)))


def test_lost_figures_by_user_are_said_and_the_line_goes_on():
    lost = run(2)[0], {}

    (step,) = series(one(run(1), lost), "ndcg@100").steps
    assert (step.verdict, step.is_joined) == ("not compared", True)
    assert step.note == "no figures by user in both"
