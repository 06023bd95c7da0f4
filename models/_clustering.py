"""Clusters of entities that share an embedding: how they are split, reassigned and refilled, as pure functions.

An entity i, a user or an item, has the vector A_c(i): `assignment` (n,) holds c, a table (M, D) the A. Nothing here
knows which model the vectors belong to; it comes in as gradients or losses of the entities.
The names and defaults are those of the authors' public code (Chen et al. 2023, WWW, arXiv 2302.01478).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Options

Criterion = Literal["interactions", "entities", "gradient"]
Threshold = Literal["zero", "median", "interactions"]
Assignment = NDArray[np.int64]


@dataclass
class Clustering(Options):
    """When clusters are split and entities reassigned, and how.

    clusters: M, the most there will be, at least 1.
    split_every: t2, epochs between two rounds of splits, at least 1.
    growth: `one` split a round, as in the code, or `geometric`: as many as it takes for the number to grow by the same
        factor each round and reach M in the last one.
    growth_epochs: epochs in which clusters are split and entities reassigned, at least 0.
    criterion: the cluster with most of this is split: `interactions` of its entities, `entities`, or squared
        `gradient`, summed over its entities.
    threshold: the entities whose projection is below it leave: `zero`, the `median`, or where the `interactions`
        of both halves are most alike.
    reassign_every: t1, epochs between two reassignments, 0 for none.
    primes: reassign only at the n-th time with n a prime or 1, as the code does.
    damping: probability of staying all the same when reassigned; the code's is P(N(0, 1) < -0.5).
    refill: fill clusters without entities with a random half of the largest one.
    average: divide the gradient of a cluster by the number of its entities.
    """

    clusters: Annotated[int, Meta(ge=1)] = 50
    split_every: Annotated[int, Meta(ge=1)] = 1
    growth: Literal["one", "geometric"] = "one"
    growth_epochs: Annotated[int, Meta(ge=0)] = 80
    criterion: Criterion = "interactions"
    threshold: Threshold = "zero"
    reassign_every: Annotated[int, Meta(ge=0)] = 4
    primes: bool = True
    damping: Annotated[float, Meta(ge=0, le=1)] = 0.3085375
    refill: bool = True
    average: bool = True

    def splits(self, epoch: int) -> bool:
        """Tell whether clusters are split before this epoch, counted from 0."""
        return epoch < self.growth_epochs and epoch % self.split_every == 0

    def reassigns(self, epoch: int) -> bool:
        """Tell whether entities are reassigned before this epoch, counted from 0."""
        if not (self.reassign_every and 0 < epoch <= self.growth_epochs) or epoch % self.reassign_every:
            return False
        return not self.primes or is_prime_or_one(epoch // self.reassign_every)

    def target(self, epoch: int, n_clusters: int, start: int) -> int:
        """Return how many clusters there should be after the splits of this epoch, of `n_clusters` before."""
        if self.growth == "one":
            return min(n_clusters + 1, self.clusters)
        n_rounds = max(1, math.ceil(self.growth_epochs / self.split_every))
        share = min(1.0, (epoch // self.split_every + 1) / n_rounds)
        wanted: float = start * (self.clusters / start) ** share
        return min(self.clusters, math.ceil(wanted - 1e-9))


class Entities(NamedTuple):
    """What a split looks at, (n,) and (n, D): the interactions of each entity, and the gradient of its vector."""

    counts: NDArray[Any]
    gradients: NDArray[np.float32]


def is_prime_or_one(number: int) -> bool:
    """Tell whether nothing from 2 on but itself divides `number`, which is at least 1."""
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def cluster_sizes(assignment: Assignment, n_clusters: int) -> NDArray[np.int64]:
    """Return the number of entities of each cluster, (M,)."""
    return np.bincount(assignment, minlength=n_clusters)


def projections(gradients: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (G - mean) v for G (n, D), v the first principal direction of its rows: gradient PCA.

    From the smaller of the two Gram matrices: most clusters have fewer entities than factors. v has its largest number
    positive, so that halves do not trade places between machines.
    """
    centred = gradients.astype(np.float64)
    centred -= centred.mean(0)
    n_rows, n_factors = centred.shape
    gram = centred @ centred.T if n_rows < n_factors else centred.T @ centred
    direction = np.linalg.eigh(gram)[1][:, -1]
    if n_rows < n_factors:
        direction = direction @ centred
        direction /= max(float(np.linalg.norm(direction)), np.finfo(np.float64).tiny)
    direction *= 1 if direction[np.abs(direction).argmax()] > 0 else -1
    projected: NDArray[np.float64] = centred @ direction
    return projected


def leavers(entities: Entities, threshold: Threshold) -> NDArray[np.bool_]:
    """Return which members of a cluster (n,) leave it for a new one; none or some of them, never all."""
    along = projections(entities.gradients)
    if threshold == "zero":
        # equal gradients stay together, rounding or not
        return np.asarray(along < -1e-9 * np.abs(along).max(initial=0.0))
    if threshold == "median":
        return np.asarray(along < np.median(along))
    order = np.argsort(along, kind="stable")
    below = np.cumsum(entities.counts[order])
    cut = int(np.abs(2 * below - below[-1]).argmin())
    return np.asarray(along < along[order[min(cut + 1, along.size - 1)]])


def grown(assignment: Assignment, entities: Entities, target: int, options: Clustering) -> tuple[Assignment, list[int]]:
    """Split clusters until there are `target`; return the assignment and the parent of each new cluster.

    As a new cluster copies the vector of its parent, no gradient changes by a split, and several can be made from one
    look at them. A cluster that cannot be parted, having one entity or equal gradients, is passed over.
    """
    assignment = assignment.copy()
    n_clusters = int(assignment.max()) + 1
    members = np.split(np.argsort(assignment, kind="stable"), np.cumsum(cluster_sizes(assignment, n_clusters))[:-1])
    heap = [(-_size(entities, own, options.criterion), cluster) for cluster, own in enumerate(members)]
    heapq.heapify(heap)
    parents: list[int] = []
    while heap and len(members) < target:
        _, chosen = heapq.heappop(heap)
        own = members[chosen]
        if own.size < 2:
            continue
        leave = leavers(_some(entities, own), options.threshold)
        if not leave.any():
            continue
        assignment[own[leave]] = len(members)
        parents.append(chosen)
        members[chosen] = own[~leave]
        members.append(own[leave])
        for cluster in (chosen, len(members) - 1):
            heapq.heappush(heap, (-_size(entities, members[cluster], options.criterion), cluster))
    return assignment, parents


def _some(entities: Entities, members: NDArray[np.int64]) -> Entities:
    return Entities(entities.counts[members], entities.gradients[members])


def _size(entities: Entities, members: NDArray[np.int64], criterion: Criterion) -> float:
    """Return what decides which cluster is split next."""
    if criterion == "interactions":
        return float(entities.counts[members].sum())
    if criterion == "entities":
        return float(members.size)
    total = entities.gradients[members].sum(0, dtype=np.float64)
    return float(total @ total)


def reassigned(
    assignment: Assignment, best: Assignment, damping: float, rng: np.random.Generator
) -> tuple[Assignment, int]:
    """Return the assignment after entities went to their best clusters, and how many went.

    Each stays with probability `damping`. Where all entities of a cluster would leave and none come, the first stays.
    """
    stays = (rng.random(assignment.size) < damping) | (best == assignment)
    while True:
        moved = np.where(stays, assignment, best)
        emptied = np.flatnonzero(np.bincount(assignment) > 0)
        emptied = emptied[np.bincount(moved, minlength=emptied[-1] + 1)[emptied] == 0]
        if not emptied.size:
            return moved, int((~stays).sum())
        clusters, first = np.unique(assignment, return_index=True)
        stays[first[np.searchsorted(clusters, emptied)]] = True


def refilled(assignment: Assignment, n_clusters: int, rng: np.random.Generator) -> tuple[Assignment, NDArray[np.int64]]:
    """Fill each empty cluster with a random half of the largest; return the assignment and whom each copies, (M,).

    Clusters stay empty where there are fewer entities than clusters.
    """
    assignment, copied = assignment.copy(), np.arange(n_clusters)
    sizes = cluster_sizes(assignment, n_clusters)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break
        members = np.flatnonzero(assignment == largest)
        goes = rng.random(members.size) < 0.5
        goes[rng.integers(members.size)] ^= goes.all() or not goes.any()
        assignment[members[goes]] = empty
        copied[empty] = copied[largest]
        sizes[largest], sizes[empty] = (~goes).sum(), goes.sum()
    return assignment, copied


def smallest_integers(assignment: Assignment) -> NDArray[np.unsignedinteger[Any]]:
    """Return the assignment in the narrowest unsigned integers that hold it."""
    return assignment.astype(np.min_scalar_type(int(assignment.max(initial=0))))
