"""Rating means: against the formula in loops, and on data that follow it."""

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.errors import DataError
from recscale.models.rating_means import RatingMeans


def rated(n_users=30, n_items=12, seed=0):
    """Ratings from 0 to 5, zeros stored, and what is known of them as lists of (item, rating)."""
    rng = np.random.default_rng(seed)
    chosen = rng.random((n_users, n_items)) < 0.4
    chosen[3], chosen[:, 5] = False, False  # a user and an item without ratings
    values = rng.integers(0, 6, (n_users, n_items)).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(1))])
    matrix = sp.csr_array((values[chosen], np.nonzero(chosen)[1], indptr), shape=chosen.shape)
    return matrix, [[(i, float(values[u, i])) for i in range(n_items) if chosen[u, i]] for u in range(n_users)]


@pytest.mark.parametrize("dampings", [(25.0, 10.0), (0.0, 0.0), (3.0, 0.5)])
def test_a_prediction_is_the_mean_and_what_is_known_of_the_item_and_the_user(dampings):
    train, by_user = rated()
    history, asked = rated(n_users=7, seed=1)
    of_item, of_user = dampings
    everything = [rating for row in by_user for _, rating in row]
    mean = sum(everything) / len(everything)
    items = []
    for item in range(12):
        own = [rating - mean for row in by_user for i, rating in row if i == item]
        items.append(sum(own) / (of_item + len(own)) if own else 0.0)
    expected = []
    for row in asked:
        left = [rating - mean - items[item] for item, rating in row]
        expected.append([mean + b + (sum(left) / (of_user + len(left)) if left else 0.0) for b in items])

    scores = RatingMeans(item_damping=of_item, user_damping=of_user).fit(train).score(history)

    assert scores.dtype == np.float32 and (train.data == 0).any()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_items_that_are_better_and_users_that_are_kinder_are_found():
    rng = np.random.default_rng(0)
    quality, kindness = rng.normal(size=40), rng.normal(size=80)
    exact = 3 + quality + kindness[:, None]
    known = rng.random(exact.shape) < 0.5
    train = sp.csr_array(np.where(known, exact, 0).astype(np.float32))

    predicted = RatingMeans(item_damping=0, user_damping=0).fit(train).score(train)

    assert np.mean((predicted - exact)[~known] ** 2) < 0.05 * np.var(exact)


def test_a_stranger_is_given_what_the_items_are_worth():
    train, _ = rated()
    model = RatingMeans().fit(train)

    (scores,) = model.score(sp.csr_array((1, 12), dtype=np.float32))

    np.testing.assert_allclose(scores, model.state()["mean"] + model.state()["items"])
    assert scores[5] == model.state()["mean"]  # nobody has rated it


def test_the_model_is_a_number_for_each_item_and_one_more():
    assert RatingMeans().fit(rated()[0]).size().n_parameters == 13


def test_a_matrix_without_ratings_and_a_pair_that_is_rated_twice_are_refused():
    twice = sp.coo_array((np.ones(2, np.float32), ([0, 0], [1, 1])), shape=(2, 3))

    with pytest.raises(DataError, match="no ratings to take the mean of"):
        RatingMeans().fit(sp.csr_array((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match="rated an item twice"):
        RatingMeans().fit(twice)
    with pytest.raises(DataError, match="fitted on 12; use one vocabulary"):
        RatingMeans().fit(rated()[0]).score(sp.csr_array((1, 5), dtype=np.float32))
