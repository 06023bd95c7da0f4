import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext, Shape
from recscale.errors import DeadlineExceeded
from recscale.models._all_pairs import all_pairs, row_lengths
from recscale.models._occupancy import expected_pairs
from recscale.models._sparse_gram import interactions


def random_train(weighted=False):
    rng = np.random.default_rng(0)
    train = (rng.random((300, 200)) < np.geomspace(0.001, 0.3, 200)).astype(np.float32)
    if weighted:
        train *= rng.integers(1, 6, train.shape)
    return sp.csr_array(train)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_all_pairs_are_the_product_with_the_transpose(weighted, n_threads):
    train, context = random_train(weighted), FitContext(n_threads=n_threads)
    data = interactions(train)

    gram = all_pairs(data, row_lengths(data, context), context)

    expected = sp.csr_array(train.T @ train)
    assert gram.has_canonical_format
    assert gram.indices.dtype == np.int32
    np.testing.assert_array_equal(gram.toarray(), expected.toarray())
    assert gram.nnz == expected.nnz


def test_the_expected_number_of_pairs_bounds_the_one_there_is():
    train = random_train()
    shape = Shape.of(train)

    expected = expected_pairs(shape.n_items, shape.n_pairs)

    assert (train.T @ train).nnz < expected < min(shape.n_pairs, shape.n_items**2)


def test_a_deadline_stops_the_count():
    with pytest.raises(DeadlineExceeded):
        row_lengths(interactions(random_train()), FitContext(deadline=time.monotonic() - 1))
