"""GF-CF: the history, passed through a linear low-pass filter of the item graph and an ideal one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape
from recscale.models._degrees import checked_positive, degrees, power
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._graph_filter import Graph


# From here on most of the kept rows are gone through anyway, and dense vectors are faster. CPU microseconds a user by
# sparse histories and by dense vectors: ml-1m (reach 1.0) 1185 and 229, debian-depends (.52) 174 and 76, gowalla (.07)
# 653 and 1325, amazon-cds (.03) 162 and 1074
DENSE_REACH = 0.5


@dataclass
class GFCF(Model):
    """Score the items by two low-pass filters of the item graph, added up; nothing is trained.

    R~ = D_u^-1/2 X D_i^-1/2 with the degrees D of users and items; s_u = x_u (R~'R~ + w D_i^-1/2 V V' D_i^1/2), the
    columns of V being the D leading right singular vectors of R~ (Shen et al. 2021, CIKM, the model called GF-CF; 256
    vectors and w = .3 are from the authors' code). An unseen user's history takes the place of x_u: its own degree
    would only scale all of its scores. Singular vectors of a singular value of 0 are left out.

    R~'R~ is never made: the training rows are kept, at five bytes an entry where they are binary, and the filter is
    applied as two sparse products. On gowalla, amazon-cds and lastfm-2k that takes 60, 35 and 33 thousand additions a
    user against 61, 40 and 24 thousand with R~'R~, whose pairs take 84, 143 and 25 times the bytes of the rows.

    factors: D, singular vectors of the ideal filter, at least 0; with 0 the linear filter alone is left.
    ideal_weight: w, at least 0; with 0 the linear filter alone is left.
    Raises DataError for input that is no matrix of finite numbers, for interactions below 0, and for a history over
    another number of items; NumericalError where the singular vectors do not settle; DeadlineExceeded.
    """

    factors: Annotated[int, Meta(ge=0)] = 256
    ideal_weight: Annotated[float, Meta(ge=0)] = 0.3

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Keep `train` (U, I) and its degrees, and find the leading singular vectors."""
        train = checked_positive(train, "GF-CF")
        values = np.ones(train.nnz, np.int8) if np.all(train.data == 1) else train.data.copy()
        user_degrees, item_degrees = degrees(train)
        state: dict[str, Array] = {
            "interactions": sp.csr_array((values, train.indices.copy(), train.indptr.copy()), shape=train.shape),
            "user_weights": power(user_degrees, -1.0).astype(np.float32),
            "item_weights": power(item_degrees, -0.5).astype(np.float32),
        }
        self.load_state(state)
        if self.factors > 0 and self.ideal_weight > 0:
            vectors = self._singular_vectors(context)  # (D, I)
            vectors *= power(item_degrees, 0.5).astype(np.float32)
            state["factors"] = np.ascontiguousarray(vectors.T)
        return self.load_state(state)

    def _singular_vectors(self, context: FitContext) -> NDArray[np.float32]:
        """Return the right singular vectors of R~ as rows (D, I): the eigenvectors of R~'R~."""
        from recscale.models import _graph_filter as kernels
        from recscale.models._compiled import numba_threads
        from recscale.models._eigenvectors import leading_eigenvectors

        graph, (n_users, n_items) = self._graph(), self.interactions_.shape
        with numba_threads(context.n_threads):
            return leading_eigenvectors(
                lambda block: kernels.filtered(graph, block), n_items, min(self.factors, n_users, n_items), context
            )[1]

    def _graph(self) -> Graph:
        from recscale.models import _graph_filter as kernels

        return kernels.graph_of(self.interactions_, self.user_weights_, self.item_weights_)

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the filtered rows of `history`: (B, I)."""
        from recscale.models import _graph_filter as kernels
        from recscale.models import _neighbours as sparse
        from recscale.models._low_rank import add_product

        rows = checked_history(history, self.interactions_.shape[1])
        if self.reach_ > DENSE_REACH and rows.shape[0] >= kernels.LANES:
            scores = kernels.filtered(self._graph(), rows.toarray())
        else:
            scores = kernels.filtered_histories(self._graph(), sparse.rows_of(rows))
        if self.factors_ is None or self.factors_.shape[1] == 0 or rows.shape[0] == 0:
            return scores
        # the factors hold the square root of the degree
        scaled = np.float32(self.ideal_weight) * rows.data * self.item_weights_[rows.indices] ** 2
        known = sp.csr_array((scaled, rows.indices, rows.indptr), shape=rows.shape) @ self.factors_  # (B, D)
        add_product(scores, known, self.factors_)
        return scores

    def state(self) -> Mapping[str, Array]:
        """Return `interactions` X (U, I) with `user_weights` 1/degree and `item_weights` 1/sqrt(degree).

        `factors` D_i^1/2 V (I, D) too, if there is an ideal filter.
        """
        kept = {
            "interactions": self.interactions_,
            "user_weights": self.user_weights_,
            "item_weights": self.item_weights_,
        }
        return kept if self.factors_ is None else kept | {"factors": self.factors_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        self.interactions_: sp.csr_array = state["interactions"]
        self.user_weights_: NDArray[np.float32] = state["user_weights"]
        self.item_weights_: NDArray[np.float32] = state["item_weights"]
        self.factors_: NDArray[np.float32] | None = state.get("factors")
        self.reach_ = _reach(self.interactions_)
        return self


def _reach(interactions: sp.csr_array) -> float:
    """Return about which share of the users have an item of the history of one of them."""
    n_users, n_items = interactions.shape
    counts = np.bincount(interactions.indices, minlength=n_items).astype(np.float64)
    return 1.0 - float(np.exp(-np.sum(counts**2) / max(n_users, 1) ** 2))


def estimate(model: GFCF, shape: Shape) -> Estimate:
    """The training rows and the factors; while these are found, a basis of twice as many vectors with its products."""
    n_factors = 0 if model.ideal_weight == 0 else min(model.factors, shape.n_users, shape.n_items)
    rows = 5 * shape.n_interactions + 8 * shape.n_users + 4 * shape.n_items + 4
    factors = 4 * n_factors * shape.n_items
    width = 2 * n_factors + 4 * 64 if n_factors else 0
    basis = 4 * (width + 5 * 64) * shape.n_items + 40 * width**2 if n_factors else 0
    blocks = 0.18 * n_factors + 12  # steps of 64 vectors
    return Estimate(
        peak_bytes=max(24 * shape.n_interactions, rows + 8 * shape.n_interactions + factors + basis),
        model_bytes=rows + factors,
        fit_seconds=blocks * 64 * (shape.n_interactions * 2e-9 + shape.n_items * n_factors * 12e-11)
        if n_factors
        else 1.0,
    )


SPEC = ModelSpec(
    model=GFCF,
    title="GF-CF",
    cite="Shen, Wu, Zhang, Shan et al. How Powerful is Graph Convolution for Recommendation? CIKM 2021.",
    size_knob="factors",
    sizes=(0, 32, 64, 128, 256, 512),
    space={"ideal_weight": Range(0.0, 2.0)},
    estimate=estimate,
)
