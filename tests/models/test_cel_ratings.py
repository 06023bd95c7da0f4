from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext
from recscale.errors import DataError, UsageError
from recscale.models._cel_ratings import RatingCEL, Ratings, compression_curve, random_split

ALONE = FitContext(n_threads=1)
QUICK = {"factors": 4, "optimiser": "adam", "learning_rate": 0.05, "regularization": 0.01, "centre_penalty": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def planted_ratings(n_users=60, n_items=40, n_types=4, seed=0):
    """Ratings that depend on the user and on the type of the item alone, and the types."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, n_types, n_items)
    values = 1 + 4 * rng.random((n_users, n_types))[:, types] + 0.05 * rng.normal(size=(n_users, n_items))
    users, items = np.nonzero(rng.random((n_users, n_items)) < 0.5)
    return Ratings(users, items, values[users, items].astype(np.float32)), types


def test_planted_types_are_found_and_their_ratings_predicted():
    ratings, types = planted_ratings()
    train, test = random_split(ratings, 0.8, seed=0)
    schedule = {"steps": 400, "growth_steps": 200, "reassign_steps": 10, "primes": False}

    model = RatingCEL(clusters=8, **QUICK, **schedule).fit(train.matrix((60, 40)), ALONE)

    clusters = model.state()["item_clusters"]
    purest = sum(np.bincount(types[clusters == cluster]).max() for cluster in np.unique(clusters))
    assert purest == 40
    assert model.mse(test) < 0.1 * np.var(test.values)


def test_predictions_are_products_of_the_tables_and_the_error_is_their_mean_square():
    ratings, _ = planted_ratings(n_users=9, n_items=6)
    model = RatingCEL(clusters=3, steps=20, cluster="both", **QUICK).fit(ratings.matrix((9, 6)), ALONE)
    state = model.state()

    expected = [
        state["user_table"][state["user_clusters"][user]] @ state["item_table"][state["item_clusters"][item]]
        for user, item in zip(ratings.users, ratings.items, strict=True)
    ]

    np.testing.assert_allclose(model.predict(ratings.users, ratings.items), expected, rtol=1e-5)
    assert model.mse(ratings) == pytest.approx(np.mean((ratings.values - expected) ** 2), rel=1e-5)


def test_two_steps_are_those_of_the_public_scheme_by_hand():
    ratings, _ = planted_ratings(n_users=5, n_items=4)
    matrix, rate = ratings.matrix((5, 4)), 1e-3
    options = {"factors": 3, "clusters": 1, "learning_rate": rate, "centre_penalty": 0.0}
    first, second = (RatingCEL(steps=steps, **options) for steps in (10, 20))
    state = first.fit(matrix, ALONE).state()
    users, row = state["user_table"].astype(np.float64), state["item_table"][0].astype(np.float64)
    dense, known = matrix.toarray(), np.zeros((5, 4))
    known[ratings.users, ratings.items] = 1
    for _ in range(10):
        errors = known * (users @ row[:, None] - dense)
        by_users, by_row = 2 * errors.sum(1)[:, None] * row + 2 * users, (2 * errors.sum(1) @ users + 2 * row) / 4
        users, row = np.maximum(users - rate * by_users, 0), np.maximum(row - rate * by_row, 0)

    found = second.fit(matrix, ALONE).state()

    np.testing.assert_allclose(found["user_table"], users, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["item_table"][0], row, rtol=1e-3, atol=1e-5)


def test_the_penalty_of_the_centre_draws_clusters_together():
    ratings, _ = planted_ratings()
    matrix, spreads = ratings.matrix((60, 40)), []
    for penalty in (0.0, 1e4):
        options = QUICK | {"centre_penalty": penalty, "steps": 200, "growth_steps": 60}
        spreads.append(RatingCEL(clusters=6, **options).fit(matrix, ALONE).state()["item_table"].std(0).mean())

    assert spreads[1] < 0.3 * spreads[0]


def test_personal_vectors_fit_better_than_the_clusters_that_they_started_from():
    ratings, _ = planted_ratings()
    options = QUICK | {"clusters": 2, "growth_steps": 50, "steps": 200}
    shared = RatingCEL(**options).fit(ratings.matrix((60, 40)), ALONE)

    own = RatingCEL(**options, personal_from=100, attachment=0.1).fit(ratings.matrix((60, 40)), ALONE)

    assert own.state()["item_table"].shape == (40, 4) and "item_clusters" not in own.state()
    assert own.mse(ratings) < 0.5 * shared.mse(ratings)


def test_the_compression_curve_counts_what_predictions_read():
    ratings, _ = planted_ratings()
    train, test = random_split(ratings, 0.8, seed=1)
    model = RatingCEL(cluster="both", steps=60, growth_steps=40, **QUICK)

    points = list(compression_curve(train.matrix((60, 40)), test, [2, 5, None], model, ALONE))

    assert [point.n_bytes for point in points] == [4 * 4 * 4 + 100, 4 * 10 * 4 + 100, 4 * 100 * 4]
    assert [point.n_parameters for point in points] == [16, 40, 400]
    assert points[2].compression == 1 and points[0].compression == pytest.approx(1600 / 164)
    alone = replace(model, clusters=2).fit(train.matrix((60, 40)), ALONE)
    assert points[0].mse == pytest.approx(alone.mse(test)) and points[0].mse != pytest.approx(points[1].mse)


def test_a_split_of_ratings_is_disjoint_complete_and_repeatable():
    ratings, _ = planted_ratings()

    (train, test), again = random_split(ratings, 0.8, seed=3), random_split(ratings, 0.8, seed=3)

    pairs = [set(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in (train, test)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) + len(pairs[1]) == len(ratings.values)
    assert len(pairs[0]) == round(0.8 * len(ratings.values))
    np.testing.assert_array_equal(train.items, again[0].items)


def test_ratings_of_zero_are_kept_and_doubles_refused():
    ratings = Ratings(np.array([1, 0, 1]), np.array([2, 0, 0]), np.array([0, 3, 4], np.float32))

    matrix = ratings.matrix((3, 3))

    assert matrix.nnz == 3 and matrix.indptr.tolist() == [0, 1, 3, 3]
    assert matrix.indices.tolist() == [0, 0, 2] and matrix.data.tolist() == [3, 4, 0]
    with pytest.raises(DataError, match="twice"):
        Ratings(np.array([1, 1]), np.array([2, 2]), np.ones(2, np.float32)).matrix((3, 3))


def test_personal_vectors_without_clusters_of_items_are_refused():
    with pytest.raises(UsageError, match="clusters of items"):
        RatingCEL(cluster="users", personal_from=10).fit(sp.csr_array(np.ones((3, 3), np.float32)), ALONE)
