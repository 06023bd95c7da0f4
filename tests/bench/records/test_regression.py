"""Planted regressions are caught, and honest noise raises no alarm."""

import copy

import msgspec
import numpy as np
import pytest

from recscale.errors import UsageError
from recscale.records.pairs import Tolerances
from recscale.records.record import Phase, RunRecord
from recscale.records.regression import counts, regressions
from recscale.records.statistics import ByUser

SEEDS = (0, 1, 2)
N_USERS = 300
MB = 2**20


class Kept:
    """Records with the vectors of their users, as a store keeps them."""

    def __init__(self, jobs):
        self.jobs = jobs

    def records(self):
        return [record for record, _ in self.jobs]

    def by_user(self, record):
        vectors = next(vectors for one, vectors in self.jobs if one.key == record.key)
        return {name: ByUser.of(values) for name, values in vectors.items()}

    def changed(self, change, vectors=lambda values: values):
        """Return a copy with `change` made to every record of EASE, and `vectors` to its figures by user."""
        jobs = []
        for record, kept in copy.deepcopy(self.jobs):
            if record.model != "ease":
                jobs.append((record, kept))
                continue
            change(record)
            jobs.append((record, {name: vectors(values) for name, values in kept.items()}))
        return Kept(jobs)

    def of(self, keep):
        return Kept([(record, kept) for record, kept in self.jobs if keep(record)])


def job(model, seed, **changes):
    users = np.random.default_rng(len(model)).random(N_USERS)
    own = users + 0.01 * np.random.default_rng(seed).standard_normal(N_USERS)
    phases = {
        "fit": Phase(wall_seconds=2.0, cpu_seconds=3.0, start_rss_bytes=100 * MB, peak_rss_bytes=400 * MB),
        "score": Phase(wall_seconds=0.05, cpu_seconds=0.05, start_rss_bytes=100 * MB, peak_rss_bytes=110 * MB),
    }
    fields = {
        "key": f"{model}{seed}".ljust(64, "0"), "status": "ok", "model": model, "model_title": model.upper(),
        "parameters": {"k": 50, "l2": 10.0}, "configuration": f"{model}[k=50]", "size_knob": "k",
        "dataset": "debian-depends[filter=5-core]", "dataset_name": "debian-depends", "filter": {},
        "protocol": "fold-in", "seed": seed, "device_requested": "auto", "n_threads": 2, "data_fingerprint": "d" * 64,
        "split_fingerprint": "s" * 64, "code_fingerprint": "c" * 64, "n_train_users": 10, "n_items": 5,
        "n_train_interactions": 30, "metrics": {"ndcg@100": float(own.mean())}, "n_parameters": 1_000, "n_bytes": 8_000,
        "phases": phases, "machine": {"cpu": "one"}, "calibration": {"gemm_gflops": 100.0},
        "started_at": f"2026-01-01T00:00:0{seed}+00:00",
    }  # fmt: skip
    return RunRecord(**(fields | changes)), {"ndcg@100": own.astype(np.float32), "mrr": (own / 2).astype(np.float32)}


@pytest.fixture
def baseline():
    return Kept([job(model, seed) for model in ("ease", "wrmf") for seed in SEEDS])


def verdicts(findings, *, leaving_out="level"):
    return {(f.job, f.quantity): f.verdict for f in findings if f.verdict != leaving_out}


def nothing(record):
    """Change nothing."""


def slower(factor):
    def change(record):
        record.phases["fit"].wall_seconds *= factor

    return change


def test_the_same_records_are_level_in_everything(baseline):
    findings = regressions(baseline, baseline)

    assert {finding.verdict for finding in findings} == {"level"}
    quantities = {f.quantity for f in findings if f.job == "ease[k=50]"}
    assert quantities == {
        "parameters", "bytes", "ndcg@100", "mrr", "memory of fit", "memory of score", "time of fit", "time of score",
    }  # fmt: skip


def test_a_metric_two_per_cent_lower_is_caught(baseline):
    findings = regressions(baseline, baseline.changed(nothing, lambda values: 0.98 * values))

    assert verdicts(findings) == {("ease[k=50]", "ndcg@100"): "worse", ("ease[k=50]", "mrr"): "worse"}
    (finding,) = [f for f in findings if f.quantity == "mrr" and f.verdict == "worse"]
    assert finding.change == pytest.approx(-0.02, abs=1e-4)
    assert "300 worse" in finding.note


def test_a_metric_of_which_less_is_better_is_worse_when_it_rises(baseline):
    def errors(store):
        return Kept([(record, {"mse": kept["mrr"]}) for record, kept in store.jobs])

    risen = errors(baseline.changed(nothing, lambda values: 1.02 * values))
    assert verdicts(regressions(errors(baseline), risen)) == {("ease[k=50]", "mse"): "worse"}
    assert verdicts(regressions(risen, errors(baseline))) == {("ease[k=50]", "mse"): "better"}


def test_noise_of_the_metric_is_no_regression(baseline):
    rng = np.random.default_rng(3)
    noisy = baseline.changed(nothing, lambda values: values + 0.05 * rng.standard_normal(N_USERS).astype(np.float32))

    assert verdicts(regressions(baseline, noisy)) == {}


def test_five_per_cent_more_parameters_are_caught(baseline):
    def grow(record):
        record.n_parameters = 1_050

    findings = regressions(baseline, baseline.changed(grow))

    assert verdicts(findings) == {("ease[k=50]", "parameters"): "worse"}
    assert verdicts(regressions(baseline.changed(grow), baseline)) == {("ease[k=50]", "parameters"): "better"}


def test_a_fit_that_takes_half_as_long_again_is_caught(baseline):
    assert verdicts(regressions(baseline, baseline.changed(slower(1.5)))) == {("ease[k=50]", "time of fit"): "worse"}
    assert verdicts(regressions(baseline, baseline.changed(slower(1.2)))) == {}


def test_one_disturbed_run_of_three_is_no_regression(baseline):
    def disturb(record):
        record.phases["fit"].wall_seconds *= 3 if record.seed == 1 else 1

    assert verdicts(regressions(baseline, baseline.changed(disturb))) == {}


def test_too_few_runs_leave_a_slower_fit_unsure(baseline):
    slow = baseline.changed(slower(2.0))

    findings = regressions(baseline.of(lambda r: r.seed < 2), slow)

    assert verdicts(findings) == {("ease[k=50]", "time of fit"): "unsure"}
    assert "by 2 runs; 3 seeds or more would tell" in next(f.note for f in findings if f.verdict == "unsure")
    assert verdicts(regressions(baseline, slow, Tolerances(repeats=2, time=1.5))) == {}


def test_a_slower_machine_is_no_regression_and_a_slow_fit_on_it_is(baseline):
    def elsewhere(factor):
        def change(record):
            record.machine, record.calibration = {"cpu": "two"}, {"gemm_gflops": 50.0}
            record.phases["fit"].wall_seconds *= factor

        return baseline.changed(change).of(lambda r: r.model == "ease")

    shared = baseline.of(lambda r: r.model == "ease")
    assert verdicts(regressions(shared, elsewhere(2.0))) == {}
    assert verdicts(regressions(shared, elsewhere(3.0))) == {("ease[k=50]", "time of fit"): "worse"}


def test_a_calibration_that_was_disturbed_is_no_regression_on_the_same_machine(baseline):
    def disturb(gflops, factor):
        def change(record):
            record.calibration = {"gemm_gflops": gflops}
            record.phases["fit"].wall_seconds *= factor

        return baseline.changed(change)

    assert verdicts(regressions(baseline, disturb(200.0, 1.0))) == {}  # of the baseline, or a busy machine then
    assert verdicts(regressions(baseline, disturb(50.0, 1.0))) == {}
    assert verdicts(regressions(baseline, disturb(50.0, 2.0))) == {}  # all is slower today
    assert verdicts(regressions(baseline, disturb(95.0, 1.5))) == {("ease[k=50]", "time of fit"): "worse"}
    assert verdicts(regressions(baseline, disturb(105.0, 0.5))) == {("ease[k=50]", "time of fit"): "better"}


def test_times_of_different_machines_without_calibration_are_not_compared(baseline):
    def elsewhere(record):
        record.machine, record.calibration = {"cpu": "two"}, {}

    findings = regressions(baseline, baseline.changed(elsewhere))

    assert verdicts(findings) == {
        ("ease[k=50]", "time of fit"): "not compared",
        ("ease[k=50]", "time of score"): "not compared",
    }


def test_times_of_seeds_on_different_processors_are_not_compared(baseline):
    def elsewhere(record):
        if record.seed == 1:  # one that is twice as fast, and does the fit in the same time
            record.machine, record.calibration = {"cpu": "two"}, {"gemm_gflops": 200.0}

    findings = regressions(baseline, baseline.changed(elsewhere))

    timed = {finding.note for finding in findings if finding.quantity == "time of fit" and finding.verdict != "level"}
    assert timed == {"seeds on one and two"}
    assert set(verdicts(findings).values()) == {"not compared"}


def test_twice_the_memory_is_caught_and_a_few_pages_are_not(baseline):
    def more(extra):
        def change(record):
            record.phases["fit"].peak_rss_bytes += extra

        return change

    assert verdicts(regressions(baseline, baseline.changed(more(300 * MB)))) == {
        ("ease[k=50]", "memory of fit"): "worse"
    }
    assert verdicts(regressions(baseline, baseline.changed(more(30 * MB)))) == {}

    def score(record):  # 10 MB, then 25: less than what libraries may differ by
        record.phases["score"].peak_rss_bytes += 15 * MB

    assert verdicts(regressions(baseline, baseline.changed(score))) == {}


@pytest.mark.parametrize("run", range(10))
def test_identical_runs_on_a_noisy_machine_raise_no_alarm(baseline, run):
    rng = np.random.default_rng(run)

    def disturb(record):
        record.calibration = {"gemm_gflops": float(rng.uniform(90, 100))}
        for cost in record.phases.values():
            cost.wall_seconds *= float(1 + rng.exponential(0.1))  # what disturbs a run only ever makes it slower
            cost.peak_rss_bytes += int(rng.integers(-5 * MB, 5 * MB))

    assert verdicts(regressions(baseline, baseline.changed(disturb))) == {}


def test_a_job_that_fails_now_is_worse_and_one_that_no_longer_does_better(baseline):
    def fail(record):
        record.status, record.reason, record.phases = "out_of_memory", "23 GB on top of 1", {}

    findings = regressions(baseline, baseline.changed(fail))

    assert verdicts(findings) == {("ease[k=50]", "status"): "worse"}
    assert "ok before, out_of_memory now: 23 GB on top of 1" in findings[0].note
    assert verdicts(regressions(baseline.changed(fail), baseline)) == {("ease[k=50]", "status"): "better"}
    assert verdicts(regressions(baseline.changed(fail), baseline.changed(fail))) == {}


def ease(store, *seeds):
    """Return the records of EASE with these seeds."""
    return [record for record in store.records() if record.model == "ease" and record.seed in seeds]


def test_the_gravest_of_several_changes_of_status_counts(baseline):
    before, after = copy.deepcopy(baseline), copy.deepcopy(baseline)
    for record in ease(before, 0):
        record.status = "error"
    for record in ease(after, 1, 2):
        record.status, record.reason = "out_of_memory", "9 GB"

    (status,) = [f for f in regressions(before, after) if f.quantity == "status"]

    assert status.verdict == "worse"
    assert status.note == (
        "seed 1: ok before, out_of_memory now: 9 GB; seed 2: ok before, out_of_memory now: 9 GB;"
        " seed 0: error before, ok now"
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_finished_are_compared_where_another_fails_on_both_sides(baseline, seed):
    before = copy.deepcopy(baseline)
    for record in ease(before, seed):
        record.status = "error"

    findings = regressions(before, before.changed(nothing, lambda values: 0.5 * values))

    assert verdicts(findings) == {("ease[k=50]", "ndcg@100"): "worse", ("ease[k=50]", "mrr"): "worse"}
    assert [f.note for f in findings if f.quantity == "status"] == ["error, as before"]


def test_seeds_that_finished_are_compared_where_another_fails_now(baseline):
    after = baseline.changed(nothing, lambda values: 0.5 * values)
    for record in ease(after, 1):
        record.status = "timeout"

    found = {f.quantity: f for f in regressions(baseline, after) if f.job == "ease[k=50]"}

    assert [found[name].verdict for name in ("status", "ndcg@100", "parameters")] == ["worse", "worse", "level"]
    kept = [vectors["ndcg@100"].mean() for record, vectors in baseline.jobs if record in ease(baseline, 0, 2)]
    assert found["ndcg@100"].baseline == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
def test_seeds_on_another_split_are_never_compared_nor_averaged(baseline, seeds):
    other = copy.deepcopy(baseline)
    for record in ease(other, *seeds):
        record.split_fingerprint = "t" * 64

    for before, after in ((baseline, other), (other, baseline), (other, other)):
        (finding,) = [f for f in regressions(before, after) if f.job == "ease[k=50]"]
        assert (finding.quantity, finding.verdict) == ("run", "not compared")
        assert finding.note == "split fingerprint differs over the seeds: ssssssss, tttttttt"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("shrunk_from", "f" * 64, "the fit is shared with another size in some of the runs alone"),
        ("n_resumptions", 1, "a fit was resumed"),
    ],
)
def test_a_fit_that_was_shared_or_resumed_is_not_compared_with_one_that_was_not(baseline, field, value, told):
    def change(record):
        record.phases["fit"].wall_seconds *= 3
        record.phases["fit"].peak_rss_bytes *= 2
        setattr(record, field, value)

    findings = regressions(baseline, baseline.changed(change))

    assert verdicts(findings) == {
        ("ease[k=50]", "memory of fit"): "not compared",
        ("ease[k=50]", "time of fit"): "not compared",
    }
    assert {f.note for f in findings if f.verdict == "not compared"} == {told}


def test_fits_that_are_shared_on_both_sides_are_compared(baseline):
    def share(record):
        record.shrunk_from = "f" * 64

    shared = baseline.changed(share)

    assert verdicts(regressions(shared, shared.changed(slower(2)))) == {("ease[k=50]", "time of fit"): "worse"}


def test_other_data_or_splits_are_never_compared(baseline):
    def resplit(record):
        record.split_fingerprint = "t" * 64

    findings = regressions(baseline, baseline.changed(resplit, lambda values: 0 * values))

    assert verdicts(findings) == {("ease[k=50]", "run"): "not compared"}
    assert findings[0].note == "split fingerprint ssssssss is now tttttttt"


def test_a_job_of_one_store_alone_is_named(baseline):
    alone = baseline.of(lambda r: r.model == "wrmf")

    assert [f.note for f in regressions(baseline, alone) if f.quantity == "run"] == ["only the baseline has it"]
    assert [f.note for f in regressions(alone, baseline) if f.quantity == "run"] == ["only the candidate has it"]
    other = baseline.of(lambda r: r.model == "wrmf" or r.seed == 1)
    found = regressions(baseline.of(lambda r: r.model == "wrmf" or r.seed == 0), other)
    assert [f.note for f in found if f.quantity == "run"] == ["no seed in common"]


def test_the_last_record_of_a_job_counts(baseline):
    newer, vectors = job("ease", 0, key="f" * 64, code_fingerprint="e" * 64, started_at="2026-02-01T00:00:00+00:00")
    newer.n_parameters = 2_000

    findings = regressions(baseline, Kept([*baseline.jobs, (newer, vectors)]))

    assert ("ease[k=50]", "parameters") in verdicts(findings)


def test_stores_with_nothing_in_common_are_refused(baseline):
    other = Kept([job("bpr", 0, dataset="ml-1m", configuration="bpr")])

    with pytest.raises(
        UsageError, match=r"no job in common: data sets debian-depends.* against ml-1m; models ease, wrmf"
    ):
        regressions(baseline, other)
    with pytest.raises(UsageError, match="the baseline has no records"):
        regressions(Kept([]), baseline)


def test_verdicts_are_counted_and_findings_are_json(baseline):
    findings = regressions(baseline, baseline.changed(slower(1.5)))

    assert counts(findings) == {"worse": 1, "not compared": 0, "unsure": 0, "better": 0, "level": len(findings) - 1}
    assert msgspec.json.decode(msgspec.json.encode(findings[0]))["baseline"] == 1_000


def test_lost_figures_by_user_are_named(baseline):
    lost = Kept([(record, {}) for record, _ in baseline.jobs])

    assert verdicts(regressions(baseline, lost)) == {
        ("ease[k=50]", "accuracy"): "not compared",
        ("wrmf[k=50]", "accuracy"): "not compared",
    }


def test_a_job_of_one_user_is_named_and_hides_no_other(baseline):
    alone = Kept([(r, {n: v[:1] for n, v in kept.items()} if r.model == "wrmf" else kept) for r, kept in baseline.jobs])

    found = verdicts(regressions(alone, alone.changed(nothing, lambda values: values - 0.02)))

    assert found[("wrmf[k=50]", "ndcg@100")] == found[("wrmf[k=50]", "mrr")] == "not compared"
    assert found[("ease[k=50]", "ndcg@100")] == "worse"


def test_what_the_candidate_lacks_is_named(baseline):
    fewer = baseline.of(lambda record: record.model == "wrmf" or record.seed == SEEDS[0])
    lost = Kept(
        [(r, {n: v for n, v in kept.items() if n != "mrr"} if r.model == "wrmf" else kept) for r, kept in fewer.jobs]
    )

    found = regressions(baseline, lost)

    assert verdicts(found) == {("ease[k=50]", "seeds"): "not compared", ("wrmf[k=50]", "mrr"): "not compared"}
    (seeds,) = (finding for finding in found if finding.quantity == "seeds")
    assert seeds.note == f"seeds {', '.join(map(str, SEEDS[1:]))}: only the baseline has them"


def test_costs_on_a_gpu_and_on_a_cpu_are_not_compared(baseline):
    def put_on(device):
        return lambda record: setattr(record, "device_used", device)

    found = verdicts(regressions(baseline.changed(put_on("cuda:0")), baseline.changed(put_on("cpu"))))

    assert found == {
        ("ease[k=50]", f"{cost} of {phase}"): "not compared"
        for cost in ("memory", "time")
        for phase in ("fit", "score")
    }


def test_twice_the_memory_of_a_gpu_is_caught(baseline):
    def held(n_bytes):
        return lambda record: setattr(record.phases["fit"], "peak_device_bytes", n_bytes)

    found = regressions(baseline.changed(held(300 * MB)), baseline.changed(held(600 * MB)))

    assert verdicts(found) == {("ease[k=50]", "device memory of fit"): "worse"}


@pytest.mark.parametrize(("coverage", "expected"), [(0.5, {}), (0.502, {}), (0.49, "unsure"), (0.51, "unsure")])
def test_a_metric_that_is_no_mean_over_users_is_level_or_unsure(baseline, coverage, expected):
    def covering(share):
        return lambda record: record.metrics.update({"catalogue_coverage@100": share})

    found = verdicts(regressions(baseline.changed(covering(0.5)), baseline.changed(covering(coverage))))

    assert found == (expected and {("ease[k=50]", "catalogue_coverage@100"): expected})
