"""What a model may be able to do beyond the contract. The harness asks with isinstance, and measures what it finds.

Axes as in the contract, and N co-clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext, Scores

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Shrinkable(Protocol):
    """A model of which a fit at one size holds every smaller one."""

    def shrunk(self, size: Any, context: FitContext) -> Any:
        """Return a new model with the size knob at `size`, and that state which a fit with `size` would have given.

        Bit for bit; None is the largest size. Sizes of one run then share a fit: the largest is fitted, the others
        follow.
        """


@runtime_checkable
class PredictsRatings(Protocol):
    """A model whose scores are ratings: what a user would give each item, on the scale of the data.

    The values of its training rows and histories are ratings, a stored 0 among them. Such a model belongs to protocols
    that keep ratings, and only to them: where all values are 1 it has nothing to learn.
    """

    scores_are_ratings: ClassVar[Literal[True]]


@runtime_checkable
class Incremental(Protocol):
    """A model that keeps a small state for each user and updates it item by item."""

    def user_state(self, history: sp.csr_array) -> Any:
        """Return the state of the one user in `history` (1, I)."""

    def add(self, state: Any, items: NDArray[np.int64]) -> Any:
        """Add items to a state, in place or not; return it."""

    def remove(self, state: Any, items: NDArray[np.int64]) -> Any:
        """Take items out of a state, in place or not; return it."""

    def score_state(self, state: Any) -> Scores:
        """Return the scores (1, I) that `score` gives for the same items."""


@runtime_checkable
class CoClustered(Protocol):
    """A model with overlapping co-clusters of users and items: the larger an affinity, the more a member."""

    def item_affinity(self) -> NDArray[np.float32]:
        """Return the affinities (I, N) of items."""

    def user_affinity(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the affinities (B, N) of users."""


@runtime_checkable
class Factored(Protocol):
    """A model that places users and items in one space, so that they can be clustered there."""

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the vectors (I, D) of items."""

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the vectors (B, D) of users."""


@runtime_checkable
class Updatable(Protocol):
    """A model that takes in new interactions without starting again."""

    def partial_fit(self, train: sp.csr_array, context: FitContext) -> Any:
        """Learn from further rows (U, I); return self."""
