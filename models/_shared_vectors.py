"""What CEL and CEL-Lite share: a state of clustered item vectors, and the scores of unseen users from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Model
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._cel_fold_in import Collapsed


@dataclass(kw_only=True)
class SharedVectors(Model):
    """What the models share: s_ui = u . A_c(i) + b_i, with u solved for from the history, all else frozen.

    u minimises sum_{i in I_u} (1 - s_ui)^2 + alpha0 sum_i s_ui^2 + lambda (|I_u| + alpha0 I) |u|^2.

    factors: D, length of the vectors, at least 1.
    regularization: lambda, above 0.
    unobserved_weight: alpha0, above 0.
    """

    # lambda .003, .005, .01 for CEL with 200 clusters, NDCG@100 of validation users: ml-100k .391 .392 .430,
    # debian-depends .469 .456 .389
    factors: Annotated[int, Meta(ge=1)] = 64
    regularization: Annotated[float, Meta(gt=0)] = 0.005
    unobserved_weight: Annotated[float, Meta(gt=0)] = 0.1

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the products of the users' vectors with those of the items, plus the biases, (B, I)."""
        users = self.user_vectors(history)
        scores: NDArray[np.float32] = users @ self.state_["item_table"].T  # (B, D) @ (D, M) -> (B, M)
        if "item_clusters" in self.state_:
            scores = scores[:, self.state_["item_clusters"]]
        return scores + self.state_["item_bias"] if "item_bias" in self.state_ else scores

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the vectors of the items, (I, D)."""
        table, clusters = self.state_["item_table"], self.state_.get("item_clusters")
        vectors: NDArray[np.float32] = table if clusters is None else table[clusters]
        return vectors

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the vectors of the users, (B, D), that fit their histories best."""
        from recscale.models._cel_fold_in import Collapsed

        rows = checked_history(history, self.n_items_)
        known = Collapsed.of(rows, self.state_, self.unobserved_weight)
        return self._fitting(known, self._weights(np.diff(rows.indptr), rows.shape[1]))

    def _fitting(self, known: Collapsed, weights: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the vectors (B, D) of users of whom so much is known."""
        from recscale.models._cel_fold_in import fold_in

        return fold_in(known, weights, nonnegative=False)

    def _weights(self, lengths: NDArray[np.int64], n_others: int) -> NDArray[np.float64]:
        """Return lambda (n + alpha0 N) for entities with n interactions of N."""
        return self.regularization * (lengths.astype(np.float64) + self.unobserved_weight * n_others)

    def state(self) -> Mapping[str, Array]:
        """Return `item_table` (M, D) and `item_clusters` (I,), or a table (I, D) alone; `item_bias`, `user_table`."""
        return self.state_

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        return self._set(dict(state))

    def _set(self, state: dict[str, NDArray[Any]]) -> Self:
        self.state_ = state
        self.n_items_ = len(state.get("item_clusters", state["item_table"]))
        return self
