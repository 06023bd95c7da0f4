import time
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext
from recscale.errors import DataError, DeadlineExceeded, FitWarning, NumericalError, UsageError
from recscale.models.chol import CHOL
from recscale.models.ease import EASE
from recscale.testing.board import planted_board


def random_train(n_users=300, n_items=90, seed=0):
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(np.geomspace(0.02, 0.5, n_items))
    return sp.csr_array((rng.random((n_users, n_items)) < popularity).astype(np.float32))


def masked(scores, history):
    return np.where(history.toarray() > 0, 0, scores)


def chol_by_hand(train, k, l2, beta, order):
    """Return E (I, I) and the prior by the text of the paper: dense, in float64, rows pruned by a sort."""
    counts = train.sum(axis=0)
    ranked = {"popular": np.argsort(-counts, kind="stable"), "unpopular": np.argsort(counts, kind="stable")}
    items = ranked.get(order, np.arange(counts.size))
    precision = np.linalg.inv(train.T @ train + l2 * np.eye(counts.size))
    diagonal = np.diag(precision).copy()
    shifted = beta * np.diag(diagonal) - precision
    triangle = np.linalg.cholesky(shifted[np.ix_(items, items)])
    for row in triangle:
        row[np.argsort(-np.abs(row), kind="stable")[k:]] = 0
    embeddings = np.empty_like(triangle)
    embeddings[items] = triangle
    return embeddings, 1 / diagonal


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("order", ["popular", "unpopular", "random", "as-is"])
def test_without_pruning_it_ranks_as_ease_does(order, precision):
    train, history = random_train(), random_train(40, seed=1)

    chol = CHOL(l2=20.0, k=None, order=order, precision=precision).fit(train).score(history)

    ease = EASE(l2=20.0).fit(train).score(history)
    np.testing.assert_allclose(masked(chol, history), masked(ease, history), atol=1e-5)


@pytest.mark.parametrize("order", ["popular", "unpopular", "as-is"])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_pruned_scores_agree_with_the_text_of_the_paper(k, order):
    train, history = random_train(), random_train(70, seed=1)

    scores = CHOL(l2=20.0, k=k, order=order).fit(train).score(history)

    embeddings, prior = chol_by_hand(train.toarray().astype(np.float64), k, 20.0, 2.0, order)
    np.testing.assert_allclose(scores, history @ embeddings @ embeddings.T * prior, atol=2e-5)


@pytest.mark.parametrize("n_users", [1, 7, 8, 63, 64, 65, 200])
def test_every_size_of_a_batch_gives_the_product(n_users):
    history = random_train(n_users, seed=1)
    model = CHOL(k=9).fit(random_train())
    state = model.state()

    scores = model.score(history)

    dense = state["embeddings"].toarray().astype(np.float64)
    np.testing.assert_allclose(scores, history @ dense @ dense.T * state["prior"], rtol=1e-4, atol=1e-6)


def test_no_row_has_more_than_k_entries_and_the_first_items_have_all():
    train = random_train()

    embeddings = CHOL(k=10).fit(train).state()["embeddings"]

    lengths = np.diff(embeddings.indptr)
    popular = np.argsort(-train.sum(axis=0), kind="stable")
    np.testing.assert_array_equal(lengths[popular], np.minimum(np.arange(90) + 1, 10))


def test_the_whole_triangle_takes_half_of_ease():
    train = random_train()

    size = CHOL(k=None).fit(train).size()

    assert size.n_parameters == 90 * 91 // 2 + 90
    assert size.n_bytes == 4 * (90 * 91 // 2 + 90 + 90)


def test_the_popular_first_serve_short_embeddings_better():
    board = planted_board()
    exact = masked(EASE(l2=5.0).fit(board.train).score(board.history), board.history)

    errors = {}
    for order in ("popular", "unpopular"):
        scores = CHOL(l2=5.0, k=12, order=order).fit(board.train).score(board.history)
        errors[order] = np.abs(masked(scores, board.history) - exact).mean()

    assert errors["popular"] < errors["unpopular"]


def test_a_beta_that_is_too_small_is_raised_and_said():
    train = random_train()
    precision = np.linalg.inv((train.T @ train).toarray().astype(np.float64) + 20 * np.eye(90))
    root = 1 / np.sqrt(np.diag(precision))
    bound = np.linalg.eigvalsh(root[:, None] * precision * root).max()

    with pytest.warns(FitWarning, match=r"beta=1.01 .* raised to (\d+\.\d+)") as caught:
        model = CHOL(l2=20.0, k=None, beta=1.01).fit(train)

    raised = float(str(caught[0].message).split("raised to ")[1].split(",")[0])
    assert 1.05 * bound <= raised <= 1.05 * bound * 1.006
    history = random_train(40, seed=1)
    ease = EASE(l2=20.0).fit(train).score(history)
    np.testing.assert_allclose(masked(model.score(history), history), masked(ease, history), atol=1e-5)


def test_a_beta_that_is_large_enough_is_kept_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CHOL(k=20).fit(random_train())


def test_a_k_that_prunes_nothing_is_said():
    with pytest.warns(FitWarning, match="k=90 prunes nothing of 90 items"):
        model = CHOL(k=90).fit(random_train())

    assert "triangle" in model.state()


def test_the_number_of_threads_changes_no_bit():
    train, history = random_train(), random_train(40, seed=1)

    one = CHOL(k=20).fit(train, FitContext(n_threads=1)).score(history)
    two = CHOL(k=20).fit(train, FitContext(n_threads=2)).score(history)

    np.testing.assert_array_equal(one, two)


def test_equal_magnitudes_are_kept_by_column():
    from recscale.models._embeddings import largest_in_rows

    matrix = np.array([[1, -1, 1, 0], [0, 0, 0, 0], [0, 3, -3, 1]], np.float32)

    kept = largest_in_rows(matrix, 2, lower=False).toarray()

    np.testing.assert_array_equal(kept, [[1, -1, 0, 0], [0, 0, 0, 0], [0, 3, -3, 0]])


def test_items_that_nobody_has_score_zero_for_others():
    train = random_train().tolil()
    train[:, 5] = 0

    scores = CHOL(k=10).fit(sp.csr_array(train)).score(random_train(20, seed=1)[:, :90])

    history = random_train(20, seed=1)
    assert np.abs(scores[history[:, [5]].toarray()[:, 0] == 0, 5]).max() == 0


@pytest.mark.parametrize("bad", [{"l2": 0}, {"l2": -1.0}, {"k": 0}, {"beta": 1.0}, {"order": "popularity"}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        CHOL(**bad)


def test_a_gram_matrix_too_close_to_singular_is_an_error_with_the_remedy():
    train = sp.csr_array(np.tile(random_train(200, 30).toarray(), (20, 3)))  # every column three times

    with pytest.raises(NumericalError, match="l2=1e-05 is too small for it: use precision=float64 or a larger l2"):
        CHOL(l2=1e-5).fit(train)


def test_a_history_over_other_items_is_refused():
    model = CHOL(k=5).fit(random_train())

    with pytest.raises(DataError, match="91 items"):
        model.score(sp.csr_array((2, 91), dtype=np.float32))


def test_a_deadline_ends_the_fit():
    with pytest.raises(DeadlineExceeded):
        CHOL().fit(random_train(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("k", [None, 12])
def test_a_gpu_gives_the_scores_of_the_cpu(k):
    train, history = random_train(), random_train(40, seed=1)

    on_device = CHOL(k=k).fit(train, FitContext(device="cuda")).score(history)

    assert on_device.is_cuda
    np.testing.assert_allclose(on_device.cpu().numpy(), CHOL(k=k).fit(train).score(history), atol=1e-4)
