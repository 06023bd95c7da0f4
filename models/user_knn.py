"""UserKNN: a user is shown what the most similar training users have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Shape, canonical
from recscale.models._inputs import checked_history


@dataclass
class UserKNN(Model):
    """Score an item by the weights of the K nearest training users that have it.

    s_ui = sum over v in KNN(u) of w(u, v) 1(i in I_v), with w = |I_u n I_v| / |I| (Yang et al. 2021, RecSys,
    equation 9). The constant |I| is left out, which changes no ranking; it may be a misprint for |I_u u I_v|, which
    `jaccard` has. Interactions are taken as binary.
    A training user that is scored on its own training row is among its own K neighbours. It adds only to items of its
    own history, which are never ranked, but takes one of the K places.
    Equally near users are told apart by the lower row number.

    n_neighbors: K, at least 1.
    weight: w, counted on the history that is known: `cosine` |I_u n I_v| / sqrt(|I_u| |I_v|) as usual, `jaccard`
        |I_u n I_v| / |I_u u I_v|, or `overlap` |I_u n I_v|, which is the paper's.
    n_factors: None, and the nearest users are found by the cosine of the rows of X themselves, as usual; or D, at
        least 1, and they are found as in the paper: by the cosine of the rows of X V, where X = U S V' is the SVD
        truncated to D columns. The paper does not state D; it gives its other models 16, 32 and 64. It is never
        more than min(U, I), the highest rank there is.
    The paper's reading is `user_knn[n_factors=64,weight=overlap]`. On the published split of Gowalla it reaches
    Recall@20 .110, the defaults .165: so much do rows lose when 41 k items become 64 columns.
    Raises DataError for input that is no matrix of finite numbers, or a history over another number of items.
    """

    n_neighbors: Annotated[int, Meta(ge=1)] = 150
    weight: Literal["overlap", "jaccard", "cosine"] = "cosine"
    n_factors: Annotated[int, Meta(ge=1)] | None = None

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Keep the rows of `train` (U, I), and what the search for neighbours needs."""
        train = canonical(train)
        binary = (np.ones_like(train.data), train.indices.copy(), train.indptr.copy())  # the caller keeps its own
        self.rows_: sp.csr_array = sp.csr_array(binary, shape=train.shape)
        self.index_: dict[str, NDArray[Any]] = {}
        context.progress(0, 1)
        if self.n_factors is not None:
            self.index_ = self._decompose(self.n_factors, context)
        else:
            by_item = self.rows_.T.tocsr()  # (I, U)
            self.index_ = {
                "item_starts": by_item.indptr.astype(np.int64),
                "item_users": by_item.indices.astype(np.int32),
            }
        context.progress(1, 1)
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the summed weights of the neighbours that have each item: (B, I)."""
        from recscale.models import _neighbours as kernels

        rows = checked_history(history, self.rows_.shape[1])
        known = kernels.rows_of(rows)
        known = known._replace(data=np.ones_like(known.data))
        if self.n_factors is not None:
            queries = kernels.unit_projections(known, self.index_["item_factors"])
            found = kernels.nearest(queries, self.index_["user_factors"], self.n_neighbors)
        else:
            found = self._by_cosine(known)
        return kernels.vote(known, kernels.rows_of(self.rows_), found, self.weight, rows.shape[1])

    def _decompose(self, n_factors: int, context: FitContext) -> dict[str, NDArray[Any]]:
        """Return V (I, D) and the L2-normalised rows of X V (U, D)."""
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits

        from recscale.models import _neighbours as kernels
        from recscale.models._compiled import numba_threads

        rank = min(n_factors, *self.rows_.shape)
        with threadpool_limits(context.n_threads, "blas"):
            _, _, transposed = randomized_svd(self.rows_, rank, random_state=context.seed)  # (D, I)
        item_factors = np.ascontiguousarray(transposed.T, dtype=np.float32)
        with numba_threads(context.n_threads):
            user_factors = kernels.unit_projections(kernels.rows_of(self.rows_), item_factors)
        return {"item_factors": item_factors, "user_factors": user_factors}

    def _by_cosine(self, known: Any) -> Any:
        """Return the neighbours of each row of `known` by the cosine of the rows, found through the items' users."""
        from recscale.models import _neighbours as kernels

        users = self.index_["item_users"]
        by_item = kernels.Rows(self.index_["item_starts"], users, np.ones(users.size, np.float32))
        lengths = np.diff(self.rows_.indptr)
        scaling = kernels.Scaling(kernels.row_norms(known), np.sqrt(lengths).astype(np.float32), 0.0)
        return kernels.top_products(known, by_item, scaling, self.n_neighbors)

    def state(self) -> Mapping[str, Array]:
        """Return the training `rows` (U, I) and, with `n_factors`, `item_factors` (I, D) and `user_factors` (U, D).

        Without it the rows are kept once more by item, as integers `item_starts` (I + 1,) and `item_users`.
        """
        return {"rows": self.rows_, **self.index_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back the rows and what the search for neighbours needs."""
        self.rows_ = state["rows"]
        self.index_ = {name: array for name, array in state.items() if name != "rows"}
        return self


def estimate(model: UserKNN, shape: Shape) -> Estimate:
    """Return the kept rows (8 bytes an entry) and the factors, or the rows by item (4 bytes an entry)."""
    rows = 8 * shape.n_interactions + 8 * shape.n_users
    if model.n_factors is None:
        model_bytes = rows + 4 * shape.n_interactions + 8 * shape.n_items
        return Estimate(model_bytes + 8 * shape.n_interactions, model_bytes, 1e-7 * shape.n_interactions)
    factors = 4 * min(model.n_factors, shape.n_users, shape.n_items) * (shape.n_users + shape.n_items)
    # the randomised SVD holds the range of X and of its transpose, each about three times while it is orthogonalised
    seconds = 1e-8 * shape.n_interactions * model.n_factors
    return Estimate(rows + 5 * factors, rows + factors, seconds)


SPEC = ModelSpec(
    model=UserKNN,
    title="UserKNN",
    cite="Yang, Schnabel, Bennett, Dumais. Local Factor Models for Large-Scale Inductive Recommendation. RecSys 2021.",
    size_knob="n_factors",
    sizes=(None, 16, 32, 64),
    space={
        "n_neighbors": Choice((50, 100, 150, 200, 500)),
        "weight": Choice(("overlap", "jaccard", "cosine")),
    },
    estimate=estimate,
)
