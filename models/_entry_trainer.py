"""The training of MF-BPR, GMF, uCML and NeuMF: random other items for each entry, and clusters of items if wanted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._clustered_embedding import ClusteredEmbedding, FreeEmbedding, Work
from recscale.models._clustering import Clustering
from recscale.models._training import Batch, session
from recscale.models._unseen import Unseen

if TYPE_CHECKING:
    import torch

    from recscale.models._entries import EntryTrained, Tables

START = 0.1  # length of a vector that training starts from
SAMPLE = 2**18  # entries that clusters are changed by
AT_ONCE = 2**22  # numbers of what is drawn, or tried, in one go


class Drawn(NamedTuple):
    """The vectors of a batch of entries and of the items drawn for each: the entry's own item first."""

    users: torch.Tensor  # (B, W)
    items: torch.Tensor  # (B, 1 + n, W)
    biases: torch.Tensor  # (B, 1 + n)

    def products(self, users: torch.Tensor) -> torch.Tensor:
        """Return the products (B, 1 + n) of vectors (B, W), one for each entry, with its items."""
        products: torch.Tensor = (self.items @ users[:, :, None])[:, :, 0]
        return products

    def squares(self) -> torch.Tensor:
        """Return the squared lengths (B, 1 + n) of the items."""
        squares: torch.Tensor = self.items.square().sum(2)
        return squares


class DrawnInPlace:
    """The same for models that need no more of the items than products and lengths: they are read where they lie."""

    def __init__(self, users: torch.Tensor, biases: torch.Tensor, table: torch.Tensor, numbers: torch.Tensor) -> None:
        self.users, self.biases, self._table, self._numbers = users, biases, table, numbers
        self._squares: torch.Tensor | None = None

    def products(self, users: torch.Tensor) -> torch.Tensor:
        """Return the products (B, 1 + n) of vectors (B, W), one for each entry, with its items."""
        from recscale.models._drawn_products import products_and_squares

        products, self._squares = products_and_squares(self._table, users, self._numbers)
        return products

    def squares(self) -> torch.Tensor:
        """Return the squared lengths (B, 1 + n) of the items."""
        if self._squares is None:
            self.products(self.users)
        assert self._squares is not None
        return self._squares


class EntryTrainer:
    """The entries of a matrix (U, I) and what is trained on them: `tables`, `items`, and the `module` of both."""

    def __init__(self, model: EntryTrained, rows: sp.csr_array, context: FitContext) -> None:
        import torch

        self.model, self.seed, device = model, context.seed, context.device
        self.unseen = Unseen(rows, device)
        users = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        usable = self.unseen.room[users] > 0  # a user who has everything has nothing to tell apart
        self.of_users = torch.as_tensor(users[usable], device=device)
        self.of_items = torch.as_tensor(rows.indices[usable].astype(np.int64), device=device)
        with session(context):
            tables, initial = self._initial(rows.shape)
        self.tables, initial = tables.to(device), initial.to(device)
        if model.clusters is None:
            self.items: ClusteredEmbedding | FreeEmbedding = FreeEmbedding(initial)
        else:
            counts = np.bincount(rows.indices, minlength=rows.shape[1])
            self.items = ClusteredEmbedding(self._clustering(model.clusters), counts, initial[:1])
        self.reads_in_place = model.needs_products_alone and model.clusters is None and device == "cpu"
        self.module: torch.nn.Module = torch.nn.ModuleList([self.tables, self.items.module])
        # Adam over the whole tables: a step of gowalla, 64 factors, takes it 14 ms; by a kernel that steps the rows of
        # the batch and makes up for the momentum of the rest when they are read again it took 22
        self.optimiser = torch.optim.Adam(self.module.parameters(), lr=model.learning_rate, fused=True)

    def _initial(self, shape: tuple[int, int]) -> tuple[torch.nn.ParameterDict, torch.Tensor]:
        """Return `user` (U, W), `bias` (I, 1) and what else is trained, and vectors of the items (I, W)."""
        import torch

        width = self.model.width()
        users, items = (torch.nn.init.normal_(torch.empty(n, width), std=START / width**0.5) for n in shape)
        return torch.nn.ParameterDict({"user": users, "bias": torch.zeros(shape[1], 1), **self.model.extra()}), items

    def _clustering(self, clusters: int) -> Clustering:
        return Clustering(
            clusters=clusters,
            growth="geometric",
            growth_epochs=self.model.growth_epochs,
            reassign_every=self.model.reassign_every,
            primes=False,
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of some entries, with the penalty of all that was drawn for them."""
        import torch

        places = torch.as_tensor(batch.rows, device=self.of_users.device)
        return self._sum(self._drawn(places, batch.rng)[0]) / max(1, places.numel())

    def _drawn(self, places: torch.Tensor, rng: np.random.Generator) -> tuple[Drawn | DrawnInPlace, torch.Tensor]:
        """Return the vectors for some entries, and which items they are of (B, 1 + n)."""
        import torch
        from torch.nn.functional import embedding

        users = self.of_users[places]
        others = self.unseen.draw(users, self.model.negatives, rng)
        items = torch.cat([self.of_items[places, None], others], 1)
        biases, vectors = embedding(items, self.tables["bias"])[:, :, 0], embedding(users, self.tables["user"])
        if self.reads_in_place:
            return DrawnInPlace(vectors, biases, self.items.module.weight, items), items
        return Drawn(vectors, self.items(items), biases), items

    def _sum(self, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return the loss of entries, with the penalty."""
        loss = self.model.losses(self.model.scores_of(self.tables, drawn)).sum()
        if self.model.regularization:
            loss = loss + 0.5 * self.model.regularization * (drawn.users.square().sum() + drawn.squares().sum())
        return loss

    def project(self) -> None:
        """Bring the vectors back into bounds."""
        import torch

        with torch.no_grad():
            self.model.project({"user": self.tables["user"], "item": self.items.module.weight})

    def kept(self) -> tuple[dict[str, torch.Tensor], NDArray[np.int64] | None]:
        """Return what the model keeps, of items or clusters of items, and the cluster of each item if there are any."""
        tables: Tables = {name: table.detach() for name, table in self.tables.items()}
        users = tables["user"]
        start = users.mean(0) if len(users) else users.new_zeros(users.shape[1])
        kept = {**self.model.kept({**tables, "item": self.items.table()}), "start": start}
        return kept, self.items.assignment() if isinstance(self.items, ClusteredEmbedding) else None

    def before_epoch(self, epoch: int) -> None:
        """Change the clusters where that is due, by the same sample of entries in all that one epoch asks for."""
        if isinstance(self.items, ClusteredEmbedding):
            looks = partial(self._differentiate, epoch), partial(self._item_losses, epoch)
            self.items.before_epoch(epoch, Work(*looks, self.optimiser, self.seed))

    def _samples(self, epoch: int, n_numbers: int) -> Iterator[tuple[Drawn | DrawnInPlace, torch.Tensor]]:
        """Yield what is drawn for a sample of the entries, `n_numbers` for each to be made in one go."""
        import torch

        rng, n_entries = np.random.default_rng([self.seed, 4, epoch]), self.of_users.numel()
        places = np.sort(rng.choice(n_entries, min(SAMPLE, n_entries), replace=False))
        for some in torch.as_tensor(places, device=self.of_users.device).split(max(1, AT_ONCE // n_numbers)):
            yield self._drawn(some, rng)

    def _differentiate(self, epoch: int) -> None:
        """Add up the gradients of the loss of the sample."""
        for drawn, _ in self._samples(epoch, (2 + self.model.negatives) * self.model.width()):
            self._sum(drawn).backward()

    def _item_losses(self, epoch: int, candidates: torch.Tensor) -> torch.Tensor:
        """Return the losses (I, m) of the entries that an item is drawn for, itself or as another, by its vector."""

        (m, width), n_drawn = candidates.shape, 1 + self.model.negatives
        total = candidates.new_zeros(self.tables["bias"].shape[0], m)
        penalty = 0.5 * self.model.regularization * candidates.square().sum(1)
        for drawn, items in self._samples(epoch, m * (width + n_drawn)):
            n_entries = len(items)
            known = self.model.scores_of(self.tables, drawn)
            tried = self.model.scores_of(
                self.tables,
                Drawn(drawn.users, candidates.expand(n_entries, m, width), drawn.biases.new_zeros(n_entries, m)),
            )
            for slot in range(n_drawn):
                scores = known[:, None].repeat(1, m, 1)  # (B, m, 1 + n)
                scores[:, :, slot] = tried + drawn.biases[:, slot, None]
                losses = self.model.losses(scores.reshape(-1, n_drawn)).reshape(n_entries, m)
                total.index_add_(0, items[:, slot], losses + penalty)
        return total
