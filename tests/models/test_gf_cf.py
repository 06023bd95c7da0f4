import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models import _graph_filter, gf_cf
from recscale.models.gf_cf import GFCF, SPEC
from recscale.testing.board import placement, planted_board


def random_train(n_users=120, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    train = (rng.random((n_users, n_items)) < np.linspace(0.02, 0.4, n_items)).astype(np.float32)
    train[:, 3] = 0  # an item that nobody has
    train[5] = 0
    return sp.csr_array(train)


def scores_by_hand(train, history, factors, weight):
    """Write the filters out as dense matrices, with numpy's SVD."""
    x = train.toarray().astype(np.float64)
    with np.errstate(divide="ignore"):
        of_users, of_items = np.diag(1 / np.sqrt(x.sum(axis=1))), np.diag(1 / np.sqrt(x.sum(axis=0)))
    of_users[~np.isfinite(of_users)], of_items[~np.isfinite(of_items)] = 0, 0
    normalised = of_users @ x @ of_items
    v = np.linalg.svd(normalised, full_matrices=factors > 0)[2][:factors].T
    ideal = of_items @ v @ v.T @ np.diag(np.sqrt(x.sum(axis=0)))
    return history.toarray() @ (normalised.T @ normalised + weight * ideal)


@pytest.mark.parametrize(("factors", "weight"), [(0, 0.3), (6, 0.0), (6, 0.3), (17, 2.0)])
@pytest.mark.parametrize("binary", [True, False])
def test_scores_agree_with_dense_filters(factors, weight, binary):
    train, history = random_train(), random_train(n_users=23, seed=1)
    if not binary:
        train.data *= np.random.default_rng(2).integers(1, 6, train.nnz)
    history.data *= np.random.default_rng(3).random(history.nnz, dtype=np.float32)

    scores = GFCF(factors=factors, ideal_weight=weight).fit(train).score(history)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scores_by_hand(train, history, factors, weight), atol=2e-5)


def test_scores_agree_where_the_singular_vectors_are_searched_for():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 8, 600)
    likes = np.where(groups[None, :] == rng.integers(0, 8, 400)[:, None], 0.15, 0.01)
    train = sp.csr_array((rng.random((400, 600)) < likes).astype(np.float32))
    history = random_train(n_users=9, n_items=600, seed=1)

    scores = GFCF(factors=8).fit(train).score(history)

    np.testing.assert_allclose(scores, scores_by_hand(train, history, 8, 0.3), atol=2e-4)


@pytest.mark.parametrize("reach", [0.0, 1.0])  # the route of dense vectors, and that of sparse histories
def test_both_routes_of_the_linear_filter_agree(monkeypatch, reach):
    train, history = random_train(), random_train(n_users=70, seed=1)
    history.data *= np.random.default_rng(3).random(history.nnz, dtype=np.float32)

    monkeypatch.setattr(gf_cf, "DENSE_REACH", reach)
    scores = GFCF(factors=0).fit(train).score(history)

    np.testing.assert_allclose(scores, scores_by_hand(train, history, 0, 0), rtol=2e-5, atol=1e-6)


def test_blocks_of_kept_users_and_chunks_of_histories_change_nothing(monkeypatch):
    train, history = random_train(n_users=9000), random_train(n_users=150, seed=1)
    monkeypatch.setattr(gf_cf, "DENSE_REACH", 1.0)

    scores = GFCF(factors=0).fit(train).score(history)

    np.testing.assert_allclose(scores, scores_by_hand(train, history, 0, 0), rtol=2e-4, atol=1e-6)


def test_recommendations_stay_within_a_planted_block():
    board = planted_board()

    model = GFCF(factors=4).fit(board.train)

    assert placement(model.score(board.history), board) > 0.85


def test_items_of_separate_parts_never_meet():
    block = np.ones((4, 3), np.float32)
    train = sp.csr_array(sp.block_diag([block, block]))

    scores = GFCF(factors=2).fit(train).score(sp.csr_array(np.array([[1, 0, 0, 0, 0, 0]], np.float32)))

    np.testing.assert_allclose(scores[0, 3:], 0, atol=1e-6)  # both parts have a singular value of 1
    np.testing.assert_allclose(scores[0, :3], 1 / 3 + 0.3 / 3, rtol=1e-5)


def test_more_factors_than_the_rank_are_left_out():
    train = sp.csr_array(np.kron(np.eye(3), np.ones((4, 2))).astype(np.float32))

    model = GFCF(factors=50).fit(train)

    assert model.state()["factors"].shape == (6, 3)


def test_a_user_scores_the_same_bits_alone_and_in_a_batch_by_the_linear_filter(monkeypatch):
    monkeypatch.setattr(gf_cf, "DENSE_REACH", 1.0)
    history = random_train(n_users=90, seed=1)
    model = GFCF(factors=0).fit(random_train())

    together = model.score(history)
    alone = np.vstack([model.score(history[[user]]) for user in range(90)])

    np.testing.assert_array_equal(together, alone)


def test_the_number_of_threads_changes_nothing():
    train, history = random_train(n_items=900, n_users=60), random_train(n_users=9, n_items=900, seed=1)

    one = GFCF(factors=20).fit(train, FitContext(n_threads=1)).score(history)
    two = GFCF(factors=20).fit(train, FitContext(n_threads=2)).score(history)

    np.testing.assert_array_equal(one, two)


def test_a_binary_entry_takes_five_bytes_and_another_eight():
    train = random_train()
    weighted = train.copy()
    weighted.data[0] = 2

    sizes = [GFCF(factors=4).fit(matrix).size() for matrix in (train, weighted)]

    rest = 4 * 121 + 4 * 120 + 4 * 40 + 4 * 4 * 40
    assert [size.n_bytes for size in sizes] == [5 * train.nnz + rest, 8 * train.nnz + rest]
    assert sizes[0].n_parameters == train.nnz + 120 + 40 + 160


def test_the_size_is_foreseen_and_the_linear_filter_needs_no_basis():
    train = random_train()

    linear, both = (SPEC.estimate(GFCF(factors=f), Shape.of(train)) for f in (0, 4))

    assert both.model_bytes == GFCF(factors=4).fit(train).size().n_bytes
    assert linear.model_bytes == GFCF(factors=0).fit(train).size().n_bytes
    assert both.peak_bytes > linear.peak_bytes > linear.model_bytes


def test_the_product_with_dense_vectors_is_that_of_the_dense_filter():
    train = random_train()
    model = GFCF(factors=0).fit(train)
    vectors = np.random.default_rng(0).normal(size=(37, 40)).astype(np.float32)

    found = _graph_filter.filtered(model._graph(), vectors)

    np.testing.assert_allclose(found, scores_by_hand(train, sp.csr_array(vectors), 0, 0), atol=1e-5)


def test_interactions_below_zero_are_refused():
    train = random_train()
    train.data[3] = -1

    with pytest.raises(DataError, match="at least 0"):
        GFCF().fit(train)


def test_another_vocabulary_is_an_error():
    model = GFCF(factors=2).fit(random_train())

    with pytest.raises(DataError, match="41 items"):
        model.score(sp.csr_array((1, 41), dtype=np.float32))


def test_a_deadline_stops_the_search_for_singular_vectors():
    with pytest.raises(DeadlineExceeded):
        GFCF().fit(random_train(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"factors": -1}, {"ideal_weight": -0.1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        GFCF(**options)
