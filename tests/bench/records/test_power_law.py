"""Power laws by known answers, and against scipy's own regression."""

import math

import numpy as np
import pytest
from scipy import stats

from recscale.errors import DataError
from recscale.records.power_law import leaves, power_law, prediction

SIZES = np.array([1_000.0, 2_000.0, 4_000.0, 8_000.0])


def noisy(rng, exponent=1.5, noise=0.1, sizes=SIZES):
    return 3.0 * sizes**exponent * np.exp(rng.normal(scale=noise, size=len(sizes)))


def test_a_square_has_the_exponent_2_without_doubt():
    law = power_law(SIZES, 7 * SIZES**2)

    assert law.exponent == pytest.approx(2)
    assert law.interval() == pytest.approx((2, 2))
    assert law.at(100_000) == pytest.approx(7e10)


def test_what_does_not_grow_has_the_exponent_0():
    assert power_law(SIZES, np.full(4, 5.0)).exponent == pytest.approx(0)


def test_exponent_and_interval_are_those_of_a_linear_regression_of_logarithms():
    ys = noisy(np.random.default_rng(5))

    law = power_law(SIZES, ys)

    other = stats.linregress(np.log(SIZES), np.log(ys))
    half = stats.t.ppf(0.975, 2) * other.stderr
    assert law.exponent == pytest.approx(other.slope)
    assert law.interval() == pytest.approx((other.slope - half, other.slope + half))


def test_the_interval_of_an_exponent_covers_it_about_95_times_in_100():
    rng = np.random.default_rng(0)

    found = [power_law(SIZES, noisy(rng)).interval() for _ in range(1_000)]

    assert 0.93 < np.mean([low <= 1.5 <= high for low, high in found]) < 0.97


def test_seeds_that_share_what_keeps_their_size_off_the_line_do_not_make_it_surer():
    rng = np.random.default_rng(2)

    hits = []
    for _ in range(1_000):
        own = np.repeat(noisy(rng), 3)  # by size
        low, high = power_law(np.repeat(SIZES, 3), own * np.exp(0.02 * rng.standard_normal(len(own)))).interval()
        hits.append(low <= 1.5 <= high)

    assert 0.93 < np.mean(hits) < 0.97


def test_the_prediction_interval_covers_a_further_run_about_95_times_in_100():
    rng = np.random.default_rng(1)
    further = np.array([20_000.0])

    hits = []
    for _ in range(1_000):
        law = power_law(SIZES, noisy(rng))
        (measured,) = noisy(rng, sizes=further)
        hits.append(law.at(20_000, -1) <= measured <= law.at(20_000, 1))

    assert 0.93 < np.mean(hits) < 0.97


def test_two_sizes_give_an_exponent_and_no_interval_however_many_runs_there_are():
    law = power_law([10, 10, 20, 20], [1.0, 1.1, 2.0, 2.2])

    assert law.exponent == pytest.approx(1)
    assert law.interval() is None


def test_one_size_is_no_law():
    with pytest.raises(DataError, match="two different sizes at least, not 1"):
        power_law([10, 10], [1.0, 2.0])


def test_a_law_without_noise_leaves_its_limit_where_the_formula_says():
    law = power_law(SIZES, 2 * SIZES**2)

    found = leaves(law, limit=2e12, base=(0.0, 0.0), largest=8_000)

    assert (found.at, found.low, found.high) == pytest.approx((1e6, 1e6, 1e6))


def test_what_the_process_holds_beside_it_counts_against_the_limit():
    law = power_law(SIZES, 2 * SIZES**2)

    found = leaves(law, limit=2e10 + 300e5 + 4e8, base=(4e8, 300.0), largest=8_000)

    assert found.at == pytest.approx(1e5)


def test_noise_puts_an_interval_around_the_break():
    law = power_law(SIZES, noisy(np.random.default_rng(2)))

    found = leaves(law, limit=3 * 50_000**1.5, base=(0.0, 0.0), largest=8_000)

    assert 8_000 <= found.low < found.at < found.high
    assert law.at(found.low, 1) == pytest.approx(found.limit)
    assert law.at(found.high, -1) == pytest.approx(found.limit)


def test_growth_that_is_not_sure_has_no_upper_end():
    law = power_law(SIZES, [10.0, 30.0, 12.0, 40.0])

    found = leaves(law, limit=100.0, base=(0.0, 0.0), largest=8_000)

    assert law.interval()[0] < 0
    assert found.at is not None
    assert found.high is None


def test_a_limit_that_is_not_met_within_a_thousand_times_the_largest_size_is_not_named():
    law = power_law(SIZES, SIZES)

    assert leaves(law, limit=7.9e6, base=(0.0, 0.0), largest=8_000).at == pytest.approx(7.9e6)
    assert leaves(law, limit=8.1e6, base=(0.0, 0.0), largest=8_000).at is None


def test_a_break_is_never_below_a_size_that_finished():
    law = power_law(SIZES, SIZES)

    assert leaves(law, limit=10.0, base=(0.0, 0.0), largest=8_000).at == 8_000


def test_two_sizes_give_a_break_and_no_interval():
    found = leaves(power_law([10, 20], [10.0, 20.0]), limit=1_000.0, base=(0.0, 0.0), largest=20)

    assert found.at == pytest.approx(1_000)
    assert not found.has_interval


def test_the_largest_size_is_predicted_from_the_smaller_ones_alone():
    found = prediction([*SIZES, 8_000.0], [1e3, 2e3, 4e3, 16e3, 16e3])

    assert (found.at, found.measured, found.predicted) == pytest.approx((8_000, 16e3, 8e3))
    assert found.ratio == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((8e3, 8e3))


def test_two_sizes_predict_nothing():
    assert prediction([1.0, 2.0], [1.0, 2.0]) is None


def test_numbers_beyond_a_float_do_not_stop_it():
    law = power_law(SIZES, [1e-300, 1e300, 1e-300, 1e300])

    assert math.isfinite(law.at(8e6, 1))
