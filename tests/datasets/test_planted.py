from __future__ import annotations

import numpy as np
import pytest

from recscale import registry
from recscale.errors import UsageError

SMALL = {"n_users": 400, "n_items": 200, "n_interactions": 6_000, "n_clusters": 8}


def planted(**options):
    return registry.dataset_spec("planted").source(**SMALL | options).load()


def test_the_numbers_are_exact_and_nobody_and_nothing_is_empty():
    matrix = planted().interactions

    assert (*matrix.shape, matrix.nnz) == (400, 200, 6_000)
    assert np.diff(matrix.indptr).min() >= 5
    assert np.bincount(matrix.indices, minlength=200).min() >= 1


def test_rows_are_sorted_without_repeats():
    matrix = planted().interactions

    rows = np.repeat(np.arange(400), np.diff(matrix.indptr))
    assert (np.diff(rows * 200 + matrix.indices) > 0).all()


def test_one_seed_gives_one_data_set_and_another_seed_another():
    assert planted(seed=3).fingerprint == planted(seed=3).fingerprint
    assert planted(seed=3).fingerprint != planted(seed=4).fingerprint


def test_the_truth_holds_shares_of_overlapping_co_clusters():
    truth = planted(memberships=3).truth

    for name, n_rows in (("user_membership", 400), ("item_membership", 200)):
        shares = truth[name]
        assert shares.shape == (n_rows, 8)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        assert 1 < np.diff(shares.indptr).mean() <= np.diff(shares.indptr).max() <= 3


def test_users_have_mostly_items_of_their_own_co_clusters():
    data = planted(noise=0.1, memberships=1)
    users, items = data.truth["user_membership"], data.truth["item_membership"]

    coo = data.interactions.tocoo()
    shared = np.asarray((users @ items.T).todense())[coo.row, coo.col] > 0

    assert shared.mean() > 0.6
    assert np.asarray((users @ items.T).todense()).astype(bool).mean() < 0.4


def test_noise_alone_leaves_no_structure():
    data = planted(noise=1.0, memberships=1, popularity_exponent=0.0)
    related = np.asarray((data.truth["user_membership"] @ data.truth["item_membership"].T).todense()) > 0

    coo = data.interactions.tocoo()

    assert related[coo.row, coo.col].mean() == pytest.approx(related.mean(), abs=0.05)


def test_popularity_and_activity_follow_power_laws():
    flat = np.sort(np.bincount(planted(popularity_exponent=0.0).interactions.indices))[::-1]
    steep = np.sort(np.bincount(planted(popularity_exponent=1.5).interactions.indices))[::-1]
    activity = np.diff(planted().interactions.indptr)

    assert steep[:20].sum() > 1.5 * flat[:20].sum()
    assert activity.max() > 4 * np.median(activity)


@pytest.mark.parametrize(
    "options",
    [
        {"n_interactions": 1_999},  # fewer than five a user
        {"n_interactions": 40_001},  # more than half of all items each
        {"max_activity": 10},
        {"n_users": 10, "n_interactions": 150, "n_items": 200},
    ],
)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(UsageError, match=r"planted: [\d,]+ interactions (do not fit|cannot reach)"):
        planted(**options)


def test_users_who_own_half_of_all_items_are_possible():
    matrix = planted(n_users=20, n_items=40, n_interactions=400, n_clusters=40).interactions

    assert np.diff(matrix.indptr).tolist() == [20] * 20


@pytest.mark.parametrize("options", [{"noise": 1.5}, {"n_users": 0}, {"seed": -1}, {"n_clusters": "many"}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError):
        planted(**options)
