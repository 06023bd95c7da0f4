import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded
from recscale.models._gram import gram, mirror, symmetric_product


def random_train(n_users=80, n_items=33, *, binary=True, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.random((n_users, n_items))
    kept = values < 0.2
    kept[:, 5] = False  # an item that nobody has
    return sp.csr_array((kept if binary else kept * (1 + 10 * values)).astype(np.float32))


@pytest.mark.parametrize("n_items", [1, 2, 33, 150])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gram_agrees_with_the_dense_product(n_items, binary, dtype):
    train = random_train(n_items=max(n_items, 6), binary=binary)[:, :n_items]

    result = gram(train, FitContext(n_threads=2), dtype=dtype)

    dense = train.toarray().astype(np.float64)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, dense.T @ dense, rtol=2e-6)


def test_the_upper_triangle_is_enough_where_it_is_asked_for():
    train = random_train(binary=False)

    upper = gram(train, FitContext(), mirrored=False)

    np.testing.assert_array_equal(np.triu(upper), np.triu(gram(train, FitContext())))


def test_the_number_of_threads_changes_no_bit():
    train = random_train(binary=False)

    one, two = (gram(train, FitContext(n_threads=n)) for n in (1, 2))

    np.testing.assert_array_equal(one, two)


def test_the_training_data_is_not_changed():
    train = random_train(binary=False)
    before = train.copy()

    gram(train, FitContext())

    assert (train != before).nnz == 0


def test_a_deadline_stops_the_sums():
    with pytest.raises(DeadlineExceeded):
        gram(random_train(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("n_items", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("sign", [1, -1])
def test_mirroring_copies_the_upper_triangle(n_items, sign):
    matrix = np.random.default_rng(0).random((n_items, n_items), dtype=np.float32)
    upper = np.triu(matrix)
    expected = sign * (upper + np.triu(upper, 1).T)

    mirror(matrix, FitContext(), sign=sign)

    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("n_threads", [1, 2, 50])
def test_a_symmetric_product_reads_the_upper_triangle_alone(n_threads):
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((41, 41), dtype=np.float32))
    matrix, vectors = upper + np.tril(np.full_like(upper, np.nan), -1), rng.random((41, 3))

    product = symmetric_product(matrix, vectors, FitContext(n_threads=n_threads))

    full = (upper + np.triu(upper, 1).T).astype(np.float64)
    np.testing.assert_allclose(product, full @ vectors, rtol=1e-13)
