import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded, NumericalError
from recscale.models import _sparse_precision
from recscale.models._sparse_gram import Keep, cosine, interactions, plain, rescaled, sparse_gram
from recscale.models._sparse_precision import Blocks, sparse_inverse


def random_train(n_users=300, n_items=60, *, binary=False, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random((n_users, n_items)) < np.linspace(0.02, 0.4, n_items)
    kept[:, 5] = False  # an item that nobody has
    return sp.csr_array((kept if binary else kept * (0.5 + rng.random(kept.shape))).astype(np.float32))


def matrix_of(train, measure):
    dense = train.toarray().astype(np.float64)
    return (dense.T @ dense - np.outer(measure.centre, measure.centre)) * np.outer(measure.scale, measure.scale)


def literal(train, measure, pattern, blocks):
    """Follow section 3.2 step by step with numpy; return the columns as rows."""
    matrix, popularity = matrix_of(train, measure), np.bincount(train.indices, minlength=train.shape[1])
    near = np.abs(matrix if blocks.closeness is None else matrix_of(train, blocks.closeness))
    neighbours = [row.indices for row in (pattern[[item]] for item in range(len(matrix)))]
    done, sums, counts = np.zeros(len(matrix), bool), np.zeros_like(matrix), np.zeros_like(matrix)
    for item in sorted(range(len(matrix)), key=lambda i: (-len(neighbours[i]), -popularity[i])):
        if done[item]:
            continue
        members = np.array(sorted(neighbours[item], key=lambda j: (j != item, -near[item, j])))
        wanted = members[: max(1, int(np.ceil(blocks.overlap * len(members))))]
        done[wanted] = True
        local = np.linalg.inv(matrix[np.ix_(members, members)] + blocks.ridge * np.eye(len(members)))
        if blocks.result == "weights":
            local = -local / np.diag(local)
            np.fill_diagonal(local, 0)
        for place, column in enumerate(wanted):
            sums[column, members] += local[:, place]
            counts[column, members] += 1
    inside = np.zeros(matrix.shape, bool)
    for item, members in enumerate(neighbours):
        inside[item, members] = True
    return np.where((counts > 0) & inside, sums / np.maximum(counts, 1), 0)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [3, 8, 30, 59])
@pytest.mark.parametrize("result", ["precision", "weights"])
def test_it_is_what_the_paper_does_step_by_step(overlap, k, result):
    train = random_train()
    measure, blocks = rescaled(train, 0.75), Blocks(2.0, overlap, result)
    pattern = sparse_gram(interactions(train), measure, Keep(k), FitContext())

    found = sparse_inverse(interactions(train), measure, pattern, blocks, FitContext(n_threads=2))

    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), literal(train, measure, pattern, blocks), atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_nearness_and_matrix_may_have_measures_of_their_own(overlap):
    train = random_train()
    blocks = Blocks(20.0, overlap, closeness=cosine(train))
    pattern = sparse_gram(interactions(train), cosine(train), Keep(7), FitContext())

    found = sparse_inverse(interactions(train), plain(60), pattern, blocks, FitContext())

    np.testing.assert_allclose(found.toarray(), literal(train, plain(60), pattern, blocks), atol=1e-7)


@pytest.mark.parametrize("n_items", [1, 2, 3, 4, 5, 9, 64, 131])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_with_all_pairs_it_is_the_dense_inverse_whatever_the_size(n_items, overlap):
    train = random_train(n_items=max(n_items, 6), binary=True)[:, :n_items]
    ridge = np.linspace(5, 20, n_items)
    pattern = sp.csr_array(np.ones((n_items, n_items), np.float32))

    found = sparse_inverse(interactions(train), plain(n_items), pattern, Blocks(ridge, overlap), FitContext())

    inverse = np.linalg.inv(matrix_of(train, plain(n_items)) + np.diag(ridge))
    np.testing.assert_allclose(found.toarray(), inverse, atol=3e-7)


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_batches_and_threads_change_no_bit(overlap, monkeypatch):
    train = random_train()
    data, measure, seen = interactions(train), rescaled(train, 0.75), []
    pattern = sparse_gram(data, measure, Keep(9), FitContext())

    whole = sparse_inverse(data, measure, pattern, Blocks(1.0, overlap), FitContext(n_threads=1))
    monkeypatch.setattr(_sparse_precision, "BATCH_BYTES", 4 * 60)  # one block at a time
    context = FitContext(n_threads=2, log=lambda name, step, value: seen.append(name))
    parts = sparse_inverse(data, measure, pattern, Blocks(1.0, overlap), context)

    assert seen.count("progress") > 5
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_twins_are_told_apart_in_float64_where_float32_loses_their_difference():
    half = random_train(n_users=20_000, n_items=6, binary=True)
    train = sp.csr_array(sp.hstack((half, half)), dtype=np.float32)  # every item has a twin
    data, logged = interactions(train), {}
    pattern = sp.csr_array(np.ones((12, 12), np.float32))

    context = FitContext(log=lambda name, step, value: logged.update({name: value}))
    found = sparse_inverse(data, plain(12), pattern, Blocks(0.5), context)

    inverse = np.linalg.inv(matrix_of(train, plain(12)) + 0.5 * np.eye(12))
    assert logged["blocks"] == 12
    assert logged["blocks_in_float64"] > 5
    np.testing.assert_allclose(found.toarray(), inverse, atol=1e-6)


def test_what_even_float64_cannot_solve_is_an_error():
    half = random_train(n_users=20_000, n_items=6, binary=True)
    train = sp.csr_array(sp.hstack((half, half)), dtype=np.float32)
    pattern = sp.csr_array(np.ones((12, 12), np.float32))

    with pytest.raises(NumericalError, match="blocks are not positive definite; use a larger l2"):
        sparse_inverse(interactions(train), plain(12), pattern, Blocks(1e-9), FitContext())


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.full(60, np.nan)])
def test_a_ridge_that_is_not_above_zero_is_an_error(ridge):
    train = random_train()
    pattern = sparse_gram(interactions(train), cosine(train), Keep(3), FitContext())

    with pytest.raises(NumericalError, match="must be above 0"):
        sparse_inverse(interactions(train), plain(60), pattern, Blocks(ridge), FitContext())


def test_a_deadline_stops_the_blocks():
    train = random_train()
    pattern = sparse_gram(interactions(train), cosine(train), Keep(3), FitContext())

    with pytest.raises(DeadlineExceeded):
        sparse_inverse(interactions(train), plain(60), pattern, Blocks(1.0), FitContext(deadline=time.monotonic() - 1))
