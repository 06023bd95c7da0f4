"""Numba kernels of EASE: scores from the inverse Gram matrix, and its largest weights without a second matrix.

Imported lazily, because compiled kernels need numba. Weights are B_ij = P_ij s_j with s = -1 / diag(P); a magnitude
is compared by its bits, which for positive float32 numbers sort as the numbers do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._neighbours import Rows, csr

STRANDS = 16  # independent parts of a pass over the matrix, each with a histogram of its own (0.5 MB)
BINS = 65536


class Scaled(NamedTuple):
    """The weights matrix[i, j] * rows[i] * columns[j] with a zero diagonal, never made as a whole."""

    matrix: NDArray[np.float32]  # (I, I)
    rows: NDArray[np.float32]  # (I,)
    columns: NDArray[np.float32]  # (I,)


def dense_scores(history: Rows, matrix: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return x B for each row x of `history` (B, I), with B_ij = matrix[i, j] * scale[j] and B_jj = 0 exactly.

    Tiles of columns are dealt to the threads and all users run over one tile, so rows of popular items come from the
    cache.
    """
    n_users, n_items = history.indptr.size - 1, scale.size
    width = min(1024, max(128, -(-n_items // (4 * get_num_threads()))))
    scores = np.empty((n_users, n_items), np.float32)
    _dense_scores(history, matrix, scale, width, scores)
    return scores


def largest_overall(matrix: NDArray[np.float32], scale: NDArray[np.float32], n_kept: int) -> sp.csr_array:
    """Return the `n_kept` weights of largest magnitude as csr_array (I, I); zeros are never kept.

    Equal magnitudes at the threshold are kept by row, then by column. Three passes over the matrix.
    """
    weights = Scaled(matrix, np.ones_like(scale), scale)
    coarse = _histogram(weights, -1).sum(axis=0)
    high, left = _bin_of(coarse, n_kept)
    fine = _histogram(weights, high).sum(axis=0)
    low, n_ties = _bin_of(fine, left)
    threshold = np.full(scale.size, high * BINS + low, np.int64)
    above, ties = _count(weights, threshold)
    before = np.cumsum(ties) - ties
    quota = np.clip(n_ties - before, 0, ties)
    return _filled(weights, threshold, above, quota)


def largest_by_column(matrix: NDArray[np.float32], scale: NDArray[np.float32], n_kept: int) -> sp.csr_array:
    """Return the `n_kept` weights of largest magnitude in each column as csr_array (I, I); zeros are never kept.

    Equal magnitudes are kept by row. A column of the weights is a row of the symmetric `matrix`, scaled as a whole.
    """
    weights = Scaled(matrix, scale, np.ones_like(scale))
    threshold = _row_thresholds(weights, n_kept)
    above, ties = _count(weights, threshold)
    transposed = _filled(weights, threshold, above, np.minimum(ties, n_kept - above))
    return sp.csr_array(transposed.T)


def _bin_of(histogram: NDArray[np.int64], n_kept: int) -> tuple[int, int]:
    """Return the bin in which the `n_kept`-th largest lies, and how many of that bin are to be kept."""
    from_top = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(from_top, n_kept))
    if place == BINS:  # fewer than n_kept exist
        return 0, n_kept
    above = int(from_top[place - 1]) if place else 0
    return BINS - 1 - place, n_kept - above


def _filled(weights: Scaled, threshold: Any, above: NDArray[np.int64], quota: NDArray[np.int64]) -> sp.csr_array:
    """Return the weights above the threshold of their row, and `quota` of those on it, as csr_array."""
    quota = np.where(threshold > 0, quota, 0)
    n_items = above.size
    indptr = np.zeros(n_items + 1, np.int64)
    np.cumsum(above + quota, out=indptr[1:])
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    _fill(weights, threshold, quota, indptr, (indices, data))
    return csr(Rows(indptr, indices, data), n_items)


@compiled(parallel=True)
def _dense_scores(history: Any, matrix: Any, scale: Any, width: Any, scores: Any) -> None:
    n_users, n_items = scores.shape
    for tile in prange(-(-n_items // width)):
        first, last = tile * width, min((tile + 1) * width, n_items)
        for user in range(n_users):
            row = scores[user, first:last]
            row[:] = 0
            entry, stop = history.indptr[user], history.indptr[user + 1]
            while entry + 4 <= stop:  # four rows at once: the sums are read and written once for four additions
                _add_four(history, entry, matrix, first, row)
                entry += 4
            for rest in range(entry, stop):
                item, weight = history.indices[rest], history.data[rest]
                source = matrix[item, first:last]
                own = row[item - first] if first <= item < last else np.float32(0)
                for j in range(last - first):
                    row[j] += weight * source[j]
                if first <= item < last:
                    row[item - first] = own
            for j in range(last - first):
                row[j] *= scale[first + j]


@compiled()
def _add_four(history: Any, entry: Any, matrix: Any, first: Any, row: Any) -> None:
    """Add four weighted rows of a tile; what an item would add to itself is left out."""
    items, weights = history.indices[entry : entry + 4], history.data[entry : entry + 4]
    last = first + row.size  # a slice of one row is known to be contiguous, and is vectorised; one of all rows is not
    a, b = matrix[items[0], first:last], matrix[items[1], first:last]
    c, d = matrix[items[2], first:last], matrix[items[3], first:last]
    w, x, y, z = weights[0], weights[1], weights[2], weights[3]
    own = np.zeros(4, np.float32)
    for k in range(4):
        column = items[k] - first
        if 0 <= column < row.size:
            own[k] = row[column]
            for other in range(4):
                if other != k:
                    own[k] += weights[other] * matrix[items[other], items[k]]
    for j in range(row.size):
        row[j] += w * a[j] + x * b[j] + y * c[j] + z * d[j]
    for k in range(4):
        column = items[k] - first
        if 0 <= column < row.size:
            row[column] = own[k]


@compiled()
def _magnitudes(weights: Any, i: Any, buffer: Any) -> None:
    """Write |row i| of the weights to `buffer` (I,)."""
    row, scale = weights.matrix[i], weights.rows[i]
    for j in range(row.size):
        buffer[j] = abs(row[j] * scale * weights.columns[j])
    buffer[i] = 0


@compiled(parallel=True)
def _histogram(weights: Any, high: Any) -> Any:
    """Count non-zero magnitudes by their upper 16 bits, or by their lower 16 within one bin `high` of these."""
    n_items = weights.rows.size
    counts = np.zeros((STRANDS, BINS), np.int64)
    for strand in prange(STRANDS):
        buffer = np.empty(n_items, np.float32)
        bits = buffer.view(np.uint32)
        for i in range(strand, n_items, STRANDS):
            _magnitudes(weights, i, buffer)
            for j in range(n_items):
                value = np.int64(bits[j])
                if high < 0 and value > 0:
                    counts[strand, value >> 16] += 1
                elif high >= 0 and value >> 16 == high and value > 0:
                    counts[strand, value & 0xFFFF] += 1
    return counts


@compiled(parallel=True)
def _row_thresholds(weights: Any, n_kept: Any) -> Any:
    """Return the bits of the `n_kept`-th largest magnitude of each row."""
    n_items = weights.rows.size
    threshold = np.empty(n_items, np.int64)
    for strand in prange(STRANDS):
        buffer = np.empty(n_items, np.float32)
        kept = np.empty(1, np.float32)
        for i in range(strand, n_items, STRANDS):
            _magnitudes(weights, i, buffer)
            kept[0] = np.partition(buffer, n_items - n_kept)[n_items - n_kept]
            threshold[i] = np.int64(kept.view(np.uint32)[0])
    return threshold


@compiled(parallel=True)
def _count(weights: Any, threshold: Any) -> Any:
    """Return for each row how many magnitudes lie above its threshold, and how many on it."""
    n_items = weights.rows.size
    above, ties = np.zeros(n_items, np.int64), np.zeros(n_items, np.int64)
    for strand in prange(STRANDS):
        buffer = np.empty(n_items, np.float32)
        bits = buffer.view(np.uint32)
        for i in range(strand, n_items, STRANDS):
            _magnitudes(weights, i, buffer)
            for j in range(n_items):
                above[i] += np.int64(bits[j]) > threshold[i]
                ties[i] += np.int64(bits[j]) == threshold[i]
    return above, ties


@compiled(parallel=True)
def _fill(weights: Any, threshold: Any, quota: Any, indptr: Any, kept: Any) -> None:
    indices, data = kept
    n_items = weights.rows.size
    for strand in prange(STRANDS):
        buffer = np.empty(n_items, np.float32)
        bits = buffer.view(np.uint32)
        for i in range(strand, n_items, STRANDS):
            _magnitudes(weights, i, buffer)
            place, left = indptr[i], quota[i]
            for j in range(n_items):
                value = np.int64(bits[j])
                if value == threshold[i] and left > 0:
                    left -= 1
                elif value <= threshold[i]:
                    continue
                indices[place] = j
                data[place] = weights.matrix[i, j] * weights.rows[i] * weights.columns[j]
                place += 1
