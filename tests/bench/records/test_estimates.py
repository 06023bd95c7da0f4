"""Estimates are corrected by what earlier fits took, with an interval that keeps its promise."""

import numpy as np
import pytest

from recscale.contract import Estimate
from recscale.records.estimates import MEMORY, TIME, Case, PastFit, corrected, is_close, judged, past_fit
from recscale.records.record import Phase, RunRecord

MB = 10**6


def case(formula=100 * MB, n_users=10_000, n_items=5_000, n_interactions=500_000):
    return Case(formula, n_users, n_items, n_interactions)


def fit(measured, of=None, *, dataset="first", is_bound=False):
    return PastFit(
        model="ease",
        configuration="ease",
        dataset=dataset,
        case=of or case(),
        measured=measured,
        is_bound=is_bound,
    )


def record(**changes):
    cost = Phase(
        wall_seconds=4.0, cpu_seconds=8.0, start_rss_bytes=200 * MB, peak_rss_bytes=350 * MB, peak_device_bytes=70 * MB
    )
    fields = {
        "key": "a" * 64, "status": "ok", "model": "ease", "model_title": "EASE", "parameters": {},
        "dataset": "data[x=1]", "dataset_name": "data", "filter": {}, "protocol": "fold-in", "seed": 0,
        "device_requested": "auto", "device_used": "cpu", "n_threads": 2, "data_fingerprint": "d",
        "split_fingerprint": "s", "code_fingerprint": "c", "n_train_users": 10, "n_items": 5,
        "n_train_interactions": 30, "phases": {"fit": cost},
    }  # fmt: skip
    return RunRecord(**(fields | changes))


def test_without_earlier_fits_the_formula_stands_alone():
    found = corrected(case(), [], MEMORY)

    assert (found.low, found.value, found.high, found.n_fits) == (100 * MB, 100 * MB, 100 * MB, 0)


def test_a_formula_that_is_off_by_a_factor_is_corrected_by_it():
    fits = [fit(2 * formula, case(formula)) for formula in (80 * MB, 90 * MB, 100 * MB, 110 * MB, 120 * MB) * 4]

    found = corrected(case(), fits, MEMORY)

    assert found.value == pytest.approx(200 * MB, rel=0.03)
    assert found.low < 200 * MB < found.high
    assert found.n_fits == 20


def test_a_ratio_that_grows_with_the_formula_is_followed_to_the_last_fit():
    fits = [fit(size * (size / (100 * MB)) ** 0.5, case(size)) for size in np.geomspace(40 * MB, 400 * MB, 30)]

    found = corrected(case(400 * MB), fits, MEMORY)

    assert found.value == pytest.approx(2 * 400 * MB, rel=0.1)  # the median ratio is 1.1


def test_fits_of_a_near_shape_count_more_than_those_of_a_far_one():
    near = [fit(150 * MB)] * 4
    far = [fit(30 * MB, case(n_users=10_000_000, n_items=5_000_000, n_interactions=500_000_000))] * 4

    found = corrected(case(), near + far, MEMORY)

    assert found.value == pytest.approx(150 * MB, rel=0.15)


def test_one_fit_far_off_among_many_moves_the_estimate_little():
    fits = [fit(100 * MB)] * 9

    found = corrected(case(), [*fits, fit(5_000 * MB)], MEMORY)

    assert found.value == pytest.approx(100 * MB, rel=0.1)


def test_the_interval_narrows_with_fits_and_widens_away_from_them():
    one, many = corrected(case(), [fit(100 * MB)], MEMORY), corrected(case(), [fit(100 * MB)] * 30, MEMORY)
    away = corrected(case(10**12, 10**8, 10**7, 10**9), [fit(100 * MB)] * 30, MEMORY)

    assert one.high / one.low > many.high / many.low
    assert away.high / away.low > 2 * many.high / many.low


def test_the_interval_holds_about_nine_of_ten_fits():
    rng = np.random.default_rng(0)
    n_inside = 0
    for _ in range(300):
        *fits, new = (fit(130 * MB * float(np.exp(0.5 * e))) for e in rng.standard_normal(16))
        found = corrected(case(), fits, MEMORY)
        n_inside += found.low <= new.measured <= found.high

    assert 0.85 <= n_inside / 300 <= 0.97


def test_a_fit_that_ran_out_of_memory_counts_only_above_what_the_others_predict():
    ended = [fit(100 * MB)] * 3

    below = corrected(case(), [*ended, fit(60 * MB, is_bound=True)], MEMORY)
    above = corrected(case(), [*ended, fit(300 * MB, is_bound=True)], MEMORY)

    assert below == corrected(case(), ended, MEMORY)
    assert above.value > below.value and above.n_fits == 4


def test_a_record_tells_what_its_fit_took_beyond_the_data():
    found = past_fit(record(), Estimate(50 * MB, MB, 3.0), MEMORY)

    assert found.measured == 150 * MB
    assert found.case == Case(50 * MB, 10, 5, 30)
    assert found.dataset == "data"


def test_a_record_of_a_gpu_tells_what_its_fit_took_there():
    assert past_fit(record(device_used="cuda:0"), Estimate(50 * MB, MB), MEMORY).measured == 70 * MB


def test_seconds_are_scaled():
    found = past_fit(record(), Estimate(50 * MB, MB, 3.0), TIME, scale=0.5)

    assert (found.measured, found.case.formula) == (2.0, 3.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"shrunk_from": "b" * 64},
        {"n_resumptions": 1},
        {"phases": {}},
        {"status": "error", "failed_phase": "fit"},
        {"status": "out_of_memory", "failed_phase": "score"},
        {"phases": {"fit": Phase(wall_seconds=4.0, cpu_seconds=8.0)}},
        {"phases": {"fit": Phase(wall_seconds=4.0, cpu_seconds=8.0, start_rss_bytes=MB, peak_rss_bytes=2 * MB)}},
    ],
)
def test_a_record_that_tells_nothing_of_the_memory_of_a_whole_fit_is_left_out(changes):
    assert past_fit(record(**changes), Estimate(50 * MB, MB, 3.0), MEMORY) is None


def test_a_formula_without_seconds_is_compared_with_none():
    assert past_fit(record(), Estimate(50 * MB, MB), TIME) is None


@pytest.mark.parametrize(("status", "resource"), [("out_of_memory", MEMORY), ("timeout", TIME)])
def test_a_fit_that_was_ended_for_want_of_something_is_a_bound_of_that_alone(status, resource):
    of, other = record(status=status, failed_phase="fit"), TIME if resource is MEMORY else MEMORY

    assert past_fit(of, Estimate(50 * MB, MB, 3.0), resource).is_bound
    assert past_fit(of, Estimate(50 * MB, MB, 3.0), other) is None


def test_a_fit_is_judged_by_those_on_other_data_alone():
    fits = [fit(200 * MB, dataset="first"), fit(100 * MB, dataset="second"), fit(100 * MB, dataset="third")]

    first, second, _ = judged(fits, MEMORY)

    assert first.predicted == corrected(case(), fits[1:], MEMORY)
    assert first.ratio == pytest.approx(2.0) and first.formula_ratio == 2.0
    assert second.predicted.value > 100 * MB


@pytest.mark.parametrize(("ratio", "close"), [(0.79, False), (0.81, True), (1.24, True), (1.26, False)])
def test_an_estimate_within_a_quarter_is_close(ratio, close):
    assert is_close(ratio) is close
