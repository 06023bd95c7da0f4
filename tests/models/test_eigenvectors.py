import time

import numpy as np
import pytest

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded
from recscale.models import _eigenvectors
from recscale.models._eigenvectors import leading_eigenvectors


def matrix_with(values, n, seed=0):
    """Return a symmetric (n, n) matrix with the eigenvalues given, the rest 0, and its eigenvectors as rows."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0][: len(values)]
    return (rotation.T * values) @ rotation, rotation


def search(matrix, k, **context):
    narrow = matrix.astype(np.float32)
    return leading_eigenvectors(lambda rows: rows @ narrow, len(matrix), k, FitContext(n_threads=2, **context))


@pytest.mark.parametrize(("n", "k"), [(40, 5), (1000, 12), (1000, 70)])  # the first is decomposed as a whole
def test_the_leading_pairs_are_those_of_a_dense_decomposition(n, k):
    matrix, rotation = matrix_with(1.02 ** -np.arange(n), n)

    values, vectors = search(matrix, k)

    np.testing.assert_allclose(values, 1.02 ** -np.arange(k), rtol=1e-5)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(vectors * rotation[:k], axis=1)), 1, atol=1e-5)


def test_a_slowly_falling_spectrum_takes_restarts_and_still_settles():
    steps = []
    matrix, rotation = matrix_with(1.0 / (1.0 + 0.01 * np.arange(700)), 700)

    values, vectors = search(matrix, 40, log=lambda name, step, value: steps.append(step))

    assert max(steps) > (_eigenvectors._width(40)) // _eigenvectors.BLOCK
    np.testing.assert_allclose(values, 1.0 / (1.0 + 0.01 * np.arange(40)), rtol=1e-5)
    np.testing.assert_allclose(np.sum((vectors @ rotation[:40].T) ** 2, axis=0), 1, atol=1e-4)


def test_an_eigenvalue_that_occurs_more_often_than_a_block_has_vectors_is_found_as_often_as_it_occurs():
    n_ones, k = 3 * _eigenvectors.BLOCK // 2, _eigenvectors.BLOCK + 4  # one block finds 64 of the 96
    matrix, rotation = matrix_with(np.concatenate([np.ones(n_ones), [0.8, 0.75, 0.7, 0.65], 0.2 * np.ones(600)]), 700)

    values, vectors = search(matrix, k)

    np.testing.assert_allclose(values, np.ones(k), rtol=1e-5)
    np.testing.assert_allclose(np.sum((vectors @ rotation[:n_ones].T) ** 2), k, rtol=1e-4)


@pytest.mark.parametrize("n", [50, 900])
def test_eigenvalues_of_zero_are_left_out(n):
    matrix, _ = matrix_with([3.0, 2.0, 1.0], n)

    values, vectors = search(matrix, 10)

    np.testing.assert_allclose(values, [3, 2, 1], rtol=1e-5)
    assert vectors.shape == (3, n)


def test_a_matrix_of_zeros_has_no_leading_pair():
    values, vectors = search(np.zeros((900, 900)), 10)

    assert values.shape == (0,)
    assert vectors.shape == (0, 900)


def test_the_seed_alone_decides_and_threads_do_not():
    matrix, _ = matrix_with(1.02 ** -np.arange(1000), 1000)

    one, again = (search(matrix, 20, seed=3)[1] for _ in range(2))
    narrow = matrix.astype(np.float32)
    alone = leading_eigenvectors(lambda rows: rows @ narrow, 1000, 20, FitContext(seed=3, n_threads=1))[1]
    other = search(matrix, 20, seed=4)[1]

    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, alone)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("n", [50, 1000])
def test_a_deadline_stops_the_search(n):
    with pytest.raises(DeadlineExceeded):
        search(np.eye(n), 10, deadline=time.monotonic() - 1)
