"""The dense Gram matrix X'X on one buffer, and the symmetric kernels that go with it.

Imported lazily, because compiled kernels need numba. Sums run in the order of the users, so the result does not
depend on the number of threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._compiled import compiled, numba_threads

STEPS = 16  # how often a long kernel looks up: for progress, the deadline and Ctrl-C
TILE = 64  # two tiles of 64 x 64 float32 (32 KiB) fill the first-level cache


def gram(
    train: sp.csr_array,
    context: FitContext,
    *,
    mirrored: bool = True,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Return X'X (I, I) of `train` (U, I) with sorted rows; the lower triangle means nothing unless `mirrored`.

    Peak: I*I entries, and of the transposed data one part in 16 at a time. One row of the Gram matrix is summed at a
    time and stays in the second-level cache. Each is first touched by the thread that sums it: fresh memory comes at
    0.3 to 1 GB/s on virtual machines.
    Raises DeadlineExceeded.
    """
    n_items = train.shape[1]
    matrix = np.empty((n_items, n_items), dtype)  # numpy asks for huge pages
    item_ptr = np.zeros(n_items + 1, np.int64)
    np.cumsum(np.bincount(train.indices, minlength=n_items), out=item_ptr[1:])
    edges = np.unique(np.searchsorted(item_ptr, np.linspace(0, train.nnz, STEPS + 1)[1:-1], side="right"))
    edges = np.unique(np.concatenate(([0], edges, [n_items])).clip(0, n_items))
    largest = int(np.diff(item_ptr[edges]).max(initial=0))
    found = np.empty((largest, 2), np.int32 if train.nnz < 2**31 else np.int64)
    # unsigned, for numba would look whether an index counts from the end
    by_user = (train.indptr, train.indices.view(f"u{train.indices.itemsize}"), train.data)
    cursors, binary = train.indptr[:-1].copy(), bool(np.all(train.data == 1))
    with numba_threads(context.n_threads):
        for span in pairwise(edges.tolist()):
            _collect(by_user, cursors, item_ptr, found, span)
            _sum_rows(by_user[1:], (item_ptr, found), binary, matrix, span)
            context.progress(span[1], n_items)
        if mirrored:
            mirror(matrix, context)
    return matrix


def mirror(matrix: NDArray[Any], context: FitContext, sign: int = 1) -> None:
    """Copy the upper triangle of a square `matrix` to the lower one, both multiplied by `sign` (1 or -1), in place."""
    with numba_threads(context.n_threads):
        _mirror(matrix, matrix.dtype.type(sign))


def symmetric_product(matrix: NDArray[Any], vectors: NDArray[np.float64], context: FitContext) -> NDArray[np.float64]:
    """Return `matrix @ vectors` (I, K) in float64, reading only the upper triangle of a symmetric (I, I) `matrix`.

    Peak: one copy of the result for each thread.
    """
    with numba_threads(context.n_threads):
        n_strands = min(matrix.shape[0], max(1, context.n_threads))
        return np.asarray(_symmetric_product(matrix, np.ascontiguousarray(vectors.T), n_strands).sum(axis=0).T)


@compiled()
def _collect(by_user: Any, cursors: Any, item_ptr: Any, found: Any, span: Any) -> None:
    """List for each item of a span where it stands in the rows of its users, and where these rows end.

    `cursors` are the places that each row has been read to; they move on to the end of the span.
    """
    indptr, indices, _ = by_user
    first, last = span
    places = item_ptr[first:last] - item_ptr[first]
    for user in range(cursors.size):
        position, stop = cursors[user], indptr[user + 1]
        while position < stop and indices[position] < last:
            item = indices[position] - first
            found[places[item], 0] = position
            found[places[item], 1] = stop
            places[item] += 1
            position += 1
        cursors[user] = position


@compiled(parallel=True)
def _sum_rows(entries: Any, by_item: Any, binary: Any, matrix: Any, span: Any) -> None:
    """Fill some rows of the upper triangle: row i sums what follows item i in the histories of its users."""
    indices, data = entries
    item_ptr, found = by_item
    first, last = span
    one = matrix.dtype.type(1)
    for item in prange(first, last):
        row = matrix[item]
        row[item:] = 0
        for entry in range(item_ptr[item] - item_ptr[first], item_ptr[item + 1] - item_ptr[first]):
            start, stop = found[entry]
            if binary:
                for other in range(start, stop):
                    row[indices[other]] += one
            else:
                weight = matrix.dtype.type(data[start])
                for other in range(start, stop):
                    row[indices[other]] += weight * data[other]


@compiled(parallel=True)
def _mirror(matrix: Any, sign: Any) -> None:
    n_items = matrix.shape[0]
    n_tiles = -(-n_items // TILE)
    for strand in prange(n_tiles):
        for tile in range(strand, n_tiles):
            for i in range(strand * TILE, min((strand + 1) * TILE, n_items)):
                for j in range(max(tile * TILE, i), min((tile + 1) * TILE, n_items)):
                    value = sign * matrix[i, j]
                    matrix[i, j] = value
                    matrix[j, i] = value


@compiled(parallel=True, fastmath=True)  # so that the sums of a row are vectorised
def _symmetric_product(matrix: Any, vectors: Any, n_strands: Any) -> Any:
    n_vectors, n_items = vectors.shape
    partial = np.zeros((n_strands, n_vectors, n_items))
    for strand in prange(n_strands):
        for i in range(strand, n_items, n_strands):  # dealt out in turn, since rows grow shorter
            row = matrix[i, i + 1 :]
            for k in range(n_vectors):
                x, result = vectors[k, i + 1 :], partial[strand, k, i + 1 :]
                own, total = vectors[k, i], matrix[i, i] * vectors[k, i]
                for j in range(row.size):
                    total += row[j] * x[j]
                    result[j] += row[j] * own
                partial[strand, k, i] += total
    return partial
