"""The incomplete Cholesky factor of a sparse symmetric matrix, without fill. Imported lazily: numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import NumericalError
from recscale.models._compiled import compiled

SPAN = 50_000  # rows between two looks at the clock


def incomplete_rows(matrix: sp.csr_array, order: NDArray[np.int32], context: FitContext) -> sp.csr_array:
    """Return L (I, I), (L L')_ij = a_ij wherever a_ij is stored; rows by item, columns in the `order` of items (I,).

    IC(0) (Meijerink and van der Vorst 1977, Mathematics of Computation 31; Golub and Van Loan 2013, section 11.5.8),
    row by row: L_ij = (a_ij - sum_s L_is L_js) / L_jj for the stored entries alone. Where nothing is stored, L L' has
    what the fill would have cancelled. `matrix` (I, I) is symmetric and holds its diagonal.
    Multiplications: for each entry of L the length of the row of its column. Peak: 2 copies of half the matrix.
    Raises NumericalError where a pivot is not positive; DeadlineExceeded.
    """
    n_items = order.size
    ranks = np.empty_like(order)
    ranks[order] = np.arange(n_items, dtype=order.dtype)
    rows = np.repeat(np.arange(n_items, dtype=np.int32), np.diff(matrix.indptr))
    lower = ranks[matrix.indices] <= ranks[rows]
    parts = (matrix.data[lower].astype(np.float64), (ranks[rows[lower]], ranks[matrix.indices[lower]]))
    factor = sp.csr_array(sp.coo_array(parts, shape=matrix.shape))  # (I, I), by rank
    factor.sort_indices()
    del parts, rows, lower
    indptr = factor.indptr.astype(np.int64)
    workspace = np.zeros(n_items)
    for first in range(0, n_items, SPAN):
        last = min(first + SPAN, n_items)
        failed = _factor(indptr, factor.indices, factor.data, workspace, (first, last))
        if failed >= 0:
            raise NumericalError(f"the incomplete factor has a pivot that is not positive (item {order[failed]})")
        context.progress(last, n_items)
    return sp.csr_array(factor.astype(np.float32)[ranks])


@compiled()
def _factor(indptr: Any, indices: Any, data: Any, workspace: Any, span: Any) -> Any:
    """Factor some rows in place; the diagonal is the last entry of a row. Return a row without a pivot, or -1."""
    for row in range(span[0], span[1]):
        start, stop = indptr[row], indptr[row + 1]
        square = 0.0
        for place in range(start, stop - 1):
            column = indices[place]
            total = data[place]
            for other in range(indptr[column], indptr[column + 1] - 1):
                total -= workspace[indices[other]] * data[other]
            value = total / data[indptr[column + 1] - 1]
            data[place] = value
            workspace[column] = value
            square += value * value
        for place in range(start, stop - 1):
            workspace[indices[place]] = 0.0
        pivot = data[stop - 1] - square
        if stop == start or indices[stop - 1] != row or not pivot > 0:
            return row
        data[stop - 1] = np.sqrt(pivot)
    return -1
