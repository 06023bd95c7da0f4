"""A sparse factor G of the inverse of X'X + l2 I, row by row from small blocks of it: G'G is about the inverse."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._embeddings import largest_stored
from recscale.models._neighbours import Rows, csr
from recscale.models._sparse_gram import Interactions, Measure, plain
from recscale.models._sparse_precision import Blocks, sparse_inverse


def local_factor(data: Interactions, pattern: sp.csr_array, l2: float, context: FitContext) -> sp.csr_array:
    """Return G (I, I), rows and columns by item, on a pattern (I, I) that is lower triangular in some order of items.

    Row i of the pattern is S, items before i and i itself: G_i,S is the last row of the
    inverse of the Cholesky factor of A_SS, so the column i of A_SS^-1 divided by the root of its diagonal entry
    (Kolotilina and Yeremin 1993, SIAM J. Matrix Anal. 14). Of all G on that pattern it comes closest:
    G A G' has a unit diagonal, and G'G the least Kullback-Leibler divergence from the inverse (Schaefer, Katzfuss and
    Owhadi 2021, SIAM J. Sci. Comput. 43, theorem 2.1). As each block is positive definite, nothing can break down.
    Peak: 1 GiB of local Gram matrices, and three times the result.
    Raises NumericalError where a block cannot be solved even in float64; DeadlineExceeded.
    """
    rows = sparse_inverse(data, plain(data.n_items), pattern, Blocks(l2), context)
    roots = np.sqrt(rows.diagonal())
    rows.data /= np.repeat(roots, np.diff(rows.indptr))
    return rows


def preceding(gram: sp.csr_array, nearness: Measure, order: NDArray[np.int32], k: int | None) -> sp.csr_array:
    """Return of each row of `gram` (I, I) the diagonal and the k - 1 nearest among the items before it in the order."""
    n_items = order.size
    ranks = np.empty_like(order)
    ranks[order] = np.arange(n_items, dtype=order.dtype)
    rows = np.repeat(np.arange(n_items, dtype=np.int32), np.diff(gram.indptr))
    kept = ranks[gram.indices] <= ranks[rows]
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)))
    indptr: NDArray[np.int64] = before[gram.indptr]
    del before
    rows, columns, values = rows[kept], gram.indices[kept], gram.data[kept]
    del kept
    scale = nearness.scale.astype(np.float32)
    values *= scale[rows]
    values *= scale[columns]
    values[rows == columns] = np.inf
    lower = csr(Rows(indptr, columns, values), order.size)
    return lower if k is None else largest_stored(lower, k)
