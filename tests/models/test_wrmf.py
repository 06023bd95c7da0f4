import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded, UsageError
from recscale.models.wrmf import WRMF


def random_rows(n_users, seed, n_items=25):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.2).astype(np.float32))


@pytest.mark.parametrize("alpha", [1.0, 12.0])
def test_a_user_is_folded_in_as_the_normal_equations_say(alpha):
    history = random_rows(6, 1).toarray()
    model = WRMF(factors=5, alpha=alpha, regularization=0.3).fit(random_rows(60, 0))

    scores = model.score(sp.csr_array(history))

    items = model.state()["item_factors"].astype(np.float64)
    for row, liked in enumerate(history):
        confidence = np.diag(np.where(liked > 0, alpha, 1.0))
        system = items.T @ confidence @ items + 0.3 * np.eye(5)
        user = np.linalg.solve(system, items.T @ confidence @ liked)
        np.testing.assert_allclose(scores[row], items @ user, rtol=1e-3, atol=1e-4)


def test_users_of_two_planted_blocks_get_their_own_block():
    rng = np.random.default_rng(0)
    train = sp.csr_array(sp.block_diag([rng.random((40, 10)) < 0.5, rng.random((40, 10)) < 0.5]), dtype=np.float32)
    history = sp.csr_array(([1.0, 1.0], ([0, 1], [3, 15])), shape=(2, 20))

    scores = WRMF(factors=2, alpha=5.0).fit(train).score(history)

    assert scores[0, :10].min() > scores[0, 10:].max()
    assert scores[1, 10:].min() > scores[1, :10].max()


def test_more_iterations_bring_the_loss_down():
    train = random_rows(60, 0)

    losses = [loss(WRMF(factors=5, alpha=4.0, iterations=n).fit(train), train.toarray()) for n in (1, 3, 20)]

    assert losses[0] > losses[1] > losses[2]


def loss(model, train):
    """The training loss at the best user factors for the items, by hand."""
    items, total = model.state()["item_factors"].astype(np.float64), 0.0
    for liked in train:
        weights = np.where(liked > 0, model.alpha, 1.0)
        system = (items.T * weights) @ items + model.regularization * np.eye(model.factors)
        user = np.linalg.solve(system, items.T @ (weights * liked))
        total += (weights * (liked - items @ user) ** 2).sum() + model.regularization * user @ user
    return total + model.regularization * (items**2).sum()


def test_progress_is_reported_after_each_iteration():
    seen = []
    context = FitContext(log=lambda name, step, value: seen.append((name, step, value)))

    WRMF(factors=3, iterations=4).fit(random_rows(60, 0), context)

    assert seen == [("progress", step, 4) for step in (1, 2, 3, 4)]


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of 15"):
        WRMF(factors=3).fit(random_rows(60, 0), FitContext(deadline=time.monotonic() - 1))


def test_an_empty_history_scores_nothing():
    model = WRMF(factors=3).fit(random_rows(60, 0))

    np.testing.assert_array_equal(model.score(sp.csr_array((1, 25), dtype=np.float32)), np.zeros((1, 25)))


def test_scores_are_the_products_of_the_vectors_of_users_and_items():
    history = random_rows(6, 1)
    model = WRMF(factors=3).fit(random_rows(60, 0))

    users, items = model.user_vectors(history), model.item_vectors()

    assert isinstance(model, Factored)
    assert (users.shape, items.shape, users.dtype, items.dtype) == ((6, 3), (25, 3), np.float32, np.float32)
    np.testing.assert_allclose(model.score(history), users.astype(np.float64) @ items.T, rtol=1e-4, atol=1e-6)


def test_only_item_factors_count():
    size = WRMF(factors=3).fit(random_rows(60, 0)).size()

    assert (size.n_parameters, size.n_bytes) == (3 * 25, 4 * 3 * 25)


@pytest.mark.parametrize("options", [{"factors": 0}, {"regularization": 0}, {"alpha": 0}, {"iterations": 0}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        WRMF(**options)
