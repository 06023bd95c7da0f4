"""BigClam: overlapping co-clusters of users and items whose shared affinities make interactions likely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.models._inputs import checked_history

FIRST_STEPS = 10  # of the users, before the items follow for the first time
LEAST_BACKGROUND = 1e-12  # of training data without interactions


@dataclass
class BigClam(Model):
    """Score an item by the affinities that it shares with a user: s_ui = F_u . F_i, which orders P(u, i).

    P(u, i) = 1 - (1 - epsilon) exp(-F_u . F_i) with F >= 0; the logarithm of the likelihood of all pairs, with and
    without interaction, is maximised (Yang and Leskovec 2013, WSDM, equations 1 to 3, on the bipartite graph of users
    and items, whose users have co-clusters too). Users and items climb in turn, each row by projected gradient steps
    with a backtracking line search (section 4), until the likelihood rises by less than a `tolerance` of itself. The
    pairs without interaction cost nothing: their sum is that over all, which is cached, less the history.
    A gradient is scaled by what makes a step of 1 one of expectation maximisation, which the paper does not do: on
    debian-depends the likelihood that plain steps reach in 100 rounds is reached in 20 to 40.
    An unseen user climbs in the same way, the items frozen; that problem is concave. P itself rounds to 1 beyond
    F_u . F_i = 17 and would tie what the product tells apart.

    n_clusters: N, co-clusters, at least 1.
    background: epsilon, the chance of a pair without co-clusters in common, as a share of the density; above 0, at
        most 1, which is the choice of the paper.
    epochs: rounds over users and items, at least 1.
    tolerance: at least 0; 1e-4 in the paper.
    fold_in_steps: of an unseen user, at least 1.
    Values of interactions do not matter. Raises DataError for input that is no matrix of finite numbers or a history
    over another number of items, DeadlineExceeded between two passes.
    """

    n_clusters: Annotated[int, Meta(ge=1)] = 128
    background: Annotated[float, Meta(gt=0, le=1)] = 0.1
    epochs: Annotated[int, Meta(ge=1)] = 100
    tolerance: Annotated[float, Meta(ge=0)] = 1e-4
    fold_in_steps: Annotated[int, Meta(ge=1)] = 30

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Climb the likelihood of `train` (U, I)."""
        from recscale.models._bigclam import climb, freeze, seeds, spread
        from recscale.models._compiled import numba_threads

        by_user = canonical(train)
        by_item = by_user.T.tocsr()
        n_pairs = by_user.shape[0] * by_user.shape[1]
        density = by_user.nnz / (n_pairs + 1)  # below 1 even if every pair is there
        background = max(-float(np.log1p(-self.background * density)), LEAST_BACKGROUND)
        items = seeds(by_user, self.n_clusters, context.rng())
        users = spread(by_user, items)
        steps = np.ones(by_user.shape[0]), np.ones(by_user.shape[1])
        likelihood = -np.inf
        with numba_threads(context.n_threads):
            for epoch in range(self.epochs):
                frozen = freeze(items, background, 1 if epoch else FIRST_STEPS)
                users, _ = climb(by_user, frozen, users, steps[0])
                context.progress(2 * epoch + 1, 2 * self.epochs)
                items, values = climb(by_item, freeze(users, background, 1), items, steps[1])
                before, likelihood = likelihood, values.sum() - background * (n_pairs - by_user.nnz)
                context.log("log-likelihood", epoch + 1, likelihood)
                context.progress(2 * epoch + 2, 2 * self.epochs)
                if likelihood - before <= self.tolerance * abs(likelihood):
                    break
        return self.load_state({"item_factors": items, "background": np.array([background])})

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user factors times the item factors: (B, I)."""
        scores: NDArray[np.float32] = self.user_affinity(history) @ self.item_affinity_.T  # (B, N) @ (N, I) -> (B, I)
        return scores

    def item_affinity(self) -> NDArray[np.float32]:
        """Return F_i (I, N)."""
        return self.item_affinity_

    def user_affinity(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return F_u (B, N), folded in, for each row of `history`."""
        from recscale.models._bigclam import climb, freeze, spread

        rows = checked_history(history, self.item_factors_.shape[0])
        frozen = freeze(self.item_factors_, float(self.background_[0]), self.fold_in_steps, tolerance=1e-6)
        start = spread(rows, self.item_factors_)
        found, _ = climb(rows, frozen, start, np.ones(rows.shape[0]))
        affinity: NDArray[np.float32] = found.toarray()
        return affinity

    def state(self) -> Mapping[str, Array]:
        """Return `item_factors` (I, N), sparse, and `background`, -ln(1 - epsilon)."""
        return {"item_factors": self.item_factors_, "background": self.background_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        self.item_factors_: sp.csr_array = state["item_factors"]
        self.background_: NDArray[np.float64] = state["background"]
        self.item_affinity_: NDArray[np.float32] = self.item_factors_.toarray()
        return self


def estimate(model: BigClam, shape: Shape) -> Estimate:
    """The data twice, sparse factors of both sides twice, the dense ones of the items, and the buffers of a pass."""
    n_clusters = model.n_clusters
    # memberships: 2 to 3 of 64 co-clusters on debian-depends, 8 to 13 of 64 on ml-100k
    users, items = (8 * n * (2 + 0.2 * n_clusters) for n in (shape.n_users, shape.n_items))
    return Estimate(
        peak_bytes=int(2 * (users + items)) + 4 * shape.n_items * n_clusters + 24 * shape.n_interactions + 2**22,
        model_bytes=int(items),
        fit_seconds=model.epochs * shape.n_interactions * (1e-7 + 5e-9 * n_clusters),
    )


SPEC = ModelSpec(
    model=BigClam,
    title="BigClam",
    cite="Yang and Leskovec. Overlapping Community Detection at Scale: A Nonnegative Matrix Factorization Approach. "
    "WSDM 2013.",
    size_knob="n_clusters",
    sizes=(64, 128, 256, 512, 1024, 2048),
    space={"background": Range(1e-3, 1.0, log=True), "fold_in_steps": Range(3, 100, log=True)},
    estimate=estimate,
)
