import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models.ease import EASE
from recscale.models.mrf import MRF, SPEC


def random_train(n_users=211, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < np.linspace(0.05, 0.4, n_items)).astype(np.float32))


def covariance(train, alpha):
    """Return the rescaled covariance of the items, from centred columns, and the rescaling."""
    x = train.toarray().astype(np.float64)
    scale = (len(x) * x.var(axis=0)) ** (-alpha / 2)
    centred = (x - x.mean(axis=0)) * scale
    return centred.T @ centred, scale


def weights_by_regression(train, alpha, l2, neighbours=None):
    """Regress each rescaled item on the others, or on its neighbours, one at a time."""
    matrix, scale = covariance(train, alpha)
    weights = np.zeros_like(matrix)
    for item in range(len(matrix)):
        near = np.arange(len(matrix)) if neighbours is None else np.asarray(neighbours[item])
        near = near[near != item]
        system = matrix[np.ix_(near, near)] + l2 * np.eye(len(near))
        weights[near, item] = scale[near] * np.linalg.solve(system, matrix[near, item]) / scale[item]
    return weights


def nearest(train, alpha, k=None, threshold=0.0):
    """Return for each item its `k` nearest others above the threshold."""
    matrix, _ = covariance(train, alpha)
    near = np.abs(matrix)
    np.fill_diagonal(near, 0)
    return [[j for j in np.argsort(-row.round(9), kind="stable")[:k] if row[j] > threshold] for row in near]


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_scores_agree_with_a_regression_of_each_item_on_the_others(alpha):
    train, history = random_train(), random_train(n_users=25, seed=1)
    history.data *= np.random.default_rng(2).random(history.nnz, dtype=np.float32)

    scores = MRF(alpha=alpha, l2=2).fit(train).score(history)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, history.toarray() @ weights_by_regression(train, alpha, 2), atol=3e-6)


@pytest.mark.parametrize("options", [{"threshold": 0.05}, {"max_neighbors": 6}, {"threshold": 0.2, "max_neighbors": 9}])
@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_sparse_weights_agree_with_a_regression_on_the_neighbours(options, alpha):
    train = random_train()
    neighbours = nearest(train, alpha, options.get("max_neighbors"), options.get("threshold", 0.0))

    weights = MRF(alpha=alpha, l2=2, **options).fit(train).state()["weights"]

    np.testing.assert_allclose(weights.toarray(), weights_by_regression(train, alpha, 2, neighbours), atol=1e-6)
    assert weights.nnz == sum(map(len, neighbours))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_the_sparse_route_with_a_threshold_of_almost_nothing_is_the_dense_one(overlap):
    train = random_train()

    dense = MRF(l2=2).fit(train).state()["weights"]
    sparse = MRF(l2=2, threshold=1e-9, overlap=overlap).fit(train).state()["weights"]

    assert isinstance(dense, np.ndarray)
    np.testing.assert_allclose(sparse.toarray(), dense, atol=1e-6)


def test_a_limit_that_drops_no_pair_keeps_the_dense_matrix():
    train = random_train()

    whole, most = MRF(l2=2).fit(train), MRF(l2=2, max_neighbors=39).fit(train)

    np.testing.assert_array_equal(whole.state()["weights"], most.state()["weights"])


@pytest.mark.parametrize("neighbors", [None, 12])
def test_without_rescaling_and_centring_it_is_ease(neighbors):
    train, history = random_train(), random_train(n_users=9, seed=1)

    mrf = MRF(alpha=0, centred=False, l2=20, max_neighbors=neighbors).fit(train)
    ease = EASE(l2=20).fit(train).score(history)

    if neighbors is None:
        np.testing.assert_allclose(mrf.score(history), ease, atol=2e-6)
    else:
        assert np.corrcoef(mrf.score(history).ravel(), ease.ravel())[0, 1] > 0.8


def test_more_neighbours_come_closer_to_the_dense_weights():
    train = random_train()
    dense = MRF(l2=2).fit(train).state()["weights"]

    errors = [np.abs(MRF(l2=2, max_neighbors=k).fit(train).state()["weights"] - dense).sum() for k in (5, 15, 30)]

    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("options", [{}, {"max_neighbors": 13}])
def test_recommendations_stay_within_a_planted_block(options):
    rng = np.random.default_rng(0)
    block = np.kron(np.eye(2), np.ones((1000, 10))).astype(bool)
    train = sp.csr_array((block & (rng.random(block.shape) < 0.5)).astype(np.float32))
    history = sp.csr_array(np.kron(np.eye(2), np.arange(10) < 4).astype(np.float32))

    scores = MRF(**options).fit(train).score(history)

    scores[history.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :6]
    assert set(best[0]) == set(range(4, 10))
    assert set(best[1]) == set(range(14, 20))


@pytest.mark.parametrize("options", [{}, {"max_neighbors": 5}, {"threshold": 0.1, "overlap": 0.5}])
def test_items_that_nobody_or_everybody_has_get_no_weights(options):
    dense = random_train().toarray()
    dense[:, 5], dense[:, 7] = 0, 1
    train = sp.csr_array(dense)

    scores = MRF(**options).fit(train).score(train)

    assert np.isfinite(scores).all()
    assert np.count_nonzero(scores) > 1000
    np.testing.assert_array_equal(scores[:, [5, 7]], 0)


@pytest.mark.parametrize("options", [{}, {"max_neighbors": 6}, {"max_neighbors": 6, "overlap": 0.5}])
def test_a_user_scores_the_same_bits_alone_in_a_batch_and_from_disk(tmp_path, options):
    history = random_train(n_users=9, seed=1)
    model = MRF(**options).fit(random_train())

    model.save(tmp_path / "mrf.npz")
    loaded = MRF.load(tmp_path / "mrf.npz")

    together = model.score(history)
    np.testing.assert_array_equal(np.vstack([model.score(history[[user]]) for user in range(9)]), together)
    np.testing.assert_array_equal(loaded.score(history), together)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_the_number_of_threads_changes_no_bit_of_a_sparse_fit(overlap):
    train = random_train()

    one, two = (
        MRF(max_neighbors=6, overlap=overlap).fit(train, FitContext(n_threads=n)).state()["weights"] for n in (1, 2)
    )

    np.testing.assert_array_equal(one.toarray(), two.toarray())


@pytest.mark.parametrize("neighbors", [None, 5])
def test_the_size_counts_what_scoring_reads_and_is_foreseen(neighbors):
    train = random_train()
    model = MRF(max_neighbors=neighbors).fit(train)

    size, estimate = model.size(), SPEC.estimate(model, Shape.of(train))

    assert (size.n_parameters, size.n_bytes) == ((1600, 6400) if neighbors is None else (200, 200 * 8 + 41 * 4))
    assert estimate.model_bytes == size.n_bytes
    assert estimate.peak_bytes > size.n_bytes


def test_a_large_catalogue_is_foreseen_to_need_little_on_the_sparse_route():
    shape = Shape(n_users=3_800_000, n_items=427_000, n_interactions=35_000_000, n_pairs=760_000_000)

    dense, sparse = (SPEC.estimate(MRF(max_neighbors=k), shape) for k in (None, 100))

    assert dense.peak_bytes / (4 * 427_000**2) == pytest.approx(1.0, abs=0.01)
    assert sparse.peak_bytes < 4e9


def test_the_training_data_is_not_changed():
    train = random_train()
    before = train.copy()

    for options in ({}, {"max_neighbors": 5}):
        MRF(**options).fit(train).score(train)

    assert (train != before).nnz == 0


@pytest.mark.parametrize("options", [{}, {"max_neighbors": 11}])
def test_a_penalty_too_small_is_an_error_that_names_the_remedy(options):
    half = random_train(n_users=20_000, n_items=6)
    twins = sp.csr_array(sp.hstack((half, half)), dtype=np.float32)
    options = options and {"threshold": 1e-9}

    with pytest.raises(NumericalError, match="l2=1e-14 is too small for it: use a larger l2"):
        MRF(l2=1e-14, **options).fit(twins)


@pytest.mark.parametrize("options", [{}, {"max_neighbors": 5}])
def test_a_deadline_stops_the_fit(options):
    with pytest.raises(DeadlineExceeded):
        MRF(**options).fit(random_train(), FitContext(deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    model = MRF().fit(random_train())

    with pytest.raises(DataError, match="41 items"):
        model.score(sp.csr_array((1, 41), dtype=np.float32))


@pytest.mark.parametrize(
    "options", [{"l2": 0}, {"alpha": 1.1}, {"max_neighbors": 0}, {"threshold": -0.1}, {"overlap": 2}, {"centred": "no"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        MRF(**options)
