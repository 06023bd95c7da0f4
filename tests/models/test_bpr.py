import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded, UsageError
from recscale.models.bpr import BPR


def random_rows(n_users, seed, n_items=25):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.2).astype(np.float32))


def climbed_by_hand(state, liked, regularization, n_steps):
    """The same accelerated climb in float64, pair by pair."""
    factors, biases = state["item_factors"][:, :-1].astype(np.float64), state["item_factors"][:, -1].astype(np.float64)
    pairs = [(p, n) for p in liked for n in state["negatives"] if n not in set(liked)]
    differences = np.array([factors[p] - factors[n] for p, n in pairs])
    offsets = np.array([biases[p] - biases[n] for p, n in pairs])
    rate = 1 / (regularization + 0.25 * (differences**2).sum(axis=1).mean())
    user = ahead = np.zeros(factors.shape[1])
    momentum = 1.0
    for _ in range(n_steps):
        weights = 1 / (1 + np.exp(differences @ ahead + offsets))
        moved = ahead + rate * ((weights[:, None] * differences).mean(axis=0) - regularization * ahead)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - user)
        user, momentum = moved, following
    return factors @ user + biases


def test_the_fold_in_agrees_with_a_climb_pair_by_pair():
    history = random_rows(6, 1)
    model = BPR(factors=4, iterations=30, learning_rate=0.1, regularization=0.02, fold_in_steps=8)

    scores = model.fit(random_rows(60, 0)).score(history)

    for row in range(6):
        expected = climbed_by_hand(model.state(), history[[row]].indices, 0.02, 8)
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-5)


def test_many_steps_reach_the_top_of_the_likelihood():
    history = random_rows(6, 1)
    train = random_rows(60, 0)
    options = {"factors": 4, "iterations": 30, "learning_rate": 0.1, "regularization": 0.05}

    near = BPR(fold_in_steps=300, **options).fit(train).score(history)
    top = BPR(fold_in_steps=3000, **options).fit(train).score(history)

    np.testing.assert_allclose(near, top, rtol=1e-3, atol=1e-4)


def test_users_of_two_planted_blocks_get_their_own_block():
    rng = np.random.default_rng(0)
    train = sp.csr_array(sp.block_diag([rng.random((40, 10)) < 0.7, rng.random((40, 10)) < 0.7]), dtype=np.float32)
    history = sp.csr_array(([1.0, 1.0], ([0, 1], [3, 15])), shape=(2, 20))

    scores = BPR(factors=2, learning_rate=0.05, iterations=60).fit(train).score(history)

    first, second = scores[:, :10], scores[:, 10:]
    assert (first[0][:, None] > second[0][None, :]).mean() > 0.9
    assert (second[1][:, None] > first[1][None, :]).mean() > 0.9


def test_a_user_who_has_every_negative_gets_the_biases():
    model = BPR(factors=4, iterations=5).fit(random_rows(60, 0))

    scores = model.score(sp.csr_array(np.ones((1, 25), np.float32)))

    np.testing.assert_allclose(scores[0], model.state()["item_factors"][:, -1], rtol=1e-6)


def test_scores_are_the_products_of_the_vectors_of_users_and_items_and_the_biases():
    history = random_rows(6, 1)
    model = BPR(factors=4, iterations=30, learning_rate=0.1).fit(random_rows(60, 0))

    users, items = model.user_vectors(history), model.item_vectors()

    biases = model.state()["item_factors"][:, -1]
    assert isinstance(model, Factored) and np.ptp(biases) > 0.1
    assert (users.shape, items.shape, users.dtype, items.dtype) == ((6, 4), (25, 4), np.float32, np.float32)
    np.testing.assert_allclose(model.score(history), users.astype(np.float64) @ items.T + biases, rtol=1e-4, atol=1e-6)


def test_negatives_come_up_as_often_as_they_are_popular():
    train = sp.csr_array(np.array([[1, 1, 0]] * 6 + [[1, 0, 0]] * 12, np.float32))

    negatives = BPR(factors=2, iterations=1).fit(train).state()["negatives"]

    np.testing.assert_array_equal(np.bincount(negatives, minlength=3), [18, 6, 0])


def test_scores_do_not_depend_on_who_is_scored_beside_whom():
    history = random_rows(6, 1)
    model = BPR(factors=4, iterations=5).fit(random_rows(60, 0), FitContext(n_threads=2))

    alone = np.concatenate([model.score(history[[row]]) for row in range(6)])

    np.testing.assert_allclose(alone, model.score(history), rtol=1e-5, atol=1e-6)


def test_the_number_of_threads_changes_nothing():
    train, history = random_rows(60, 0), random_rows(6, 1)

    one = BPR(factors=4, iterations=5).fit(train, FitContext(n_threads=1)).score(history)
    two = BPR(factors=4, iterations=5).fit(train, FitContext(n_threads=2)).score(history)

    np.testing.assert_array_equal(one, two)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of 100"):
        BPR(factors=3).fit(random_rows(60, 0), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"factors": 0}, {"learning_rate": 0}, {"regularization": -1}, {"iterations": 0}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        BPR(**options)
