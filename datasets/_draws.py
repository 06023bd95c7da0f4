"""The compiled loop that draws each user's items; imported only where a generated data set is loaded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Pools(NamedTuple):
    """What items are drawn from: the co-clusters of each user, the items of each co-cluster, and all items.

    `user_starts`, `clusters`, `shares` are the rows of users; `cluster_starts`, `members`, `sums` the co-clusters,
    with the running popularity of their items; `running` (I,) is the running popularity of all items.
    """

    user_starts: NDArray[np.int64]
    clusters: NDArray[np.int32]
    shares: NDArray[np.float32]
    cluster_starts: NDArray[np.int64]
    members: NDArray[np.int32]
    sums: NDArray[np.float64]
    running: NDArray[np.float64]


@numba.njit  # type: ignore[untyped-decorator]
def _draw_item(pools: Pools, user: int, noise: float, rng: np.random.Generator) -> Any:
    if rng.random() >= noise:
        chosen, left = pools.user_starts[user], rng.random()
        while chosen < pools.user_starts[user + 1] - 1 and left >= pools.shares[chosen]:
            left -= pools.shares[chosen]
            chosen += 1
        cluster = pools.clusters[chosen]
        start, end = pools.cluster_starts[cluster], pools.cluster_starts[cluster + 1]
        if end > start:
            below = pools.sums[start - 1] if start > 0 else 0.0
            point = below + rng.random() * (pools.sums[end - 1] - below)
            place = start + np.searchsorted(pools.sums[start:end], point, side="right")
            return pools.members[min(place, end - 1)]
    point = rng.random() * pools.running[-1]
    return min(np.searchsorted(pools.running, point, side="right"), pools.running.size - 1)


@numba.njit  # type: ignore[untyped-decorator]
def fill_users(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], pools: Pools, noise: float, rng: np.random.Generator
) -> None:
    """Fill each user's slots of `indices` that are -1 with items that the user has not yet, then sort them.

    A user whose co-clusters are used up draws by popularity alone, and in the end takes the next free item.
    """
    n_items = pools.running.size
    owner = np.full(n_items, -1, dtype=np.int32)  # the last user who got an item: a set that needs no clearing
    for user in range(indptr.size - 1):
        start, end = indptr[user], indptr[user + 1]
        position = start
        while position < end and indices[position] >= 0:
            owner[indices[position]] = user
            position += 1
        tries, patience = 0, 20 * (end - start)
        while position < end:
            item = _draw_item(pools, user, noise if tries < patience else 1.0, rng)
            tries += 1
            while tries > 2 * patience and owner[item] == user:
                item = (item + 1) % n_items
            if owner[item] != user:
                owner[item] = user
                indices[position] = item
                position += 1
        indices[start:end].sort()
