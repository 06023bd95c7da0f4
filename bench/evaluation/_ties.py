"""The one tie rule: items with equal scores follow a fixed random permutation, the same for every model."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SEED = 98765


class TieOrder(NamedTuple):
    """A permutation of the items: the place of each item in it, and the items in that order."""

    rank: NDArray[np.int32]  # (I,)
    items: NDArray[np.int32]  # (I,)


@functools.lru_cache(maxsize=4)
def tie_order(n_items: int) -> TieOrder:
    """Return the order in which items with equal scores are ranked; it depends on nothing but their number."""
    items = np.random.default_rng(_SEED).permutation(n_items).astype(np.int32)
    rank = np.empty(n_items, dtype=np.int32)
    rank[items] = np.arange(n_items, dtype=np.int32)
    rank.flags.writeable = items.flags.writeable = False
    return TieOrder(rank, items)
