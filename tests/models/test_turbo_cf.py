import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models.turbo_cf import SPEC, TurboCF
from recscale.testing.board import placement, planted_board


def random_train(n_users=150, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    train = (rng.random((n_users, n_items)) < np.linspace(0.02, 0.4, n_items)).astype(np.float32)
    train[:, 3] = 0  # an item that nobody has
    train[5] = 0
    return sp.csr_array(train)


def sparse_train(n_users=600, seed=0):
    """Return users of 40 groups of items that hardly meet, so that few of the pairs occur."""
    rng = np.random.default_rng(seed)
    groups, tastes = np.arange(240) % 40, np.arange(n_users) % 40
    likes = np.where(tastes[:, None] == groups[None, :], 0.5, 0.002)
    return sp.csr_array((rng.random((n_users, 240)) < likes).astype(np.float32))


def weights_by_hand(train, alpha, power, k=None):
    """Write P out as a dense matrix; with k, cut each column to the diagonal and its k largest other entries."""
    x = train.toarray().astype(np.float64)
    with np.errstate(divide="ignore"):
        of_users, of_items = x.sum(axis=1) ** -alpha, x.sum(axis=0) ** (alpha - 1)
    of_users[~np.isfinite(of_users)], of_items[~np.isfinite(of_items)] = 0, 0
    normalised = of_users[:, None] * x * of_items
    weights = (normalised.T @ normalised) ** power
    for column in range(len(weights)) if k is not None else ():
        others = np.delete(np.arange(len(weights)), column)
        dropped = others[np.argsort(-weights[others, column], kind="stable")[k:]]
        weights[dropped, column] = 0
    return weights


def filter_by_hand(p, degree):
    return {1: p, 2: 2 * p - p @ p, 3: p + 0.01 * (-p @ p @ p + 10 * p @ p - 29 * p)}[degree]


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize(("alpha", "power"), [(0.5, 1.0), (0.6, 0.7), (0.0, 1.4)])
@pytest.mark.parametrize("draw", [random_train, sparse_train])  # kept as a whole, and by its pairs
def test_scores_agree_with_a_dense_polynomial(draw, alpha, power, degree):
    train, history = draw(), draw(n_users=40, seed=1)
    history.data *= np.random.default_rng(3).random(history.nnz, dtype=np.float32)

    model = TurboCF(alpha=alpha, power=power, filter=degree).fit(train)
    scores = model.score(history)

    expected = history.toarray() @ filter_by_hand(weights_by_hand(train, alpha, power), degree)
    assert scores.dtype == np.float32
    assert sp.issparse(model.state()["weights"]) == (draw is sparse_train)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_interactions_that_are_not_binary_weigh_what_they_are():
    train = sparse_train()
    train.data *= np.random.default_rng(2).integers(1, 6, train.nnz)

    weights = TurboCF().fit(train).state()["weights"].toarray()

    np.testing.assert_allclose(weights, weights_by_hand(train, 0.5, 0.7), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("k", [1, 6, 30])
def test_pruning_keeps_the_diagonal_and_the_largest_of_each_column(k, degree):
    train, history = random_train(), random_train(n_users=9, seed=1)
    train.data *= np.random.default_rng(2).random(train.nnz, dtype=np.float32)  # so that no two are equal

    scores = TurboCF(k=k, filter=degree).fit(train).score(history)

    expected = history.toarray() @ filter_by_hand(weights_by_hand(train, 0.5, 0.7, k), degree)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_knob_that_prunes_nothing_keeps_everything():
    train = sparse_train()

    whole, most = TurboCF().fit(train), TurboCF(k=239).fit(train)

    assert (whole.state()["weights"] != most.state()["weights"]).nnz == 0


def test_recommendations_stay_within_a_planted_block():
    board = planted_board()

    assert placement(TurboCF().fit(board.train).score(board.history), board) > 0.85


def test_items_of_separate_parts_never_meet():
    block = np.ones((4, 3), np.float32)
    train = sp.csr_array(sp.block_diag([block, block]))

    scores = TurboCF(alpha=0.5, power=2, filter=2).fit(train).score(sp.csr_array(np.eye(6, dtype=np.float32)[[0]]))

    np.testing.assert_allclose(scores, [[2 / 9 - 3 / 81] * 3 + [0] * 3], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"filter": 3}, {"k": 5, "filter": 2}])
def test_a_user_scores_the_same_bits_alone_and_in_a_batch_and_on_any_number_of_threads(options):
    train, history = sparse_train(), sparse_train(n_users=40, seed=1)

    one, two = (TurboCF(**options).fit(train, FitContext(n_threads=n)) for n in (1, 2))

    together = one.score(history)
    np.testing.assert_array_equal(together, two.score(history))
    np.testing.assert_array_equal(together, np.vstack([one.score(history[[user]]) for user in range(40)]))


@pytest.mark.parametrize("options", [{}, {"k": 5}])
@pytest.mark.parametrize("draw", [random_train, sparse_train])
def test_the_estimate_bounds_the_size(draw, options):
    train = draw()

    estimate = SPEC.estimate(TurboCF(**options), Shape.of(train))

    assert TurboCF(**options).fit(train).size().n_bytes <= estimate.model_bytes < estimate.peak_bytes


def test_interactions_below_zero_are_refused():
    train = random_train()
    train.data[3] = -1

    with pytest.raises(DataError, match="at least 0"):
        TurboCF().fit(train)


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="41 items"):
        TurboCF().fit(random_train()).score(sp.csr_array((1, 41), dtype=np.float32))


@pytest.mark.parametrize("options", [{}, {"k": 5}])
def test_a_deadline_stops_the_fit(options):
    with pytest.raises(DeadlineExceeded):
        TurboCF(**options).fit(random_train(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"alpha": 1.1}, {"alpha": -0.1}, {"power": 0}, {"filter": 4}, {"k": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        TurboCF(**options)
