"""Co-clusters out of a model that has none: its users and items clustered where they lie (X-Clustering).

The baseline of Yang et al. 2021 (RecSys, section 4.5): k-means over the vectors of users and items together, then soft
assignment by the Euclidean distance to the centres. The paper leaves the form of the assignment open. Here it is

    a_ec = 1 / (1 + |v_e - m_c| / r),   r the root mean square distance of an entity to the nearest centre,

which orders by distance, has no unit, so that vectors of twice the length have the same co-clusters, and falls slowly
enough for the order to survive in float32 down to the last item. A density such as exp(-d^2 / 2 r^2) does not: it is 0
for most entities in single precision, and what underflows would be read as no member.
No distance is infinite, so that no affinity is 0 and under the rule `positive` all belong to all; that rule is refused,
and `top1` is the default: the nearest centre. Intruders come from beyond the `soft_rank` first items.

Axes: E entities (users or items), D factors, I items, U training users, B held-out users, N co-clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.abilities import Factored
from recscale.contract import HeldOut, canonical
from recscale.errors import DataError, UsageError
from recscale.evaluation._membership import Computed, Rule, blocks
from recscale.evaluation.coclusters import CoClusterReport, JudgeOptions, held_out_evidence, judge

__all__ = ["EMPTY_MEASURES", "N_RUNS", "ClusterOptions", "Clustering", "cluster_vectors", "judge_factored"]

N_RUNS = 3
# By distance all belong to all a little: these are what they are for any vectors, and say nothing.
EMPTY_MEASURES = tuple(
    f"cocluster.{name}" for name in ("n_dead", "n_nondegenerate_positive", "item_positive_share", "user_positive_share")
)
# Users and items to a co-cluster, on average. Of those with 20 users and 20 items there are then most: debian-depends
# (20,761 users and items, factors=64) gives with 32, 64, 128, 207 and 400 centres 29, 59, 91, 105 and 64 for WRMF.
LEAST_MEMBERS = 100


@dataclass(frozen=True)
class ClusterOptions(JudgeOptions):
    """How vectors are clustered, and the co-clusters judged.

    `n_clusters` are looked for, or one for every 100 training users and items where that is less.
    """

    rule: Rule = "top1"
    n_clusters: Annotated[int, Meta(ge=1)] = 2048


@dataclass(frozen=True, eq=False)
class Clustering:
    """Centres to which any vector of the same space can be assigned, such as that of a user who came later."""

    centers: NDArray[np.float32]  # (N, D)
    radius: float  # root mean square distance of a clustered entity to its nearest centre; 1 where that is 0
    inertia: float  # sum of the squares of these distances

    @property
    def n_clusters(self) -> int:
        """N, the number of centres."""
        return len(self.centers)

    def affinity(self, vectors: Any) -> NDArray[np.float32]:
        """Return 1 / (1 + distance / radius) (E, N) of vectors (E, D): 1 at the centre, never 0.

        Raises DataError for vectors of another width, and for NaN or infinite ones.
        """
        entities = _checked(vectors, "entities", self.centers.shape[1])
        centers = self.centers.astype(np.float64)  # in float32 the differences of squares below lose small distances
        squares = (centers**2).sum(axis=1)
        result = np.empty((len(entities), self.n_clusters), np.float32)
        for rows in blocks(len(entities), 8 * self.n_clusters):
            part = entities[rows].astype(np.float64)
            distances = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ centers.T  # (E, D) @ (D, N) -> (E, N)
            result[rows] = 1 / (1 + np.sqrt(np.maximum(distances, 0)) / self.radius)
        return result


def cluster_vectors(users: Any, items: Any, n_clusters: int, seed: int = 0) -> Clustering:
    """Cluster users (U, D) and items (I, D) together by MiniBatchKMeans: the run of least inertia out of three.

    On one thread, so that the same `seed` gives the same centres on every machine with the same libraries.
    Raises DataError for NaN or infinite vectors and for two widths, UsageError for fewer vectors than co-clusters.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    of_items = _checked(items, "items")
    entities = np.concatenate([_checked(users, "users", of_items.shape[1]), of_items])
    if not 1 <= n_clusters <= len(entities):
        raise UsageError(f"n_clusters={n_clusters!r} does not fit: expected 1 to {len(entities)}, one for each vector")
    best = None
    with threadpool_limits(1):
        for state in np.random.SeedSequence(seed).generate_state(N_RUNS):
            # n_init=3 is not three runs: it compares three initialisations on a sample, and runs the best of them
            run = MiniBatchKMeans(n_clusters, n_init=1, random_state=int(state)).fit(entities)
            if best is None or run.inertia_ < best.inertia_:
                best = run
    assert best is not None
    inertia = float(best.inertia_)
    centers = np.ascontiguousarray(best.cluster_centers_, np.float32)
    return Clustering(centers, float(np.sqrt(inertia / len(entities))) or 1.0, inertia)


def judge_factored(
    model: Factored,
    train: sp.csr_array,
    held_out: HeldOut,
    seed: int = 0,
    options: ClusterOptions = ClusterOptions(),
) -> CoClusterReport:
    """Judge the co-clusters among a fitted model's vectors, by users that it never saw.

    The centres are those of the users of `train` (U, I), folded in as any user is, and of the items; held-out users are
    assigned to them by their histories and move none. All else is as in `judge_model`. How many co-clusters there were
    is `n_coclusters` of the report. Raises UsageError for the rule `positive`, DataError as `judge` does.
    """
    if options.rule == "positive":
        raise UsageError("rule='positive' does not fit: by distance all belong to all; expected strong, top1 or top5")
    known = canonical(train)
    items, users = model.item_vectors(), model.user_vectors(known)
    n_clusters = min(options.n_clusters, max(1, sum(known.shape) // LEAST_MEMBERS))
    clustering = cluster_vectors(users, items, n_clusters, seed)
    affinities = clustering.affinity(items), clustering.affinity(model.user_vectors(held_out.history))
    evidence = held_out_evidence(known, held_out, Computed(clustering.affinity, users))
    return judge(*affinities, evidence, seed, options)


def _checked(vectors: Any, entities: str, width: int | None = None) -> NDArray[np.float32]:
    """Return vectors (E, D) as float32. Raises DataError."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            array = np.asarray(vectors).astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the vectors of {entities} are no array of numbers: {error}") from None
    if array.ndim != 2 or width not in (None, array.shape[1]):
        expected = f"({entities}, {'factors' if width is None else width})"
        raise DataError(f"the vectors of {entities} have the shape {array.shape}; expected {expected}")
    if not np.isfinite(array).all():
        raise DataError(f"the vectors of {entities} hold NaN or infinite numbers; expected finite ones")
    return array
