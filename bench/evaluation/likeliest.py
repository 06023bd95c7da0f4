"""The co-clusters that a user likeliest belongs to, and the items that stand first in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.errors import DataError, UsageError
from recscale.evaluation._coclusters import first_items
from recscale.evaluation._membership import checked_affinity

__all__ = ["Likeliest", "likeliest"]


@dataclass(frozen=True, eq=False)
class Likeliest:
    """One of a user's co-clusters, with how much the user belongs to it, and its first items with theirs."""

    cluster: int
    affinity: float
    items: NDArray[np.int64]  # (n,)
    item_affinity: NDArray[np.float32]  # (n,) falling


def likeliest(user_affinity: Any, item_affinity: Any, n_clusters: int = 3, n_items: int = 10) -> tuple[Likeliest, ...]:
    """Return the co-clusters to which one user (N,) belongs most, at most `n_clusters`, and their first items.

    Only positive affinities count, so that there may be fewer co-clusters and items than asked for, or none.
    Raises DataError for shapes that do not match and numbers that are not finite, UsageError for sizes below 1.
    """
    if min(n_clusters, n_items) < 1:
        raise UsageError(f"{n_clusters} co-clusters of {n_items} items cannot be listed; expected at least 1 of each")
    row = checked_affinity(np.reshape(user_affinity, (1, -1)), "users")[0]
    if np.ndim(item_affinity) != 2 or np.shape(item_affinity)[1] != row.size:
        raise DataError(f"item affinities {np.shape(item_affinity)} do not go with {row.size} co-clusters of a user")
    order = np.argsort(-row, kind="stable")[:n_clusters]
    clusters = order[row[order] > 0]
    columns = checked_affinity(np.asarray(item_affinity)[:, clusters], "items")  # the others are not read
    lists = [first_items(column, n_items) for column in columns.T]
    return tuple(Likeliest(int(c), float(row[c]), lists[i], columns[lists[i], i]) for i, c in enumerate(clusters))
