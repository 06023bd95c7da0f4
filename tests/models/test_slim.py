import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models import _elastic_net
from recscale.models.slim import SLIM, SPEC
from recscale.testing.board import placement, planted_board


def random_train(n_users=150, n_items=30, seed=0):
    """Draw users who have a taste, so that items are alike in groups; item 3 is one that nobody has."""
    rng = np.random.default_rng(seed)
    tastes, groups = rng.integers(0, 4, n_users), rng.integers(0, 4, n_items)
    likes = np.where(tastes[:, None] == groups[None, :], 0.5, 0.08)
    likes[:, 3] = 0
    return sp.csr_array((rng.random((n_users, n_items)) < likes).astype(np.float32))


def sparse_train():
    """Return users of 40 groups of items that hardly meet, so that few of the pairs occur."""
    rng = np.random.default_rng(1)
    groups, tastes = np.arange(240) % 40, np.arange(600) % 40
    likes = np.where(tastes[:, None] == groups[None, :], 0.5, 0.002)
    return sp.csr_array((rng.random((600, 240)) < likes).astype(np.float32))


def weights_by_elastic_net(train, l1, l2, candidates=None):
    """Let scikit-learn solve each column from the data, without a Gram matrix."""
    from sklearn.linear_model import ElasticNet

    x = train.toarray().astype(np.float64)
    n_users, n_items = x.shape
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.delete(np.arange(n_items), item) if candidates is None else candidates[item]
        solver = ElasticNet((l1 + l2) / n_users, l1_ratio=l1 / (l1 + l2), positive=True, fit_intercept=False)
        solver.set_params(tol=1e-10, max_iter=100_000)
        weights[others, item] = solver.fit(x[:, others], x[:, item]).coef_
    return weights


@pytest.mark.parametrize(("l1", "l2"), [(1.0, 3.0), (0.01, 10.0), (4.0, 0.5), (5.0, 0.0)])
def test_weights_agree_with_scikit_learn_where_the_gram_matrix_is_dense(l1, l2):
    train = random_train()

    weights = SLIM(l1=l1, l2=l2).fit(train).state()["weights"].toarray()

    expected = weights_by_elastic_net(train, l1, l2)
    assert 50 < np.count_nonzero(expected) < 870
    np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_weights_agree_with_scikit_learn_where_the_gram_matrix_is_sparse():
    train = sparse_train()

    weights = SLIM(l1=0.5, l2=2).fit(train).state()["weights"].toarray()

    gram = train.T @ train
    assert gram.nnz < 0.3 * 240**2
    np.testing.assert_allclose(weights, weights_by_elastic_net(train, 0.5, 2), atol=1e-5)


def test_weights_of_interactions_that_are_not_binary_agree_with_scikit_learn():
    train = random_train()
    train.data *= np.random.default_rng(2).random(train.nnz, dtype=np.float32) * 2

    weights = SLIM(l1=1, l2=3).fit(train).state()["weights"].toarray()

    np.testing.assert_allclose(weights, weights_by_elastic_net(train, 1, 3), atol=1e-5)


@pytest.mark.parametrize("neighbors", [1, 4, 28])
def test_neighbours_are_the_candidates_of_largest_cosine(neighbors):
    train = random_train()
    gram = (train.T @ train).toarray()
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.nan_to_num(gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))))
    np.fill_diagonal(cosine, -1)
    nearest = [np.sort(np.argsort(-np.round(row, 6), kind="stable")[:neighbors]) for row in cosine]

    weights = SLIM(l1=0.5, l2=2, neighbors=neighbors).fit(train).state()["weights"].toarray()

    np.testing.assert_allclose(weights, weights_by_elastic_net(train, 0.5, 2, nearest), atol=1e-5)


def test_as_many_neighbours_as_items_are_the_same_as_no_restriction():
    train = sparse_train()

    among = SLIM(l1=0.5, l2=2, neighbors=238).fit(train).state()["weights"].toarray()
    whole = SLIM(l1=0.5, l2=2).fit(train).state()["weights"].toarray()

    np.testing.assert_allclose(among, whole, atol=1e-5)


@pytest.mark.parametrize("neighbors", [None, 6])
def test_batches_of_columns_change_nothing(monkeypatch, neighbors):
    train = sparse_train()
    at_once = SLIM(l1=0.5, neighbors=neighbors).fit(train).state()["weights"]

    monkeypatch.setattr(_elastic_net, "BATCH_ENTRIES", 50)
    monkeypatch.setattr(_elastic_net, "BATCH_BYTES", 2000)
    in_batches = SLIM(l1=0.5, neighbors=neighbors).fit(train).state()["weights"]

    np.testing.assert_array_equal(in_batches.toarray(), at_once.toarray())


@pytest.mark.parametrize("neighbors", [None, 6])
def test_the_number_of_threads_changes_nothing(neighbors):
    train = random_train()

    one, two = (
        SLIM(neighbors=neighbors).fit(train, FitContext(n_threads=n)).state()["weights"].toarray() for n in (1, 2)
    )

    np.testing.assert_array_equal(one, two)


def test_no_weight_is_negative_and_no_item_is_its_own_predictor():
    weights = SLIM(l1=0.1, l2=1).fit(random_train()).state()["weights"]

    assert weights.data.min() > 0
    assert not weights.diagonal().any()


def test_a_larger_l1_leaves_fewer_weights_and_one_above_every_count_none():
    train = random_train()

    counts = [SLIM(l1=l1).fit(train).state()["weights"].nnz for l1 in (0.1, 1.0, 10.0, 151.0)]

    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3] == 0


def test_scores_are_the_history_times_the_weights():
    history = random_train(n_users=9, seed=1)
    model = SLIM().fit(random_train())

    scores = model.score(history)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, history.toarray() @ model.state()["weights"].toarray(), atol=1e-6)


def test_recommendations_stay_within_a_planted_block():
    board = planted_board()

    scores = SLIM(l1=0.5, l2=5).fit(board.train).score(board.history)

    assert placement(scores, board) > 0.85


@pytest.mark.parametrize("neighbors", [None, 6])
def test_a_fit_logs_how_many_columns_have_not_settled(neighbors):
    logged = {}
    context = FitContext(log=lambda name, step, value: logged.update({name: value}))

    SLIM(l1=0.5, l2=2, neighbors=neighbors).fit(random_train(), context)

    assert logged["unsettled_items"] == 0


@pytest.mark.parametrize("neighbors", [None, 6])
def test_the_estimate_bounds_the_size(neighbors):
    train = random_train()

    estimate = SPEC.estimate(SLIM(neighbors=neighbors), Shape.of(train))

    assert SLIM(neighbors=neighbors).fit(train).size().n_bytes <= estimate.model_bytes < estimate.peak_bytes


def test_a_matrix_without_interactions_gives_no_weights():
    empty = sp.csr_array((5, 8), dtype=np.float32)

    for neighbors in (None, 3):
        assert SLIM(neighbors=neighbors).fit(empty).state()["weights"].nnz == 0


def test_interactions_below_zero_are_refused():
    train = random_train()
    train.data[3] = -1

    with pytest.raises(DataError, match="at least 0"):
        SLIM().fit(train)


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="31 items"):
        SLIM().fit(random_train()).score(sp.csr_array((1, 31), dtype=np.float32))


@pytest.mark.parametrize("neighbors", [None, 6])
def test_a_deadline_stops_the_fit(neighbors):
    with pytest.raises(DeadlineExceeded):
        SLIM(neighbors=neighbors).fit(random_train(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"l1": -1}, {"l2": -1}, {"neighbors": 0}, {"tolerance": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        SLIM(**options)
