import importlib.util
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import FitWarning, MissingExtra, NumericalError, OutOfMemory, Skipped
from recscale.models._cholmod import factor_rows, fill, within_fill
from recscale.models.chol import CHOL
from recscale.models.ease import EASE
from recscale.testing.board import placement, planted_board

has_cholmod = importlib.util.find_spec("sksparse") is not None
needs_cholmod = pytest.mark.skipif(not has_cholmod, reason="needs the extra cholmod")


def random_train(n_users=300, n_items=90, seed=0, least=0.02):
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(np.geomspace(least, 0.5, n_items))
    return sp.csr_array((rng.random((n_users, n_items)) < popularity).astype(np.float32))


def banded(n_items=60, seed=0):
    """Return a sparse positive definite matrix with a few long-range entries."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n_items, n_items)) < 0.04, rng.normal(size=(n_items, n_items)), 0)
    dense = dense + dense.T
    return sp.csr_array(dense + np.diag(np.abs(dense).sum(axis=1) + 1))


def masked(scores, history):
    return np.where(history.toarray() > 0, 0, scores)


@needs_cholmod
def test_the_rows_multiply_to_the_matrix_in_the_order_of_the_items():
    matrix = banded()

    rows = factor_rows(matrix, None, FitContext()).toarray()

    np.testing.assert_allclose(rows @ rows.T, matrix.toarray(), atol=1e-5)


@needs_cholmod
@pytest.mark.parametrize("k", [1, 3, 1000])
def test_the_largest_entries_of_each_row_are_kept(k):
    matrix = banded()
    whole = factor_rows(matrix, None, FitContext()).toarray()

    kept = factor_rows(matrix, k, FitContext()).toarray()

    for row, full in zip(kept, whole, strict=True):
        expected = np.sort(np.abs(full))[::-1][:k]
        np.testing.assert_array_equal(np.sort(np.abs(row))[::-1][:k], expected)
        assert np.count_nonzero(row) == np.count_nonzero(expected)


@needs_cholmod
@pytest.mark.parametrize("seed", range(5))
def test_the_fill_is_known_before_the_factor(seed):
    matrix = banded(seed=seed)

    expected = fill(matrix, 10**9)

    from sksparse.cholmod import analyze

    factor = analyze(sp.csc_matrix(matrix), mode="simplicial", ordering_method="default")
    factor.cholesky_inplace(sp.csc_matrix(matrix))
    assert expected == factor.L().nnz


@needs_cholmod
def test_counting_stops_at_the_limit():
    matrix = banded()

    assert 100 < fill(matrix, 100) <= 100 + matrix.shape[0]


@needs_cholmod
def test_the_strongest_entries_stay_where_the_factor_would_be_too_large():
    matrix = banded()
    limit = (fill(matrix, 10**9) + matrix.shape[0]) // 2

    with pytest.warns(FitWarning, match=rf"max_fill={limit} entries; the strongest \d+% of"):
        kept = within_fill(matrix, limit, FitContext())

    assert matrix.shape[0] < kept.nnz < matrix.nnz
    assert fill(kept, 10**9) <= limit
    root = 1 / np.sqrt(matrix.diagonal())
    strength = np.abs(matrix.toarray() * root[:, None] * root)
    dropped = (matrix.toarray() != 0) & (kept.toarray() == 0)
    assert strength[dropped].max() <= strength[kept.toarray() != 0].min() + 1e-6
    np.testing.assert_array_equal(kept.toarray(), np.where(dropped, 0, matrix.toarray()))


@needs_cholmod
def test_a_factor_that_fits_is_left_alone():
    matrix = banded()

    assert within_fill(matrix, 10**6, FitContext()) is matrix


@needs_cholmod
def test_a_bound_below_the_diagonal_is_an_error():
    with pytest.raises(OutOfMemory, match="max_fill=59 is less than the 60 entries of the diagonal"):
        within_fill(banded(), 59, FitContext())


@needs_cholmod
def test_an_indefinite_matrix_is_an_error():
    matrix = banded().tolil()
    matrix[7, 7] = -1.0

    with pytest.raises(NumericalError, match="not positive definite"):
        factor_rows(sp.csr_array(matrix), None, FitContext())


@pytest.mark.parametrize("factorization", ["incomplete", pytest.param("cholmod", marks=needs_cholmod)])
def test_with_all_neighbors_it_ranks_as_ease_does(factorization):
    train, history = random_train(least=0.2), random_train(40, seed=1)
    assert (train.T @ train).nnz == 90 * 90  # a pair that no user has would not be in the pattern

    scores = CHOL(l2=20.0, k=None, factorization=factorization, neighbors=89).fit(train).score(history)

    ease = EASE(l2=20.0).fit(train).score(history)
    np.testing.assert_allclose(masked(scores, history), masked(ease, history), atol=1e-5)


@pytest.mark.parametrize("factorization", ["incomplete", pytest.param("cholmod", marks=needs_cholmod)])
def test_few_neighbors_find_what_was_planted(factorization):
    board = planted_board()

    model = CHOL(l2=5.0, k=8, factorization=factorization, neighbors=6).fit(board.train)

    assert model.size().n_parameters <= 81 * 9
    assert placement(model.score(board.history), board) > 0.75


@needs_cholmod
def test_a_small_bound_on_the_factor_is_kept_and_said():
    train = random_train()

    with pytest.warns(FitWarning, match="max_fill=400"):
        model = CHOL(k=None, factorization="cholmod", neighbors=20, max_fill=400).fit(train)

    assert model.size().n_parameters <= 400 + 90


@pytest.mark.parametrize("factorization", ["incomplete", pytest.param("cholmod", marks=needs_cholmod)])
def test_the_same_bits_come_from_one_thread_and_from_two(factorization):
    train = random_train()

    one, two = (CHOL(factorization=factorization).fit(train, FitContext(n_threads=n)).state() for n in (1, 2))

    np.testing.assert_array_equal(one["embeddings"].toarray(), two["embeddings"].toarray())


def test_a_device_is_refused_rather_than_forgotten():
    with pytest.raises(Skipped, match="use device=cpu"):
        CHOL(factorization="incomplete").fit(random_train(), FitContext(device="cuda"))


def test_without_the_extra_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "sksparse", None)
    monkeypatch.setitem(sys.modules, "sksparse.cholmod", None)

    with pytest.raises(MissingExtra, match=r"pip install 'recscale\[cholmod\]'"):
        CHOL(factorization="cholmod").fit(random_train())


@pytest.mark.parametrize("factorization", ["incomplete", "cholmod"])
def test_an_item_that_is_the_sum_of_others_does_not_blow_up_the_scores(factorization):
    if factorization == "cholmod":
        pytest.importorskip("sksparse")
    rng = np.random.default_rng(0)
    rows = (rng.random((6000, 200)) < 0.05).astype(np.float32)
    chosen, half = rng.random(6000) < 0.2, rng.random(6000) < 0.5
    rows[:, 5], rows[:, 6] = chosen & half, chosen & ~half  # no user in common
    rows[:, 7] = chosen
    train = sp.csr_array(rows)
    largest = np.abs(np.where(rows > 0, 0, EASE(l2=1.0, precision="float64").fit(train).score(train))).max()

    with pytest.warns(FitWarning, match="larger than its diagonal allows"):
        model = CHOL(l2=1.0, k=None, factorization=factorization).fit(train)

    assert np.abs(np.where(rows > 0, 0, model.score(train))).max() < 3 * largest  # with the plain mean 170 times
