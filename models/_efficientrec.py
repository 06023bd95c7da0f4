"""The encoder of EfficientRec, its triplet loss over halves of histories, and the shortlists of its clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.models._bags import Bags

if TYPE_CHECKING:
    import torch

ROWS = 4096  # histories that are encoded at once


class Encoder:
    """The layers from item embeddings to memberships; `tables` is a dict of tensors or a torch.nn.ParameterDict."""

    def __init__(self, tables: Any) -> None:
        self.tables = tables

    @staticmethod
    def initial(n_items: int, factors: int, hidden: int, clusters: int) -> dict[str, torch.Tensor]:
        """Draw the layers: uniform Xavier weights, biases of 0, embeddings of variance 1 / factors."""
        import torch

        shapes = {"first": (factors, factors), "second": (factors, factors), "third": (factors, hidden)}
        shapes |= {"fourth": (hidden, hidden), "memberships": (hidden, clusters)}
        tables = {name: torch.nn.init.xavier_uniform_(torch.empty(shape)) for name, shape in shapes.items()}
        for name in ("third", "fourth", "memberships"):
            tables[f"{name}_bias"] = torch.zeros(shapes[name][1])
        norm = {"norm_scale": torch.ones(hidden), "norm_shift": torch.zeros(hidden)}
        return tables | norm | {"embeddings": torch.randn(n_items, factors) * factors**-0.5}

    def interactions(self, items: torch.Tensor) -> torch.Tensor:
        """Return relu(relu(e A) B) of some items (n,): (n, D). No user changes it, so it is kept instead of e."""
        from torch.nn.functional import embedding

        tables = self.tables
        embedded = embedding(items, tables["embeddings"])
        result: torch.Tensor = ((embedded @ tables["first"]).relu() @ tables["second"]).relu()
        return result

    def memberships(self, sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the memberships (B, N) of users whose interactions add up to `sums` (B, D)."""
        from torch.nn.functional import layer_norm

        tables = self.tables
        hidden = (sums / lengths.clamp(min=1)[:, None]).clamp(-1, 1)
        for name in ("third", "fourth"):
            hidden = (hidden @ tables[name] + tables[f"{name}_bias"]).relu()
        hidden = layer_norm(hidden, hidden.shape[1:], tables["norm_scale"], tables["norm_shift"])
        result: torch.Tensor = (hidden @ tables["memberships"] + tables["memberships_bias"]).sigmoid()
        return result

    def encode(self, rows: sp.csr_array, interactions: torch.Tensor) -> NDArray[np.float32]:
        """Return the memberships (B, N) of histories, from the interactions (I, D) of all items, without a graph."""
        import torch

        parts = [np.empty((0, len(self.tables["memberships_bias"])), np.float32)]
        with torch.no_grad():
            for first in range(0, rows.shape[0], ROWS):
                bags = Bags.of(rows[first : first + ROWS], interactions.device)
                parts.append(self.memberships(bags.times(interactions), bags.lengths).cpu().numpy())
        return np.concatenate(parts)

    def halves(self, rows: sp.csr_array) -> torch.Tensor:
        """Return the memberships (B, N) of the rows (B, I) under autograd, from the items that occur alone."""
        import torch

        device = self.tables["embeddings"].device
        items, places = np.unique(rows.indices, return_inverse=True)
        compact = sp.csr_array((rows.data, places, rows.indptr), shape=(rows.shape[0], items.size))
        bags = Bags.of(compact, device)
        interactions = self.interactions(torch.as_tensor(items.astype(np.int64), device=device))
        return self.memberships(bags.times(interactions), bags.lengths)


def split_halves(rows: sp.csr_array, longest: int, rng: np.random.Generator) -> tuple[sp.csr_array, sp.csr_array]:
    """Return two disjoint random halves of each row, of at most `longest` // 2 items each; a row needs two items."""
    lengths = np.diff(rows.indptr)
    users = np.repeat(np.arange(lengths.size), lengths)
    order = np.lexsort((rng.random(rows.nnz), users))
    place = np.arange(rows.nnz) - rows.indptr[users]
    used = np.minimum(lengths, longest)[users]
    parts = []
    for chosen in (place < used // 2, (place >= used // 2) & (place < used // 2 * 2)):
        shape = rows.shape
        part = sp.csr_array((np.ones(chosen.sum(), np.float32), (users[chosen], rows.indices[order][chosen])), shape)
        parts.append(part)
    return parts[0], parts[1]


def triplet_loss(anchors: torch.Tensor, positives: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the mean of max(0, margin + |z - z+| - |z - z-|), z- the semi-hard negative of the batch.

    z and z+ are the two halves of a user (B, N); z- is the nearest half of another user that is farther than z+, or the
    farthest where none is (Schroff, Kalenichenko and Philbin 2015, CVPR, section 3.2). A user alone costs nothing.
    """
    import torch

    if len(anchors) < 2:
        return 0.0 * anchors.sum()
    distances = torch.cdist(anchors, positives, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    own = distances.diagonal()
    others = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
    farther = others & (distances > own[:, None])
    nearest = distances.masked_fill(~farther, torch.inf).amin(1)
    farthest = distances.masked_fill(~others, -torch.inf).amax(1)
    return (margin + own - torch.where(farther.any(1), nearest, farthest)).relu().mean()


def voting(memberships: NDArray[np.float32], top: int) -> sp.csr_array:
    """Return the memberships (B, N) of each user in the `top` clusters of the largest alone."""
    top = min(top, memberships.shape[1])
    first = np.sort(np.argsort(-memberships, axis=1, kind="stable")[:, :top], axis=1)
    values = np.take_along_axis(memberships, first, axis=1).ravel()
    return sp.csr_array((values, first.ravel(), np.arange(len(memberships) + 1) * top), shape=memberships.shape)


def shortlists(train: sp.csr_array, votes: sp.csr_array, size: int, total: str, popular: int | None) -> sp.csr_array:
    """Return the contributions (N, I) of the `size` best items of each cluster.

    The contribution of an item is the mean (`mean`) or the sum (`sum`) of the votes (U, N) that its users have for the
    cluster. Items that are not among the `popular` of the most users are left out; None leaves none out.
    """
    columns = sp.csr_array(train.T)
    added = np.ascontiguousarray((columns @ votes.toarray()).T)  # (N, I)
    if total == "mean":
        added /= np.maximum((columns @ (votes.toarray() > 0).astype(np.float32)).T, 1)
    added[:, np.argsort(-np.diff(columns.indptr), kind="stable")[popular:] if popular else []] = 0
    size = min(size, added.shape[1])
    best = np.argpartition(-added, size - 1, axis=1)[:, :size].astype(np.int32)
    values = np.take_along_axis(added, best, axis=1).ravel()
    places = (np.repeat(np.arange(len(added), dtype=np.int32), size), best.ravel())
    result = sp.csr_array((values, places), shape=added.shape)
    result.eliminate_zeros()
    result.sort_indices()
    return result
