"""Numba kernels of CEL's fold-in: the vector of an unseen user that fits the history best, everything else frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recscale.models._compiled import compiled
from recscale.models._neighbours import n_strands

SWEEPS = 200  # of coordinate descent at most
SETTLED = 1e-7  # largest step of a sweep, as a share of the largest number, that ends it


class Frozen(NamedTuple):
    """What all users have in common: vectors (M, D), alpha0 V'V over all items (D, D), and alpha0 V'b (D,)."""

    vectors: NDArray[np.float64]
    gram: NDArray[np.float64]
    shift: NDArray[np.float64]


class Collapsed(NamedTuple):
    """Histories by clusters: how many items n of each they hold, and the sums t of 1 - b over these items."""

    counts: sp.csr_array  # (B, M)
    wanted: NDArray[np.float64]  # at the entries of counts
    frozen: Frozen

    @classmethod
    def of(cls, rows: sp.csr_array, state: Mapping[str, NDArray[Any]], unobserved_weight: float) -> Collapsed:
        """Collapse histories (B, I) by the clusters of a state of CEL; without clusters each item is its own."""
        vectors, n_items = state["item_table"].astype(np.float64), rows.shape[1]
        clusters = state.get("item_clusters", np.arange(n_items))
        bias = state.get("item_bias", np.zeros(1)).astype(np.float64) * np.ones(n_items)
        places, shape = clusters[rows.indices].astype(np.int64), (rows.shape[0], len(vectors))
        found, sums = (
            sp.csr_array((values, places.copy(), rows.indptr.copy()), shape=shape)
            for values in (np.ones(rows.nnz), 1.0 - bias[rows.indices])
        )
        for matrix in (found, sums):
            matrix.sum_duplicates()
        sizes = np.bincount(clusters, minlength=len(vectors))
        biases = np.bincount(clusters, bias, minlength=len(vectors))
        frozen = Frozen(
            vectors,
            unobserved_weight * (vectors.T * sizes) @ vectors,
            unobserved_weight * (biases @ vectors),
        )
        return cls(found, sums.data, frozen)


def fold_in(known: Collapsed, weights: NDArray[np.float64], nonnegative: bool) -> NDArray[np.float32]:
    """Return the minima (B, D) of sum_c (n_uc (v_c . x)^2 - 2 t_uc v_c . x) + x'Gx + 2 shift . x + w_u |x|^2.

    With `nonnegative` x >= 0 is kept to. In float64: counts of hundreds beside penalties of .1 leave too little of
    float32.
    """
    counts, frozen = known.counts, known.frozen
    users = np.zeros((counts.shape[0], frozen.vectors.shape[1]))
    indptr, indices = counts.indptr.astype(np.int64), counts.indices.astype(np.int64)
    entries = (indptr, indices, counts.data, known.wanted, weights)
    with threadpool_limits(1, "blas"):  # each thread of the loop calls BLAS
        _fold_in(entries, frozen, users, nonnegative, n_strands(counts.shape[0]))
    return users.astype(np.float32)


def nearest(known: Collapsed, candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each user the candidate (m, D) that the same sum is least with, w left out, (B, D)."""
    counts, frozen = known.counts, known.frozen
    wide = candidates.astype(np.float64)
    products = frozen.vectors @ wide.T  # (M, m)
    sums = sp.csr_array((known.wanted, counts.indices, counts.indptr), shape=counts.shape)
    everywhere = ((wide @ frozen.gram) * wide).sum(1) + 2 * wide @ frozen.shift
    best = (counts @ products**2 - 2 * (sums @ products) + everywhere).argmin(1)
    return np.asarray(candidates[best])


@compiled()
def _descend(system: Any, right: Any, x: Any) -> None:
    """Minimise x'Ax - 2 r . x over x >= 0 by coordinate descent, from x."""
    for factor in range(x.size):
        x[factor] = max(x[factor], 0.0)
    for _ in range(SWEEPS):
        moved, largest = 0.0, 0.0
        for factor in range(x.size):
            step = (right[factor] - np.dot(system[factor], x)) / system[factor, factor]
            value = max(0.0, x[factor] + step)
            moved, largest = max(moved, abs(value - x[factor])), max(largest, value)
            x[factor] = value
        if moved <= SETTLED * largest:
            break


@compiled(parallel=True)
def _fold_in(entries: Any, frozen: Any, users: Any, nonnegative: Any, strands: Any) -> None:
    indptr, indices, counts, wanted, weights = entries
    n_factors = users.shape[1]
    for strand in prange(strands):
        for user in range(strand, users.shape[0], strands):
            first, last = indptr[user], indptr[user + 1]
            own = frozen.vectors[indices[first:last]]
            scaled = own.copy()
            for row in range(last - first):
                scaled[row] *= counts[first + row]
            system = frozen.gram + np.dot(scaled.T, own)
            for factor in range(n_factors):
                system[factor, factor] += weights[user]
            right = np.dot(wanted[first:last], own) - frozen.shift
            users[user] = np.linalg.solve(system, right)
            if nonnegative:
                _descend(system, right, users[user])
