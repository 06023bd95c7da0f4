"""Numba kernels of the loss of ELSA where each item keeps few entries of its embedding: no dense table of weights.

Imported lazily, because compiled kernels need numba. Users come in tiles whose numbers of one dimension lie side by
side. Sums are cut into a fixed number of strands, so the result does not depend on the number of threads.
256 users of 150 items, 3,043 items, 64 of 1,024 entries kept, one thread: 26 ms; `NormalisedLoss` takes 81 to 113 ms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._elsa import LEAST_SQUARE
from recscale.models._neighbours import rows_of

USERS = 64  # of a tile: four cache lines for each dimension
STRANDS = 8


class TileLoss:
    """The loss of batches of users and its gradient, for unit rows given by `values` and `places`, both (I, k).

    Holds buffers: 64 (I + 9 D) numbers.
    """

    def __init__(self, n_items: int, n_dimensions: int) -> None:
        self._outputs = np.empty((n_items, USERS), np.float32)  # z A'
        self._hidden = np.empty((n_dimensions, USERS), np.float32)  # z
        self._parts = np.empty((STRANDS, n_dimensions, USERS), np.float32)
        self._squares = np.empty((STRANDS, USERS), np.float32)

    def __call__(
        self, rows: sp.csr_array, values: NDArray[np.float32], places: NDArray[np.int32]
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the sum over `rows` (B, I) of |x/|x| - y/|y||^2, and its gradient by `values` (I, k)."""
        loss, gradient = 0.0, np.zeros_like(values)
        for first in range(0, rows.shape[0], USERS):
            loss += self._add_tile(rows[first : first + USERS], (values, places), gradient)
        return loss, gradient

    def _add_tile(self, rows: sp.csr_array, table: Any, gradient: NDArray[np.float32]) -> float:
        """Add the gradient of one tile; return its loss. The names are those of `NormalisedLoss`."""
        by_user, by_item = rows_of(rows), rows_of(rows.T.tocsr())
        _fill_hidden(by_user, table, self._hidden)
        _decode(table, self._hidden, self._outputs, (self._parts, self._squares))
        hidden, back = self._hidden, self._parts.sum(axis=0)
        squares = np.zeros(USERS, np.float32)
        squares[: rows.shape[0]] = sp.csr_array(rows * rows).sum(axis=1)
        own = np.einsum("du,du->u", hidden, hidden)
        output = self._squares.sum(axis=0) - 2 * own + squares
        known = ~(output <= LEAST_SQUARE * squares)
        scale = known / np.sqrt(np.where(known, squares * output, 1))
        by_output = (own - squares) * scale / np.where(known, output, 1)
        pull = 2 * by_output * back - (4 * scale + 4 * by_output) * hidden
        _add_gradients(table, self._outputs, 2 * by_output * hidden, gradient)
        _add_pulls(table, by_item, np.ascontiguousarray(pull.T), gradient)
        return float((2 * (squares > 0) - 2 * (own - squares) * scale).sum())


@compiled(parallel=True)
def _fill_hidden(rows: Any, table: Any, hidden: Any) -> None:
    """Write z = x A of the tile to the columns of `hidden` (D, 64); lanes without a user stay zero."""
    values, places = table
    n_users = rows.indptr.size - 1
    for group in prange(hidden.shape[1] // 16):  # a cache line each
        hidden[:, 16 * group : 16 * group + 16] = 0
        for user in range(16 * group, min(16 * group + 16, n_users)):
            for entry in range(rows.indptr[user], rows.indptr[user + 1]):
                item, weight = rows.indices[entry], rows.data[entry]
                for place in range(values.shape[1]):
                    hidden[places[item, place], user] += weight * values[item, place]


@compiled(parallel=True, fastmath=True)
def _decode(table: Any, hidden: Any, outputs: Any, partial: Any) -> None:
    """Write z A' to `outputs` (I, 64), and parts of z A'A and |z A'|^2 to `partial`."""
    values, places = table
    backs, squares = partial
    n_items, n_kept = values.shape
    for strand in prange(STRANDS):
        back, square = backs[strand], squares[strand]
        back[:] = 0
        square[:] = 0
        for item in range(strand * n_items // STRANDS, (strand + 1) * n_items // STRANDS):
            output = outputs[item]
            output[:] = 0
            for place in range(n_kept):
                source, value = hidden[places[item, place]], values[item, place]
                for user in range(USERS):
                    output[user] += value * source[user]
            for user in range(USERS):
                square[user] += output[user] * output[user]
            for place in range(n_kept):
                target, value = back[places[item, place]], values[item, place]
                for user in range(USERS):
                    target[user] += value * output[user]


@compiled(parallel=True, fastmath=True)
def _add_gradients(table: Any, outputs: Any, weighted: Any, gradient: Any) -> None:
    """Add the part of the gradient that comes through |z A'|^2."""
    _, places = table
    n_items, n_kept = places.shape
    for strand in prange(STRANDS):
        for item in range(strand * n_items // STRANDS, (strand + 1) * n_items // STRANDS):
            output = outputs[item]
            for place in range(n_kept):
                source, total = weighted[places[item, place]], np.float32(0)
                for user in range(USERS):
                    total += output[user] * source[user]
                gradient[item, place] += total


@compiled(parallel=True)
def _add_pulls(table: Any, by_item: Any, pull: Any, gradient: Any) -> None:
    """Add the part of the gradient that comes through z; `pull` is (64, D)."""
    _, places = table
    n_items, n_kept = places.shape
    for item in prange(n_items):
        for entry in range(by_item.indptr[item], by_item.indptr[item + 1]):
            source, weight = pull[by_item.indices[entry]], by_item.data[entry]
            for place in range(n_kept):
                gradient[item, place] += weight * source[places[item, place]]
