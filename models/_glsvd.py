"""What rGLSVD and sGLSVD have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, FitContext, Model
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._local_factors import Placing, Recipe, Space
    from recscale.models._user_clusters import Clusters


@dataclass
class GLSVD(Model):
    """Score an item by a global and a local truncated SVD, weighted for each user: s = g r V V' + (1 - g) r V_c V_c'.

    r is the history, V (I, D) the leading right singular vectors of diag(g) X, V_c (I, f_c) those of diag(1 - g) X
    over the users of cluster c (Christakopoulou and Karypis 2018, KDD, "Local Latent Space Models for Top-N
    Recommendation"). Given V and V_c the g of least squared error over all items, known or not, is in closed form,
    clipped to [0, 1]; the paper's a and b, divided by g and 1 - g, are the projections r V V' and r V_c V_c', in which
    g has gone, so that an unseen user's weight is exactly that of a training user with the same row. The authors' code
    takes a = 0 once g = 0, and b = 0 once g = 1, from where a weight never comes back; here it may.
    Factors and weights are found in turn, from g = 1/2 and clusters by k-means. The squared error cannot rise when the
    weights (or, in sGLSVD, the clusters) are chosen; the SVDs each lower an error of their own, and may raise it.
    Where a = b up to rounding, g is 1. Values of interactions count; users without any take no part in training.

    k-means (three starts of k-means++, Lloyd's algorithm) works on X V_0 with each row at length 1, V_0 the leading
    right singular vectors of X: neither paper names a space (that of ELFM, Yang et al. 2021, has 100 clusters).

    factors: D, at least 1, and never more than min(U, I).
    local_factors: the most of f_c, at least 1; None is `factors`.
    n_clusters: N, at least 1; fewer where there are fewer distinct users.
    cluster_factors: dimensions of X V_0, at least 1.
    epochs: rounds at most, at least 1; they end where less than 1 % of the users change.
    local_items: `all` keeps V_c for all items, N I f_c numbers, as the paper and ELFM's count have it; `own` leaves out
        those that no user of the cluster has, whose rows are 0: the same scores from fewer bytes.
    Raises DataError for input that is no matrix of finite numbers, or a history over another number of items,
    NumericalError where the squares of the interactions are too large or an SVD does not settle, DeadlineExceeded.
    """

    # NDCG@100 of validation users of debian-depends, 3 rounds: the SVD alone with 64 factors .423; rGLSVD with 32 and
    # energy .4 .485 by 8 clusters and .483 by 32, with 64 and energy .3, .6 .439, .489 by 8 clusters, .6 .504 by 32.
    # Of ml-100k, 16 factors: the SVD alone .450; energy .2, .3, .4, .6 .454, .462, .446, .433 by 4, .450, .448, .440,
    # .415 by 16; all with 32 or 64 factors is worse there, the SVD too
    factors: Annotated[int, Meta(ge=1)] = 32
    local_factors: Annotated[int, Meta(ge=1)] | None = None
    n_clusters: Annotated[int, Meta(ge=1)] = 8
    cluster_factors: Annotated[int, Meta(ge=1)] = 32
    epochs: Annotated[int, Meta(ge=1)] = 30
    local_items: Literal["all", "own"] = "all"

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Cluster the users of `train` (U, I), then alternate between factors and weights."""
        from threadpoolctl import threadpool_limits

        from recscale.models._compiled import numba_threads
        from recscale.models._local_factors import Alternation, singular_vectors
        from recscale.models._training import examples
        from recscale.models._user_clusters import find_clusters

        rows = examples(train)
        labels, clusters = np.zeros(rows.shape[0], np.int64), None
        with numba_threads(context.n_threads), threadpool_limits(1, "blas"):
            if self.n_clusters > 1 and rows.shape[0] > 1:
                basis = singular_vectors(rows, np.ones(rows.shape[0]), self.cluster_factors, context)[1]
                clusters, labels = find_clusters(rows, basis, self.n_clusters, context)
            space, _ = Alternation(rows, labels, self.recipe(), context).run()
        return self._set(space, None if self.recipe().moves else clusters)

    def recipe(self) -> Recipe:
        """Return how the alternation goes."""
        raise NotImplementedError

    def _set(self, space: Space, clusters: Clusters | None) -> Self:
        """Keep what scoring reads."""
        from recscale.models._local_factors import Factors

        if self.local_items == "all":
            for label, part in enumerate(space.local):  # in place: the smaller ones do not stay beside all of these
                whole = np.zeros((space.common.shape[0], part.vectors.shape[1]), np.float32)
                whole[part.items] = part.vectors
                space.local[label] = Factors(None, whole)
        self.space_: Space = space
        self.clusters_: Clusters | None = clusters
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the two estimates of each row, weighted: (B, I)."""
        from recscale.models._local_factors import estimates

        rows = checked_history(history, self.space_.common.shape[0])
        return estimates(rows, self.space_, self._placed(rows))

    def place(self, history: sp.csr_array) -> Placing:
        """Return the cluster of each row, its weight g, and its squared error less the square of the row."""
        return self._placed(checked_history(history, self.space_.common.shape[0]))

    def _placed(self, rows: sp.csr_array) -> Placing:
        from recscale.models._local_factors import in_best_clusters, in_own_clusters
        from recscale.models._user_clusters import nearest, places

        if self.recipe().moves:
            return in_best_clusters(rows, self.space_)
        labels = np.zeros(rows.shape[0], np.int64)
        if self.clusters_ is not None:
            labels = nearest(places(rows, self.clusters_.basis), self.clusters_.centres)
        return in_own_clusters(rows, self.space_, labels)

    def state(self) -> Mapping[str, Array]:
        """Return `global_factors` V (I, D), for each cluster c `local_factors_c` V_c, and `overlaps` V'V_c (D, F).

        V_c is (I, f_c), or (I_c, f_c) with the integers `local_items_c`; the overlaps lie side by side. Where clusters
        are told apart by their centres, `basis` V_0 (I, D_0) and `centres` (N, D_0).
        """
        state: dict[str, Array] = {"global_factors": self.space_.common}
        for label, part in enumerate(self.space_.local):
            state[f"local_factors_{label}"] = part.vectors
            if part.items is not None:
                state[f"local_items_{label}"] = part.items
        state["overlaps"] = np.concatenate(self.space_.overlaps, axis=1)
        if self.clusters_ is not None:
            state |= {"basis": self.clusters_.basis, "centres": self.clusters_.centres}
        return state

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        from recscale.models._local_factors import Factors, Space
        from recscale.models._user_clusters import Clusters

        n_clusters = sum(name.startswith("local_factors_") for name in state)
        local = [Factors(state.get(f"local_items_{c}"), state[f"local_factors_{c}"]) for c in range(n_clusters)]
        ends = np.cumsum([part.vectors.shape[1] for part in local])
        overlaps = np.split(state["overlaps"], ends[:-1], axis=1)
        self.space_ = Space(state["global_factors"], local, overlaps)
        self.clusters_ = Clusters(state["basis"], state["centres"]) if "basis" in state else None
        return self
