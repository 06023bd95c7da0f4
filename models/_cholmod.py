"""The Cholesky factor of a large sparse matrix by CHOLMOD, within a bound on its entries. Imported lazily: numba.

Chen, Davis, Hager and Rajamanickam 2008 (ACM TOMS 35): a fill-reducing order, then a supernodal factorisation.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import FitWarning, MissingExtra, NumericalError, OutOfMemory
from recscale.models._compiled import compiled
from recscale.models._embeddings import largest_stored

SEARCH_STEPS = 14  # at most; each is an analysis of the pattern, of a second or so


def require_cholmod() -> Any:
    """Return the module of CHOLMOD. Raises MissingExtra."""
    try:
        import sksparse.cholmod
    except ImportError:
        raise MissingExtra("scikit-sparse", "cholmod") from None
    return sksparse.cholmod


def factor_rows(matrix: sp.csr_array, k: int | None, context: FitContext) -> sp.csr_array:
    """Return the rows of L with P A P' = L L' in the order of the items, the k largest magnitudes of each kept (I, I).

    `matrix` (I, I) is symmetric, with sorted rows; the columns of the result are in the order of elimination.
    Peak: about 40 bytes for each entry of L.
    Raises NumericalError where the matrix is not positive definite; OutOfMemory; MissingExtra; DeadlineExceeded.
    """
    cholmod = require_cholmod()
    wide = sp.csc_matrix(matrix.astype(np.float64))
    try:
        factor = cholmod.analyze(wide, ordering_method="default")
        context.progress(1, 3)
        factor.cholesky_inplace(wide)
        order = factor.P()
        lower = factor.L()  # csc
    except cholmod.CholmodNotPositiveDefiniteError as error:
        raise NumericalError(f"CHOLMOD: the matrix is not positive definite ({error})") from None
    except (cholmod.CholmodOutOfMemoryError, cholmod.CholmodTooLargeError, MemoryError) as error:
        raise OutOfMemory(f"CHOLMOD ran out of memory ({error}); use fewer neighbors or a smaller max_fill") from None
    del factor, wide
    if not (lower.diagonal() > 0).all():  # an indefinite matrix passes silently in CHOLMOD's simplicial mode
        raise NumericalError("CHOLMOD: the matrix is not positive definite")
    context.log("factor_entries", 0, lower.nnz)
    context.progress(2, 3)
    rows = sp.csr_array(sp.csc_matrix((lower.data.astype(np.float32), lower.indices, lower.indptr), lower.shape))
    del lower
    rows = rows if k is None else largest_stored(rows, k)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(order.size, dtype=order.dtype)
    context.progress(3, 3)
    return sp.csr_array(rows[ranks])


def within_fill(matrix: sp.csr_array, max_fill: int, context: FitContext) -> sp.csr_array:
    """Return `matrix` (I, I), or without its weakest entries if its factor had more than `max_fill`, with a FitWarning.

    Entries are compared by |a_ij| / sqrt(a_ii a_jj). How many may stay is searched, to 3 %, by symbolic analyses;
    nothing is factored. Raises OutOfMemory if not even the diagonal fits; MissingExtra; DeadlineExceeded.
    """
    n_items = matrix.shape[0]
    if max_fill < n_items:
        raise OutOfMemory(f"max_fill={max_fill} is less than the {n_items} entries of the diagonal; use a larger one")
    strength = _strength(matrix)
    ascending = np.sort(strength[np.isfinite(strength)])
    low, high, wanted = 0, -1, n_items  # how many entries off the diagonal: low fits, high does not
    best = _without(matrix, strength, np.inf)
    for step in range(SEARCH_STEPS):  # from below, since a pattern that is far too full takes minutes to analyse
        wanted = min(wanted, ascending.size)
        candidate = _without(matrix, strength, ascending[ascending.size - wanted] if wanted else np.inf)
        if fill(candidate, max_fill) <= max_fill:
            low, best = wanted, candidate
        else:
            high = wanted
        context.progress(step, SEARCH_STEPS)
        if low == ascending.size:
            return matrix
        wanted = 2 * low if high < 0 else (low + high) // 2
        if 0 <= high < 1.03 * low:
            break
    warnings.warn(
        f"the factor would have more than max_fill={max_fill} entries; the strongest {low / ascending.size:.0%} of "
        f"{ascending.size} entries of the matrix are kept",
        FitWarning,
        stacklevel=2,
    )
    return best


def fill(matrix: sp.csr_array, limit: int) -> int:
    """Return how many entries the factor of a symmetric pattern (I, I) has, or a number above `limit` as soon as so."""
    wide = sp.csc_matrix(matrix.astype(np.float64))
    # the order is the same, and the supernodal analysis gives up ("problem too large") where this is to find that out
    order = require_cholmod().analyze(wide, mode="simplicial", ordering_method="default").P().astype(np.int64)
    return int(_fill(matrix.indptr.astype(np.int64), matrix.indices, order, limit))


def _strength(matrix: sp.csr_array) -> NDArray[np.float32]:
    """Return |a_ij| / sqrt(a_ii a_jj) of each stored entry, infinite on the diagonal."""
    root = 1.0 / np.sqrt(matrix.diagonal())
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    strength: NDArray[np.float32] = (np.abs(matrix.data) * root[rows] * root[matrix.indices]).astype(np.float32)
    strength[rows == matrix.indices] = np.inf
    return strength


def _without(matrix: sp.csr_array, strength: NDArray[np.float32], threshold: float) -> sp.csr_array:
    """Return `matrix` without the entries whose strength is below `threshold`."""
    kept = strength >= threshold
    indptr = np.concatenate(([0], np.cumsum(kept)))[matrix.indptr].astype(matrix.indptr.dtype)
    return sp.csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


@compiled()
def _fill(indptr: Any, indices: Any, order: Any, limit: Any) -> Any:
    """Count the entries of the factor, row by row along the elimination tree (Liu 1990, SIAM J. Matrix Anal. 11)."""
    n_items = order.size
    ranks = np.empty(n_items, np.int64)
    for rank in range(n_items):
        ranks[order[rank]] = rank
    parent, mark = np.full(n_items, -1, np.int64), np.full(n_items, -1, np.int64)
    total = 0
    for row in range(n_items):
        mark[row] = row
        total += 1
        item = order[row]
        for entry in range(indptr[item], indptr[item + 1]):
            column = ranks[indices[entry]]
            while column < row and mark[column] != row:
                if parent[column] < 0:
                    parent[column] = row
                mark[column] = row
                total += 1
                column = parent[column]
        if total > limit:
            return total
    return total
