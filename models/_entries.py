"""What MF-BPR, GMF, uCML and NeuMF share: vectors of users and items, trained on entries against random other items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, FitContext, Model, Scores
from recscale.models._inputs import checked_history
from recscale.models._training import Batch, Learner, Plan, describe, examples, session, train_module
from recscale.models._unseen import Unseen

if TYPE_CHECKING:
    import torch

Tables: TypeAlias = "Mapping[str, torch.Tensor]"

N_NEGATIVES = 256  # that a user's vector is trained against when the items are frozen
START = 0.1  # length of a vector that training starts from


class Drawn(NamedTuple):
    """The vectors of a batch of entries and of the items drawn for each: the entry's own item first."""

    users: torch.Tensor  # (B, W)
    items: torch.Tensor  # (B, 1 + n, W)
    biases: torch.Tensor  # (B, 1 + n)


@dataclass(kw_only=True)
class EntryTrained(Model):
    """What the models share: the options, the training on entries, and how unseen users are brought in.

    Each step takes some entries of X and draws `negatives` items evenly from those that the user does not have; values
    of X count as 1. An unseen user's vector is trained as the ELFM paper does it (Yang et al. 2021, RecSys, section
    5.1): everything else frozen, on the history alone. Here in full batches against the same 256 random items for
    everyone, less the history, from the mean vector of the training users, by Adam with a rate that falls to zero: a
    user's scores depend on that user alone.

    factors: D, length of the vectors, at least 1.
    regularization: lambda, at least 0: each drawn vector v adds lambda / 2 |v|^2 to the loss of its entry.
    negatives: items drawn for an entry, at least 1.
    learning_rate: of Adam, above 0.
    epochs: passes over the entries, at least 1.
    batch_size: entries of a step, at least 1.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    fold_in_steps: of the inference, at least 1.
    fold_in_rate: of the inference, above 0.
    Raises NumericalError where the loss is not finite, DataError for input that is no matrix of finite numbers or a
    history over another number of items, DeadlineExceeded between two steps.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    regularization: Annotated[float, Meta(ge=0)] = 0.0
    negatives: Annotated[int, Meta(ge=1)] = 1
    # NDCG@100 of validation users of debian-depends after 20 to 40 epochs: GMF .600, MF-BPR .581, NeuMF .578, uCML .457
    learning_rate: Annotated[float, Meta(gt=0)] = 0.003
    epochs: Annotated[int, Meta(ge=1)] = 150
    batch_size: Annotated[int, Meta(ge=1)] = 1024
    patience: Annotated[int, Meta(ge=1)] | None = 10
    fold_in_steps: Annotated[int, Meta(ge=1)] = 50
    fold_in_rate: Annotated[float, Meta(gt=0)] = 0.05

    @abstractmethod
    def scores_of(self, tables: Tables, drawn: Drawn) -> torch.Tensor:
        """Return the scores (B, 1 + n) of drawn items."""

    @abstractmethod
    def loss(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of entries, without the penalty, from the scores (B, 1 + n)."""

    @abstractmethod
    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return of the tables what scoring needs: `items` (I, ...), and more but `negatives` (M,) and `start` (W,)."""

    @abstractmethod
    def folded_in(self, kept: Tables, rows: sp.csr_array) -> torch.Tensor:
        """Return the vectors (B, W) of the users in `rows` (B, I), everything else frozen."""

    @abstractmethod
    def score_users(self, kept: Tables, users: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, I) of all items for the vectors (B, W) of users."""

    def width(self) -> int:
        """Return W, the numbers of a user or an item."""
        return self.factors

    def extra(self) -> Tables:
        """Return what is trained beside the tables `user` (U, W), `item` (I, W) and `bias` (I, 1)."""
        return {}

    def project(self, tables: Tables) -> None:
        """Do nothing after a step; a model may keep its vectors in bounds here."""

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the entries of `train` (U, I) whose users miss an item at least."""
        import torch

        rows = examples(train)
        with session(context):
            module = self._initial(rows.shape).to(context.device)
        negatives = _chosen(rows.shape[1], context)
        trainer = _Trainer(self, module, rows)
        plan = Plan(trainer.items.numel(), self.epochs, self.batch_size, describe(self, rows), self.patience)

        def kept() -> dict[str, torch.Tensor]:
            tables = {name: table.detach() for name, table in module.items()}
            return {**self.kept(tables), "negatives": negatives, "start": tables["user"].mean(0)}

        def score(history: sp.csr_array) -> torch.Tensor:
            current = kept()
            return self.score_users(current, self.folded_in(current, history))

        optimiser = torch.optim.Adam(module.values(), lr=self.learning_rate, fused=True)
        project = trainer.project
        train_module(Learner(module, optimiser, trainer.loss, score, after_step=project), plan, context)
        return self._set(kept())

    def _initial(self, shape: tuple[int, int]) -> torch.nn.ParameterDict:
        import torch

        spread = START / self.width() ** 0.5
        users, items = (torch.nn.init.normal_(torch.empty(n, self.width()), std=spread) for n in shape)
        return torch.nn.ParameterDict({"user": users, "item": items, "bias": torch.zeros(shape[1], 1), **self.extra()})

    def score(self, history: sp.csr_array) -> Scores:
        """Return the scores (B, I) of the rows of `history`; a tensor if the model was fitted on a device."""
        rows = checked_history(history, self.kept_["items"].shape[0])
        scores = self.score_users(self.kept_, self.folded_in(self.kept_, rows))
        return scores if scores.device.type != "cpu" else scores.numpy()

    def state(self) -> Mapping[str, Array]:
        """Return what `kept` names, `negatives` (M,) that users are trained against, and `start` (W,) of a user."""
        return dict(self.kept_)

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        import torch

        return self._set({name: torch.as_tensor(array) for name, array in state.items()})

    def _set(self, kept: dict[str, torch.Tensor]) -> Self:
        self.kept_ = kept
        return self


class _Trainer:
    """The entries of a matrix, and what the loop asks of the tables."""

    def __init__(self, model: EntryTrained, module: torch.nn.ParameterDict, rows: sp.csr_array) -> None:
        import torch

        device = module["user"].device
        self.model, self.module, self.unseen = model, module, Unseen(rows, device)
        users = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        usable = self.unseen.room[users] > 0  # a user who has everything has nothing to tell apart
        self.users = torch.as_tensor(users[usable], device=device)
        self.items = torch.as_tensor(rows.indices[usable].astype(np.int64), device=device)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of some entries, with the penalty of all that was drawn for them."""
        import torch
        from torch.nn.functional import embedding

        places = torch.as_tensor(batch.rows, device=self.users.device)
        users, items = self.users[places], self.items[places]
        others = self.unseen.draw(users, self.model.negatives, batch.rng)
        items = torch.cat([items[:, None], others], 1)
        tables = self.module
        drawn = Drawn(
            embedding(users, tables["user"]),
            embedding(items, tables["item"]),
            embedding(items, tables["bias"])[:, :, 0],
        )
        loss = self.model.loss(self.model.scores_of(tables, drawn))
        if self.model.regularization:
            squares = drawn.users.square().sum() + drawn.items.square().sum()
            loss = loss + 0.5 * self.model.regularization / users.numel() * squares
        return loss

    def project(self) -> None:
        """Bring the tables back into bounds."""
        import torch

        with torch.no_grad():
            self.model.project(self.module)


def _chosen(n_items: int, context: FitContext) -> torch.Tensor:
    """Return the items that unseen users are trained against: random, all different, ascending, int32."""
    import torch

    drawn = np.random.default_rng([context.seed, 0]).choice(n_items, min(n_items, N_NEGATIVES), replace=False)
    return torch.as_tensor(np.sort(drawn).astype(np.int32), device=context.device)
