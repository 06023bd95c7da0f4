"""The Gram matrix X'X of sparse rows, thresholded while it is built: no (I, I) array, and no sparse one of all pairs.

Imported lazily, because compiled kernels need numba. A row is summed in a workspace (I,) of its thread, in the order
of the users, and only its best entries leave it: the result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._compiled import compiled, numba_threads
from recscale.models._neighbours import Rows, csr, n_strands, offer

STEPS = 16  # how often at least a pass looks up: for progress, the deadline and Ctrl-C
FOUND_BYTES = 2**27  # of the best entries of a span of items, before they are packed


class Interactions(NamedTuple):
    """Training rows by user and by item; the values are empty where they are all ones.

    Flat, for numba's parallel loops take no tuples of tuples.
    """

    user_ptr: NDArray[np.int64]  # (U + 1,)
    items: NDArray[np.int32]  # of each user in turn
    user_values: NDArray[np.float32]
    item_ptr: NDArray[np.int64]  # (I + 1,)
    users: NDArray[np.int32]  # of each item in turn
    item_values: NDArray[np.float32]
    work: NDArray[np.int64]  # (I + 1,) multiplications of the rows of X'X before each item

    @property
    def n_items(self) -> int:
        return self.work.size - 1


class Measure(NamedTuple):
    """An entry of the matrix M = S (X'X - h h') S, for S = diag(scale) and h = centre; |M_ij| ranks the neighbours."""

    scale: NDArray[np.float64]  # (I,)
    centre: NDArray[np.float64]  # (I,)


class Workspace(NamedTuple):
    """One row for each strand: sums are zero and nothing is seen before and after a row of X'X."""

    sums: NDArray[np.float32]  # (strands, I)
    seen: NDArray[np.bool_]  # (strands, I), or (strands, 0) where X is all ones
    touched: NDArray[np.int32]  # (strands, I + 1)


@dataclass(frozen=True)
class Keep:
    """Which pairs a thresholded Gram matrix keeps: those above `threshold`, at most `k` in each row, and the diagonal.

    `union` adds the transposed pattern: a popular item then has as many entries as there are items that chose it.
    """

    k: int
    threshold: float = 0.0
    union: bool = False


def interactions(train: sp.csr_array) -> Interactions:
    """Return canonical `train` (U, I) with its transpose. Peak: the transpose."""
    columns = train.tocsc()
    data = np.empty(0, np.float32) if np.all(train.data == 1) else train.data
    lengths = np.diff(train.indptr).astype(np.int64)
    work = np.zeros(train.shape[1] + 1, np.int64)
    np.cumsum(np.bincount(train.indices, np.repeat(lengths, lengths), minlength=train.shape[1]), out=work[1:])
    return Interactions(
        train.indptr.astype(np.int64),
        train.indices.astype(np.int32, copy=False),
        data,
        columns.indptr.astype(np.int64),
        columns.indices.astype(np.int32, copy=False),
        columns.data if data.size else data,
        work,
    )


def plain(n_items: int) -> Measure:
    """Return the measure of X'X itself."""
    return Measure(np.ones(n_items), np.zeros(n_items))


def cosine(train: sp.csr_array) -> Measure:
    """Return the measure G_ij / sqrt(G_ii G_jj); an item without interactions has none."""
    squares = _column_sums(train, train.data.astype(np.float64) ** 2)
    return Measure(_power(squares, -0.5), np.zeros(squares.size))


def rescaled(train: sp.csr_array, alpha: float, *, centred: bool = True) -> Measure:
    """Return the centred, rescaled Gram C = S (X'X - U mu mu') S, S = diag(U var)^(-alpha/2), mu the column means.

    Steck 2019 (NeurIPS), and its public code: alpha = 1 gives correlations, 0 covariances. An item that no user has,
    or that all have alike, does not vary and gets S = 0. Where not `centred`, mu is 0 and var the mean square.
    """
    sums, squares = _column_sums(train, train.data), _column_sums(train, train.data.astype(np.float64) ** 2)
    centre = sums / np.sqrt(max(train.shape[0], 1)) if centred else np.zeros(sums.size)
    variance = squares - centre**2
    variance[variance <= 1e-9 * squares] = 0
    return Measure(_power(variance, -alpha / 2), centre)


def workspace(data: Interactions, n_rows: int) -> Workspace:
    """Return what summing rows of X'X needs: 8 bytes an item and strand, 9 where X is not all ones."""
    strands, n_items = n_strands(max(n_rows, 1)), data.n_items
    seen = n_items if data.user_values.size else 0
    return Workspace(
        np.zeros((strands, n_items), np.float32),
        np.zeros((strands, seen), np.bool_),
        np.empty((strands, n_items + 1), np.int32),
    )


def sparse_gram(data: Interactions, measure: Measure, keep: Keep, context: FitContext) -> sp.csr_array:
    """Return entries of X'X (I, I) as float32 with sorted indices: the diagonal, and of each row what `keep` says.

    Pairs are ranked by |M_ij| of the measure, equal ones by index. With a centre, pairs that no user has can pass
    too, and are stored as zeros. Peak: twice the result without `union`, three times with it, and 128 MiB.
    Raises DeadlineExceeded.
    """
    n_items = data.n_items
    k = min(keep.k, max(n_items - 1, 0))
    parts: list[sp.csr_array] = []
    heights = np.abs(measure.scale * measure.centre)
    by_height = np.argsort(-heights, kind="stable").astype(np.int32) if heights.any() else np.empty(0, np.int32)
    factors = np.column_stack((measure.scale, measure.centre)).astype(np.float32)  # together, as they are read
    ranked = (factors, by_height, np.float32(keep.threshold))
    with numba_threads(context.n_threads):
        work = workspace(data, n_items)
        edges = _edges(data.work, max(1, FOUND_BYTES // (12 * (k + 1))))
        longest = int(np.diff(edges).max(initial=0))
        scores, indices = np.empty((longest, k), np.float32), np.empty((longest, k + 1), np.int32)
        values, counts = np.empty((longest, k + 1), np.float32), np.empty(longest, np.int64)
        for first, last in pairwise(edges.tolist()):
            _best(data, ranked, work, (first, last), (scores, indices, values, counts))
            parts.append(_packed(indices, values, counts[: last - first], n_items))
            context.progress(last, n_items)
        result: Any = sp.vstack(parts, format="csr") if parts else sp.csr_array((0, 0), dtype=np.float32)
        del parts
        return united(result) if keep.union else result


def united(matrix: sp.csr_array) -> sp.csr_array:
    """Return (I, I) with the entries of `matrix` and of its transpose; where both have one, their mean."""
    by_column = matrix.tocsc()
    rows, columns = _plain_rows(matrix), _plain_rows(by_column)
    indptr = np.zeros(matrix.shape[0] + 1, np.int64)
    np.cumsum(_merged_lengths(rows, columns), out=indptr[1:])
    merged = Rows(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
    _merge(rows, columns, merged)
    return csr(merged, matrix.shape[1])


def _plain_rows(matrix: Any) -> Rows:
    return Rows(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data)


def _column_sums(train: sp.csr_array, values: NDArray[Any]) -> NDArray[np.float64]:
    return np.bincount(train.indices, values, minlength=train.shape[1]).astype(np.float64, copy=False)


def _power(values: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return values^exponent, and 0 for 0 whatever the exponent."""
    return np.where(values > 0, np.where(values > 0, values, 1.0) ** exponent, 0.0)


def _edges(work: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Cut the items into spans of like work and at most `longest` items."""
    n_items = work.size - 1
    cuts = np.searchsorted(work, np.linspace(0, work[-1], STEPS + 1)[1:-1])
    return np.unique(np.concatenate((cuts, np.arange(0, n_items, longest), [0, n_items])).clip(0, n_items))


def _packed(indices: Any, values: Any, counts: NDArray[np.int64], n_items: int) -> sp.csr_array:
    kept = np.arange(indices.shape[1]) < counts[:, None]
    indptr = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return csr(Rows(indptr, indices[: counts.size][kept], values[: counts.size][kept]), n_items)


@compiled()
def sum_row(data: Any, item: Any, sums: Any, seen: Any, touched: Any) -> Any:
    """Sum row `item` of X'X; return the columns that it touches, in the order of their first user."""
    n_touched, binary = 0, data.user_values.size == 0
    for entry in range(data.item_ptr[item], data.item_ptr[item + 1]):
        user = data.users[entry]
        start, stop = data.user_ptr[user], data.user_ptr[user + 1]
        if binary:
            for other in range(start, stop):  # without a branch: whether a column is new cannot be predicted
                column = data.items[other]
                touched[n_touched] = column
                n_touched += sums[column] == 0
                sums[column] += np.float32(1)
        else:
            weight = data.item_values[entry]
            for other in range(start, stop):
                column = data.items[other]
                touched[n_touched] = column
                n_touched += not seen[column]
                seen[column] = True
                sums[column] += weight * data.user_values[other]
    return touched[:n_touched]


@compiled()
def clear_row(sums: Any, seen: Any, touched: Any) -> None:
    """Leave the workspace as it was before the row."""
    for column in touched:
        sums[column] = 0
    if seen.size:
        for column in touched:
            seen[column] = False


@compiled()
def _best_of(item: Any, ranked: Any, row: Any, found: Any) -> Any:
    """Put the best entries of a summed row into `found`; return how many there are."""
    factors, by_height, threshold = ranked
    sums, touched = row
    scores, indices = found
    size, floor, k = 0, threshold, scores.size
    own_scale, own_centre = factors[item, 0], factors[item, 1]
    for column in touched:
        value = abs(sums[column] - own_centre * factors[column, 1]) * factors[column, 0] * own_scale
        if value >= floor and value > threshold and column != item and sums[column] != 0:
            size = offer(scores, indices, size, value, column)
            floor = scores[0] if size == k else floor  # asked here: a call for each of the touched takes twice as long
    for column in by_height:  # pairs that no user has, as far down as they can pass
        value = abs(own_centre * factors[column, 1]) * factors[column, 0] * own_scale
        if not value > threshold or value < floor:
            break
        if column != item and sums[column] == 0:
            size = offer(scores, indices, size, value, column)
            floor = scores[0] if size == k else floor
    return size


@compiled(parallel=True)
def _best(data: Any, ranked: Any, work: Any, span: Any, found: Any) -> None:
    scores, indices, values, counts = found
    first, last = span
    strands = work.sums.shape[0]
    for strand in prange(strands):
        sums, seen = work.sums[strand], work.seen[strand]
        for item in range(first + strand, last, strands):
            touched = sum_row(data, item, sums, seen, work.touched[strand])
            row = item - first
            k = scores.shape[1]
            size = _best_of(item, ranked, (sums, touched), (scores[row], indices[row, :k]))
            indices[row, size] = item
            indices[row, : size + 1].sort()
            for place in range(size + 1):
                values[row, place] = sums[indices[row, place]]
            counts[row] = size + 1
            clear_row(sums, seen, touched)


@compiled()
def _merge_row(rows: Any, columns: Any, row: Any, merged: Any, place: Any) -> Any:
    """Merge two sorted rows into `merged` from `place` on, where that is not negative; return the merged length."""
    i, j = rows.indptr[row], columns.indptr[row]
    last_i, last_j = rows.indptr[row + 1], columns.indptr[row + 1]
    length = 0
    while i < last_i or j < last_j:
        left = j >= last_j or (i < last_i and rows.indices[i] <= columns.indices[j])
        both = left and j < last_j and rows.indices[i] == columns.indices[j]
        if place >= 0:
            merged.indices[place + length] = rows.indices[i] if left else columns.indices[j]
            if both:
                merged.data[place + length] = np.float32(0.5) * (rows.data[i] + columns.data[j])
            else:
                merged.data[place + length] = rows.data[i] if left else columns.data[j]
        i += left
        j += both or not left
        length += 1
    return length


@compiled(parallel=True)
def _merged_lengths(rows: Any, columns: Any) -> Any:
    lengths = np.empty(rows.indptr.size - 1, np.int64)
    for row in prange(lengths.size):
        lengths[row] = _merge_row(rows, columns, row, rows, -1)
    return lengths


@compiled(parallel=True)
def _merge(rows: Any, columns: Any, merged: Any) -> None:
    for row in prange(rows.indptr.size - 1):
        _merge_row(rows, columns, row, merged, merged.indptr[row])


def measure_dense(matrix: NDArray[np.float32], measure: Measure) -> None:
    """Turn the upper triangle of X'X (I, I) into that of S (X'X - h h') S, in place."""
    _measure_dense(matrix, measure.scale, measure.centre)


def scale_dense(matrix: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
    """Multiply entry (i, j) of a matrix (I, I) by rows[i] columns[j], and its diagonal by zero, in place."""
    _scale_dense(matrix, rows, columns)


@compiled(parallel=True)
def _measure_dense(matrix: Any, scale: Any, centre: Any) -> None:
    n_items = scale.size
    for strand in prange(64):  # dealt out in turn, since rows grow shorter
        for i in range(strand, n_items, 64):
            for j in range(i, n_items):
                matrix[i, j] = (matrix[i, j] - centre[i] * centre[j]) * (scale[i] * scale[j])


@compiled(parallel=True)
def _scale_dense(matrix: Any, rows: Any, columns: Any) -> None:
    for i in prange(rows.size):
        for j in range(rows.size):
            matrix[i, j] *= rows[i] * columns[j]
        matrix[i, i] = 0
