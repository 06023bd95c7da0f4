"""Some columns of the inverses of many small positive definite matrices, by Cholesky factors in a thread's cache.

Imported lazily, because compiled kernels need numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from recscale.models._compiled import compiled

IN_FLOAT32, IN_FLOAT64, FAILED = 0, 1, 2
# A pivot below these shares of its diagonal entry has lost the digits that it would need: float32 keeps 3 of its 7
LEAST_PIVOT_32, LEAST_PIVOT_64 = 1e-3, 1e-11


@compiled(parallel=True)
def solve_blocks(grams: Any, listed: Any, factors: Any, span: Any, solved: Any) -> Any:
    """Solve a span of `listed` blocks from their packed local Gram matrices; return what became of each.

    `factors` (I, 3) are scale, centre and ridge of each item. A block whose pivots are too small for float32 is
    factored again in float64. Written to `solved`: of each block the columns of its last `wanted` members.
    """
    first, last, strands = span
    outcome = np.empty(last - first, np.int8)
    for strand in prange(strands):
        longest = 0
        for block in range(first + strand, last, strands):
            longest = max(longest, listed.ptr[block + 1] - listed.ptr[block])
        narrow = np.empty((longest, longest), np.float32)
        for block in range(first + strand, last, strands):
            members = listed.members[listed.ptr[block] : listed.ptr[block + 1]]
            gram = grams[listed.packed[block] - listed.packed[first] : listed.packed[block + 1] - listed.packed[first]]
            columns = solved[listed.columns[block] : listed.columns[block + 1]].reshape(-1, members.size)
            outcome[block - first] = _solve_block(gram, members, factors, narrow, columns)
    return outcome


@compiled()
def _solve_block(gram: Any, members: Any, factors: Any, narrow: Any, columns: Any) -> Any:
    n = members.size
    matrix = narrow[:n, :n] if narrow.shape[0] == n else narrow.reshape(-1)[: n * n].reshape(n, n)
    if _factor(matrix, _expand(gram, members, factors, matrix), np.float32(LEAST_PIVOT_32)):
        _columns(matrix, columns)
        return IN_FLOAT32
    wide, solved = np.empty((n, n), np.float64), np.empty(columns.shape, np.float64)
    if _factor(wide, _expand(gram, members, factors, wide), LEAST_PIVOT_64):
        _columns(wide, solved)
        columns[:] = solved.astype(np.float32)
        return IN_FLOAT64
    columns[:] = 0
    return FAILED


@compiled()
def _expand(gram: Any, members: Any, factors: Any, matrix: Any) -> Any:
    """Write the upper triangle of S (G - h h') S + diag(ridge); return its diagonal."""
    n = members.size
    scales, centres, ridges = np.empty(n), np.empty(n), np.empty(n)  # side by side: 101 items take 5 us, not 26
    for i in range(n):
        scales[i], centres[i], ridges[i] = factors[members[i]]
    start, diagonal = 0, np.empty(n, matrix.dtype)
    for i in range(n):
        row, source, scale, centre = matrix[i, i:], gram[start : start + n - i], scales[i], centres[i]
        other_scales, other_centres = scales[i:], centres[i:]
        for j in range(row.size):
            row[j] = (source[j] - centre * other_centres[j]) * (scale * other_scales[j])
        row[0] += ridges[i]
        diagonal[i] = row[0]
        start += n - i
    return diagonal


@compiled(fastmath=True)
def _factor(matrix: Any, diagonal: Any, least: Any) -> Any:
    """Replace the upper triangle of A by R with R'R = A; say whether every pivot was large enough."""
    n = matrix.shape[0]
    for first in range(0, n, 4):
        last = min(first + 4, n)
        for pivot in range(first, last):
            row = matrix[pivot, pivot:]
            for before in range(first, pivot):
                weight, other = matrix[before, pivot], matrix[before, pivot:]
                for j in range(row.size):
                    row[j] -= weight * other[j]
            if not row[0] > least * diagonal[pivot]:
                return False
            row *= 1 / np.sqrt(row[0])
        for i in range(last, n):  # four pivots at once: a row is read and written once for four subtractions
            _subtract_four(matrix, first, i)
    return True


@compiled(fastmath=True)
def _subtract_four(matrix: Any, first: Any, i: Any) -> None:
    row = matrix[i, i:]
    a, b, c, d = matrix[first, i:], matrix[first + 1, i:], matrix[first + 2, i:], matrix[first + 3, i:]
    w, x, y, z = a[0], b[0], c[0], d[0]
    for j in range(row.size):
        row[j] -= w * a[j] + x * b[j] + y * c[j] + z * d[j]


@compiled(fastmath=True)
def _columns(factor: Any, columns: Any) -> None:
    """Write the last columns of (R'R)^-1 as the rows of `columns`."""
    n_wanted, n = columns.shape
    for wanted in range(n_wanted):
        x, own = columns[wanted], n - n_wanted + wanted
        x[:] = 0
        x[own] = 1
        for i in range(own, n):  # R'y = e: y is 0 before its own row
            x[i] /= factor[i, i]
            weight, row, rest = x[i], factor[i, i + 1 :], x[i + 1 :]
            for j in range(row.size):
                rest[j] -= weight * row[j]
    last = n_wanted - n_wanted % 4
    for wanted in range(0, last, 4):
        _back_four(factor, columns[wanted : wanted + 4])
    for wanted in range(last, n_wanted):
        x = columns[wanted]
        for i in range(n - 1, -1, -1):  # R x = y
            row, rest, total = factor[i, i + 1 :], x[i + 1 :], x[i]
            for j in range(row.size):
                total -= row[j] * rest[j]
            x[i] = total / factor[i, i]


@compiled(fastmath=True)
def _back_four(factor: Any, columns: Any) -> None:
    """Solve R x = y for four rows of `columns` at once: R is read once for them."""
    n = factor.shape[0]
    for i in range(n - 1, -1, -1):
        row, scale = factor[i, i + 1 :], 1 / factor[i, i]
        a, b, c, d = columns[0, i + 1 :], columns[1, i + 1 :], columns[2, i + 1 :], columns[3, i + 1 :]
        w, x, y, z = columns[0, i], columns[1, i], columns[2, i], columns[3, i]
        for j in range(row.size):
            w -= row[j] * a[j]
            x -= row[j] * b[j]
            y -= row[j] * c[j]
            z -= row[j] * d[j]
        columns[0, i], columns[1, i], columns[2, i], columns[3, i] = w * scale, x * scale, y * scale, z * scale
