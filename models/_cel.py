"""The factorisation that CEL is shown on, X ~ U V' + 1 b', with the rows of U, of V or of both shared by clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._bags import Bags
from recscale.models._clustered_embedding import ClusteredEmbedding, FreeEmbedding, Work
from recscale.models._clustering import Clustering
from recscale.models._training import Batch, session

if TYPE_CHECKING:
    import torch

Optimiser: TypeAlias = Literal["adam", "sgd"]

STEPS = 10  # full-batch steps of an epoch: the public code splits every 10 steps
SETTLING = 0.3  # share of the training in which Adam's rate falls to zero
AT_ONCE = 2**24  # products (rows, candidates) that are made in one go


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is minimised, and over what.

    sum_{(u,i) known} (x_ui - s_ui)^2 + alpha0 sum_{all u,i} s_ui^2 + sum_u w_u |U_u|^2 + sum_i w_i |V_i|^2, where
    s = U V' + 1 b', plus `row_penalty` |A|^2 for the tables A of both sides, and `centre_penalty` times the squared
    distances of the vectors of clusters from their mean.
    """

    factors: int
    user_weights: NDArray[np.floating[Any]]  # w (U,)
    item_weights: NDArray[np.floating[Any]]  # w (I,)
    unobserved_weight: float = 0.0  # alpha0
    row_penalty: float = 0.0
    centre_penalty: float = 0.0
    bias: bool = False
    nonnegative: bool = False
    users: Clustering | None = None  # None: a row for each
    items: Clustering | None = None
    start: int = 1  # clusters at the beginning
    spread: float = 0.1  # length of a vector at the beginning
    personal_from: int | None = None  # the epoch from which each item has a vector of its own
    attachment: float = 0.0  # that is drawn to the centre of its cluster so strongly


class Factorisation:
    """A problem on its data (U, I), ready for the training loop: `module`, `loss`, `before_epoch` and `after_step`."""

    def __init__(self, entries: sp.csr_array, problem: Problem, context: FitContext) -> None:
        import torch

        self.problem, self.seed = problem, context.seed
        self.bags = Bags.of(entries, context.device)
        self.weights = [
            torch.as_tensor(weights.astype(np.float32), device=context.device)[:, None]
            for weights in (problem.user_weights, problem.item_weights)
        ]
        counts = np.diff(entries.indptr), np.bincount(entries.indices, minlength=entries.shape[1])
        with session(context):
            self.users = self._side(problem.users, counts[0], context.device)
            self.items = self._side(problem.items, counts[1], context.device)
        self.module: Any = torch.nn.Module()
        self.module.users, self.module.items = self.users.module, self.items.module
        if problem.bias:
            self.module.bias = torch.nn.Parameter(torch.zeros(entries.shape[1], 1, device=context.device))
        if problem.personal_from is not None:
            self.module.own = torch.nn.Parameter(torch.zeros(entries.shape[1], problem.factors, device=context.device))
        self.is_personal = False
        self.optimiser: torch.optim.Optimizer | None = None

    def _side(
        self, clustering: Clustering | None, counts: NDArray[Any], device: str
    ) -> ClusteredEmbedding | FreeEmbedding:
        import torch

        n_rows = counts.size if clustering is None else min(self.problem.start, max(1, counts.size))
        initial = torch.randn(n_rows, self.problem.factors).to(device)
        initial *= self.problem.spread / self.problem.factors**0.5
        initial = initial.abs() if self.problem.nonnegative else initial
        return FreeEmbedding(initial) if clustering is None else ClusteredEmbedding(clustering, counts, initial)

    def optimised(self, kind: Optimiser, learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimiser that trains the module; kept, for the clusters to know it."""
        import torch

        if kind == "adam":
            self.optimiser = torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)
        else:
            self.optimiser = torch.optim.SGD(self.module.parameters(), lr=learning_rate)
        return self.optimiser

    def item_vectors(self) -> torch.Tensor:
        """Return V (I, D)."""
        vectors: torch.Tensor = self.module.own if self.is_personal else self.items()
        return vectors

    def loss(self, _: Batch | None = None) -> torch.Tensor:
        """Return the loss over all data, and leave the gradients with the parameters."""
        import torch

        users, items = self.users(), self.item_vectors()
        with torch.no_grad():
            value, by_users, by_items = self._squares(users, items)
            for vectors, gradient, weights in ((users, by_users, self.weights[0]), (items, by_items, self.weights[1])):
                gradient[:, : self.problem.factors].addcmul_(weights, vectors, value=2)
                value = value + (weights * vectors.square()).sum()
        roots = [(users, by_users[:, : self.problem.factors]), (items, by_items[:, : self.problem.factors])]
        if self.problem.bias:
            roots.append((self.module.bias, by_items[:, -1:]))
        penalty = self._penalty(items)
        if penalty is not None:
            roots.append((penalty, torch.ones_like(penalty)))
            value = value + penalty.detach()
        torch.autograd.backward(*zip(*roots, strict=True))
        return value

    def _squares(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the squares, without penalties, and their gradients by U (U, D) and V (I, D), each with a bias behind.

        The sum over all pairs is alpha0 <U'U, V'V>: no scores (U, I) are made.
        """
        left, right = self._augmented(users, items)
        bags, alpha0 = self.bags, self.problem.unobserved_weight
        errors = bags.dots(left, right) - bags.values
        value, twice = errors @ errors, 2 * errors
        by_left = bags.times(right, twice)
        by_right = right.new_zeros(right.shape)
        if alpha0:
            grams = left.T @ left, right.T @ right
            value = value + alpha0 * (grams[0] * grams[1]).sum()
            by_left.addmm_(left, grams[1], alpha=2 * alpha0)
            by_right.addmm_(right, grams[0], alpha=2 * alpha0)
        bags.add_transposed(left, twice, by_right)
        return value, by_left, by_right

    def _augmented(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U with ones and V with b behind, if there is a bias."""
        import torch

        if not self.problem.bias:
            return users.detach(), items.detach()
        return torch.cat([users.detach(), users.new_ones(len(users), 1)], 1), torch.cat([items, self.module.bias], 1)

    def _penalty(self, items: torch.Tensor) -> torch.Tensor | None:
        """Return what is asked of the tables, and of the items' own vectors; None for nothing."""
        problem, terms = self.problem, []
        for side in (self.users, self.items):
            is_clustered = isinstance(side, ClusteredEmbedding)
            rows = side.module.weight[: side.n_clusters] if isinstance(side, ClusteredEmbedding) else side()
            if side is self.items and self.is_personal:
                terms.append(problem.attachment * (items - self.items().detach()).square().sum())
                rows, is_clustered = items, False
            if problem.row_penalty:
                terms.append(problem.row_penalty * rows.square().sum())
            if problem.centre_penalty and is_clustered:
                terms.append(problem.centre_penalty * (rows - rows.detach().mean(0)).square().sum())
        return sum(terms[1:], terms[0]) if terms else None

    def before_epoch(self, epoch: int) -> None:
        """Change the clusters where that is due, and give the items vectors of their own in the epoch to do so."""
        import torch

        start = self.problem.personal_from
        if start is not None and epoch == start:
            with torch.no_grad():
                self.module.own.copy_(self.items())
        self.is_personal = start is not None and epoch >= start
        if self.is_personal:
            return
        for side, losses in ((self.users, self.user_losses), (self.items, self.item_losses)):
            if isinstance(side, ClusteredEmbedding):
                side.before_epoch(epoch, Work(partial(self.loss, None), losses, self.optimiser, self.seed))

    def after_step(self) -> None:
        """Keep the vectors at or above zero if they have to be, and the centres amid the items' own vectors."""
        import torch

        with torch.no_grad():
            if self.problem.nonnegative:
                for name, parameter in self.module.named_parameters():
                    if name != "bias":
                        parameter.clamp_(min=0)
            if self.is_personal:
                recentre(self.items, self.module.own)

    def gauges(self) -> Mapping[str, float]:
        """Return the number of clusters on each side that has some."""
        sides = {"user clusters": self.users, "item clusters": self.items}
        return {name: float(side.n_clusters) for name, side in sides.items() if isinstance(side, ClusteredEmbedding)}

    def user_losses(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return what the loss of each user would be with each of the candidates (m, D), up to a constant, (U, m)."""
        items = self.item_vectors().detach()
        linear = -2 * self.bags.times(items, self._wanted())
        if self.problem.bias:
            linear += 2 * self.problem.unobserved_weight * (self.module.bias.detach().T @ items)

        def summed(products: torch.Tensor) -> torch.Tensor:
            return self.bags.times(products, self.bags.values.new_ones(self.bags.values.shape))

        return self._losses(candidates, (linear, items, self.weights[0]), summed)

    def item_losses(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return what the loss of each item would be with each of the candidates (m, D), up to a constant, (I, m)."""
        users = self.users().detach()
        linear = users.new_zeros(len(self.weights[1]), users.shape[1])
        self.bags.add_transposed(users, -2 * self._wanted(), linear)
        if self.problem.bias:
            linear += 2 * self.problem.unobserved_weight * self.module.bias.detach() @ users.sum(0, keepdim=True)

        def summed(products: torch.Tensor) -> torch.Tensor:
            sums = products.new_zeros(len(linear), products.shape[1])
            self.bags.add_transposed(products, self.bags.values.new_ones(self.bags.values.shape), sums)
            return sums

        return self._losses(candidates, (linear, users, self.weights[1]), summed)

    def _wanted(self) -> torch.Tensor:
        """Return x - b at the entries, what the product of the vectors should be."""
        if not self.problem.bias:
            return self.bags.values
        wanted: torch.Tensor = self.bags.values - self.module.bias.detach()[self.bags.items, 0]
        return wanted

    def _losses(self, candidates: torch.Tensor, side: tuple[torch.Tensor, ...], summed: Any) -> torch.Tensor:
        """Return l_n . a + sum_known (o . a)^2 + alpha0 a'O'O a + w_n |a|^2 for the rows a of the candidates, (n, m).

        Squares are summed over products that were made once, O a': M n_entries additions and no factor D.
        """
        import torch

        linear, others, weights = side
        gram, parts = others.T @ others, []
        for some in candidates.split(max(1, AT_ONCE // max(1, len(others)))):
            everywhere = self.problem.unobserved_weight * ((some @ gram) * some).sum(1)
            values = summed((others @ some.T).square_())
            parts.append(values + linear @ some.T + everywhere + weights * some.square().sum(1))
        return torch.cat(parts, 1)


def recentre(items: Any, own: torch.Tensor) -> None:
    """Move the centres to the mean of their items' own vectors (I, D), and items to the nearest centre."""
    import torch

    module, n_clusters = items.module, items.n_clusters
    order = torch.argsort(module.assignment, stable=True)
    sizes = module.assignment.bincount(minlength=n_clusters)
    starts = sizes.cumsum(0) - sizes
    means = torch.nn.functional.embedding_bag(order, own, starts, mode="mean")
    centres = torch.where(sizes[:, None] > 0, means, module.weight[:n_clusters])
    module.weight[:n_clusters] = centres
    squares = centres.square().sum(1)
    for places in torch.arange(len(own), device=own.device).split(max(1, AT_ONCE // n_clusters)):
        module.assignment[places] = torch.addmm(squares, own[places], centres.T, alpha=-2).argmin(1)


def settling(epochs: int) -> Any:
    """Return the factor of the learning rate after so many epochs: 1, then straight to 0 in the last of them."""
    return lambda done: min(1.0, (1 - done / epochs) / SETTLING)
