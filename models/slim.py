"""SLIM: every item regressed on the others, with weights that are sparse and not negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape
from recscale.models._degrees import checked_positive
from recscale.models._inputs import checked_history
from recscale.models._occupancy import expected_pairs


@dataclass
class SLIM(Model):
    """Score an item by a sparse regression, without negative weights, on the other items of the history.

    W minimises 1/2 |X - X W|^2 + l2/2 |W|^2 + l1 |W|_1 with W >= 0 and W_jj = 0, column by column; s_u = x_u W (Ning
    and Karypis 2011, ICDM, equations 3 and 4, where l2 is beta and l1 is lambda). Solved by coordinate descent on X'X,
    which is kept by its pairs, or as a whole where these would take more.
    With `neighbors`, column j may only use the items of largest cosine similarity to item j (fsSLIM in the paper); then
    X'X exists only among the neighbours of some items at a time.

    l1: cost of a weight, in interactions, at least 0; an item that shares no more than l1 users with another gets no
        weight there.
    l2: cost of a weight squared, in interactions, at least 0.
    neighbors: candidates of each item, at least 1; None leaves the choice to l1 alone.
    tolerance: a column has settled when no weight moves by more in a pass, above 0; how many items had not after
        100,000 passes is logged as `unsettled_items`.
    Raises DataError for input that is no matrix of finite numbers, for interactions below 0, and for a history over
    another number of items; DeadlineExceeded.
    """

    # NDCG@100 on validation users of debian-depends, lastfm-2k, ml-100k and ml-1m: .675/.404/.454/.469 with 1 and 10,
    # .666/.410/.458/.474 with .3 and 50; but an l1 below 1 makes candidates of all items that ever meet, which takes
    # four times as long on amazon-cds
    l1: Annotated[float, Meta(ge=0)] = 1.0
    l2: Annotated[float, Meta(ge=0)] = 10.0
    neighbors: Annotated[int, Meta(ge=1)] | None = None
    tolerance: Annotated[float, Meta(gt=0)] = 1e-6

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Solve for each column of W on `train` (U, I)."""
        from recscale.models import _all_pairs, _elastic_net, _gram
        from recscale.models import _sparse_gram as sparse

        train = checked_positive(train, "SLIM")
        data, n_items = sparse.interactions(train), train.shape[1]
        penalty = _elastic_net.Penalty(float(self.l1), float(self.l2), float(self.tolerance))
        if self.neighbors is not None and self.neighbors < n_items - 1:
            keep = sparse.Keep(self.neighbors)
            candidates = sparse.sparse_gram(data, sparse.cosine(train), keep, context)
            self.weights_: sp.csr_array = _elastic_net.solve_among(data, candidates, penalty, context)
            return self
        lengths = _all_pairs.row_lengths(data, context)
        is_sparse = 2 * lengths.sum() <= n_items**2
        gram: Any = _all_pairs.all_pairs(data, lengths, context) if is_sparse else _gram.gram(train, context)
        del data
        self.weights_ = _elastic_net.solve_all(gram, penalty, context)
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return `history` W: (B, I)."""
        from recscale.models import _neighbours as kernels

        rows = checked_history(history, self.weights_.shape[0])
        return kernels.dense_product(kernels.rows_of(rows), kernels.rows_of(self.weights_), rows.shape[1])

    def state(self) -> Mapping[str, Array]:
        """Return `weights` W (I, I), sparse."""
        return {"weights": self.weights_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `weights`."""
        self.weights_ = state["weights"]
        return self


def estimate(model: SLIM, shape: Shape) -> Estimate:
    """X'X by its pairs, as a whole or in local parts, the data transposed, and W, whose size the penalty decides."""
    n_items = shape.n_items
    pairs = min(expected_pairs(n_items, shape.n_pairs), n_items**2)
    data = 16 * shape.n_interactions + 8 * shape.n_users + 2**20 + 160 * n_items
    if model.neighbors is None or model.neighbors >= n_items - 1:
        kept = min(pairs, 200 * n_items)
        gram, weights = min(4 * n_items**2, 8 * pairs), 8 * kept + 4 * n_items + 4
        found = 8 * min(2**23, kept)
        return Estimate(gram + 3 * weights + data + found, weights, shape.n_pairs * 1e-8 + n_items * 1e-3)
    kept = min(pairs, model.neighbors * n_items)
    local = min(2**29, 4 * n_items * (model.neighbors + 1) ** 2)
    weights = 8 * kept + 4 * n_items + 4
    found = min(2**27, 12 * n_items * (model.neighbors + 1))
    return Estimate(
        max(local, found) + 3 * weights + data, weights, shape.n_pairs * 1e-8 + n_items * model.neighbors * 2e-6
    )


SPEC = ModelSpec(
    model=SLIM,
    title="SLIM",
    cite="Ning and Karypis. SLIM: Sparse Linear Methods for Top-N Recommender Systems. ICDM 2011.",
    size_knob="neighbors",
    sizes=(5, 10, 20, 50, 100, None),
    space={"l1": Range(0.1, 30.0, log=True), "l2": Range(0.1, 1000.0, log=True)},
    estimate=estimate,
)
