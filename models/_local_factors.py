"""One global truncated SVD, one for each cluster of users, and for each user a weight between the two.

With orthonormal V (I, D) and V_c (I, f_c), the estimate for row r of a user in cluster c is g a + (1 - g) b, where
a = r V V' and b = r V_c V_c'. No sum over all items needs a dense row: with p = r V, q = r V_c and M_c = V'V_c,

    a.a = a.r = p.p     b.b = b.r = q.q     a.b = p M_c q'

so that the best weight (b - a).(b - r) / (b - a).(b - a) is (p.p - a.b) / (p.p + q.q - 2 a.b), and the squared error
less r.r is g^2 p.p + (1 - g)^2 q.q + 2 g (1 - g) a.b - 2 g p.p - 2 (1 - g) q.q: O(|I_u| (D + f_c) + D f_c) a user.
Imported lazily, because compiled kernels need numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import NumericalError
from recscale.models._eigenvectors import NOTHING, leading_eigenvectors
from recscale.models._graph_filter import filtered, graph_of

HALF = 0.5  # the weight at the start
# a share of |a|^2 + |b|^2 below which a difference is none: float32 vectors leave about 2e-7 where a = b. Without it
# 1 - g is rounding alone where V_c lies within V, and the next SVD, to which scale is nothing, is that of the rounding
SAME = 1e-6
SMALL_CHANGE = 0.05  # of a weight
FEW_USERS = 0.01  # share of the users; an alternation ends where fewer change
CHUNK = 8192  # users who are placed at once
# rows or columns up to which a Gram matrix is decomposed whole. Of 256, 512 and 800 users of debian-depends the CPU
# seconds for 32 vectors are .01, .06 and .12 so, .24, .31 and .35 by search; eigenvalues of 0 slow scipy.linalg.eigh
DENSE = 768


class Factors(NamedTuple):
    """Right singular vectors of some users' rows; 0 for items that are not among `items`."""

    items: NDArray[np.int32] | None  # (I_c,) ascending; None is all of them
    vectors: NDArray[np.float32]  # (I_c, f_c)


class Space(NamedTuple):
    """All factors, and how the local ones lie to the global ones."""

    common: NDArray[np.float32]  # (I, D) V
    local: list[Factors]  # N of V_c
    overlaps: Sequence[NDArray[np.float32]]  # N of M_c, (D, f_c)


class Placing(NamedTuple):
    """Where users stand: their clusters, their weights g, and their squared errors less the squares of their rows."""

    labels: NDArray[np.int64]  # (B,)
    weights: NDArray[np.float64]  # (B,)
    errors: NDArray[np.float64]  # (B,)


@dataclass(frozen=True)
class Recipe:
    """How an alternation goes."""

    rank: int  # of the global SVD
    local_rank: int  # of each local SVD, at most
    epochs: int  # at most
    energy: float = 1.0  # share of the squares of a cluster's rows at which its rank is large enough
    moves: bool = False  # whether users go over to the cluster of least squared error


def best_weights(
    common: NDArray[np.float32], local: NDArray[np.float32], overlaps: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for p (B, D), q (B, f_c) and M_c (D, f_c) the best weights in [0, 1] (B,) and the errors with them (B,).

    The weight is 1 where a = b. In float64: nothing is lost beyond what p, q and M_c have lost, in whatever batch.
    """
    p, q = common.astype(np.float64), local.astype(np.float64)
    squares = np.einsum("bd,bd->b", p, p), np.einsum("bf,bf->b", q, q)
    both = np.einsum("bf,bf->b", p @ overlaps.astype(np.float64), q)
    least = SAME * (squares[0] + squares[1])
    # (a - b).a and (b - a).b, whose sum is |a - b|^2
    gains = [np.where(square - both > least, square - both, 0.0) for square in squares]
    g = np.divide(gains[0], gains[0] + gains[1], out=np.ones_like(both), where=gains[0] + gains[1] > 0)
    rest = 1 - g
    errors = g * (g - 2) * squares[0] + rest * (rest - 2) * squares[1] + 2 * g * rest * both
    return g, errors


def projections(rows: sp.csr_array, factors: Factors) -> NDArray[np.float32]:
    """Return q = r V_c (B, f_c). Each row is summed by itself, whatever lies beside it."""
    own = rows if factors.items is None else rows[:, factors.items]
    projected: NDArray[np.float32] = own @ factors.vectors  # (B, I_c) @ (I_c, f_c) -> (B, f_c)
    return projected


def space_of(common: NDArray[np.float32], local: list[Factors]) -> Space:
    """Return the factors with M_c = V'V_c."""
    overlaps = [(common if part.items is None else common[part.items]).T @ part.vectors for part in local]
    return Space(common, local, overlaps)


def in_own_clusters(rows: sp.csr_array, space: Space, own: NDArray[np.int64]) -> Placing:
    """Return the best weight of each row (B, I) in the cluster that it has."""
    p = rows @ space.common  # (B, I) @ (I, D) -> (B, D)
    placing = Placing(own, np.full(own.size, HALF), np.zeros(own.size))
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        q = projections(rows[members], space.local[label])
        placing.weights[members], placing.errors[members] = best_weights(p[members], q, space.overlaps[label])
    return placing


def in_best_clusters(rows: sp.csr_array, space: Space, own: NDArray[np.int64] | None = None) -> Placing:
    """Return for each row (B, I) the cluster of least squared error: of equal ones its own, else the first."""
    p = rows @ space.common  # (B, I) @ (I, D) -> (B, D)
    n_rows = rows.shape[0]
    best = Placing(np.zeros(n_rows, np.int64), np.full(n_rows, HALF), np.full(n_rows, np.inf))
    for label, (factors, overlaps) in enumerate(zip(space.local, space.overlaps, strict=True)):
        weights, errors = best_weights(p, projections(rows, factors), overlaps)
        better = errors < best.errors
        if own is not None:
            better |= (own == label) & (errors == best.errors)
        best.labels[better], best.weights[better], best.errors[better] = label, weights[better], errors[better]
    return best


def estimates(rows: sp.csr_array, space: Space, placing: Placing) -> NDArray[np.float32]:
    """Return g a + (1 - g) b (B, I) for rows that have been placed."""
    g = placing.weights.astype(np.float32)[:, None]
    scores: NDArray[np.float32] = (g * (rows @ space.common)) @ space.common.T  # (B, D) @ (D, I) -> (B, I)
    for label in np.unique(placing.labels):
        members, factors = np.flatnonzero(placing.labels == label), space.local[label]
        local = ((1 - g[members]) * projections(rows[members], factors)) @ factors.vectors.T
        if factors.items is None:
            scores[members] += local
        else:
            scores[members[:, None], factors.items] += local
    return scores


def singular_vectors(
    rows: sp.csr_array, weights: NDArray[np.float64], rank: int, context: FitContext
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the squared leading singular values (k,) of diag(weights) @ rows, descending, and right vectors (I, k).

    Those that are 0 in float32 are left out, so k may be below `rank`. Raises NumericalError, DeadlineExceeded.
    """
    (n_users, n_items), rank = rows.shape, min(rank, *rows.shape)
    if rank == 0 or not np.any(weights[np.diff(rows.indptr) > 0]):
        return np.zeros(0), np.zeros((n_items, 0), np.float32)
    if min(n_users, n_items) <= DENSE:
        return _decomposed(rows, weights, rank)
    graph = graph_of(rows, (weights**2).astype(np.float32), np.ones(n_items, np.float32))
    quiet = replace(context, log=FitContext().log)  # the steps of this search are no steps of the fit
    squares, vectors = leading_eigenvectors(partial(filtered, graph), n_items, rank, quiet)
    return squares.astype(np.float64), np.ascontiguousarray(vectors.T)


def _decomposed(
    rows: sp.csr_array, weights: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the same from the Gram matrix of the users or the items, whichever are fewer."""
    scaled = sp.csr_array(sp.diags_array(weights) @ rows.astype(np.float64))
    by_user = rows.shape[0] < rows.shape[1]
    gram = (scaled @ scaled.T if by_user else scaled.T @ scaled).toarray()
    squares, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(squares > NOTHING * squares[-1])[::-1][:rank]
    squares, vectors = squares[kept], vectors[:, kept]
    right = scaled.T @ vectors / np.sqrt(squares) if by_user else vectors
    return squares, np.ascontiguousarray(right, np.float32)


def compact(rows: sp.csr_array) -> tuple[NDArray[np.int32], sp.csr_array]:
    """Return the items that `rows` (n, I) hold, ascending, and the rows over these alone (n, I_c)."""
    items, columns = np.unique(rows.indices, return_inverse=True)
    part = sp.csr_array((rows.data, columns.astype(np.int32), rows.indptr), shape=(rows.shape[0], items.size))
    return items.astype(np.int32), part


class Alternation:
    """Finds factors and weights in turn for `rows` (U, I), none of them empty, from `labels` (U,) on.

    Logs `squared error` after each epoch, as a share of the squares of the rows.
    """

    def __init__(self, rows: sp.csr_array, labels: NDArray[np.int64], recipe: Recipe, context: FitContext) -> None:
        self.rows, self.recipe, self.context = rows, recipe, context
        self.n_clusters = int(labels.max(initial=0)) + 1
        self.ranks = np.full(self.n_clusters, recipe.local_rank)
        self.placing = Placing(labels, np.full(labels.size, HALF), np.zeros(labels.size))
        self.n_done = 0

    def run(self) -> tuple[Space, Placing]:
        """Return the factors, and where the users stand by them. BLAS must be held to one thread.

        Raises NumericalError for rows whose squares are not finite, DeadlineExceeded.
        """
        norm = float(np.square(self.rows.data, dtype=np.float64).sum())
        if not norm < float(np.finfo(np.float32).max):
            raise NumericalError(f"the squares of the interactions add up to {norm:.3g}; scale them down for float32")
        for epoch in range(self.recipe.epochs):
            space, before = self.factorised(is_first=epoch == 0), self.placing
            self.placing = self.placed(space)
            self._step()
            self.context.log("squared error", epoch + 1, 1 + float(self.placing.errors.sum()) / max(norm, 1e-30))
            if self._is_settled(before):
                break
        return space, self.placing

    def factorised(self, is_first: bool) -> Space:
        """Return the factors of diag(g) X, and those of diag(1 - g) X for each cluster.

        In the first epoch the ranks of the clusters are settled.
        """
        labels, weights, _ = self.placing
        common = singular_vectors(self.rows, weights, self.recipe.rank, self.context)[1]
        self._step()
        local = []
        for label in range(self.n_clusters):
            members = np.flatnonzero(labels == label)
            items, part = compact(self.rows[members])
            rest = 1 - weights[members]
            squares, vectors = singular_vectors(part, rest, int(self.ranks[label]), self.context)
            if is_first and self.recipe.energy < 1:
                total = np.repeat(rest, np.diff(part.indptr)) ** 2 @ part.data.astype(np.float64) ** 2
                wanted = np.searchsorted(np.cumsum(squares), self.recipe.energy * total) + 1
                self.ranks[label] = min(wanted, squares.size)
            local.append(Factors(items, np.ascontiguousarray(vectors[:, : self.ranks[label]])))
            self._step()
        return space_of(common, local)

    def placed(self, space: Space) -> Placing:
        """Return where the users stand best by these factors; some thousand users at a time, on several threads."""
        place: Callable[..., Placing] = in_best_clusters if self.recipe.moves else in_own_clusters
        parts = [slice(first, first + CHUNK) for first in range(0, max(1, self.rows.shape[0]), CHUNK)]
        with ThreadPoolExecutor(max(1, self.context.n_threads)) as pool:
            found = list(pool.map(lambda part: place(self.rows[part], space, self.placing.labels[part]), parts))
        return Placing(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))

    def _is_settled(self, before: Placing) -> bool:
        if self.recipe.moves:
            changed = self.placing.labels != before.labels
        else:
            changed = np.abs(self.placing.weights - before.weights) > SMALL_CHANGE
        return bool(np.count_nonzero(changed) < FEW_USERS * max(1, changed.size))

    def _step(self) -> None:
        self.n_done += 1
        self.context.progress(self.n_done, self.recipe.epochs * (self.n_clusters + 2))
