import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, UsageError
from recscale.models import cel_ratings
from recscale.models.cel_ratings import SPEC, RatingCEL, estimate

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ALONE = FitContext(n_threads=1)
QUICK = {"factors": 4, "optimiser": "adam", "learning_rate": 0.05, "regularization": 0.01, "centre_penalty": 0.0}
TABLES = QUICK | {"clusters": 3, "steps": 20, "growth_steps": 20}


@pytest.fixture
def trained(monkeypatch):
    """Return a function that fits a model and returns the vectors of users (U, D) that the training ended with."""
    kept = []

    class Kept(cel_ratings.Factorisation):
        def __init__(self, *given):
            super().__init__(*given)
            kept.append(self)

    monkeypatch.setattr(cel_ratings, "Factorisation", Kept)

    def users_of(model, ratings):
        model.fit(ratings, ALONE)
        return kept[-1].users().detach().numpy()

    return users_of


def matrix_of(chosen, values):
    """Ratings as a csr_array (U, I) with an entry for each that is chosen, zeros too."""
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(1))])
    return sp.csr_array((values[chosen].astype(np.float32), np.nonzero(chosen)[1], indptr), shape=chosen.shape)


def planted_ratings(n_users=60, n_items=40, n_types=4, seed=0):
    """Ratings that depend on the user and on the type of the item alone: some to train on, all, and the types."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, n_types, n_items)
    values = 1 + 4 * rng.random((n_users, n_types))[:, types] + 0.05 * rng.normal(size=(n_users, n_items))
    return matrix_of(rng.random((n_users, n_items)) < 0.5, values), values, types


def squares(model, ratings):
    """The squared errors of predictions for the users of these ratings, from these ratings."""
    users = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    return (model.score(ratings)[users, ratings.indices] - ratings.data) ** 2


def test_planted_types_are_found_and_unknown_ratings_predicted():
    train, values, types = planted_ratings()
    schedule = {"steps": 400, "growth_steps": 200, "growth": "one", "reassign_steps": 10, "primes": False}

    model = RatingCEL(clusters=8, **QUICK, **schedule).fit(train, ALONE)

    clusters = model.state()["item_clusters"]
    purest = sum(np.bincount(types[clusters == cluster]).max() for cluster in np.unique(clusters))
    unknown = train.toarray() == 0
    assert purest == 40
    assert np.mean((model.score(train) - values)[unknown] ** 2) < 0.1 * np.var(values)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("clusters", [3, None])
def test_the_vector_of_an_unseen_user_minimises_the_squares_of_the_rated_items_and_its_own(nonnegative, clusters):
    train, values, _ = planted_ratings()
    model = RatingCEL(**TABLES | {"clusters": clusters, "nonnegative": nonnegative, "regularization": 0.5})
    history = matrix_of(np.random.default_rng(1).random((4, 40)) < 0.3, values[:4] - 2)  # and some below zero
    state = model.fit(train, ALONE).state()
    table = state["item_table"].astype(np.float64)
    vectors = table if clusters is None else table[state["item_clusters"]]

    scores = model.score(history)

    for row in range(4):
        rated = history[[row]]
        known = np.vstack([vectors[rated.indices], 0.5**0.5 * np.eye(4)])
        wanted = np.concatenate([rated.data, np.zeros(4)])
        least = scipy.optimize.nnls(known, wanted)[0] if nonnegative else np.linalg.lstsq(known, wanted)[0]
        np.testing.assert_allclose(scores[row], vectors @ least, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_of_a_training_user_it_is_the_vector_that_the_training_converges_to(trained, nonnegative):
    train, *_ = planted_ratings()
    options = {"clusters": 5, "factors": 4, "growth_steps": 100, "centre_penalty": 0.0, "learning_rate": 0.002}

    distances = []
    for steps in (100, 1500):
        model = RatingCEL(**options, steps=steps, nonnegative=nonnegative)
        users = trained(model, train)
        distances.append(np.linalg.norm(model.user_vectors(train) - users) / np.linalg.norm(users))

    assert distances[1] < 0.01 < distances[0]


def test_where_users_are_clustered_an_unseen_one_has_the_vector_of_the_cluster_with_the_least_error():
    train, values, _ = planted_ratings()
    model = RatingCEL(**TABLES | {"cluster": "both"}).fit(train, ALONE)
    history = matrix_of(np.random.default_rng(1).random((6, 40)) < 0.3, values[:6])
    state = model.state()
    predicted = state["user_table"] @ state["item_table"][state["item_clusters"]].T  # (M, I)

    scores = model.score(history)

    for row in range(6):
        rated = history[[row]]
        best = ((predicted[:, rated.indices] - rated.data) ** 2).sum(1).argmin()
        np.testing.assert_allclose(scores[row], predicted[best], rtol=1e-5)


def test_two_rounds_of_steps_are_those_of_the_public_scheme_by_hand(trained):
    _, values, _ = planted_ratings(n_users=5, n_items=4)
    chosen, rate = np.random.default_rng(1).random((5, 4)) < 0.7, 1e-3
    matrix = matrix_of(chosen, values)
    options = {"factors": 3, "clusters": 1, "learning_rate": rate, "centre_penalty": 0.0}
    first, second = (RatingCEL(steps=steps, **options) for steps in (10, 20))
    users = trained(first, matrix).astype(np.float64)
    row = first.state()["item_table"][0].astype(np.float64)
    for _ in range(10):
        errors = chosen * (users @ row[:, None] - values)
        by_users, by_row = 2 * errors.sum(1)[:, None] * row + 2 * users, (2 * errors.sum(1) @ users + 2 * row) / 4
        users, row = np.maximum(users - rate * by_users, 0), np.maximum(row - rate * by_row, 0)

    found = trained(second, matrix)

    np.testing.assert_allclose(found, users, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(second.state()["item_table"][0], row, rtol=1e-3, atol=1e-5)


def test_the_penalty_of_the_centre_draws_clusters_together():
    train, *_ = planted_ratings()
    spreads = []
    for penalty in (0.0, 1e4):
        options = QUICK | {"centre_penalty": penalty, "steps": 200, "growth_steps": 60}
        spreads.append(RatingCEL(clusters=6, **options).fit(train, ALONE).state()["item_table"].std(0).mean())

    assert spreads[1] < 0.3 * spreads[0]


def test_personal_vectors_fit_better_than_the_clusters_that_they_started_from():
    train, *_ = planted_ratings()
    options = QUICK | {"clusters": 2, "growth_steps": 50, "steps": 200}
    shared = RatingCEL(**options).fit(train, ALONE)

    own = RatingCEL(**options, personal_from=100, attachment=0.1).fit(train, ALONE)

    assert own.state()["item_table"].shape == (40, 4) and "item_clusters" not in own.state()
    assert squares(own, train).mean() < 0.5 * squares(shared, train).mean()


@pytest.mark.parametrize(
    ("options", "n_parameters", "n_bytes"),
    [
        ({"clusters": 2}, 8, 8 * 4 + 40),
        ({"clusters": 5}, 20, 20 * 4 + 40),
        ({"clusters": None}, 160, 160 * 4),
        ({"clusters": 5, "cluster": "both"}, 40, 40 * 4 + 40),
        ({"clusters": 5, "personal_from": 10}, 160, 160 * 4),
    ],
)
def test_sizes_are_of_what_predictions_read_and_no_user_has_a_row(options, n_parameters, n_bytes):
    train, *_ = planted_ratings()
    model = RatingCEL(**TABLES | options).fit(train, ALONE)

    assert (model.size().n_parameters, model.size().n_bytes) == (n_parameters, n_bytes)
    assert estimate(model, Shape.of(train)).model_bytes == n_bytes


def test_the_largest_size_is_reached_in_the_steps_that_clusters_grow_for():
    rng = np.random.default_rng(0)
    train = matrix_of(rng.random((30, 300)) < 0.3, rng.random((30, 300)) * 5)
    largest = SPEC.sizes[-1]

    clusters = RatingCEL(clusters=largest, factors=2).fit(train, ALONE).state()["item_clusters"]

    assert len(np.unique(clusters)) == largest


def test_a_rating_of_zero_is_learnt_and_asked_about():
    chosen, values = np.ones((6, 5), bool), np.full((6, 5), 4.0)
    values[:, 0] = 0

    options = QUICK | {"clusters": 2, "steps": 300, "growth_steps": 20}
    model = RatingCEL(**options).fit(matrix_of(chosen, values), ALONE)

    asked = model.score(matrix_of(chosen, values))
    assert abs(asked[:, 0]).max() < 0.5 and abs(asked[:, 1:] - 4).max() < 0.5
    liked = sp.csr_array(([4.0], [1], [0, 1]), shape=(1, 5))
    both = sp.csr_array(([4.0, 0.0], [1, 2], [0, 2]), shape=(1, 5))
    assert model.score(liked)[0, 1] == pytest.approx(4, abs=0.5)
    assert model.score(both)[0, 1] == pytest.approx(2, abs=0.5)


def test_doubles_and_other_vocabularies_are_refused():
    twice = sp.coo_array((np.ones(2, np.float32), ([1, 1], [1, 1])), shape=(3, 3))
    train, *_ = planted_ratings()

    with pytest.raises(DataError, match="twice"):
        RatingCEL().fit(twice, ALONE)
    with pytest.raises(DataError, match="fitted on 40; use one vocabulary"):
        RatingCEL(**TABLES).fit(train, ALONE).score(sp.csr_array((1, 3), dtype=np.float32))


def test_personal_vectors_without_clusters_of_items_are_refused():
    with pytest.raises(UsageError, match="clusters of items"):
        RatingCEL(cluster="users", personal_from=10).fit(sp.csr_array(np.ones((3, 3), np.float32)), ALONE)


def test_a_penalty_of_nothing_is_refused_for_an_unseen_user_needs_one():
    with pytest.raises(UsageError, match="regularization=0"):
        RatingCEL(regularization=0)
