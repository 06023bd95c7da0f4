"""A sparse approximate inverse of a sparse unit lower triangular matrix L, of bounded size. Imported lazily: numba.

Matrices are held by columns and without their diagonal of ones. A column is worked on in a workspace (I,) of its
thread, in the order of the stored entries: the result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._compiled import compiled, numba_threads
from recscale.models._neighbours import n_strands

FOUND_BYTES = 2**27  # of new columns before they are thinned out
LONGEST = 16  # times the mean length: what is kept of a new column until then
SAMPLED = 128  # columns from which the level of the kept entries is foreseen
GROUP = 64  # ranks that are looked through together
FIELD = 2**16


class Columns(NamedTuple):
    """The part below the diagonal of a unit lower triangular matrix (I, I), by columns."""

    ptr: NDArray[np.int64]  # (I + 1,)
    rows: NDArray[np.int32]
    values: NDArray[np.float32]


class Found(NamedTuple):
    """New columns; entries from `counts` on mean nothing."""

    rows: NDArray[np.int32]  # (B, longest)
    values: NDArray[np.float32]  # (B, longest)
    counts: NDArray[np.int64]  # (B,)


@dataclass(frozen=True)
class MinimalResidual:
    """Passes over all columns, and steps on the worst ones, each for `worst` of them."""

    scans: int = 1
    finetune_steps: int = 10
    worst: int = 200


def thinned(matrix: Columns, n_kept: int) -> Columns:
    """Return the `n_kept` entries of largest magnitude, equal ones by column."""
    if matrix.rows.size <= n_kept:
        return matrix
    return _substituted(matrix, np.empty(0, np.int64), _no_columns(), n_kept)


def minimal_residual(lower: Columns, n_kept: int, how: MinimalResidual, context: FitContext) -> Columns:
    """Return M with L M close to I and at most `n_kept` entries, by uniform minimal residuals.

    M starts as 2 I - L; m_j += a_j r_j with R = I - L M, a_j = r_j' L r_j / |L r_j|^2, in blocks of columns, and of all
    of M the entries of largest magnitude are kept after each block (Spisak et al. 2023, RecSys, section 3.3; Chow and
    Saad 1998, SIAM J. Sci. Comput. 19). A finetuning step takes the columns with the largest |r_j| / sqrt(I - j).
    Until its block ends, a column keeps no entry below half of the level of the last block, and 16 times the mean.
    Raises DeadlineExceeded.
    """
    n_items = lower.ptr.size - 1
    longest = _longest(n_items, n_kept)
    height = _height(n_items, longest)
    blocks = [np.arange(first, min(first + height, n_items)) for first in range(0, n_items, height)]
    n_steps = how.scans * len(blocks) + how.finetune_steps
    with numba_threads(context.n_threads):
        inverse = thinned(Columns(lower.ptr, lower.rows, -lower.values), n_kept)
        for step in range(n_steps):
            if step < how.scans * len(blocks):
                columns = blocks[step % len(blocks)]
            else:
                norms = _residual_norms(lower, inverse, n_strands(n_items))
                context.log("residual", step, float(np.sqrt(np.mean(norms**2))))
                norms /= np.sqrt(np.arange(n_items, 0, -1))
                columns = np.sort(np.argsort(-norms, kind="stable")[: min(how.worst, height)])
            found = _empty(columns.size, longest)
            level = float(np.abs(inverse.values).min(initial=np.inf)) if inverse.rows.size >= n_kept else 0.0
            _improve(lower, inverse, columns, found, (np.float32(level / 2), n_strands(columns.size)))
            inverse = _substituted(inverse, columns, found, n_kept)
            context.progress(step + 1, n_steps)
    return inverse


def substitution(lower: Columns, n_kept: int, tolerance: float, context: FitContext) -> Columns:
    """Return the `n_kept` entries of largest magnitude of L^-1, column by column by forward substitution.

    Numbers below `tolerance` times the expected level of the kept entries are dropped as soon as they are final, and
    so never spread; 0 gives the exact inverse. Raises DeadlineExceeded.
    """
    n_items = lower.ptr.size - 1
    longest = _longest(n_items, n_kept)
    height = _height(n_items, longest)
    inverse = Columns(np.zeros(n_items + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    with numba_threads(context.n_threads):
        level = _expected_level(lower, n_kept)
        for first in range(0, n_items, height):
            columns = np.arange(first, min(first + height, n_items))
            found = _empty(columns.size, longest)
            bounds = (np.float32(tolerance * level), np.float32(level / 2), n_strands(columns.size))
            _substitute(lower, columns, found, bounds)
            inverse = _substituted(inverse, columns, found, n_kept)
            context.progress(int(columns[-1]) + 1, n_items)
    return inverse


def _expected_level(lower: Columns, n_kept: int) -> float:
    """Return about what magnitude the n_kept-th entry of L^-1 has, from a sample of whole columns."""
    n_items = lower.ptr.size - 1
    columns = np.unique(np.linspace(0, n_items - 1, min(SAMPLED, n_items)).astype(np.int64))
    found = _empty(columns.size, n_items)
    _substitute(lower, columns, found, (np.float32(0), np.float32(0), n_strands(columns.size)))
    wanted = int(n_kept * columns.size / n_items)
    magnitudes = np.abs(found.values[np.arange(n_items) < found.counts[:, None]])
    if magnitudes.size <= wanted:
        return 0.0
    return float(np.partition(magnitudes, magnitudes.size - wanted - 1)[magnitudes.size - wanted - 1])


def _longest(n_items: int, n_kept: int) -> int:
    return max(1, min(n_items, LONGEST * -(-n_kept // max(1, n_items))))


def _height(n_items: int, longest: int) -> int:
    """Return how many columns a block has."""
    return max(1, min(n_items, FOUND_BYTES // (8 * longest)))


def _empty(n_columns: int, longest: int) -> Found:
    shape = (n_columns, longest)
    return Found(np.empty(shape, np.int32), np.empty(shape, np.float32), np.zeros(n_columns, np.int64))


def _no_columns() -> Found:
    return _empty(0, 1)


def _substituted(matrix: Columns, columns: NDArray[np.int64], found: Found, n_kept: int) -> Columns:
    """Return `matrix` with new columns, and of that the entries of largest magnitude."""
    n_items = matrix.ptr.size - 1
    place = np.full(n_items, -1, np.int64)
    place[columns] = np.arange(columns.size)
    threshold, n_ties = _threshold(matrix, place, found, n_kept)
    above, ties = _lengths(matrix, place, found, np.uint32(threshold))
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(ties)))
    kept_ties = np.clip(n_ties - before[:-1], 0, ties)
    ptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(above + kept_ties)))
    result = Columns(ptr, np.empty(ptr[-1], np.int32), np.empty(ptr[-1], np.float32))
    _copy(matrix, (place, np.uint32(threshold), kept_ties), found, result)
    return result


def _threshold(matrix: Columns, place: NDArray[np.int64], found: Found, n_kept: int) -> tuple[int, int]:
    """Return the bits of the smallest magnitude that is kept, and how many of it may stay.

    Magnitudes are ordered as their bits are: two passes that count 16 bits each take a third of a partition's time.
    """
    counts = _count_fields(matrix, place, found, np.int64(-1))
    if counts.sum() <= n_kept:
        return 0, n_kept
    high, rest = _last_field(counts, n_kept)
    low, rest = _last_field(_count_fields(matrix, place, found, np.int64(high)), rest)
    return high * FIELD + low, rest


def _last_field(counts: NDArray[np.int64], n_kept: int) -> tuple[int, int]:
    """Return the field in which the n_kept-th largest lies, and how many of that field are wanted."""
    at_least = np.cumsum(counts[::-1])
    reverse = int(np.searchsorted(at_least, n_kept))
    reverse = min(reverse, FIELD - 1)
    return FIELD - 1 - reverse, n_kept - int(at_least[reverse] - counts[FIELD - 1 - reverse])


@compiled()
def _column(sources: Any, column: Any) -> Any:
    matrix, place, found = sources
    if place[column] < 0:
        start, stop = matrix.ptr[column], matrix.ptr[column + 1]
        return matrix.rows[start:stop], matrix.values[start:stop]
    new = place[column]
    return found.rows[new, : found.counts[new]], found.values[new, : found.counts[new]]


@compiled(parallel=True)
def _count_fields(matrix: Any, place: Any, found: Any, high: Any) -> Any:
    """Count the upper 16 bits of all magnitudes, or the lower ones of those whose upper ones are `high`."""
    strands = 8
    counts = np.zeros((strands, FIELD), np.int64)
    for strand in prange(strands):
        own = counts[strand]
        for column in range(strand, place.size, strands):
            _, values = _column((matrix, place, found), column)
            keys = np.abs(values).view(np.uint32)
            for key in keys:
                upper = np.int64(key >> np.uint32(16))
                if high < 0:
                    own[upper] += 1
                elif upper == high:
                    own[np.int64(key & np.uint32(FIELD - 1))] += 1
    return counts.sum(axis=0)


@compiled(parallel=True)
def _lengths(matrix: Any, place: Any, found: Any, threshold: Any) -> Any:
    above, ties = np.zeros(place.size, np.int64), np.zeros(place.size, np.int64)
    for column in prange(place.size):
        _, values = _column((matrix, place, found), column)
        n_above, n_ties = 0, 0
        for key in np.abs(values).view(np.uint32):
            n_above += key > threshold
            n_ties += key == threshold
        above[column], ties[column] = n_above, n_ties
    return above, ties


@compiled(parallel=True)
def _copy(matrix: Any, plan: Any, found: Any, target: Any) -> None:
    place, threshold, kept_ties = plan
    new_rows, new_values = target.rows, target.values  # numba loses what a parallel loop assigns inside a tuple
    for column in prange(place.size):
        rows, values = _column((matrix, place, found), column)
        keys = np.abs(values).view(np.uint32)
        target_place, ties = target.ptr[column], kept_ties[column]
        for entry in range(rows.size):
            tied = keys[entry] == threshold and ties > 0
            if keys[entry] > threshold or tied:
                new_rows[target_place], new_values[target_place] = rows[entry], values[entry]
                target_place += 1
                ties -= tied


@compiled()
def _add_column(lower: Any, column: Any, factor: Any, sums: Any, listed: Any) -> Any:
    """Add a column of L without its diagonal, times `factor`, to `sums`; return how many rows are listed."""
    mark, stamp, touched, n_touched = listed
    for entry in range(lower.ptr[column], lower.ptr[column + 1]):
        row = lower.rows[entry]
        touched[n_touched] = row
        n_touched += mark[row] != stamp
        mark[row] = stamp
        sums[row] += factor * lower.values[entry]
    return n_touched


@compiled()
def _residual(lower: Any, inverse: Any, column: Any, sums: Any, listed: Any) -> Any:
    """Write column j of I - L M to `sums`, which is zero there; return how many rows are listed."""
    mark, stamp, touched = listed
    n_touched = _add_column(lower, column, np.float32(-1), sums, (mark, stamp, touched, 0))
    for entry in range(inverse.ptr[column], inverse.ptr[column + 1]):
        row, value = inverse.rows[entry], inverse.values[entry]
        touched[n_touched] = row
        n_touched += mark[row] != stamp
        mark[row] = stamp
        sums[row] -= value
        n_touched = _add_column(lower, row, -value, sums, (mark, stamp, touched, n_touched))
    return n_touched


@compiled(parallel=True)
def _residual_norms(lower: Any, inverse: Any, strands: Any) -> Any:
    n_items = lower.ptr.size - 1
    norms = np.zeros(n_items)
    for strand in prange(strands):
        sums, mark = np.zeros(n_items, np.float32), np.full(n_items, -1, np.int32)
        touched = np.empty(n_items + 1, np.int32)
        for column in range(strand, n_items, strands):
            n_touched = _residual(lower, inverse, column, sums, (mark, column, touched))
            square = 0.0
            for row in touched[:n_touched]:
                square += np.float64(sums[row]) ** 2
                sums[row] = 0
            norms[column] = np.sqrt(square)
    return norms


@compiled()
def _step(lower: Any, residual: Any, listed: Any, image: Any, image_listed: Any) -> Any:
    """Return r'Lr / |Lr|^2 for a residual r; `image` is zero before and after."""
    mark, stamp, touched = image_listed
    n_touched = 0
    for row in listed:
        touched[n_touched] = row
        n_touched += mark[row] != stamp
        mark[row] = stamp
        image[row] += residual[row]
        n_touched = _add_column(lower, row, residual[row], image, (mark, stamp, touched, n_touched))
    product, square = 0.0, 0.0
    for row in touched[:n_touched]:
        product += np.float64(image[row]) * residual[row]
        square += np.float64(image[row]) ** 2
        image[row] = 0
    return np.float32(product / square) if square > 1e-30 else np.float32(0)


@compiled()
def _emit(listed: Any, sums: Any, floor: Any, buffer: Any, target: Any) -> Any:
    """Move the rows with magnitudes of at least `floor` and not zero, as many as there is room; clear `sums`."""
    rows, values = target
    n_wanted = 0
    for row in listed:
        magnitude = abs(sums[row])
        if magnitude >= floor and magnitude > 0:
            buffer[n_wanted] = magnitude
            n_wanted += 1
    ties = n_wanted
    if n_wanted > rows.size:
        floor = np.partition(buffer[:n_wanted], n_wanted - rows.size)[n_wanted - rows.size]
        ties = rows.size - (buffer[:n_wanted] > floor).sum()
    size = 0
    for row in listed:
        value = sums[row]
        sums[row] = 0
        tied = abs(value) == floor
        if abs(value) > floor or (tied and ties > 0 and value != 0):
            ties -= tied
            rows[size], values[size] = row, value
            size += 1
    return size


@compiled(parallel=True)
def _improve(lower: Any, inverse: Any, columns: Any, found: Any, plan: Any) -> None:
    """Write the columns m_j + a_j r_j to `found`."""
    floor, strands = plan
    n_items = lower.ptr.size - 1
    found_rows, found_values, counts = found.rows, found.values, found.counts
    for strand in prange(strands):
        sums, image = np.zeros(n_items, np.float32), np.zeros(n_items, np.float32)
        mark, image_mark = np.full(n_items, -1, np.int32), np.full(n_items, -1, np.int32)
        touched, image_touched = np.empty(n_items + 1, np.int32), np.empty(n_items + 1, np.int32)
        buffer = np.empty(n_items, np.float32)
        for place in range(strand, columns.size, strands):
            column = columns[place]
            n_touched = _residual(lower, inverse, column, sums, (mark, column, touched))
            listed = touched[:n_touched]
            step = _step(lower, sums, listed, image, (image_mark, column, image_touched))
            for row in listed:
                sums[row] *= step
            for entry in range(inverse.ptr[column], inverse.ptr[column + 1]):
                sums[inverse.rows[entry]] += inverse.values[entry]
            counts[place] = _emit(listed, sums, floor, buffer, (found_rows[place], found_values[place]))


@compiled(parallel=True)
def _substitute(lower: Any, columns: Any, found: Any, plan: Any) -> None:
    """Solve L m = e_j for some columns j."""
    tolerance, floor, strands = plan
    n_items = lower.ptr.size - 1
    found_rows, found_values, counts = found.rows, found.values, found.counts
    for strand in prange(strands):
        sums, buffer = np.zeros(n_items, np.float32), np.empty(n_items, np.float32)
        flags = np.zeros(n_items // GROUP + 1, np.bool_)
        touched = np.empty(n_items, np.int32)
        for place in range(strand, columns.size, strands):
            column = columns[place]
            n_touched = 0
            for entry in range(lower.ptr[column], lower.ptr[column + 1]):
                row = lower.rows[entry]
                sums[row] = -lower.values[entry]
                flags[row // GROUP] = True
            for group in range(column // GROUP, flags.size):
                if not flags[group]:
                    continue
                flags[group] = False
                for row in range(group * GROUP, min((group + 1) * GROUP, n_items)):
                    value = sums[row]
                    if value == 0:
                        continue
                    if abs(value) < tolerance:
                        sums[row] = 0
                        continue
                    touched[n_touched] = row
                    n_touched += 1
                    for entry in range(lower.ptr[row], lower.ptr[row + 1]):
                        other = lower.rows[entry]
                        sums[other] -= value * lower.values[entry]
                        flags[other // GROUP] = True
            counts[place] = _emit(touched[:n_touched], sums, floor, buffer, (found_rows[place], found_values[place]))
