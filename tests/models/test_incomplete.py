import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded, NumericalError
from recscale.models._incomplete import incomplete_rows


def dominant(n_items=60, share=0.05, seed=0):
    """Return a sparse positive definite matrix."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n_items, n_items)) < share, rng.normal(size=(n_items, n_items)), 0)
    dense = dense + dense.T
    return sp.csr_array(dense + np.diag(np.abs(dense).sum(axis=1) + 1))


@pytest.mark.parametrize("seed", range(4))
def test_the_product_is_the_matrix_wherever_it_has_an_entry(seed):
    matrix = dominant(seed=seed)
    order = np.random.default_rng(seed).permutation(60).astype(np.int32)

    factor = incomplete_rows(matrix, order, FitContext()).toarray().astype(np.float64)

    stored = matrix.toarray() != 0
    np.testing.assert_allclose((factor @ factor.T)[stored], matrix.toarray()[stored], atol=1e-5)
    ranks = np.argsort(order)
    for item in range(60):
        expected = sorted(ranks[other] for other in np.flatnonzero(stored[item]) if ranks[other] <= ranks[item])
        assert sorted(np.flatnonzero(factor[item])) == expected


def test_without_zeros_it_is_the_cholesky_factor():
    matrix = dominant(share=2.0)
    order = np.arange(60, dtype=np.int32)

    factor = incomplete_rows(matrix, order, FitContext()).toarray()

    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix.toarray()), atol=1e-5)


def test_a_pivot_that_is_not_positive_is_an_error():
    matrix = dominant().tolil()
    matrix[7, 7] = -1.0

    with pytest.raises(NumericalError, match="item 7"):
        incomplete_rows(sp.csr_array(matrix), np.arange(60, dtype=np.int32), FitContext())


def test_a_deadline_ends_it():
    with pytest.raises(DeadlineExceeded):
        incomplete_rows(dominant(), np.arange(60, dtype=np.int32), FitContext(deadline=time.monotonic() - 1))
