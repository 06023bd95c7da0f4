"""Draws interactions from overlapping co-clusters with power laws in user activity and item popularity.

Item i has the popularity w_i = (rank + 10)^-s. Items and users belong to a few co-clusters each. A draw of user u
takes, with probability `noise`, any item by popularity, otherwise one of u's co-clusters and an item of it by
popularity. Users choose co-clusters in proportion to their total popularity, so that the power law of the items
survives. A user never draws an item twice, every user has at least `min_activity` items, every item has a user, and
the number of interactions is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Dataset
from recscale.datasets._table import Extras, assemble, binary_matrix
from recscale.errors import UsageError

_HEAD = 10  # flattens the very top: of 427,147 items the 50 most popular then hold 13 % of all interactions (s = 1.1)


@dataclass(frozen=True)
class Plan:
    """The size and shape of what is to be drawn; `memberships` is the largest number of co-clusters of one entity."""

    n_users: int
    n_items: int
    n_interactions: int
    n_clusters: int
    min_activity: int
    max_activity: int
    memberships: int
    noise: float
    popularity_exponent: float
    seed: int


@dataclass(frozen=True, eq=False)
class Planted:
    """The co-clusters: rows of `users` (U, N) and `items` (I, N) hold shares that sum to 1."""

    popularity: NDArray[np.float64]  # (I,)
    users: sp.csr_array
    items: sp.csr_array


def draw(name: str, plan: Plan) -> Dataset:
    """Return the data set that `plan` describes, its co-clusters in `truth`. Raises UsageError if it cannot exist."""
    from recscale.datasets._draws import Pools, fill_users

    most = min(plan.max_activity, plan.n_items // 2)
    if not plan.n_users * plan.min_activity <= plan.n_interactions <= plan.n_users * most:
        raise UsageError(
            f"{name}: {plan.n_interactions:,} interactions do not fit {plan.n_users:,} users of {plan.min_activity} "
            f"to {most:,} items each (at most half of all); expected {plan.n_users * plan.min_activity:,} to "
            f"{plan.n_users * most:,}"
        )
    if plan.n_interactions < plan.n_items:
        raise UsageError(f"{name}: {plan.n_interactions:,} interactions cannot reach all {plan.n_items:,} items")
    rng = np.random.default_rng(plan.seed)
    planted = _plant(plan, rng)
    indptr = np.concatenate(([0], np.cumsum(_activity(plan, most, rng)))).astype(np.int64)
    indices = _forced(plan, indptr, rng)
    users = planted.users
    pools = Pools(
        users.indptr.astype(np.int64), users.indices, users.data, *_by_cluster(planted), np.cumsum(planted.popularity)
    )
    fill_users(indptr, indices, pools, plan.noise, rng)
    interactions = binary_matrix(indptr.astype(np.int32), indices, plan.n_items)
    truth = {"user_membership": planted.users, "item_membership": planted.items}
    ids = (np.arange(plan.n_users, dtype=np.int64), np.arange(plan.n_items, dtype=np.int64))
    return assemble(name, interactions, *ids, Extras(truth=truth))


def _plant(plan: Plan, rng: np.random.Generator) -> Planted:
    ranks = rng.permutation(plan.n_items)
    popularity = (ranks + float(_HEAD)) ** -plan.popularity_exponent
    even = np.full(plan.n_clusters, 1.0 / plan.n_clusters)
    items = _memberships(plan.n_items, even, plan.memberships, rng)
    weights = items.T @ popularity  # (N, I) @ (I,) -> (N,)
    users = _memberships(plan.n_users, weights / weights.sum(), plan.memberships, rng)
    return Planted(popularity / popularity.sum(), users, items)


def _memberships(n_entities: int, chances: NDArray[np.float64], most: int, rng: np.random.Generator) -> sp.csr_array:
    """Return (entities, N) shares: half of the entities have one co-cluster, a quarter two, and so on up to `most`."""
    n_each = np.minimum(rng.geometric(0.5, n_entities), min(most, chances.size))
    owners = np.repeat(np.arange(n_entities), n_each)
    clusters = np.searchsorted(np.cumsum(chances)[:-1], rng.random(owners.size), side="right")
    shares = sp.csr_array((np.ones(owners.size, np.float32), (owners, clusters)), shape=(n_entities, chances.size))
    shares.sum_duplicates()  # drawn twice: a stronger membership
    shares.data /= np.repeat(np.asarray(shares.sum(axis=1)).ravel(), np.diff(shares.indptr))
    return shares


def _activity(plan: Plan, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (U,) numbers of items, a Pareto law whose mean fits, adjusted so that their sum is exact."""
    mean, least = plan.n_interactions / plan.n_users, plan.min_activity
    exponent = mean / max(mean - least, 0.05 * mean)  # the mean of a Pareto law is least * a / (a - 1)
    activity = np.minimum(least * (1.0 - rng.random(plan.n_users)) ** (-1.0 / exponent), most).astype(np.int64)
    while (missing := plan.n_interactions - int(activity.sum())) != 0:
        free = np.flatnonzero(activity < most if missing > 0 else activity > least)
        chosen = rng.choice(free, min(abs(missing), free.size), replace=False)
        activity[chosen] += np.sign(missing)
    return activity


def _forced(plan: Plan, indptr: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
    """Return (nnz,) the item of each slot: every item in one slot chosen at random, at the front of its user's; -1."""
    slots = np.sort(rng.choice(plan.n_interactions, plan.n_items, replace=False))
    owners = np.searchsorted(indptr, slots, side="right") - 1
    first = np.searchsorted(owners, owners, side="left")
    indices = np.full(plan.n_interactions, -1, dtype=np.int32)
    indices[indptr[owners] + np.arange(plan.n_items) - first] = rng.permutation(plan.n_items)
    return indices


def _by_cluster(planted: Planted) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return, co-cluster after co-cluster, where its items begin, the items, and their running popularity."""
    weighted = sp.csr_array(planted.items.astype(np.float64).multiply(planted.popularity[:, None])).tocsc()
    running = np.cumsum(weighted.data)
    return weighted.indptr.astype(np.int64), weighted.indices, running
