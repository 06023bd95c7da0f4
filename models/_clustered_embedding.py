"""Clustered Embedding Learning as an embedding that any model trained by gradients can use in place of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recscale.models._clustering import Clustering, Entities, cluster_sizes, grown, reassigned, refilled

if TYPE_CHECKING:
    import torch

BLOCK = 2**24  # losses (n, candidates) that are looked at in one go


class Work(NamedTuple):
    """What a model does for its clusters between two epochs.

    `differentiate` adds up gradients of the training loss by `backward`, over all examples or a sample of them, with
    the vectors taken from the embedding as in training. `losses` takes candidates (m, D) and returns (n, m): what the
    loss of each entity's own examples would be, if that candidate were its vector. Drawn negatives should be the same
    for all candidates. `optimiser` is that of the training; `seed` that of its context.
    """

    differentiate: Callable[[], None]
    losses: Callable[[torch.Tensor], torch.Tensor]
    optimiser: torch.optim.Optimizer | None
    seed: int


class FreeEmbedding:
    """A table with a row for each entity, to be used as a ClusteredEmbedding is."""

    def __init__(self, initial: torch.Tensor) -> None:
        import torch

        self.module: Any = torch.nn.Module()
        self.module.weight = torch.nn.Parameter(initial)

    def __call__(self, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors of some entities, (..., D), or of all of them."""
        import torch

        rows: torch.Tensor = self.module.weight
        return rows if numbers is None else torch.nn.functional.embedding(numbers, rows)

    def table(self) -> torch.Tensor:
        """Return all rows, (n, D)."""
        rows: torch.Tensor = self.module.weight.detach()
        return rows

    def gauges(self) -> Mapping[str, float]:
        """Return nothing."""
        return {}


class ClusteredEmbedding:
    """Vectors of n entities that they share by clusters, which split and change hands while they are trained.

    Entity i has the vector A_c(i) of its cluster (Chen et al. 2023, WWW, arXiv 2302.01478). In turn the vectors are
    trained, by gradients that are divided by the size of the cluster, and the clusters are: the one with most
    interactions is split along the first principal direction of its entities' gradients, the new cluster copying the
    vector, so that no loss changes; and entities go to the cluster that their loss is least with.

    A model uses it so, `items` in place of a table (n, D):

        items = ClusteredEmbedding(Clustering(clusters=500), n_interactions_of_items, initial)
        module = torch.nn.ModuleDict({"items": items.module, ...})      # for the optimiser and resume
        vectors = items(numbers)                                        # (..., D), in the loss and elsewhere
        work = Work(differentiate, losses, optimiser, context.seed)
        Learner(module, optimiser, loss, score, before_epoch=lambda epoch: items.before_epoch(epoch, work))

    and keeps `items.table()` (M, D) and `items.assignment()` (n,) as its state. All that changes lies in the table,
    which has room for the largest number of clusters from the start, and in the buffers `assignment` and `n_clusters`:
    the shapes of a checkpoint do not depend on the epoch. New clusters take over what the optimiser remembers of their
    parents. Adam makes nothing of a division of gradients that stays the same; under SGD clusters of all sizes learn as
    fast as single entities by it.

    options: when and how clusters change.
    counts: interactions of each entity, (n,).
    initial: vectors of the first clusters, (M0, D) on the device; entity i begins in cluster i mod M0.
    """

    def __init__(self, options: Clustering, counts: NDArray[Any], initial: torch.Tensor) -> None:
        import torch

        self.options, self.counts, self.start = options, counts, len(initial)
        n_rows = max(1, min(options.clusters, counts.size))
        table = initial.new_zeros(n_rows, initial.shape[1])
        self.start = min(len(initial), n_rows)
        table[: self.start] = initial[: self.start]
        self.module: Any = torch.nn.Module()
        self.module.weight = torch.nn.Parameter(table)
        assignment = torch.arange(counts.size, device=initial.device) % self.start
        self.module.register_buffer("assignment", assignment)
        self.module.register_buffer("n_clusters", torch.tensor(self.start, device=initial.device))
        self._recorded: torch.Tensor | None = None
        if options.average:
            self.module.weight.register_hook(lambda gradient: gradient / self.sizes()[:, None])

    def __call__(self, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors of some entities, (..., D), or of all of them."""
        import torch

        numbers = torch.arange(self.counts.size, device=self.module.weight.device) if numbers is None else numbers
        # embedding and not an index: its backward adds up in a fixed order on a GPU too
        vectors = torch.nn.functional.embedding(self.module.assignment[numbers], self.module.weight)
        recorded = self._recorded
        if recorded is not None and vectors.requires_grad:
            places, width = numbers.reshape(-1), recorded.shape[1]
            vectors.register_hook(lambda gradient: _add(recorded, places, gradient.reshape(-1, width)))
        return vectors

    def sizes(self) -> torch.Tensor:
        """Return the number of entities of each cluster, at least 1, (M,)."""
        sizes: torch.Tensor = self.module.assignment.bincount(minlength=len(self.module.weight)).clamp(min=1)
        return sizes

    def table(self) -> torch.Tensor:
        """Return the vectors of the clusters that there are, (M, D)."""
        rows: torch.Tensor = self.module.weight.detach()[: self.n_clusters]
        return rows

    def assignment(self) -> NDArray[np.int64]:
        """Return the cluster of each entity, (n,)."""
        numbers: NDArray[np.int64] = self.module.assignment.cpu().numpy()
        return numbers

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.module.n_clusters)

    def gauges(self) -> Mapping[str, float]:
        """Return what is worth a line in the log after an epoch."""
        return {"clusters": float(self.n_clusters)}

    @contextmanager
    def recording(self) -> Iterator[torch.Tensor]:
        """Add up the gradients of the vector of each entity, (n, D), over the backward passes made inside."""
        import torch

        weight = self.module.weight
        self._recorded = torch.zeros(self.counts.size, weight.shape[1], device=weight.device)
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def before_epoch(self, epoch: int, work: Work) -> None:
        """Do what is due before an epoch, counted from 0: reassign entities, then split clusters."""
        options = self.options
        if options.reassigns(epoch):
            self.reassign(work, np.random.default_rng([work.seed, 3, epoch]))
        target = min(options.target(epoch, self.n_clusters, self.start), len(self.module.weight))
        if options.splits(epoch) and target > self.n_clusters:
            self.grow(work, target)

    def grow(self, work: Work, target: int) -> int:
        """Split clusters until there are `target`, or none can be parted; return how many were split."""
        with self.recording() as recorded:
            work.differentiate()
        entities = Entities(self.counts, recorded.cpu().numpy())
        with threadpool_limits(1, "blas"):  # beside other work two threads took 183 ms for what one does in 1
            assignment, parents = grown(self.assignment(), entities, target, self.options)
        before = self.n_clusters
        rows = np.arange(len(self.module.weight))
        for place, parent in enumerate(parents):
            rows[before + place] = rows[parent]  # a parent may itself be new
        self.rearrange(assignment, rows, work.optimiser)
        self.module.n_clusters.fill_(before + len(parents))
        return len(parents)

    def reassign(self, work: Work, rng: np.random.Generator) -> int:
        """Let entities go to the cluster that their loss is least with; return how many went.

        One goes for a smaller loss only, not for an equal one: after a split both halves are the same.
        """
        n_clusters, assignment = self.n_clusters, self.assignment()
        assignment, n_moved = reassigned(assignment, self.best(work.losses), self.options.damping, rng)
        rows = np.arange(len(self.module.weight))
        if self.options.refill and not cluster_sizes(assignment, n_clusters).all():
            assignment, rows[:n_clusters] = refilled(assignment, n_clusters, rng)
        self.rearrange(assignment, rows, work.optimiser)
        return n_moved

    def best(self, losses: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.int64]:
        """Return the cluster that each entity's loss is least with, its own where that is as good, (n,)."""
        import torch

        table, own = self.table(), self.module.assignment
        with torch.no_grad():
            n_each = max(1, BLOCK // max(1, own.numel()))
            blocks = range(0, len(table), n_each)
            least, mine = (torch.full(own.shape, torch.inf, device=table.device) for _ in range(2))
            best = own.clone()
            for first in blocks:
                values = losses(table[first : first + n_each])  # (n, m)
                here = (own >= first) & (own < first + values.shape[1])
                mine[here] = values[here, own[here] - first]
                found, places = values.min(1)
                better = found < least
                best[better], least[better] = places[better] + first, found[better]
            best = torch.where(least < mine, best, own)
        numbers: NDArray[np.int64] = best.cpu().numpy()
        return numbers

    def rearrange(self, assignment: NDArray[np.int64], rows: NDArray[np.int64], optimiser: Any) -> None:
        """Take an assignment, and put row rows[c] of the table, and of what the optimiser knows of it, in place c."""
        import torch

        weight, taken = self.module.weight, torch.as_tensor(rows, device=self.module.weight.device)
        memory = optimiser.state.get(weight, {}).values() if optimiser is not None else ()
        with torch.no_grad():
            self.module.assignment.copy_(torch.as_tensor(assignment))
            for tensor in (weight, *memory):
                if torch.is_tensor(tensor) and tensor.shape == weight.shape:
                    tensor.copy_(tensor[taken])


def _add(total: torch.Tensor, places: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add the gradients of vectors to those of their entities; in a fixed order, by sorting where places repeat."""
    import torch

    order = torch.argsort(places, stable=True)
    found, lengths = torch.unique_consecutive(places[order], return_counts=True)
    starts = lengths.cumsum(0) - lengths
    total[found] += torch.nn.functional.embedding_bag(order, gradient, starts, mode="sum")
