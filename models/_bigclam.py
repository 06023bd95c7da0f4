"""BigClam's ascent: rows of factors climb the likelihood while those of the other side stand still.

Imported lazily, because compiled kernels need numba. Given one side, the rows of the other do not depend on each
other: the result is the same on any number of threads. Factors are kept sparse: of 64 co-clusters a row of
debian-depends has 2 to 3, of 128 a row of ml-1m 20 to 30. A round on one thread takes 0.55 s on ml-1m with N = 128,
5.5 ns an entry and co-cluster, and 0.06 s on debian-depends with N = 64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._neighbours import Rows, csr, n_strands, rows_of

BLOCK_ENTRIES = 2**22  # of the buffers into which rows are written before they are packed: 8 bytes each
SUFFICIENT = 0.05  # share of the expected gain that a step must bring (alpha), the default of the authors' code
_TINY = 1e-30
BACKTRACK = 0.3  # what a step is shortened by that does not (beta), their default too
MOST_TRIALS = 12
LARGEST_FACTOR = 1000.0  # as in their code
PSEUDO_COUNT = 0.3  # interactions; lets an affinity of 0 rise, in the metric of `_propose`


class Frozen(NamedTuple):
    """What rows are fitted against: the factors of the other side, and the schedule."""

    indptr: NDArray[np.int64]  # the arrays of the factors (R, N): numba takes no tuple of tuples into a parallel loop
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    totals: NDArray[np.float64]  # (N,) their column sums
    background: float  # theta = -ln(1 - epsilon)
    n_steps: int
    tolerance: float  # share of its likelihood below whose gain a row has arrived


def freeze(factors: sp.csr_array, background: float, n_steps: int, tolerance: float = 0.0) -> Frozen:
    """Return what the rows of the other side are fitted against."""
    totals = np.asarray(factors.sum(axis=0, dtype=np.float64))
    return Frozen(*rows_of(factors), totals, background, n_steps, tolerance)


def climb(
    links: sp.csr_array, frozen: Frozen, start: sp.csr_array, steps: NDArray[np.float64]
) -> tuple[sp.csr_array, NDArray[np.float64]]:
    """Return the factors (n, N) of the rows of `links` (n, R), climbed from `start`, and (n,) likelihoods.

    Each is the part l(F_u) that depends on the row. `steps` (n,) holds the step sizes that worked last, and is updated.
    """
    n_rows, n_clusters = start.shape
    graph, begin, values = rows_of(links), rows_of(start), np.empty(n_rows)
    n_each = max(1, min(n_rows, BLOCK_ENTRIES // max(1, n_clusters)))
    indices, data = np.empty((n_each, n_clusters), np.int32), np.empty((n_each, n_clusters), np.float32)
    counts = np.zeros(n_rows + 1, np.int64)
    packed = []
    for first in range(0, n_rows, n_each):
        last = min(first + n_each, n_rows)
        part = Rows(graph.indptr[first : last + 1], graph.indices, graph.data)
        old = Rows(begin.indptr[first : last + 1], begin.indices, begin.data)
        found = (indices, data, counts[first + 1 : last + 1])
        _climb_rows(part, frozen, old, found, (steps[first:last], values[first:last], n_strands(last - first)))
        packed.append(_pack(*found))
    starts = np.cumsum(counts)
    whole = Rows(starts, *(np.concatenate(parts) for parts in zip(*packed, strict=True))) if packed else begin
    return csr(whole, n_clusters), values


def spread(links: sp.csr_array, factors: sp.csr_array) -> sp.csr_array:
    """Return rows (n, N) to start from: each link counts for the co-clusters of its other end, in their proportion.

    F_uc = n_c / S_c, which is what expectation maximisation makes of n_c links of co-cluster c.
    """
    ones = sp.csr_array((np.ones(links.nnz), links.indices, links.indptr), shape=links.shape)
    sums, totals = (np.asarray(factors.sum(axis=axis, dtype=np.float64)) for axis in (1, 0))
    shares = sp.diags_array(1 / np.maximum(sums, _TINY)) @ factors @ sp.diags_array(1 / np.maximum(totals, _TINY))
    rows = sp.csr_array(ones @ shares, dtype=np.float32)  # (n, R) @ (R, N) -> (n, N)
    rows.sort_indices()
    return rows


@compiled()
def _evaluate(links: Any, frozen: Any, row: Any, chances: Any) -> Any:
    """Write P(u, i) = 1 - exp(-theta - F_u . F_i) of all links; return l(F_u) = sum (ln P + F_u . F_i) - F_u . S.

    A logarithm is taken of eight chances at once, each 1e-12 at least: half of the time went into logarithms.
    """
    indptr, indices, data = frozen.indptr, frozen.indices, frozen.data
    total, product = 0.0, 1.0
    for k in range(links.size):
        dot = 0.0
        for entry in range(indptr[links[k]], indptr[links[k] + 1]):
            dot += row[indices[entry]] * np.float64(data[entry])
        chance = -np.expm1(-(dot + frozen.background))
        chances[k] = chance
        product *= chance
        total += dot
        if k % 8 == 7:
            total += np.log(product)
            product = 1.0
    total += np.log(product)
    for cluster in range(row.size):
        total -= row[cluster] * frozen.totals[cluster]
    return total


@compiled()
def _gradient(links: Any, frozen: Any, chances: Any, gradient: Any) -> None:
    """Write sum F_i / P(u, i) - S, which is the sum of F_i exp(-x) / (1 - exp(-x)) less the rest of S."""
    indptr, indices, data = frozen.indptr, frozen.indices, frozen.data
    gradient[:] = -frozen.totals
    for k in range(links.size):
        weight = 1.0 / chances[k]
        for entry in range(indptr[links[k]], indptr[links[k] + 1]):
            gradient[indices[entry]] += weight * data[entry]


@compiled()
def _propose(row: Any, gradient: Any, totals: Any, step: Any, proposed: Any) -> Any:
    """Write the projection of a step along the gradient; return the gain that the gradient promises.

    Measured in the metric (F_uc + k / S_c) / S_c, in which step 1 with k = 0 is that of expectation maximisation.
    """
    gain = 0.0
    for cluster in range(row.size):
        scale = 1.0 / totals[cluster] if totals[cluster] > 0 else 0.0
        moved = row[cluster] + step * (row[cluster] + PSEUDO_COUNT * scale) * scale * gradient[cluster]
        proposed[cluster] = np.float32(min(max(moved, 0.0), LARGEST_FACTOR))
        gain += gradient[cluster] * (proposed[cluster] - row[cluster])
    return gain


@compiled()
def _climb_row(links: Any, frozen: Any, row: Any, step: Any) -> Any:
    """Climb from `row` (N,), in place, by steps that a backtracking line search shortens; return l and the step."""
    gradient, proposed = np.empty(row.size), np.empty(row.size)
    chances, new_chances = np.empty(links.size), np.empty(links.size)
    value = _evaluate(links, frozen, row, chances)
    for _ in range(frozen.n_steps):
        _gradient(links, frozen, chances, gradient)
        before = value
        for trial in range(MOST_TRIALS):
            gain = _propose(row, gradient, frozen.totals, step, proposed)
            if gain <= 0:
                return value, step
            reached = _evaluate(links, frozen, proposed, new_chances)
            if reached >= value + SUFFICIENT * gain:
                row[:], value = proposed, reached
                chances, new_chances = new_chances, chances
                step = min(step / BACKTRACK, 1e3) if trial == 0 else step
                break
            step *= BACKTRACK
        if value - before <= frozen.tolerance * abs(value):
            break
    return value, max(step, 1e-6)


@compiled(parallel=True)
def _climb_rows(links: Any, frozen: Any, start: Any, found: Any, plan: Any) -> None:
    indices, data, counts = found  # numba loses what a parallel loop assigns to an array in a tuple
    steps, values, strands = plan
    for strand in prange(strands):
        row = np.empty(frozen.totals.size)
        for place in range(strand, counts.size, strands):
            row[:] = 0
            for entry in range(start.indptr[place], start.indptr[place + 1]):
                row[start.indices[entry]] = start.data[entry]
            own = links.indices[links.indptr[place] : links.indptr[place + 1]]
            values[place], steps[place] = _climb_row(own, frozen, row, steps[place])
            n_positive = 0
            for cluster in range(row.size):
                if row[cluster] > 0:
                    indices[place, n_positive], data[place, n_positive] = cluster, row[cluster]
                    n_positive += 1
            counts[place] = n_positive


@compiled()
def _pack(indices: Any, data: Any, counts: Any) -> Any:
    """Return the first `counts` entries of each row, one row behind the other."""
    packed_indices, packed_data = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.float32)
    place = 0
    for row in range(counts.size):
        packed_indices[place : place + counts[row]] = indices[row, : counts[row]]
        packed_data[place : place + counts[row]] = data[row, : counts[row]]
        place += counts[row]
    return packed_indices, packed_data


def seeds(by_user: sp.csr_array, n_clusters: int, rng: np.random.Generator) -> sp.csr_array:
    """Return the item factors (I, N) to start from: the history of a random user for each co-cluster.

    Users come up in proportion to the length of their histories and only once, where there are enough of them; weights
    from 0.5 to 1.5 tell repeated ones apart. The authors start from neighbourhoods of small conductance: few links that
    leave over all links in. But no two neighbours of a node of a bipartite graph are linked, so that almost all links
    leave (0.56 of them in the best case on debian-depends, 0.987 on ml-1m) and the best are those of rare items:
    NDCG@100 on validation users of ml-1m (128 co-clusters) is .294, from histories .383. On debian-depends (64) it is
    .446 and .443, and .403 if users are drawn evenly, .428 from random factors.
    """
    lengths = np.diff(by_user.indptr)
    n_users = int(np.count_nonzero(lengths))
    drawn = np.empty(0, np.int64)
    if n_users:
        drawn = rng.choice(lengths.size, n_clusters, replace=n_clusters > n_users, p=lengths / lengths.sum())
    columns = by_user[drawn].T.tocsr()
    weights = (rng.random(columns.nnz) + 0.5).astype(np.float32)
    return sp.csr_array((weights, columns.indices, columns.indptr), shape=(by_user.shape[1], n_clusters))
