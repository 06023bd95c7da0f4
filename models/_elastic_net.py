"""Numba kernels of SLIM: the positive elastic net of each item on the others, by coordinate descent on a Gram matrix.

Imported lazily, because compiled kernels need numba. Columns are solved one by one, each in a fixed order, so the
result does not depend on the number of threads.

Screening is exact: X and W are not negative, so a gradient G_ij - l1 - sum_k G_ik W_kj never rises above where it
starts, and an item with G_ij <= l1 has no weight. Of the rest a growing set is worked on: those whose step would lower
the objective most, at most as many new ones as there are old.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._compiled import compiled, numba_threads
from recscale.models._local_grams import LocalBlocks, local_grams
from recscale.models._neighbours import Rows, csr, n_strands
from recscale.models._sparse_gram import Interactions, workspace

BATCH_ENTRIES = 2**23  # candidates of the columns that one call solves
BATCH_BYTES = 2**29  # of local Gram matrices at a time; each batch sums anew the rows of X'X that it needs
FIRST_WORKED_ON = 16
MOST_ROUNDS = 100
MOST_SWEEPS = 1000  # over the set that is worked on, in each round


class Penalty(NamedTuple):
    """What a weight costs, and the step below which one is settled."""

    l1: float
    l2: float
    tolerance: float


class Pairs(NamedTuple):
    """A Gram matrix: as a whole, or by its pairs with `dense` (0, 0)."""

    dense: NDArray[np.float32]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]


def pairs_of(gram: Any) -> Pairs:
    """Return the arrays of a Gram matrix (I, I), dense or csr_array."""
    if isinstance(gram, np.ndarray):
        return Pairs(gram, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    nothing = np.empty((0, 0), np.float32)
    return Pairs(nothing, gram.indptr.astype(np.int64), gram.indices.astype(np.int32, copy=False), gram.data)


def solve_all(gram: Any, penalty: Penalty, context: FitContext) -> sp.csr_array:
    """Return the weights W (I, I), sparse, given the whole Gram matrix. Raises DeadlineExceeded."""
    pairs, diagonal = pairs_of(gram), np.asarray(gram.diagonal(), np.float32)
    n_items = diagonal.size
    collected = _Columns(n_items)
    with numba_threads(context.n_threads):
        starts = np.zeros(n_items + 1, np.int64)
        np.cumsum(_count_candidates(pairs, n_items, penalty.l1), out=starts[1:])
        cuts = np.searchsorted(starts, np.arange(0, starts[-1], BATCH_ENTRIES))
        cuts = np.unique(np.concatenate((cuts, np.linspace(0, n_items, 17).astype(np.int64), [n_items])))
        for first, last in pairwise(cuts.tolist()):
            found = _Found.sized(starts[first : last + 1] - starts[first])
            _solve_columns(pairs, diagonal, penalty, found, (first, last, n_strands(last - first)))
            collected.add(found)
            context.progress(last, n_items)
    context.log("unsettled_items", 0, collected.n_unsettled)
    return collected.weights()


def solve_among(data: Interactions, candidates: sp.csr_array, penalty: Penalty, context: FitContext) -> sp.csr_array:
    """Return the weights W (I, I), sparse, column j from among row j of `candidates`, which holds entries of X'X.

    Peak: 512 MiB of local Gram matrices, one of each column, and twice the result. Raises DeadlineExceeded.
    """
    n_items = data.n_items
    ptr, members = candidates.indptr.astype(np.int64), candidates.indices.astype(np.int32, copy=False)
    sizes = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.diff(ptr) ** 2)))
    capacity = max(BATCH_BYTES // 4, int(np.diff(sizes).max(initial=0)))
    collected = _Columns(n_items)
    with numba_threads(context.n_threads):
        grams = np.empty(min(capacity, int(sizes[-1])), np.float32)  # reused, for fresh memory is slow
        work, first = workspace(data, n_items), 0
        while first < n_items:
            last = max(first + 1, int(np.searchsorted(sizes, sizes[first] + capacity, side="right")) - 1)
            blocks = (ptr[first : last + 1], members, sizes[first : last + 1] - sizes[first])
            local_grams(data, LocalBlocks(*blocks, upper=False), work, grams)
            found = _Found.sized(ptr[first : last + 1] - ptr[first])
            _solve_blocks(blocks, grams, penalty, found, (first, n_strands(last - first)))
            collected.add(found)
            first = last
            context.progress(first, n_items)
    context.log("unsettled_items", 0, collected.n_unsettled)
    return collected.weights()


class _Found(NamedTuple):
    """The weights of some columns, each at the start of as many places as it has candidates."""

    starts: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    counts: NDArray[np.int64]
    settled: NDArray[np.bool_]

    @classmethod
    def sized(cls, starts: NDArray[np.int64]) -> _Found:
        n_columns, n_places = starts.size - 1, int(starts[-1])
        settled = np.zeros(n_columns, np.bool_)
        return cls(
            starts, np.empty(n_places, np.int32), np.empty(n_places, np.float32), np.zeros(n_columns, np.int64), settled
        )


class _Columns:
    """The columns solved so far."""

    def __init__(self, n_items: int) -> None:
        self.n_items, self.n_unsettled = n_items, 0
        self.counts, self.indices, self.data = (
            [np.zeros(1, np.int64)],
            [np.empty(0, np.int32)],
            [np.empty(0, np.float32)],
        )

    def add(self, found: _Found) -> None:
        """Take the columns after those taken before."""
        lengths = np.diff(found.starts)
        place = np.arange(found.indices.size) - np.repeat(found.starts[:-1], lengths)
        kept = place < np.repeat(found.counts, lengths)
        self.counts.append(found.counts)
        self.indices.append(found.indices[kept])
        self.data.append(found.data[kept])
        self.n_unsettled += int((~found.settled).sum())

    def weights(self) -> sp.csr_array:
        """Return all columns as csr_array (I, I)."""
        starts = np.cumsum(np.concatenate(self.counts))
        by_column = csr(Rows(starts, np.concatenate(self.indices), np.concatenate(self.data)), self.n_items)
        return by_column.T.tocsr()


@compiled(parallel=True)
def _count_candidates(pairs: Any, n_items: Any, l1: Any) -> Any:
    counts = np.zeros(n_items, np.int64)
    for item in prange(n_items):
        n_above = 0
        if pairs.dense.size:
            for other in range(n_items):
                n_above += pairs.dense[item, other] > l1 and other != item
        else:
            for entry in range(pairs.indptr[item], pairs.indptr[item + 1]):
                n_above += pairs.data[entry] > l1 and pairs.indices[entry] != item
        counts[item] = n_above
    return counts


@compiled()
def _candidates(pairs: Any, item: Any, l1: Any, candidates: Any, gradient: Any) -> None:
    """Write the items whose entry in the row of `item` is above l1, in ascending order, and these entries."""
    place = 0
    if pairs.dense.size:
        for other in range(pairs.dense.shape[0]):
            if pairs.dense[item, other] > l1 and other != item:
                candidates[place], gradient[place] = other, pairs.dense[item, other]
                place += 1
    else:
        for entry in range(pairs.indptr[item], pairs.indptr[item + 1]):
            if pairs.data[entry] > l1 and pairs.indices[entry] != item:
                candidates[place], gradient[place] = pairs.indices[entry], pairs.data[entry]
                place += 1


@compiled()
def _gather(pairs: Any, item: Any, candidates: Any, places: Any, row: Any) -> None:
    """Write the entries of the row of `item` at the candidates; `places` (I,) says where these are, -1 for others."""
    if pairs.dense.size:
        for j in range(candidates.size):
            row[j] = pairs.dense[item, candidates[j]]
        return
    start, stop = pairs.indptr[item], pairs.indptr[item + 1]
    if candidates.size * 16 < stop - start:
        own = pairs.indices[start:stop]
        for j in range(candidates.size):
            found = np.searchsorted(own, candidates[j])
            row[j] = pairs.data[start + found] if found < own.size and own[found] == candidates[j] else np.float32(0)
        return
    row[:] = 0
    for entry in range(start, stop):
        place = places[pairs.indices[entry]]
        if place >= 0:
            row[place] = pairs.data[entry]


@compiled()
def _enlarged(buffer: Any, size: Any) -> Any:
    """Return a buffer of at least `size` entries that starts with those of the old one."""
    if buffer.size >= size:
        return buffer
    larger = np.empty(2 * size, np.float32)
    larger[: buffer.size] = buffer
    return larger


@compiled()
def _chosen(state: Any, diagonal: Any, penalty: Any, n_old: Any) -> Any:
    """Return which candidates join the set: those whose own step would lower the objective most."""
    gradient, _, inside = state
    candidates, gains = np.empty(gradient.size, np.int64), np.empty(gradient.size, np.float64)
    n_found = 0
    for j in range(gradient.size):
        excess, curvature = gradient[j] - penalty.l1, diagonal[j] + penalty.l2
        if not inside[j] and excess > penalty.tolerance * curvature:
            candidates[n_found], gains[n_found] = j, excess * excess / curvature
            n_found += 1
    most = max(FIRST_WORKED_ON, n_old)
    if n_found <= most:
        return candidates[:n_found]
    least = np.partition(gains[:n_found], n_found - most)[n_found - most]
    place = 0
    for j in range(n_found):
        if gains[j] >= least and place < most:  # of equal gains the lower index comes first
            candidates[place] = candidates[j]
            place += 1
    return candidates[:place]


@compiled()
def _sweep(small: Any, n: Any, penalty: Any, values: Any, slopes: Any) -> Any:
    """Descend along each coordinate of the set in turn until no step is above the tolerance; say whether that came."""
    for _ in range(MOST_SWEEPS):
        largest = 0.0
        for a in range(n):
            own = np.float64(small[a, a])
            value = max(0.0, (slopes[a] + own * values[a] - penalty.l1) / (own + penalty.l2))
            step = value - values[a]
            if step != 0.0:
                values[a] = value
                largest = max(largest, abs(step))
                for b in range(n):
                    slopes[b] -= step * small[a, b]
        if largest <= penalty.tolerance:
            return True
    return False


@compiled()
def _solve(source: Any, target: Any, penalty: Any, buffer: Any) -> Any:
    """Minimise over the weights of the candidates of one column; return the weights, whether they settled, the buffer.

    `source` is (pairs, candidates, places), `target` (gradient at 0, diagonal), all but the pairs of the candidates.
    """
    pairs, candidates, places = source
    gradient, diagonal = target
    n = candidates.size
    weights, inside, members = np.zeros(n), np.zeros(n, np.bool_), np.empty(n, np.int64)
    small = np.empty((0, 0), np.float32)
    n_old, settled = 0, True
    for _ in range(MOST_ROUNDS):
        chosen = _chosen((gradient, weights, inside), diagonal, penalty, n_old)
        if chosen.size == 0:
            return weights, settled, buffer
        n_new = n_old + chosen.size
        buffer = _enlarged(buffer, n_new * n)
        for j in range(chosen.size):
            members[n_old + j], inside[chosen[j]] = chosen[j], True
            _gather(pairs, candidates[chosen[j]], candidates, places, buffer[(n_old + j) * n : (n_old + j + 1) * n])
        rows = buffer[: n_new * n].reshape(n_new, n)
        larger = np.empty((n_new, n_new), np.float32)
        for a in range(n_new):
            for b in range(n_new):
                larger[a, b] = small[a, b] if a < n_old and b < n_old else rows[a, members[b]]
        small = larger
        values, slopes = weights[members[:n_new]], gradient[members[:n_new]]
        settled = _sweep(small, n_new, penalty, values, slopes)
        for a in range(n_new):
            step = values[a] - weights[members[a]]
            weights[members[a]] = values[a]
            if step != 0.0:
                for j in range(n):
                    gradient[j] -= step * rows[a, j]
        n_old = n_new
    return weights, False, buffer


@compiled()
def _keep(weights: Any, candidates: Any, found: Any, column: Any) -> Any:
    """Write the weights above 0 of one column."""
    place = found.starts[column]
    for j in range(weights.size):
        if weights[j] > 0:
            found.indices[place], found.data[place] = candidates[j], weights[j]
            place += 1
    return place - found.starts[column]


@compiled(parallel=True)
def _solve_columns(pairs: Any, diagonal: Any, penalty: Any, found: Any, span: Any) -> None:
    first, last, strands = span
    counts, settled = found.counts, found.settled  # numba loses what a parallel loop assigns to an array in a tuple
    for strand in prange(strands):
        places, buffer = np.full(diagonal.size, -1, np.int32), np.empty(0, np.float32)
        for item in range(first + strand, last, strands):
            column = item - first
            n = found.starts[column + 1] - found.starts[column]
            candidates, gradient = np.empty(n, np.int32), np.empty(n, np.float64)
            _candidates(pairs, item, penalty.l1, candidates, gradient)
            for j in range(n):
                places[candidates[j]] = j
            own = diagonal[candidates]
            weights, done, buffer = _solve((pairs, candidates, places), (gradient, own), penalty, buffer)
            counts[column] = _keep(weights, candidates, found, column)
            settled[column] = done
            for j in range(n):
                places[candidates[j]] = -1


@compiled(parallel=True)
def _solve_blocks(blocks: Any, grams: Any, penalty: Any, found: Any, span: Any) -> None:
    ptr, members, starts = blocks
    first, strands = span
    counts, settled = found.counts, found.settled
    for strand in prange(strands):
        buffer, places = np.empty(0, np.float32), np.empty(0, np.int32)
        for column in range(strand, ptr.size - 1, strands):
            own = members[ptr[column] : ptr[column + 1]]
            gram = grams[starts[column] : starts[column + 1]].reshape(own.size, own.size)
            item = np.searchsorted(own, first + column)
            candidates = np.empty(own.size, np.int32)
            n = 0
            for j in range(own.size):
                if j != item and gram[item, j] > penalty.l1:
                    candidates[n] = j
                    n += 1
            candidates = candidates[:n]
            pairs = Pairs(gram, ptr, members, grams)
            target = (gram[item][candidates].astype(np.float64), np.diag(gram)[candidates])
            weights, done, buffer = _solve((pairs, candidates, places), target, penalty, buffer)
            counts[column] = _keep(weights, own[candidates], found, column)
            settled[column] = done
