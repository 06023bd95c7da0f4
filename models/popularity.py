"""Popularity: every user is shown what most users of the training data have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Shape, canonical
from recscale.models._inputs import checked_history


@dataclass
class Popularity(Model):
    """Score an item by the number of training users that have it, the same for every user.

    s_ui = |U_i|, counted in the training rows alone (the baseline of Yang et al. 2021, RecSys, table 3).
    Counts are exact in float32 up to 2^24 users.
    Raises DataError for input that is no matrix of finite numbers, or a history over another number of items.
    """

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Count the users of each item of `train` (U, I)."""
        train = canonical(train)
        self.counts_: NDArray[np.float32] = np.bincount(train.indices, minlength=train.shape[1]).astype(np.float32)
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the counts once for each row of `history`: (B, I)."""
        rows = checked_history(history, self.counts_.size)
        return np.repeat(self.counts_[None, :], rows.shape[0], axis=0)

    def state(self) -> Mapping[str, Array]:
        """Return `counts` (I,)."""
        return {"counts": self.counts_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `counts`."""
        self.counts_ = state["counts"]
        return self


def estimate(model: Popularity, shape: Shape) -> Estimate:
    """Return I float32 counts, beside the int64 ones that they are made from and the items of all entries in int64."""
    return Estimate(
        peak_bytes=8 * shape.n_interactions + 12 * shape.n_items,
        model_bytes=4 * shape.n_items,
        fit_seconds=shape.n_interactions * 1e-8,
    )


SPEC = ModelSpec(
    model=Popularity,
    title="Popularity",
    cite="Yang, Schnabel, Bennett, Dumais. Local Factor Models for Large-Scale Inductive Recommendation. RecSys 2021.",
    estimate=estimate,
)
