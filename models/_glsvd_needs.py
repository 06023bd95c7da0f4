"""What rGLSVD and sGLSVD take, estimated before a fit: decides no result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recscale.contract import Estimate, Shape

if TYPE_CHECKING:
    from recscale.models._glsvd import GLSVD


def estimate(model: GLSVD, shape: Shape) -> Estimate:
    """Return the factors of all clusters, and the most that is held beside them in the steps of a fit."""
    n_users, n_items = shape.n_users, shape.n_items
    n_clusters = max(1, min(model.n_clusters, n_users))
    rank, basis_rank = (min(k, n_users, n_items) for k in (model.factors, model.cluster_factors))
    local_rank = min(model.local_factors or model.factors, n_items)
    n_vectors = min(n_clusters * local_rank, n_users)  # a cluster has no more of them than users
    n_own = min(n_clusters * n_items, shape.n_interactions)  # items of clusters, with their factors while fitting
    own = min(n_items * n_vectors, n_own * local_rank) + n_own
    kept = n_items * n_vectors if model.local_items == "all" else own
    kept += n_items * rank + rank * n_vectors
    if n_clusters > 1 and not model.recipe().moves:
        kept += (n_items + n_clusters) * basis_rank
    search = n_items * (2 * max(rank, local_rank, basis_rank) + 1024)  # a basis and some blocks, as for GF-CF
    clustering = 4 * n_users * basis_rank
    placing = n_users * (rank + 16)
    entries = 16 * shape.n_interactions  # in both orders, weighted, and once more for the cluster at work
    peak = max(kept, n_items * rank + own + search, clustering + search) + placing + entries
    blocks = [64 * (12 + 0.18 * k) for k in (rank, local_rank)]  # vectors that a search multiplies
    products = 2e-9 * sum(blocks) * shape.n_interactions + 12e-11 * (blocks[0] * n_items * rank + blocks[1] * own)
    placed = 1e-9 * shape.n_interactions * (rank + (n_vectors if model.recipe().moves else local_rank))
    return Estimate(4 * peak + 2**25, 4 * kept, model.epochs * (products + placed))
