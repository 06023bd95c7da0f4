"""Clusters of users by k-means: among unit vectors in the space of the leading right singular vectors."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext

STARTS = 3  # of which the one of least inertia is taken
MOST_ROUNDS = 100


class Clusters(NamedTuple):
    """Where the centres lie, and how rows get there."""

    basis: NDArray[np.float32]  # (I, D)
    centres: NDArray[np.float32]  # (N, D)


def places(rows: sp.csr_array, basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the projections (B, D) of rows (B, I) at length 1; those of length 0 stay there."""
    projected: NDArray[np.float32] = rows @ basis  # (B, I) @ (I, D) -> (B, D)
    lengths = np.sqrt(np.einsum("bd,bd->b", projected, projected, dtype=np.float64)).astype(np.float32)
    projected /= np.where(lengths > 0, lengths, np.float32(1))[:, None]
    return projected


def nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest centre (B,) of each point (B, D). In float64: a batch must not sway who is nearest."""
    wide = centres.astype(np.float64)
    halves = np.einsum("nd,nd->n", wide, wide) / 2
    return np.asarray((halves - points.astype(np.float64) @ wide.T).argmin(axis=1), np.int64)


def find_clusters(
    rows: sp.csr_array, basis: NDArray[np.float32], n_clusters: int, context: FitContext
) -> tuple[Clusters, NDArray[np.int64]]:
    """Return at most `n_clusters` clusters, each with a user, and the labels (U,) of the rows, by Lloyd's algorithm.

    Of three starts with k-means++. On one thread: with more, sums and with them the clusters would depend on how many.
    Raises DeadlineExceeded between two starts.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points, runs = places(rows, basis), []
    for start, seed in enumerate(np.random.SeedSequence(context.seed).generate_state(STARTS)):
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
            options = {"n_init": 1, "max_iter": MOST_ROUNDS, "random_state": int(seed)}
            runs.append(KMeans(min(n_clusters, rows.shape[0]), **options).fit(points))
        context.log("inertia", start + 1, float(runs[-1].inertia_))
        context.progress(start + 1, STARTS)
    best = min(runs, key=lambda run: float(run.inertia_))
    centres = np.ascontiguousarray(best.cluster_centers_, np.float32)
    used, labels = np.unique(nearest(points, centres), return_inverse=True)
    return Clusters(basis, centres[used]), labels.astype(np.int64)
