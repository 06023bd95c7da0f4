import time
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import DataError, DeadlineExceeded, FitWarning, UsageError
from recscale.models.ease import EASE
from recscale.models.sansa import SANSA, _n_neighbors
from recscale.testing.board import placement, planted_board

INVERSIONS = ("substitution", "residual")


def random_train(n_users=300, n_items=90, seed=0):
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(np.geomspace(0.02, 0.5, n_items))
    return sp.csr_array((rng.random((n_users, n_items)) < popularity).astype(np.float32))


def clustered_train(n_users=400, n_items=90, seed=0):
    """Return users who each take items of one of six clusters, some often, and a few others."""
    rng = np.random.default_rng(seed)
    own = (np.arange(n_users) % 6)[:, None] == (np.arange(n_items) % 6)[None, :]
    chance = np.where(own, np.geomspace(0.6, 0.1, n_items), 0.01)
    return sp.csr_array((rng.random((n_users, n_items)) < chance).astype(np.float32))


def masked(scores, history):
    return np.where(history.toarray() > 0, 0, scores)


def sansa_by_hand(train, k, l2):
    """Return the scores' weights (I, I) with the whole Gram matrix and exact factors: dense, in float64.

    The factor, and its inverse, are thinned out by a sort of all magnitudes below the diagonal.
    """
    gram = (train.T @ train).toarray().astype(np.float64)
    order = np.lexsort((np.diag(gram), (gram != 0).sum(axis=1)))
    factor = np.linalg.cholesky((gram + l2 * np.eye(len(gram)))[np.ix_(order, order)])
    pivots = np.diag(factor).copy()

    def thinned(matrix):
        below = np.abs(np.tril(matrix, -1))
        level = np.sort(below, axis=None)[::-1][(k - 1) * len(gram)]
        return np.where(below > level, matrix, 0)

    inverse = thinned(np.linalg.inv(thinned(factor) / pivots + np.eye(len(gram)))) + np.eye(len(gram))
    columns = np.empty_like(inverse)
    columns[:, order] = inverse  # W = M Pi
    product = columns.T @ np.diag(pivots**-2.0) @ columns
    return -product / np.diag(product)


def full_train(**options):
    """Return random rows in which any two items have a user in common, so that nothing fills in."""
    train = random_train(**options).toarray()
    train[:2] = 1
    return sp.csr_array(train)


@pytest.mark.parametrize(
    "options",
    [{}, {"inversion": "residual", "scans": 20}, {"factorization": "local"}],
    ids=["substituted", "residual", "local"],
)
def test_with_full_density_and_an_exact_factor_it_ranks_as_ease_does(options):
    train, history = full_train(), random_train(40, seed=1)

    sansa = SANSA(l2=20.0, k=None, neighbors=None, **options).fit(train).score(history)

    ease = EASE(l2=20.0).fit(train).score(history)
    np.testing.assert_allclose(masked(sansa, history), masked(ease, history), atol=1e-5)


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_with_full_density_the_factor_of_cholmod_ranks_as_ease_does(inversion):
    pytest.importorskip("sksparse")
    train, history = clustered_train(), clustered_train(40, seed=1)

    model = SANSA(l2=5.0, k=None, neighbors=None, factorization="cholmod", inversion=inversion, scans=20).fit(train)

    ease = EASE(l2=5.0).fit(train).score(history)
    np.testing.assert_allclose(masked(model.score(history), history), masked(ease, history), atol=1e-5)


@pytest.mark.parametrize("k", [5, 30])
def test_thinned_scores_agree_with_dense_matrices(k):
    train, history = full_train(), random_train(40, seed=1)

    scores = SANSA(l2=20.0, k=k, neighbors=None).fit(train).score(history)

    # the dropping of small numbers moves a few of the entries that are kept
    assert np.abs(scores - history @ sansa_by_hand(train, k, 20.0)).mean() < 5e-3


def unit_lower(n_items=60, seed=0):
    rng = np.random.default_rng(seed)
    matrix = np.tril(rng.normal(0, 0.4, (n_items, n_items)) * (rng.random((n_items, n_items)) < 0.15), -1)
    return matrix.astype(np.float32).astype(np.float64)


def columns_of(matrix):
    from recscale.models._triangular_inverse import Columns

    by_column = sp.csc_array(matrix)
    return Columns(by_column.indptr.astype(np.int64), by_column.indices, by_column.data.astype(np.float32))


def dense(columns):
    n_items = columns.ptr.size - 1
    return sp.csc_array((columns.values, columns.rows, columns.ptr), shape=(n_items, n_items)).toarray()


def largest(matrix, n_kept):
    below = np.tril(matrix, -1)
    level = np.sort(np.abs(below), axis=None)[::-1][n_kept - 1]
    return np.where(np.abs(below) >= level, below, 0)


@pytest.mark.parametrize("n_kept", [100, 500, 3600])
def test_substitution_gives_the_largest_entries_of_the_inverse(n_kept):
    from recscale.models._triangular_inverse import substitution

    matrix = unit_lower()

    found = substitution(columns_of(matrix), n_kept, 0.0, FitContext())

    np.testing.assert_allclose(dense(found), largest(np.linalg.inv(matrix + np.eye(60)), n_kept), atol=1e-4)


@pytest.mark.parametrize("n_kept", [400, 3600])
def test_a_scan_and_a_finetuning_step_agree_with_the_text(n_kept):
    from recscale.models._triangular_inverse import MinimalResidual, minimal_residual

    matrix = unit_lower() + np.eye(60)
    inverse = largest(2 * np.eye(60) - matrix, n_kept) + np.eye(60)
    for step in range(2):
        residual = np.eye(60) - matrix @ inverse
        norms = np.linalg.norm(residual, axis=0) / np.sqrt(np.arange(60, 0, -1))
        image = matrix @ residual
        factors = (residual * image).sum(axis=0) / np.maximum((image**2).sum(axis=0), 1e-30)
        if step == 1:
            factors[np.argsort(-norms, kind="stable")[7:]] = 0
        inverse = largest(inverse + residual * factors, n_kept) + np.eye(60)

    found = minimal_residual(columns_of(np.tril(matrix, -1)), n_kept, MinimalResidual(1, 1, 7), FitContext())

    np.testing.assert_allclose(dense(found) + np.eye(60), inverse, atol=1e-5)


def test_the_local_factor_agrees_with_the_inverses_of_the_blocks():
    train, history = clustered_train(), clustered_train(40, seed=1)
    gram = (train.T @ train).toarray().astype(np.float64)
    nearness = gram / np.sqrt(np.outer(np.diag(gram) + 5, np.diag(gram) + 5))
    order = np.argsort(-np.diag(gram), kind="stable")
    factor = np.zeros_like(gram)
    for rank, item in enumerate(order):
        before = [other for other in order[:rank] if gram[item, other] > 0]
        block = [*sorted(before, key=lambda other: -nearness[item, other])[:9], item]
        solved = np.linalg.inv(gram[np.ix_(block, block)] + 5 * np.eye(len(block)))[-1]
        factor[item, block] = solved / np.sqrt(solved[-1])
    product = factor.T @ factor

    scores = SANSA(l2=5.0, k=10, neighbors=None, factorization="local").fit(train).score(history)

    np.testing.assert_allclose(scores, history @ (-product / np.diag(product)), atol=2e-4)


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_recommendations_stay_within_a_planted_block(inversion):
    rng = np.random.default_rng(0)
    block = np.kron(np.eye(2), np.ones((1000, 10))).astype(bool)
    train = sp.csr_array((block & (rng.random(block.shape) < 0.5)).astype(np.float32))
    history = sp.csr_array(np.kron(np.eye(2), np.arange(10) < 4).astype(np.float32))

    scores = SANSA(inversion=inversion, k=8).fit(train).score(history)

    scores[history.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :6]
    assert set(best[0]) == set(range(4, 10))
    assert set(best[1]) == set(range(14, 20))


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_the_targets_of_a_planted_board_are_found(inversion):
    board = planted_board()

    scores = SANSA(l2=5.0, k=10, inversion=inversion).fit(board.train).score(board.history)

    assert placement(scores, board) > 0.8


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_k_is_the_mean_number_of_entries(k):
    model = SANSA(l2=20.0, k=k).fit(full_train())

    assert model.state()["embeddings"].nnz == k * 90
    assert model.size().n_bytes == 8 * k * 90 + 4 * 91 + 4 * 90


def test_substitution_comes_closer_to_ease_than_the_residuals():
    train, history = clustered_train(), clustered_train(60, seed=1)
    ease = masked(EASE(l2=5.0).fit(train).score(history), history)

    errors = [
        np.abs(masked(SANSA(l2=5.0, k=12, inversion=name).fit(train).score(history), history) - ease).mean()
        for name in INVERSIONS
    ]

    assert errors[0] < errors[1]


def test_finetuning_lowers_the_residual():
    logged = []

    SANSA(l2=5.0, k=12, inversion="residual", finetune_steps=5).fit(
        clustered_train(), FitContext(log=lambda name, _, value: name == "residual" and logged.append(value))
    )

    assert len(logged) == 5
    assert logged[-1] < logged[0]


@pytest.mark.parametrize("factorization", ["incomplete", "cholmod"])
def test_a_thresholded_matrix_that_is_not_positive_definite_is_shifted_and_that_is_said(factorization):
    pytest.importorskip("sksparse")
    train = sp.csr_array((np.random.default_rng(0).random((400, 60)) < 0.6).astype(np.float32))
    train = sp.csr_array(sp.hstack([train, train]))  # twice every item: nearly singular

    with pytest.warns(FitWarning, match=r"breaks down; .* raised by \d+\.\d% of itself"):
        model = SANSA(l2=1.0, k=20, neighbors=5, factorization=factorization).fit(train)

    assert np.isfinite(model.score(train[:20])).all()


def test_auto_keeps_the_whole_of_a_small_matrix_and_two_hundred_neighbours_of_a_large_one():
    assert [_n_neighbors("auto", n) for n in (0, 90, 3_043, 20_000, 50_000, 427_147)] == [0, 90, 3_043, 500, 200, 200]
    train, history = random_train(n_items=300), random_train(40, n_items=300, seed=1)

    auto, whole, few = (SANSA(l2=20.0, neighbors=n).fit(train).score(history) for n in ("auto", None, 200))

    np.testing.assert_array_equal(auto, whole)
    assert not np.array_equal(auto, few)


def test_a_size_above_the_number_of_items_keeps_all_and_says_so():
    train = random_train()
    with pytest.warns(FitWarning, match="prunes nothing of 90 items"):
        huge = SANSA(l2=20.0, k=10**18).fit(train)

    np.testing.assert_array_equal(huge.score(train), SANSA(l2=20.0, k=None).fit(train).score(train))


def test_a_matrix_that_is_kept_whole_is_factored_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SANSA(l2=20.0, k=20, neighbors=None).fit(full_train())


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_the_number_of_threads_changes_no_bit(inversion):
    train, history = random_train(), random_train(40, seed=1)

    one, two = (
        SANSA(k=20, neighbors=30, inversion=inversion).fit(train, FitContext(n_threads=n)).score(history)
        for n in (1, 2)
    )

    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_items_that_nobody_has_score_zero_for_others(inversion):
    train = random_train().toarray()
    train[:, 5] = 0
    history = random_train(20, seed=1)

    scores = SANSA(k=10, inversion=inversion).fit(sp.csr_array(train)).score(history)

    assert np.isfinite(scores).all()
    assert np.abs(scores[history[:, [5]].toarray()[:, 0] == 0, 5]).max() == 0


def test_a_user_scores_the_same_from_disk(tmp_path):
    history = random_train(9, seed=1)
    model = SANSA(k=10).fit(random_train())

    model.save(tmp_path / "sansa.npz")

    np.testing.assert_array_equal(SANSA.load(tmp_path / "sansa.npz").score(history), model.score(history))


@pytest.mark.parametrize(
    "bad", [{"l2": 0}, {"l2": -1.0}, {"k": 0}, {"neighbors": 0}, {"scans": -1}, {"inversion": "umr"}, {"max_fill": 0}]
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        SANSA(**bad)


def test_a_history_over_other_items_is_refused():
    model = SANSA(k=5).fit(random_train())

    with pytest.raises(DataError, match="91 items"):
        model.score(sp.csr_array((2, 91), dtype=np.float32))


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_a_deadline_ends_the_inversion(inversion):
    from recscale.models import _triangular_inverse as triangular

    lower = triangular.Columns(np.array([0, 1, 1]), np.array([1], np.int32), np.array([0.5], np.float32))
    late = FitContext(deadline=time.monotonic() - 1)

    with pytest.raises(DeadlineExceeded):
        if inversion == "residual":
            triangular.minimal_residual(lower, 2, triangular.MinimalResidual(), late)
        else:
            triangular.substitution(lower, 2, 0.0, late)


def test_a_deadline_ends_the_fit():
    with pytest.raises(DeadlineExceeded):
        SANSA().fit(random_train(), FitContext(deadline=time.monotonic() - 1))


def test_equal_magnitudes_are_kept_by_column():
    from recscale.models._triangular_inverse import Columns, thinned

    values = np.array([2, -1, 1, -1, 3], np.float32)
    matrix = Columns(np.array([0, 3, 5, 5, 5]), np.array([1, 2, 3, 2, 3], np.int32), values)

    kept = thinned(matrix, 3)

    np.testing.assert_array_equal(kept.ptr, [0, 2, 3, 3, 3])
    np.testing.assert_array_equal(kept.rows, [1, 2, 3])
    np.testing.assert_array_equal(kept.values, [2, -1, 3])
