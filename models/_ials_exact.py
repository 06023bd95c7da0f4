"""The systems of iALS solved exactly, by the Cholesky factor of I + P'P in float32, P a history's rows or columns.

Imported lazily, because compiled kernels need numba. `buffers` are (W * W,), (`panel_size`,) and (W,) float32 numbers,
W the number of factors rounded up to a multiple of 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recscale.models._compiled import compiled

DEPTH = 8  # rows of a panel, which are added to a square at once
TILE = 256  # columns of a panel that lie together: with a constant distance of rows LLVM needs no test for overlap
LEAST_PIVOT = 0.5  # it is 1 in exact arithmetic
ROUNDING = 1e-6  # share of the largest number on the diagonal below which a pivot may be an error of float32


@compiled()
def panel_size(width: Any) -> Any:
    """Return the numbers in a panel of `width` columns."""
    return -(-width // TILE) * TILE * DEPTH


@compiled(fastmath=True)
def _subtract(target: Any, other: Any, factor: Any) -> None:
    for j in range(target.size):
        target[j] -= factor * other[j]


@compiled(fastmath=True)
def _scale(target: Any, factor: Any) -> None:
    for j in range(target.size):
        target[j] *= factor


@compiled(fastmath=True)
def _dot(one: Any, other: Any) -> Any:
    total = np.float32(0)
    for j in range(one.size):
        total += one[j] * other[j]
    return total


@compiled(fastmath=True)
def _add_panel(square: Any, panel: Any, first: Any, sign: Any) -> None:
    """Add sign P'P to the upper triangle of `square` (W, W) from row `first` on; P (8, W) is the panel.

    float32 multiplications of use on a busy Zen 4 core, in 1e9 a second: 13 with W = 32, 16 with 64, 19 with 256;
    sgemm 40. Two or four rows at a time are slower below 256.
    """
    width = square.shape[0]
    for i in range(first, width):
        own = panel[i // TILE * (DEPTH * TILE) + i % TILE :]
        x0, x1, x2, x3 = sign * own[0], sign * own[TILE], sign * own[2 * TILE], sign * own[3 * TILE]
        x4, x5, x6, x7 = sign * own[4 * TILE], sign * own[5 * TILE], sign * own[6 * TILE], sign * own[7 * TILE]
        start = i // DEPTH * DEPTH  # whole vectors: what lies below the diagonal means nothing
        while start < width:
            stop = min(width, (start // TILE + 1) * TILE)
            row, p = square[i, start:stop], panel[start // TILE * (DEPTH * TILE) + start % TILE :]
            for j in range(row.size):
                row[j] += (
                    x0 * p[j]
                    + x1 * p[j + TILE]
                    + x2 * p[j + 2 * TILE]
                    + x3 * p[j + 3 * TILE]
                    + x4 * p[j + 4 * TILE]
                    + x5 * p[j + 5 * TILE]
                    + x6 * p[j + 6 * TILE]
                    + x7 * p[j + 7 * TILE]
                )
            start = stop


@compiled()
def _factor(square: Any, panel: Any) -> Any:
    """Overwrite the upper triangle of I + P'P (W, W), by U with U'U; say whether its pivots are right."""
    width, least = square.shape[0], LEAST_PIVOT
    for k in range(width):
        least = max(least, ROUNDING * square[k, k])
    for first in range(0, width, DEPTH):
        last = first + DEPTH
        for k in range(first, last):
            for above in range(first, k):
                _subtract(square[k, k:], square[above, k:], square[above, k])
            pivot = square[k, k]
            if not least < pivot < np.inf:
                return False
            _scale(square[k, k:], np.float32(1) / np.sqrt(pivot))
        for k in range(DEPTH):
            for start in range(last // TILE * TILE, width, TILE):
                begin, stop = max(start, last), min(start + TILE, width)
                place = (start // TILE * DEPTH + k) * TILE + begin - start
                panel[place : place + stop - begin] = square[first + k, begin:stop]
        _add_panel(square, panel, last, np.float32(-1))
    return True


@compiled()
def _substitute(factor: Any, vector: Any) -> None:
    """Overwrite `vector` (W,) by (U'U)^-1 times it."""
    for k in range(vector.size):
        vector[k] /= factor[k, k]
        _subtract(vector[k + 1 :], factor[k, k + 1 :], vector[k])
    for k in range(vector.size - 1, -1, -1):
        vector[k] = (vector[k] - _dot(factor[k, k + 1 :], vector[k + 1 :])) / factor[k, k]


@compiled()
def _identity(buffer: Any, n: Any) -> Any:
    """Return the identity (W, W) on the buffer, W the next multiple of 8."""
    width = -(-n // DEPTH) * DEPTH
    square = buffer[: width * width].reshape(width, width)
    square[:] = 0
    for k in range(width):
        square[k, k] = 1
    return square


@compiled()
def _clear(panel: Any, width: Any) -> None:
    for start in range(0, width, TILE):
        for k in range(DEPTH):
            place = (start // TILE * DEPTH + k) * TILE
            panel[place : place + min(TILE, width - start)] = 0


@compiled()
def primal(own: Any, others: Any, scale: Any, buffers: Any, row: Any) -> Any:
    """Solve the (D, D) system of a history `own`; return its part of the loss, n - 1'Z v."""
    panel, vector = buffers[1], buffers[2]
    square = _identity(buffers[0], scale.size)
    vector = vector[: square.shape[0]]
    vector[:] = 0
    for first in range(0, own.size, DEPTH):
        depth = min(DEPTH, own.size - first)
        if first == 0 or depth < DEPTH:
            _clear(panel, square.shape[0])
        for k in range(depth):
            other = others[own[first + k]]
            for start in range(0, scale.size, TILE):
                stop, place = min(start + TILE, scale.size), (start // TILE * DEPTH + k) * TILE
                for j in range(start, stop):
                    value = other[j] * scale[j]
                    panel[place + j - start] = value
                    vector[j] += value
        _add_panel(square, panel, 0, np.float32(1))
    row[:] = vector[: scale.size]
    if not _factor(square, panel):
        return np.nan
    _substitute(square, vector)
    value = own.size - np.float64(_dot(row, vector[: scale.size]))
    for j in range(scale.size):
        row[j] = scale[j] * vector[j]
    return value


@compiled()
def dual(own: Any, others: Any, scale: Any, buffers: Any, row: Any) -> Any:
    """Solve the (n, n) system of a history `own` of n; return its part of the loss, the sum of the residuals."""
    panel, vector = buffers[1], buffers[2]
    square = _identity(buffers[0], own.size)
    vector = vector[: square.shape[0]]
    vector[:] = 1
    vector[own.size :] = 0
    for first in range(0, scale.size, DEPTH):
        depth = min(DEPTH, scale.size - first)
        if first == 0 or depth < DEPTH:
            _clear(panel, square.shape[0])
        for i in range(own.size):
            other, place = others[own[i]], i // TILE * (DEPTH * TILE) + i % TILE
            for k in range(depth):
                panel[place + k * TILE] = other[first + k] * scale[first + k]
        _add_panel(square, panel, 0, np.float32(1))
    if not _factor(square, panel):
        return np.nan
    _substitute(square, vector)
    row[:] = 0
    value = 0.0
    for i in range(own.size):
        _subtract(row, others[own[i]], -vector[i])
        value += vector[i]
    for j in range(scale.size):
        row[j] *= scale[j] * scale[j]
    return value
