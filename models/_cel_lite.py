"""Clusters that change while a stream of users goes by: what CEL-Lite keeps of it, and what it does after a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._cel_fold_in import Collapsed, fold_in
from recscale.models._clustered_embedding import ClusteredEmbedding
from recscale.models._clustering import Clustering, Entities, cluster_sizes, leavers, reassigned
from recscale.models._training import Batch, session

if TYPE_CHECKING:
    import torch

START = 0.1  # length of a vector at the beginning


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What CEL-Lite is told: alpha0 and lambda of the loss, and when and among what clusters change."""

    factors: int
    clusters: int
    unobserved_weight: float
    regularization: float
    split_after: float  # interactions of a cluster
    buffer: int
    candidates: int
    average: bool


class Passed(NamedTuple):
    """A batch of users that was just learnt from."""

    rows: NDArray[np.int64]
    histories: sp.csr_array  # (B, I)
    vectors: NDArray[np.float32]  # (B, D)


class Stream:
    """The training of a table of clusters on batches of users; all that changes lies in `module`.

    Beside the clusters these are each user's last vector (U, D), the last users of each item (I, buffer), how many
    interactions each item and each cluster since its last split has had, and the clusters' siblings.
    """

    def __init__(self, train: sp.csr_array, rules: Rules, context: FitContext) -> None:
        import torch

        self.train, self.rules = train, rules
        n_users, n_items = train.shape
        self.counts = np.bincount(train.indices, minlength=n_items)
        self.weights = rules.regularization * (self.counts + rules.unobserved_weight * n_users)  # of |v_i|^2, (I,)
        with session(context):
            initial = torch.randn(1, rules.factors) * (START / rules.factors**0.5)
        self.items = ClusteredEmbedding(Clustering(clusters=rules.clusters), self.counts, initial)
        self.module: Any = self.items.module
        self.module.bias = torch.nn.Parameter(torch.zeros(n_items))
        n_rows = len(self.module.weight)
        for name, tensor in {
            "users": torch.zeros(n_users, rules.factors),
            "gram": torch.zeros(rules.factors, rules.factors, dtype=torch.float64),
            "recent": torch.full((n_items, rules.buffer), -1, dtype=torch.int32),
            "seen": torch.zeros(n_items, dtype=torch.int64),
            "taken": torch.zeros(n_rows, dtype=torch.int64),
            "sibling": torch.arange(n_rows),
        }.items():
            self.module.register_buffer(name, tensor)
        self.optimiser: torch.optim.Optimizer | None = None
        self._passed: Passed | None = None

    def array(self, name: str) -> NDArray[Any]:
        """Return a buffer or parameter as an array that shares its memory."""
        shared: NDArray[Any] = getattr(self.module, name).detach().numpy()
        return shared

    def kept(self) -> dict[str, NDArray[Any]]:
        """Return the state that scores unseen users, sharing memory."""
        return {
            "item_table": self.items.table().numpy(),
            "item_clusters": self.items.assignment(),
            "item_bias": self.array("bias"),
        }

    def loss(self, batch: Batch) -> torch.Tensor:
        """Solve for the vectors of a batch of users; return its loss, and leave the gradients of table and biases."""
        import torch

        rows, state, rules = self.train[batch.rows], self.kept(), self.rules
        known = Collapsed.of(rows, state, rules.unobserved_weight)
        strengths = rules.regularization * (np.diff(rows.indptr) + rules.unobserved_weight * rows.shape[1])
        users = fold_in(known, strengths, nonnegative=False)
        self._passed = Passed(batch.rows, rows, users)
        table, clusters, bias = state["item_table"], state["item_clusters"], state["item_bias"]
        sizes, biases = cluster_sizes(clusters, len(table)), np.bincount(clusters, bias, len(table))
        penalties = np.bincount(clusters, self.weights, len(table)) * (len(batch.rows) / self.train.shape[0])
        products = users @ table.T  # (B, M)
        counts = known.counts
        owners = np.repeat(np.arange(len(users)), np.diff(counts.indptr))
        errors = counts.data * products[owners, counts.indices] - known.wanted
        by_known = sp.csr_array((errors, counts.indices, counts.indptr), shape=counts.shape)
        by_all = rules.unobserved_weight * (sizes * products + biases)
        by_table = by_known.T @ users + by_all.T @ users + penalties[:, None] * table
        value, by_bias = self._of_biases(rows, products)
        value += strengths @ (users**2).sum(1) + penalties @ (table**2).sum(1)
        value += rules.unobserved_weight * ((products**2 @ sizes).sum() + 2 * products.sum(0) @ biases)
        self._write(2 * (by_table / sizes[:, None] if rules.average else by_table), by_bias)
        return torch.tensor(float(value))

    def _of_biases(self, rows: sp.csr_array, products: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
        """Return the squares of the known, those of the biases over all pairs, and the gradient by the biases (I,)."""
        clusters, bias = self.items.assignment(), self.array("bias")
        owners = np.repeat(np.arange(len(products)), np.diff(rows.indptr))
        errors = products[owners, clusters[rows.indices]] + bias[rows.indices] - 1
        by_bias = np.bincount(rows.indices, errors, minlength=len(bias)).astype(np.float64)
        by_bias += self.rules.unobserved_weight * (products.sum(0)[clusters] + len(products) * bias)
        value = float(errors @ errors) + self.rules.unobserved_weight * len(products) * float(bias @ bias)
        return value, 2.0 * by_bias

    def _write(self, by_table: NDArray[Any], by_bias: NDArray[Any]) -> None:
        """Leave gradients with the parameters; those of clusters yet to come are zero."""
        import torch

        self.module.weight.grad = torch.zeros_like(self.module.weight)
        self.module.weight.grad[: len(by_table)] = torch.from_numpy(by_table.astype(np.float32))
        self.module.bias.grad = torch.from_numpy(by_bias.astype(np.float32))

    def after_step(self) -> None:
        """Take in what the batch showed, reassign the items that are due, and split the clusters that are."""
        if self._passed is None:
            return
        rows, histories, vectors = self._passed
        users = self.array("users")
        before, after = users[rows].astype(np.float64), vectors.astype(np.float64)
        self.array("gram")[:] += after.T @ after - before.T @ before
        users[rows] = vectors
        self._reassign(self._remember(rows, histories))
        self._split()
        self._passed = None

    def _remember(self, rows: NDArray[np.int64], histories: sp.csr_array) -> NDArray[np.int64]:
        """Put users among the last ones of their items; return the items whose interactions passed a power of two."""
        by_item = histories.T.tocsr()
        seen, recent, taken = self.array("seen"), self.array("recent"), self.array("taken")
        lengths = np.diff(by_item.indptr)
        items = np.repeat(np.arange(lengths.size), lengths)
        ranks = np.arange(items.size) - np.repeat(by_item.indptr[:-1], lengths)
        recent[items, (seen[items] + ranks) % self.rules.buffer] = rows[by_item.indices]
        before = seen.copy()
        seen += lengths
        clusters = self.items.assignment()
        taken += np.bincount(clusters, lengths, minlength=taken.size).astype(np.int64)
        return np.flatnonzero(_log2(seen) > _log2(before))

    def _known(self, items: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the vectors of the last users of items (n, buffer, D), and their weights, 0 where there is none.

        They stand for all interactions that the items have had, each once.
        """
        recent = self.array("recent")[items]
        filled = recent >= 0
        had = np.minimum(self.array("seen"), self.counts)[items]
        shares = filled * (had / np.maximum(filled.sum(1), 1))[:, None]
        return self.array("users")[np.maximum(recent, 0)], shares

    def _reassign(self, due: NDArray[np.int64]) -> None:
        """Let items go to the best of their cluster, its sibling and the nearest others, by their last users."""
        table, clusters = self.items.table().numpy(), self.items.assignment()
        if not due.size or len(table) < 2:
            return
        best = clusters.copy()
        for items in np.array_split(due, 1 + due.size * self.rules.buffer * self.rules.factors // 2**22):
            choice = _near(table, clusters[items], self.array("sibling"), self.rules.candidates)
            losses = self._losses(items, table[choice])
            places = losses.argmin(1)
            found = losses[np.arange(len(items)), places] < losses[:, 0]
            best[items] = np.where(found, choice[np.arange(len(items)), places], clusters[items])
        moved, _ = reassigned(clusters, best, 0.0, np.random.default_rng(0))
        self.items.rearrange(moved, np.arange(len(self.module.weight)), None)

    def _losses(self, items: NDArray[np.int64], candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the loss of items with each of their candidates (n, m, D), up to a constant, (n, m)."""
        vectors, shares = self._known(items)
        bias, gram = self.array("bias")[items].astype(np.float64), self.array("gram")
        errors = np.einsum("nbd,nmd->nbm", vectors, candidates) - (1 - bias)[:, None, None]
        wide = candidates.astype(np.float64)
        everywhere = np.einsum("nmd,de,nme->nm", wide, gram, wide, optimize=True)
        everywhere += 2 * bias[:, None] * (wide @ self.array("users").sum(0, dtype=np.float64))
        losses = np.einsum("nb,nbm->nm", shares, errors.astype(np.float64) ** 2)
        losses += self.rules.unobserved_weight * everywhere
        return np.asarray(losses + self.weights[items][:, None] * np.square(wide).sum(2))

    def gradients(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the gradient of the loss by the vector of each item, by their last users, (n, D)."""
        vectors, shares = self._known(items)
        own, bias = self.items.table().numpy()[self.items.assignment()[items]], self.array("bias")[items]
        errors = np.einsum("nbd,nd->nb", vectors, own) + bias[:, None] - 1
        everywhere = own @ self.array("gram") + bias[:, None] * self.array("users").sum(0, dtype=np.float64)
        gradients = np.einsum("nb,nbd->nd", shares * errors, vectors) + self.rules.unobserved_weight * everywhere
        return np.asarray(2 * (gradients + self.weights[items][:, None] * own), np.float32)

    def _split(self) -> None:
        """Split each cluster that has taken enough interactions since it was last split, while there is room."""
        taken, sibling = self.array("taken"), self.array("sibling")
        for chosen in np.flatnonzero(taken > self.rules.split_after):
            clusters, n_clusters = self.items.assignment().copy(), self.items.n_clusters
            if n_clusters == len(self.module.weight):
                return
            taken[chosen] = 0
            members = np.flatnonzero(clusters == chosen)
            if members.size < 2:
                continue
            leave = leavers(Entities(self.counts[members], self.gradients(members)), "zero")
            if not leave.any():
                continue
            clusters[members[leave]] = n_clusters
            copied = np.arange(len(taken))
            copied[n_clusters] = chosen
            self.items.rearrange(clusters, copied, self.optimiser)
            self.module.n_clusters.fill_(n_clusters + 1)
            sibling[chosen], sibling[n_clusters] = n_clusters, chosen


def _log2(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest power of two in each number, as its exponent; -1 for 0."""
    exponents: NDArray[np.int64] = np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1
    return exponents


def _near(
    table: NDArray[np.float32], own: NDArray[np.int64], sibling: NDArray[np.int64], n_others: int
) -> NDArray[np.int64]:
    """Return for clusters (n,) themselves, their siblings and the nearest others, (n, 2 + others)."""
    found, places = np.unique(own, return_inverse=True)
    squares = (table**2).sum(1)
    distances = squares - 2 * table[found] @ table.T  # (clusters, M), up to the square of the own
    distances[np.arange(len(found)), found] = np.inf
    n_others = min(n_others, len(table) - 1)
    near = np.argpartition(distances, n_others - 1, axis=1)[:, :n_others] if n_others else found[:, None]
    return np.concatenate([own[:, None], sibling[own][:, None], near[places]], 1)
