"""What MF-BPR, GMF, uCML and NeuMF share: vectors of users and items, trained on entries against random other items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, FitContext, Model, Scores
from recscale.models._clustering import smallest_integers
from recscale.models._entry_trainer import Drawn, DrawnInPlace, EntryTrainer
from recscale.models._inputs import checked_history
from recscale.models._judges import with_judges
from recscale.models._training import Learner, Plan, describe, examples, train_module

if TYPE_CHECKING:
    import torch

Tables: TypeAlias = "Mapping[str, torch.Tensor]"

# that a user's vector is trained against in a step, when the items are frozen. With the same in all steps users of CML
# come near other items: Recall@20 of 2,000 users of the published split of gowalla .139, .165 with others in each step
# and .166 by the vectors that were trained with the items
N_NEGATIVES = 256
_NO_TENSORS = "item_clusters", "draws"  # of a state


class KeptNumbers(NamedTuple):
    """How many numbers a model keeps."""

    row: int  # of each item's vector, or of each cluster's
    item: int
    beside: int


@dataclass(kw_only=True)
class EntryTrained(Model):
    """What the models share: the options, the training on entries, and how unseen users are brought in.

    Each step takes some entries of X and draws `negatives` items evenly from those that the user does not have; values
    of X count as 1. An unseen user's vector is trained as the ELFM paper does it (Yang et al. 2021, RecSys, section
    5.1): everything else frozen, on the history alone. Here in each step on all of it, against 256 random items, other
    ones in each step but the same for everyone, less the history; from the mean vector of the training users, by Adam
    with a rate that falls to zero: a user's scores depend on that user alone.

    factors: D, length of the vectors, at least 1.
    clusters: M: items have the vector of one of so many clusters, as in `cel`, at least 1; None for one each. An item
        of a cluster goes where the loss of the entries that it is drawn for would be least.
    growth_epochs: in which clusters are split, from 1 to M, and items reassigned, at least 1.
    reassign_every: epochs between two reassignments, 0 for none.
    regularization: lambda, at least 0: each drawn vector v adds lambda / 2 |v|^2 to the loss of its entry.
    negatives: items drawn for an entry, at least 1.
    learning_rate: of Adam, above 0.
    epochs: passes over the entries, at least 1.
    batch_size: entries of a step, at least 1.
    patience: epochs without a better NDCG@100 of at most 1,000 validation users before it ends; None never ends
        early. With validation users the best epoch is kept.
    fold_in_steps: of the inference, at least 1.
    fold_in_rate: of the inference, above 0.
    fold_in_regularization: the lambda of the inference, at least 0: one history is less to learn from than all.
    Raises NumericalError where the loss is not finite, DataError for input that is no matrix of finite numbers or a
    history over another number of items, DeadlineExceeded between two steps.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    clusters: Annotated[int, Meta(ge=1)] | None = None
    # NDCG@100 of validation users of debian-depends, GMF with 200 clusters grown in 1, 4, 10 and 20 epochs: .252 .276
    # .333 .388, .405 with learning_rate=.01; CEL .469, no clusters .600
    growth_epochs: Annotated[int, Meta(ge=1)] = 20
    reassign_every: Annotated[int, Meta(ge=0)] = 1
    # NDCG@100 of validation users, MF-BPR with 0, 1e-4, 1e-3 and 1e-2: debian-depends .580 .577 .547, lastfm-2k .369
    # .369 .372 .396; GMF, lastfm-2k .381 .381 .382 .388, .396 with .1: the sparser the data the less, so next to none
    regularization: Annotated[float, Meta(ge=0)] = 1e-6
    negatives: Annotated[int, Meta(ge=1)] = 1
    # NDCG@100 of validation users of debian-depends after 20 to 40 epochs: GMF .600, MF-BPR .581, NeuMF .578, uCML .457
    # In steps of 1,024, 4,096 and 8,192 at .003, .006 and .01: MF-BPR .583 .583 .576, GMF .600 .600, uCML .463 .480;
    # an epoch of gowalla takes MF-BPR 9.3, 4.0 and 3.3 s
    learning_rate: Annotated[float, Meta(gt=0)] = 0.006
    epochs: Annotated[int, Meta(ge=1)] = 150
    batch_size: Annotated[int, Meta(ge=1)] = 4096
    # MF-BPR, NDCG@100 of validation users of debian-depends, hold-one-out: .543 with 10 (epoch 34), .557 with 50 (epoch
    # 83), .557 if the rate falls to a tenth after every 50 epochs, .541 after every 25; lastfm-2k .222 with each
    patience: Annotated[int, Meta(ge=1)] | None = 50
    fold_in_steps: Annotated[int, Meta(ge=1)] = 50
    fold_in_rate: Annotated[float, Meta(gt=0)] = 0.05
    # NDCG@100 of validation users with 1e-6, .003, .03, .1 and .3: MF-BPR, ml-1m .421 .425 .445 .437 .402, lastfm-2k
    # .373 .377 .398 .404 .396, debian-depends .586 .594 .603 .598 .595; with the same 256 items in each step, at best
    # .411 .387 .603
    fold_in_regularization: Annotated[float, Meta(ge=0)] = 0.03

    needs_products_alone: ClassVar[bool] = False  # whether `scores_of` asks no more of `Drawn` than DrawnInPlace has

    @abstractmethod
    def scores_of(self, tables: Tables, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return the scores (B, 1 + n) of drawn items; a bias is added to the rest."""

    @abstractmethod
    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the loss of each entry (B,), without the penalty, from the scores (B, 1 + n)."""

    @abstractmethod
    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return of the tables what scoring needs: `items`, a row for each of `item`, and more."""

    @abstractmethod
    def folded_in(self, kept: Tables, rows: sp.csr_array) -> torch.Tensor:
        """Return the vectors (B, W) of the users in `rows` (B, I), everything else frozen."""

    @abstractmethod
    def score_users(self, kept: Tables, users: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, I) of all items for the vectors (B, W) of users."""

    @abstractmethod
    def kept_numbers(self) -> KeptNumbers:
        """Return the size of what is kept."""

    def width(self) -> int:
        """Return W, the numbers of a user or an item."""
        return self.factors

    def extra(self) -> Tables:
        """Return what is trained beside the tables `user` (U, W), `item` (I, W) and `bias` (I, 1)."""
        return {}

    def project(self, tables: Tables) -> None:
        """Do nothing after a step; a model may keep its vectors in bounds here."""

    def ready(self, kept: Tables) -> Tables:
        """Return what is kept and what follows from it, for `folded_in` and `score_users`."""
        return kept

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the entries of `train` (U, I) whose users miss an item at least."""
        rows = examples(train)
        trainer = EntryTrainer(self, rows, context)
        growth = 0 if self.clusters is None else min(self.growth_epochs, self.epochs - 1)
        n_entries = trainer.of_users.numel()
        plan = Plan(n_entries, self.epochs, self.batch_size, describe(self, rows), self.patience, warm_up=growth)
        learner = Learner(
            trainer.module,
            trainer.optimiser,
            trainer.loss,
            lambda history: self._take(trainer, context).score(history),
            before_epoch=trainer.before_epoch,
            after_step=trainer.project,
            gauges=trainer.items.gauges,
        )
        train_module(learner, plan, with_judges(context))
        return self._take(trainer, context)

    def _take(self, trainer: EntryTrainer, context: FitContext) -> Self:
        """Keep what was trained so far."""
        kept, clusters = trainer.kept()
        shared = {} if clusters is None else {"item_clusters": smallest_integers(clusters)}
        draws = np.random.SeedSequence([context.seed, 0]).generate_state(1)
        return self._set({**kept, "draws": draws, **shared})

    def score(self, history: sp.csr_array) -> Scores:
        """Return the scores (B, I) of the rows of `history`; a tensor if the model was fitted on a device."""
        rows = checked_history(history, self.kept_["items"].shape[0])
        scores = self.score_users(self.kept_, self.folded_in(self.kept_, rows))
        return scores if scores.device.type != "cpu" else scores.numpy()

    def state(self) -> Mapping[str, Array]:
        """Return what `kept` names, `start` (W,) of a user, and `draws` (1,), a seed: what it is trained against.

        With clusters `items` are theirs, and `item_clusters` (I,) tells whose is whose.
        """
        return self.state_

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        import torch

        return self._set({name: a if name in _NO_TENSORS else torch.as_tensor(a) for name, a in state.items()})

    def _set(self, state: dict[str, Any]) -> Self:
        import torch

        self.state_ = state
        kept = {name: array for name, array in state.items() if name not in _NO_TENSORS}
        if "item_clusters" in state:
            clusters = torch.as_tensor(state["item_clusters"].astype(np.int64), device=kept["items"].device)
            kept["items"] = kept["items"][clusters]
        negatives = other_items(len(kept["items"]), self.fold_in_steps, int(state["draws"][0]))
        self.kept_ = self.ready({**kept, "negatives": torch.from_numpy(negatives)})
        return self


def other_items(n_items: int, n_steps: int, seed: int) -> NDArray[np.int32]:
    """Return the items that unseen users are trained against (S, M): in each step random, all different, ascending."""
    rng, n_drawn = np.random.default_rng(seed), min(n_items, N_NEGATIVES)
    return np.stack([np.sort(rng.choice(n_items, n_drawn, replace=False)) for _ in range(n_steps)]).astype(np.int32)
