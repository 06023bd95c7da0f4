"""Numba kernels of the neighbourhood models: rows of a sparse product and their k largest entries, never dense.

Imported lazily, because compiled kernels need numba. Sums run in the order of the stored entries, so the result for a
row depends neither on the number of threads nor on the rows beside it. Of equal similarities the lower index wins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled


class Rows(NamedTuple):
    """The three arrays of a csr_array, in the types that the kernels are compiled for."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]


class Neighbours(NamedTuple):
    """For each row its neighbours, in no particular order; entries from `counts` on mean nothing."""

    indices: NDArray[np.int32]  # (R, k)
    similarities: NDArray[np.float32]  # (R, k)
    counts: NDArray[np.int32]  # (R,)


class Scaling(NamedTuple):
    """What turns a dot product into a similarity: dot / (left norm * right norm + shrinkage)."""

    left_norms: NDArray[np.float32]
    right_norms: NDArray[np.float32]
    shrinkage: float


class Plan(NamedTuple):
    """How the rows of a product are gone through."""

    n_strands: int  # rows are dealt out in turn, so that a run of popular items does not keep one thread busy
    first: int  # number of the first row in a square product whose diagonal is left out, or -1


def n_strands(n_rows: int) -> int:
    """Return into how many strands a loop over `n_rows` is split: four a thread, each with a workspace of its own."""
    return int(min(n_rows, 4 * get_num_threads()))


def rows_of(matrix: sp.csr_array) -> Rows:
    """Return the arrays of a matrix with fewer than 2^31 columns; `data` and int32 `indices` are not copied."""
    return Rows(
        matrix.indptr.astype(np.int64, copy=False),
        matrix.indices.astype(np.int32, copy=False),
        matrix.data.astype(np.float32, copy=False),
    )


def csr(rows: Rows, n_columns: int) -> sp.csr_array:
    """Return a csr_array on the arrays of `rows`, with int32 row starts where they fit: else scipy widens indices."""
    indptr = rows.indptr.astype(np.int32) if rows.indices.size < 2**31 else rows.indptr
    return sp.csr_array((rows.data, rows.indices, indptr), shape=(indptr.size - 1, n_columns))


def row_norms(rows: Rows) -> NDArray[np.float32]:
    """Return the Euclidean norm of each row, (R,)."""
    n_rows = rows.indptr.size - 1
    row_of_entry = np.repeat(np.arange(n_rows), np.diff(rows.indptr))
    squares = np.bincount(row_of_entry, weights=rows.data.astype(np.float64) ** 2, minlength=n_rows)
    return np.sqrt(squares).astype(np.float32)


def top_products(left: Rows, right: Rows, scaling: Scaling, k: int, first: int = -1) -> Neighbours:
    """Return for each row of `left @ right` its k largest positive similarities, (R, k).

    With `first >= 0` the rows are numbers `first`, `first + 1`, ... of a square product whose diagonal is left out.
    """
    found = _empty(left.indptr.size - 1, min(k, scaling.right_norms.size))
    _top_products(left, right, scaling, found, Plan(n_strands(left.indptr.size - 1), first))
    return found


def nearest(queries: NDArray[np.float32], points: NDArray[np.float32], k: int) -> Neighbours:
    """Return the k points (U, D) of largest dot product with each query (B, D), in O(B k) extra memory.

    A GEMM would be about three times as fast, but its rounding depends on the shape of the batch, and a last bit
    decides which of two equally near users is the K-th: scores would depend on who is scored beside whom.
    """
    found = _empty(queries.shape[0], min(k, points.shape[0]))
    _nearest(queries, points, found)
    return found


def _empty(n_rows: int, k: int) -> Neighbours:
    return Neighbours(np.empty((n_rows, k), np.int32), np.empty((n_rows, k), np.float32), np.zeros(n_rows, np.int32))


@compiled()
def _worse(similarity_a: Any, index_a: Any, similarity_b: Any, index_b: Any) -> Any:
    """Say whether a comes after b: a lower similarity, or the same and a higher index."""
    return similarity_a < similarity_b or (similarity_a == similarity_b and index_a > index_b)


@compiled()
def _sink(similarity: Any, index: Any, start: Any, size: Any) -> None:
    """Move the entry at `start` down a heap of `size` entries that keeps the worst at the root."""
    while True:
        child = 2 * start + 1
        if child >= size:
            return
        if child + 1 < size and _worse(similarity[child + 1], index[child + 1], similarity[child], index[child]):
            child += 1
        if not _worse(similarity[child], index[child], similarity[start], index[start]):
            return
        similarity[start], similarity[child] = similarity[child], similarity[start]
        index[start], index[child] = index[child], index[start]
        start = child


@compiled()
def offer(similarity: Any, index: Any, size: Any, value: Any, candidate: Any) -> Any:
    """Offer a candidate to the k best so far; return how many there are."""
    capacity = similarity.size
    if size < capacity:
        similarity[size], index[size] = value, candidate
        size += 1
        if size == capacity:
            for start in range(capacity // 2 - 1, -1, -1):
                _sink(similarity, index, start, capacity)
        return size
    if capacity > 0 and _worse(similarity[0], index[0], value, candidate):
        similarity[0], index[0] = value, candidate
        _sink(similarity, index, 0, capacity)
    return size


@compiled()
def _add_products(left: Any, right: Any, row: Any, workspace: Any) -> Any:
    """Sum one row of `left @ right`; return the columns that it touches."""
    sums, seen, touched = workspace
    n_touched = 0
    for entry in range(left.indptr[row], left.indptr[row + 1]):
        middle, weight = left.indices[entry], left.data[entry]
        for other in range(right.indptr[middle], right.indptr[middle + 1]):
            column = right.indices[other]
            if seen[column] != row:
                seen[column] = row
                sums[column] = np.float32(0)
                touched[n_touched] = column
                n_touched += 1
            sums[column] += weight * right.data[other]
    return touched[:n_touched]


@compiled()
def _keep_best(row: Any, scaling: Any, sums: Any, touched: Any, found: Any) -> Any:
    """Put the most similar of the touched columns into `found`; return how many there are."""
    size = 0
    for column in touched:
        scale = scaling.left_norms[row] * scaling.right_norms[column] + scaling.shrinkage
        if sums[column] > 0 and scale > 0:
            similarity = np.float32(sums[column] / scale)
            size = offer(found.similarities[row], found.indices[row], size, similarity, column)
    return size


@compiled(parallel=True)
def _top_products(left: Any, right: Any, scaling: Any, found: Any, plan: Any) -> None:
    n_rows, n_columns = left.indptr.size - 1, scaling.right_norms.size
    counts = found.counts  # numba 0.68 loses what a parallel loop assigns to an array inside a tuple
    for strand in prange(plan.n_strands):
        sums, seen = np.zeros(n_columns, np.float32), np.full(n_columns, -1, np.int32)
        workspace = (sums, seen, np.empty(n_columns, np.int32))
        for row in range(strand, n_rows, plan.n_strands):
            touched = _add_products(left, right, row, workspace)
            if plan.first >= 0:
                sums[plan.first + row] = 0
            counts[row] = _keep_best(row, scaling, sums, touched, found)


@compiled(fastmath=True)
def _nearest_one(query: Any, points: Any, similarity: Any, index: Any) -> Any:
    size = 0
    for point in range(points.shape[0]):
        dot = np.float32(0)
        for factor in range(points.shape[1]):
            dot += query[factor] * points[point, factor]
        size = offer(similarity, index, size, dot, np.int32(point))
    return size


@compiled(parallel=True)
def _nearest(queries: Any, points: Any, found: Any) -> None:
    counts = found.counts
    for row in prange(queries.shape[0]):
        counts[row] = _nearest_one(queries[row], points, found.similarities[row], found.indices[row])


def dense_product(left: Rows, right: Rows, n_columns: int) -> NDArray[np.float32]:
    """Return `left @ right` as a dense (R, C) array."""
    product = np.zeros((left.indptr.size - 1, n_columns), np.float32)
    _dense_product(left, right, product)
    return product


@compiled(parallel=True)
def _dense_product(left: Any, right: Any, product: Any) -> None:
    for row in prange(product.shape[0]):
        for entry in range(left.indptr[row], left.indptr[row + 1]):
            middle, weight = left.indices[entry], left.data[entry]
            for other in range(right.indptr[middle], right.indptr[middle + 1]):
                product[row, right.indices[other]] += weight * right.data[other]


def unit_projections(rows: Rows, factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the L2-normalised rows of `rows @ factors` (R, D); a row of zeros stays one."""
    projected = np.zeros((rows.indptr.size - 1, factors.shape[1]), np.float32)
    _unit_projections(rows, factors, projected)
    return projected


def vote(known: Rows, kept: Rows, found: Neighbours, weight: str, n_columns: int) -> NDArray[np.float32]:
    """Return for each known row the summed weights of its neighbours among `kept` that have each column, (R, C)."""
    votes = np.zeros((known.indptr.size - 1, n_columns), np.float32)
    kind = ("overlap", "jaccard", "cosine").index(weight)
    _vote(known, kept, found, votes, (kind, n_strands(votes.shape[0])))
    return votes


@compiled(parallel=True)
def _unit_projections(rows: Any, factors: Any, projected: Any) -> None:
    for row in prange(projected.shape[0]):
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            weight, column = rows.data[entry], rows.indices[entry]
            for factor in range(factors.shape[1]):
                projected[row, factor] += weight * factors[column, factor]
        square = np.float32(0)
        for factor in range(factors.shape[1]):
            square += projected[row, factor] * projected[row, factor]
        if square > 0:
            scale = np.float32(1) / np.sqrt(square)
            for factor in range(factors.shape[1]):
                projected[row, factor] *= scale


@compiled()
def _weight(kind: Any, overlap: Any, n_known: Any, n_kept: Any) -> Any:
    """Return the weight of a neighbour: overlap, Jaccard or cosine."""
    if kind == 0:
        return np.float32(overlap)
    if kind == 1:
        return np.float32(overlap / (n_known + n_kept - overlap))
    return np.float32(overlap / np.sqrt(np.float64(n_known) * n_kept))


@compiled()
def _vote_for(row: Any, poll: Any, kind: Any, has: Any, votes: Any) -> None:
    """Add up the votes for one row; `has` is all False before and after."""
    known, kept, found = poll
    mine = known.indices[known.indptr[row] : known.indptr[row + 1]]
    for item in mine:
        has[item] = True
    for neighbour in found.indices[row, : found.counts[row]]:
        theirs = kept.indices[kept.indptr[neighbour] : kept.indptr[neighbour + 1]]
        overlap = 0
        for item in theirs:
            overlap += has[item]
        if overlap > 0:
            weight = _weight(kind, overlap, mine.size, theirs.size)
            for item in theirs:
                votes[item] += weight
    for item in mine:
        has[item] = False


@compiled(parallel=True)
def _vote(known: Any, kept: Any, found: Any, votes: Any, how: Any) -> None:
    n_rows, n_columns = votes.shape
    kind, n_strands = how
    for strand in prange(n_strands):
        has = np.zeros(n_columns, np.bool_)
        for row in range(strand, n_rows, n_strands):
            _vote_for(row, (known, kept, found), kind, has, votes[row])
