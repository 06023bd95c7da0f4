import itertools
import math

import numpy as np
import pytest
from scipy import stats

from recscale.errors import DataError, UsageError
from recscale.records.statistics import ByUser, activity_slices, averaged, bootstrap_means, holm, paired


def two_models(n_users=500, gap=0.05, seed=0):
    rng = np.random.default_rng(seed)
    one = rng.random(n_users).astype(np.float32)
    return one, (one - gap + 0.1 * rng.standard_normal(n_users)).astype(np.float32)


def test_p_value_is_that_of_the_paired_t_test():
    one, other = two_models(gap=0.01)

    found = paired(one, [other])[0]

    expected = stats.ttest_rel(one.astype(np.float64), other.astype(np.float64))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.difference == pytest.approx(float(np.mean(one.astype(float) - other)), rel=1e-9)
    assert found.effect_size == pytest.approx(expected.statistic / math.sqrt(len(one)), rel=1e-9)


def test_interval_is_that_of_scipys_bootstrap():
    one, other = two_models()

    found = paired(one, [other], n_resamples=9_999)[0]

    differences = one.astype(np.float64) - other
    expected = stats.bootstrap((differences,), np.mean, n_resamples=9_999, method="percentile", random_state=1)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)


def test_counts_of_users_are_exact():
    found = paired([1.0, 0.5, 0.2, 0.2], [[0.5, 0.5, 0.3, 0.1]])[0]

    assert (found.wins, found.ties, found.losses, found.n_users) == (2, 1, 1, 4)


def test_a_metric_of_which_less_is_better_turns_round():
    one, other = two_models()

    more = paired(one, [other])[0]
    less = paired(one, [other], higher_is_better=False)[0]

    assert less.difference == pytest.approx(-more.difference)
    assert (less.wins, less.losses) == (more.losses, more.wins)
    assert less.p_value == pytest.approx(more.p_value)


def test_identical_models_are_level():
    one, _ = two_models()

    found = paired(one, [one])[0]

    assert (found.difference, found.p_value, found.effect_size, found.stars) == (0.0, 1.0, 0.0, "")
    assert (found.low, found.high) == (0.0, 0.0)


@pytest.mark.parametrize(("n_users", "stars"), [(2, ""), (6, "*"), (40, "***")])
def test_a_difference_that_all_users_share_is_the_surer_the_more_they_are(n_users, stars):
    found = paired([0.75] * n_users, [[0.5] * n_users])[0]

    assert found.p_value == stats.binomtest(n_users, n_users).pvalue  # the sign test
    assert (found.stars, found.effect_size) == (stars, math.inf)


@pytest.mark.parametrize("n_users", [6, 12, 40])
def test_the_interval_holds_the_truth_as_often_as_it_says_however_few_users_there_are(n_users):
    rng = np.random.default_rng(n_users)
    held = []
    for _ in range(500):
        (found,) = paired(rng.standard_normal(n_users), [np.zeros(n_users)], n_resamples=1_000)
        held.append(found.low <= 0 <= found.high)

    assert 0.92 < np.mean(held) < 0.98  # plain percentiles: .87 of 6 users


def test_users_without_a_figure_are_left_out():
    one, other = two_models()
    holes = other.copy()
    holes[::5] = np.nan

    found = paired(one, [holes])[0]

    known = np.isfinite(holes)
    expected = stats.ttest_rel(one[known].astype(float), other[known].astype(float))
    assert found.n_users == 400
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.low < found.difference < found.high


def weighed(values, weights):
    """Return what the store keeps of values and weights."""
    weights = np.asarray(weights, np.float64)
    return ByUser.of(weights / weights.mean() * np.asarray(values, np.float32), weights.astype(np.float32))


def test_users_are_counted_by_their_values_where_both_models_have_one():
    n_users = 1_000
    has_one = np.arange(n_users) % 3 == 0
    everywhere = weighed(np.full(n_users, 0.8), np.ones(n_users))

    level = paired(everywhere, [weighed(np.where(has_one, 0.8, 0), has_one)])[0]
    better = paired(weighed(np.where(has_one, 0.85, 0), has_one), [everywhere])[0]

    assert (level.wins, level.ties, level.losses) == (0, has_one.sum(), 0)
    assert (level.difference, level.p_value, level.low, level.high) == (0, 1, 0, 0)
    assert (better.wins, better.ties, better.losses) == (has_one.sum(), 0, 0)
    assert better.difference == pytest.approx(0.05) and better.p_value < 1e-9


def test_the_interval_of_weighed_models_is_that_of_drawing_users_again():
    rng = np.random.default_rng(3)
    values, weights = rng.random((2, 400)).astype(np.float32), rng.integers(0, 9, (2, 400)).astype(np.float64)

    found = paired(weighed(values[0], weights[0]), [weighed(values[1], weights[1])], n_resamples=9_999)[0]

    drawn = rng.integers(0, 400, (9_999, 400))
    means = (weights[:, drawn] * values[:, drawn]).sum(2) / weights[:, drawn].sum(2)  # of either model, (2, R)
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    whole = (weights * values).sum(1) / weights.sum(1)
    assert found.difference == pytest.approx(whole[0] - whole[1], abs=1e-7)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    both = (weights > 0).all(0)
    assert (found.wins, found.losses) == tuple((both & (values[i] > values[1 - i])).sum() for i in (0, 1))


def test_numbers_without_weights_are_compared_as_they_are():
    one, other = two_models()
    weights = np.random.default_rng(2).integers(1, 9, len(one))
    new = weighed(one, weights)

    assert paired(ByUser.of(new.numbers), [other]) == paired(new, [other]) == paired(new.numbers, [other])


def test_a_mean_over_some_users_weighs_them():
    found = weighed([1.1, 1.1, 0.9, 0.5], [1, 1, 8, 0])

    assert found.mean() == pytest.approx((2 * 1.1 + 8 * 0.9) / 10)
    assert [found.mean(np.array(users, bool)) for users in ([1, 1, 0, 0], [0, 1, 1, 0])] == pytest.approx(
        [1.1, 8.3 / 9]
    )
    assert math.isnan(found.mean(np.array([False, False, False, True])))
    assert ByUser.of([1.0, 2.0, np.nan]).mean() == 1.5


def test_runs_are_averaged_with_their_weights():
    runs = [weighed([1.0, 0.5, 0.0], [1, 1, 0]), weighed([0.5, 0.5, 1.0], [1, 2, 1])]

    found = averaged(runs)

    assert found.mean() == pytest.approx((0.75 + 2.5 / 4) / 2)
    assert found.values() == pytest.approx([(1.5 + 0.375) / (1.5 + 0.75), 0.5, 1.0])
    assert averaged([runs[0], ByUser.of(runs[1].numbers)]).shares is None


def test_a_metric_in_which_nobody_counts_is_level_with_nothing():
    nobody = ByUser.of(np.zeros(3), np.zeros(3))

    found = paired(nobody, [nobody])[0]

    assert (found.difference, found.wins, found.ties, found.losses) == (0, 0, 0, 0)


def test_a_family_is_corrected_together():
    one, other = two_models(gap=0.012)
    _, third = two_models(gap=0.011, seed=3)

    alone = [paired(one, [each])[0].p_value for each in (other, third)]
    together = paired(one, [other, third])

    assert [each.adjusted_p_value for each in together] == pytest.approx(holm(alone))
    assert together[0].adjusted_p_value >= together[0].p_value


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(400):
        pair = rng.exponential(size=(2, 60))
        alarms += paired(pair[0], [pair[1]], n_resamples=1)[0].p_value < 0.05

    assert 6 <= alarms <= 36  # 5 % of 400 is 20; four standard deviations are 17


def test_holm_by_hand():
    # Holm 1979: .01 x 4, .02 x 3, .03 x 2, .04 x 1, made to rise
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(seed):
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.random(rng.integers(1, 13)) ** 3, 2).tolist()  # small ones, and some that are equal

    adjusted = holm(p_values)

    assert all(p <= a <= 1 for a, p in zip(adjusted, p_values, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[i] <= adjusted[j] for i, j in itertools.pairwise(order))


def test_resamples_are_the_same_for_every_column_and_in_blocks(monkeypatch):
    values = np.random.default_rng(0).random((50, 2))
    whole = bootstrap_means(np.column_stack([values, values[:, 0]]), n_resamples=30, seed=5)
    monkeypatch.setattr("recscale.records.statistics._BLOCK_DRAWS", 50 * 7)

    blocks = bootstrap_means(values, n_resamples=30, seed=5)

    np.testing.assert_array_equal(whole[:, 0], whole[:, 2])
    np.testing.assert_allclose(blocks, whole[:, :2], rtol=1e-12)


def test_vectors_that_do_not_go_together_are_refused():
    with pytest.raises(DataError, match="3 and 2 users cannot be paired"):
        paired([1, 2, 3], [[1, 2]])
    with pytest.raises(DataError, match="fewer than two users"):
        paired([1.0, np.nan], [[0.5, 0.5]])
    with pytest.raises(UsageError, match="n_resamples is 0"):
        paired([1, 2], [[1, 3]], n_resamples=0)


def test_users_are_cut_by_activity_without_parting_equals():
    sizes = [1, 1, 1, 1, 2, 3, 5, 9]

    slices = activity_slices(sizes, 4)

    assert [(s.least, s.most, s.n_users) for s in slices] == [(1, 1, 4), (2, 3, 2), (5, 9, 2)]
    np.testing.assert_array_equal(sum(s.users.astype(int) for s in slices), np.ones(8))


@pytest.mark.parametrize("seed", range(20))
def test_every_user_is_in_one_slice(seed):
    rng = np.random.default_rng(seed)
    sizes, n_slices = rng.integers(0, 31, rng.integers(1, 61)), int(rng.integers(1, 7))

    slices = activity_slices(sizes, n_slices)

    assert 1 <= len(slices) <= n_slices
    np.testing.assert_array_equal(sum(s.users.astype(int) for s in slices), np.ones(len(sizes)))
    assert all(one.most < other.least for one, other in itertools.pairwise(slices))


def test_no_users_have_no_slices():
    assert activity_slices([]) == []
    with pytest.raises(UsageError, match="n_slices is 0"):
        activity_slices([1], 0)
