"""Numba kernels of the graph filter R~'R~ over kept interactions: applied to vectors, never made as a matrix.

R~ = D_u^-1/2 X D_i^-1/2 is X with two vectors of weights, so X itself is kept, at five bytes an entry where it is
binary. Imported lazily, because compiled kernels need numba. Each user's or vector's sums run in the order of the
stored entries, so the result depends neither on the number of threads nor on what lies beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._neighbours import Rows

LANES = 16  # vectors that a pass over the entries carries at least: 64 bytes, a line of the cache
MOST_LANES = 64  # for 64 vectors of gowalla: 92 ms by 16, 64 by 32, 55 at once, as memory brings lines in a row sooner
CHUNK = 64  # histories that share a look at each entry
BLOCK_USERS = 4096  # kept users at a time, so that a row of scores stays in the cache while they are added to it


class Graph(NamedTuple):
    """The kept interactions X with what normalises them."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint32]  # unsigned, for numba would look whether an index counts from the end
    data: NDArray[np.float32]  # empty where X is binary
    user_weights: NDArray[np.float32]  # (U,) 1 / degree, 0 for a user without items
    item_weights: NDArray[np.float32]  # (I,) 1 / sqrt(degree), 0 for an item without users


def graph_of(users: sp.csr_array, user_weights: NDArray[np.float32], item_weights: NDArray[np.float32]) -> Graph:
    """Return the arrays of `users` (U, I) and its weights; int8 values are taken to be ones."""
    data = np.empty(0, np.float32) if users.data.dtype == np.int8 else users.data
    indices = users.indices.astype(np.int32, copy=False).view(np.uint32)
    return Graph(users.indptr.astype(np.int64, copy=False), indices, data, user_weights, item_weights)


def filtered(graph: Graph, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `vectors @ R~'R~` for dense vectors (K, I). Peak: the result, and at most 512 I bytes for each thread."""
    result = np.empty_like(vectors)
    _filtered(graph, vectors, result, min(MOST_LANES, max(LANES, -(-vectors.shape[0] // get_num_threads()))))
    return result


def filtered_histories(graph: Graph, history: Rows) -> NDArray[np.float32]:
    """Return `history @ R~'R~` (B, I). Peak: the result, and for each thread 4 I bytes and 2 MB."""
    n_users = history.indptr.size - 1
    scores = np.zeros((n_users, graph.item_weights.size), np.float32)
    width = max(1, min(CHUNK, -(-n_users // get_num_threads())))
    _filtered_histories(graph, history, scores, width)
    return scores


def times_sparse(vectors: NDArray[np.float32], matrix: Rows) -> NDArray[np.float32]:
    """Return `vectors @ matrix` for dense vectors (K, I). Peak: the result, and 128 I bytes for each thread."""
    result = np.empty_like(vectors)
    _times_sparse(vectors, matrix, result, np.ones(vectors.shape[1], np.float32))
    return result


@compiled()
def _load(vectors: Any, weights: Any, first: Any, block: Any) -> None:
    """Copy as many vectors (K, I) as there are, weighted, into a block (I, L); the lanes that are left are 0."""
    block[:] = 0
    for lane in range(min(block.shape[1], vectors.shape[0] - first)):
        for item in range(vectors.shape[1]):
            block[item, lane] = vectors[first + lane, item] * weights[item]


@compiled()
def _unload(block: Any, weights: Any, first: Any, vectors: Any) -> None:
    """Copy a block (I, L), weighted, to as many vectors (K, I) as there are."""
    for lane in range(min(block.shape[1], vectors.shape[0] - first)):
        for item in range(vectors.shape[1]):
            vectors[first + lane, item] = block[item, lane] * weights[item]


@compiled(parallel=True)
def _filtered(graph: Any, vectors: Any, result: Any, lanes: Any) -> None:
    n_vectors, n_items = vectors.shape
    indptr, indices, data, one = graph.indptr, graph.indices, graph.data, np.float32(1)
    for chunk in prange(-(-n_vectors // lanes)):
        block, out = np.empty((n_items, lanes), np.float32), np.zeros((n_items, lanes), np.float32)
        carried = np.empty(lanes, np.float32)
        _load(vectors, graph.item_weights, chunk * lanes, block)
        for user in range(indptr.size - 1):
            carried[:] = 0
            # entries are addressed one by one: a view of a row for each costs 70 ns, its 16 lanes 11 ns
            for entry in range(indptr[user], indptr[user + 1]):
                item, weight = indices[entry], data[entry] if data.size else one
                for lane in range(lanes):
                    carried[lane] += weight * block[item, lane]
            for lane in range(lanes):
                carried[lane] *= graph.user_weights[user]
            for entry in range(indptr[user], indptr[user + 1]):
                item, weight = indices[entry], data[entry] if data.size else one
                for lane in range(lanes):
                    out[item, lane] += weight * carried[lane]
        _unload(out, graph.item_weights, chunk * lanes, result)


@compiled(parallel=True)
def _times_sparse(vectors: Any, matrix: Any, result: Any, ones: Any) -> None:
    n_vectors, n_items = vectors.shape
    for chunk in prange(-(-n_vectors // LANES)):
        block, out = np.empty((n_items, LANES), np.float32), np.zeros((n_items, LANES), np.float32)
        _load(vectors, ones, chunk * LANES, block)
        for row in range(n_items):
            for entry in range(matrix.indptr[row], matrix.indptr[row + 1]):
                column, weight = matrix.indices[entry], matrix.data[entry]
                for lane in range(LANES):
                    out[column, lane] += weight * block[row, lane]
        _unload(out, ones, chunk * LANES, result)


@compiled()
def _by_item(history: Any, span: Any, n_items: Any) -> Any:
    """Return the entries of some histories by item: item i has `starts[slots[i]]` to `starts[slots[i] + 1]`, 0 none."""
    first, last = span
    slots, n_slots = np.zeros(n_items, np.int32), 0
    n_entries = history.indptr[last] - history.indptr[first]
    starts = np.zeros(n_entries + 3, np.int64)
    for entry in range(history.indptr[first], history.indptr[last]):
        item = history.indices[entry]
        if slots[item] == 0:
            n_slots += 1
            slots[item] = n_slots
        starts[slots[item] + 2] += 1
    for slot in range(1, n_slots + 2):
        starts[slot + 1] += starts[slot]
    rows, weights = np.empty(n_entries, np.int32), np.empty(n_entries, np.float32)
    for row in range(first, last):
        for entry in range(history.indptr[row], history.indptr[row + 1]):
            place = starts[slots[history.indices[entry]] + 1]
            starts[slots[history.indices[entry]] + 1] += 1
            rows[place], weights[place] = row - first, history.data[entry]
    return slots, starts, rows, weights


@compiled()
def _gather(graph: Any, found: Any, span: Any, lists: Any) -> None:
    """Add up what some kept users take from each history that shares an item, and enter it in the lists of these."""
    slots, starts, rows, weights = found
    users, amounts, counts = lists
    for user in range(span[0], span[1]):
        for entry in range(graph.indptr[user], graph.indptr[user + 1]):
            item = graph.indices[entry]
            slot = slots[item]
            if slot == 0:  # most entries end here: few of the items are in the histories of a chunk
                continue
            weight = graph.item_weights[item] * graph.user_weights[user]
            if graph.data.size:
                weight *= graph.data[entry]
            for known in range(starts[slot], starts[slot + 1]):
                row = rows[known]
                last = counts[row] - 1
                if last < 0 or users[row, last] != user:
                    last += 1
                    counts[row] += 1
                    users[row, last], amounts[row, last] = user, np.float32(0)
                amounts[row, last] += weight * weights[known]


@compiled()
def _spread(graph: Any, lists: Any, row: Any, sums: Any) -> None:
    """Add what the listed users pass on to their items to the sums (I,) of one history, and empty its list."""
    users, amounts, counts = lists
    for k in range(counts[row]):
        amount = amounts[row, k]
        start, stop = graph.indptr[users[row, k]], graph.indptr[users[row, k] + 1]
        if graph.data.size:
            for entry in range(start, stop):
                sums[graph.indices[entry]] += amount * graph.data[entry]
        else:
            for entry in range(start, stop):
                sums[graph.indices[entry]] += amount
    counts[row] = 0


@compiled(parallel=True)
def _filtered_histories(graph: Any, history: Any, scores: Any, width: Any) -> None:
    n_rows, n_items = scores.shape
    n_users = graph.indptr.size - 1
    for chunk in prange(-(-n_rows // width)):
        start, stop = chunk * width, min((chunk + 1) * width, n_rows)
        found = _by_item(history, (start, stop), n_items)
        shape = (stop - start, min(BLOCK_USERS, n_users))
        lists = (np.empty(shape, np.int32), np.empty(shape, np.float32), np.zeros(stop - start, np.int32))
        for first in range(0, n_users, BLOCK_USERS):
            _gather(graph, found, (first, min(first + BLOCK_USERS, n_users)), lists)
            for row in range(stop - start):
                _spread(graph, lists, row, scores[start + row])
        for row in range(start, stop):
            for item in range(n_items):
                scores[row, item] *= graph.item_weights[item]
