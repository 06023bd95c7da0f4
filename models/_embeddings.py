"""Numba kernels of the models that score by item embeddings, s = (x E) E' diag(w): CHOL and SSVD.

Imported lazily, because compiled kernels need numba. The hidden vector x E is kept dense, since it is 57 to 74 % full:
sparse times sparse times sparse takes ten times as long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._neighbours import Rows, csr, rows_of

USERS = 64  # users of a tile: their hidden numbers of one dimension lie side by side, and are read as four cache lines
LANES = 16  # users that one thread writes to alone: one cache line
ITEMS = 16  # items whose scores are written at once
UNPACKED = 2**22  # entries of the rows of a packed triangle that are unpacked at once
STRANDS = 16
TILE_GAIN = 8  # multiplications of a tile in the time of one by columns


class Embeddings(NamedTuple):
    """Sparse embeddings E (I, D) with what is derived from them for scoring."""

    rows: Rows  # of E
    columns: Rows  # of E', so that few hidden numbers need few items
    reach: NDArray[np.int64]  # (I,) multiplications that an item in a history leads to, by columns
    weights: NDArray[np.float32]  # (I,)


def prepared(embeddings: sp.csr_array, weights: NDArray[np.float32]) -> Embeddings:
    """Return `embeddings` (I, D) and `weights` (I,), ready for scoring; a second copy of E by columns is made."""
    by_column = rows_of(sp.csr_array(embeddings.T.tocsr()))
    lengths = np.diff(by_column.indptr)
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[embeddings.indices])))
    return Embeddings(rows_of(embeddings), by_column, np.diff(before[embeddings.indptr]), weights)


def scores(history: Rows, model: Embeddings) -> NDArray[np.float32]:
    """Return (x E) E' diag(w) (B, I) for each row x of `history` (B, I).

    A user whose hidden vector x E is nearly empty is scored by the columns of E that it needs; all others in tiles,
    with E read once for 64 of them. Which, hangs on the user alone. Extra memory: D * 64 numbers.
    """
    n_users = history.indptr.size - 1
    n_dimensions = model.columns.indptr.size - 1
    result = np.empty((n_users, model.weights.size), np.float32)
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(model.reach[history.indices])))
    by_columns = np.diff(before[history.indptr]) * TILE_GAIN < model.rows.indices.size
    _score_by_columns(history, model.rows, model.columns, (np.flatnonzero(by_columns), model.weights), result)
    rest = np.flatnonzero(~by_columns)
    hidden = _aligned(n_dimensions if rest.size else 0)
    for first in range(0, rest.size, USERS):
        users = rest[first : first + USERS]
        if users.size < LANES // 2:  # a tile that is mostly empty costs as much as a full one
            for user in users:
                own = slice(history.indptr[user], history.indptr[user + 1])
                one = (history.indices[own], history.data[own])
                _score_one(one, model.rows, model.weights, hidden.reshape(-1)[:n_dimensions], result[user])
        else:
            _fill_hidden(history, model.rows, users, hidden)
            _score_tile(model.rows, model.weights, users, hidden, result)
    return result


def _aligned(n_dimensions: int) -> NDArray[np.float32]:
    """Return zeros (D, 64), each row in whole cache lines."""
    flat = np.zeros(n_dimensions * USERS + LANES, np.float32)
    first = (-flat.ctypes.data // flat.itemsize) % LANES
    return flat[first : first + n_dimensions * USERS].reshape(n_dimensions, USERS)


def packed_scores(
    history: Rows, packed: NDArray[np.float32], order: NDArray[np.int32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (x E) E' diag(w) (B, I), where row r of `packed`, a lower triangle, is the embedding of item order[r]."""
    n_users, n_items = history.indptr.size - 1, weights.size
    result = np.empty((n_users, n_items), np.float32)
    rank = np.empty_like(order)
    rank[order] = np.arange(n_items, dtype=order.dtype)
    hidden = np.zeros((n_users, n_items), np.float32)
    _fill_hidden_packed(history, packed, rank, hidden)
    height = max(1, min(n_items, UNPACKED // n_items))
    rows = np.empty(height * n_items, np.float32)
    for first in range(0, n_items, height):
        last = min(first + height, n_items)
        block = rows[: (last - first) * last].reshape(last - first, last)
        _unpack(packed, first, block)
        result[:, order[first:last]] = (hidden[:, :last] @ block.T) * weights[order[first:last]]
    return result


def pack(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lower triangle of `matrix` (I, I) row by row, (I * (I + 1) / 2,), in the memory of the matrix."""
    n_items = matrix.shape[0]
    n_kept = n_items * (n_items + 1) // 2
    _pack(matrix.reshape(-1), n_items)
    if not matrix.flags.owndata:
        return matrix.reshape(-1)[:n_kept].copy()
    matrix.resize((n_kept,), refcheck=False)  # realloc shrinks in place
    return matrix


def largest_in_rows(matrix: NDArray[np.float32], n_kept: int, *, lower: bool) -> sp.csr_array:
    """Return the `n_kept` entries of largest magnitude in each row of `matrix` (R, C) as csr_array; zeros never.

    With `lower` only the lower triangle is read. Equal magnitudes are kept by column.
    """
    n_rows, n_columns = matrix.shape
    lengths = np.arange(1, n_rows + 1) if lower else np.full(n_rows, n_columns)
    indptr = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.minimum(_count_nonzero(matrix, lengths), n_kept), out=indptr[1:])
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    _keep_largest(matrix, lengths, indptr, (indices, data))
    return csr(Rows(indptr, indices, data), n_columns)


def largest_stored(rows: sp.csr_array, n_kept: int) -> sp.csr_array:
    """Return the `n_kept` stored entries of largest magnitude in each row of `rows` (R, C), equal ones by column."""
    kept = np.zeros(rows.nnz, np.bool_)
    _mark_largest(rows.indptr.astype(np.int64), rows.data, n_kept, kept)
    indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(kept)), dtype=np.int64)[rows.indptr]
    return csr(Rows(indptr, rows.indices[kept].astype(np.int32, copy=False), rows.data[kept]), rows.shape[1])


@compiled(parallel=True)
def _score_by_columns(history: Any, rows: Any, columns: Any, wanted: Any, result: Any) -> None:
    """Score some users one by one: only the non-zero hidden numbers are multiplied."""
    users, weights = wanted
    n_dimensions = columns.indptr.size - 1
    strands = min(users.size, STRANDS)
    for strand in prange(strands):
        hidden, touched = np.zeros(n_dimensions, np.float32), np.empty(n_dimensions + 1, np.int32)
        for index in range(strand, users.size, strands):
            user, n_touched = users[index], 0
            for entry in range(history.indptr[user], history.indptr[user + 1]):
                item, weight = history.indices[entry], history.data[entry]
                for place in range(rows.indptr[item], rows.indptr[item + 1]):
                    dimension = rows.indices[place]
                    touched[n_touched] = dimension
                    n_touched += hidden[dimension] == 0
                    hidden[dimension] += weight * rows.data[place]
            row = result[user]
            row[:] = 0
            for dimension in touched[:n_touched]:
                value = hidden[dimension]  # zero at a second visit, of one that had cancelled out in between
                hidden[dimension] = 0
                for place in range(columns.indptr[dimension], columns.indptr[dimension + 1]):
                    row[columns.indices[place]] += value * columns.data[place]
            for item in range(row.size):
                row[item] *= weights[item]


@compiled(parallel=True)
def _fill_hidden(history: Any, embeddings: Any, users: Any, hidden: Any) -> None:
    """Write x E of some users to the columns of `hidden` (D, 64)."""
    for group in prange(-(-users.size // LANES)):
        start = group * LANES
        hidden[:, start : start + LANES] = 0
        for lane in range(start, min(start + LANES, users.size)):
            user = users[lane]
            for entry in range(history.indptr[user], history.indptr[user + 1]):
                item, weight = history.indices[entry], history.data[entry]
                for place in range(embeddings.indptr[item], embeddings.indptr[item + 1]):
                    hidden[embeddings.indices[place], lane] += weight * embeddings.data[place]


@compiled(parallel=True, fastmath=True)
def _score_tile(embeddings: Any, weights: Any, users: Any, hidden: Any, result: Any) -> None:
    n_items = weights.size
    for tile in prange(-(-n_items // ITEMS)):
        first = tile * ITEMS
        last = min(first + ITEMS, n_items)
        sums = np.zeros((ITEMS, USERS), np.float32)
        for item in range(first, last):
            _add_products(embeddings, item, hidden, sums[item - first])
        for lane in range(users.size):
            row = result[users[lane]]
            for item in range(first, last):
                row[item] = sums[item - first, lane] * weights[item]


@compiled(fastmath=True)
def _add_products(embeddings: Any, item: Any, hidden: Any, total: Any) -> None:
    """Sum the hidden numbers of all users of a tile, weighted by one embedding.

    Eight dimensions at a time and from aligned memory: 7.5 GFMA/s a thread, against 5.6 unaligned and 4.4 by fours.
    """
    indices, data = embeddings.indices, embeddings.data
    place, stop = embeddings.indptr[item], embeddings.indptr[item + 1]
    while place + 8 <= stop:
        a, b = hidden[indices[place]], hidden[indices[place + 1]]
        c, d = hidden[indices[place + 2]], hidden[indices[place + 3]]
        e, f = hidden[indices[place + 4]], hidden[indices[place + 5]]
        g, h = hidden[indices[place + 6]], hidden[indices[place + 7]]
        p, q, r, s = data[place], data[place + 1], data[place + 2], data[place + 3]
        t, u, v, w = data[place + 4], data[place + 5], data[place + 6], data[place + 7]
        for i in range(USERS):
            total[i] += p * a[i] + q * b[i] + r * c[i] + s * d[i] + t * e[i] + u * f[i] + v * g[i] + w * h[i]
        place += 8
    for rest in range(place, stop):
        a, p = hidden[indices[rest]], data[rest]
        for i in range(USERS):
            total[i] += p * a[i]


@compiled(parallel=True, fastmath=True)
def _score_one(history: Any, embeddings: Any, weights: Any, hidden: Any, result: Any) -> None:
    """Score one user alone, with one hidden vector (D,)."""
    hidden[:] = 0
    items, counts = history
    for entry in range(items.size):
        for place in range(embeddings.indptr[items[entry]], embeddings.indptr[items[entry] + 1]):
            hidden[embeddings.indices[place]] += counts[entry] * embeddings.data[place]
    for item in prange(weights.size):
        total = np.float32(0)
        for place in range(embeddings.indptr[item], embeddings.indptr[item + 1]):
            total += hidden[embeddings.indices[place]] * embeddings.data[place]
        result[item] = total * weights[item]


@compiled(parallel=True)
def _fill_hidden_packed(history: Any, packed: Any, rank: Any, hidden: Any) -> None:
    for user in prange(hidden.shape[0]):
        for entry in range(history.indptr[user], history.indptr[user + 1]):
            row, weight = np.int64(rank[history.indices[entry]]), history.data[entry]
            start = row * (row + 1) // 2
            source, target = packed[start : start + row + 1], hidden[user, : row + 1]
            for dimension in range(row + 1):
                target[dimension] += weight * source[dimension]


@compiled(parallel=True)
def _unpack(packed: Any, first: Any, block: Any) -> None:
    """Write the rows of a packed triangle from `first` on to `block` (R, C), and zeros behind each."""
    for place in prange(block.shape[0]):
        row = np.int64(first + place)
        start = row * (row + 1) // 2
        block[place, : row + 1] = packed[start : start + row + 1]
        block[place, row + 1 :] = 0


@compiled()
def _pack(flat: Any, n_items: Any) -> None:
    """Move the rows of the lower triangle to the front; each goes towards the start, so none is overwritten unread."""
    for row in range(1, n_items):
        target, source = row * (row + 1) // 2, row * n_items
        for column in range(row + 1):
            flat[target + column] = flat[source + column]


@compiled(parallel=True)
def _count_nonzero(matrix: Any, lengths: Any) -> Any:
    counts = np.zeros(lengths.size, np.int64)
    for strand in prange(STRANDS):  # rows are dealt out in turn, since those of a triangle grow
        for row in range(strand, lengths.size, STRANDS):
            found = 0
            for column in range(lengths[row]):
                found += matrix[row, column] != 0
            counts[row] = found
    return counts


@compiled(parallel=True)
def _keep_largest(matrix: Any, lengths: Any, indptr: Any, kept: Any) -> None:
    indices, data = kept
    for strand in prange(STRANDS):
        buffer = np.empty(matrix.shape[1], np.float32)
        for row in range(strand, lengths.size, STRANDS):
            n_columns, n_kept = lengths[row], indptr[row + 1] - indptr[row]
            if n_kept == 0:
                continue
            magnitudes = buffer[:n_columns]
            for column in range(n_columns):
                magnitudes[column] = abs(matrix[row, column])
            threshold = np.partition(magnitudes, n_columns - n_kept)[n_columns - n_kept]
            ties = n_kept
            for column in range(n_columns):
                ties -= magnitudes[column] > threshold
            place = indptr[row]
            for column in range(n_columns):
                if magnitudes[column] < threshold or (magnitudes[column] == threshold and ties == 0):
                    continue
                ties -= magnitudes[column] == threshold
                indices[place], data[place] = column, matrix[row, column]
                place += 1


@compiled()
def _mark_largest(indptr: Any, data: Any, k: Any, kept: Any) -> None:
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        if stop - start <= k:
            kept[start:stop] = True
            continue
        magnitudes = np.abs(data[start:stop])
        threshold = np.partition(magnitudes, stop - start - k)[stop - start - k]
        ties = k - (magnitudes > threshold).sum()
        for place in range(stop - start):
            if magnitudes[place] > threshold:
                kept[start + place] = True
            elif magnitudes[place] == threshold and ties > 0:
                kept[start + place] = True
                ties -= 1
