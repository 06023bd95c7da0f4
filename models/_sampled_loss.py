"""What ELFM and its ablation are trained for: find the one item that was hidden from a history among random others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import FitContext, HeldOut, Model
from recscale.errors import UsageError
from recscale.models._training import Batch, Learner, Plan, describe, train_module

if TYPE_CHECKING:
    import torch

JUDGES = 1000  # validation users who are asked after each epoch; with all 2,986 of gowalla that took half of the time
SMALLEST = 1e-8  # added to a score in the ratio, whose logarithm does not exist for 0


class Task(NamedTuple):
    """One step: what each user of a batch, or of a part of it, is known by, what is to be found, and among what."""

    known: sp.csr_array  # (B, I) the rows of the batch without the hidden items
    hidden: NDArray[np.int64]  # (B,) one item of each row
    pool: NDArray[np.int64]  # (S,) random items, all different, the same for all users
    taken: tuple[NDArray[np.int64], NDArray[np.int64]]  # user and place in the pool of items that are in a row
    share: float = 1.0  # of the whole batch

    def part(self, users: slice) -> Task:
        """Return the task of some of the users, among the same pool."""
        first, last = users.start, users.stop
        mine = (self.taken[0] >= first) & (self.taken[0] < last)
        taken = self.taken[0][mine] - first, self.taken[1][mine]
        share = (last - first) / self.known.shape[0]
        return Task(self.known[users], self.hidden[users], self.pool, taken, share)


@dataclass(frozen=True, slots=True)
class Target:
    """How the scores of the hidden item and the pool become a loss (equation 7).

    `softmax` is the cross entropy of exp(s), `ratio` the formula as printed, without exp. `alpha` is the share of the
    target that is spread over all candidates (`label_smoothing`, as the text says) or a factor (`scale`, as printed).
    """

    loss: Literal["softmax", "ratio"]
    alpha: float
    alpha_as: Literal["label_smoothing", "scale"]

    def __call__(self, hidden: torch.Tensor, pool: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the loss from scores of the hidden items (B,) and of the pool (B, S).

        It is the mean over users, or the share of these users in that of the whole batch.
        """
        import torch

        from recscale.models._sampled_softmax import sampled_softmax

        users, places = (torch.as_tensor(part, device=pool.device) for part in task.taken)
        weight = task.share * (self.alpha if self.alpha_as == "scale" else 1.0)
        smoothing = 0.0 if self.alpha_as == "scale" else self.alpha
        if self.loss == "softmax":
            return weight * sampled_softmax(hidden, pool, (users, places), smoothing)
        scores = torch.cat([hidden[:, None], pool], dim=1)  # (B, 1 + S)
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed[users, places + 1] = False
        total = (scores * allowed).sum(1, keepdim=True)
        logs = (scores + SMALLEST).log() - (total + SMALLEST * allowed.sum(1, keepdim=True)).log()
        spread = torch.where(allowed, logs, 0).sum(1) / allowed.sum(1)
        return -weight * ((1 - smoothing) * logs[:, 0] + smoothing * spread).mean()


def trainable(train: sp.csr_array) -> sp.csr_array:
    """Return the rows with two items at least: one to hide, and one to know.

    Raises UsageError if there are none.
    """
    rows = train[np.flatnonzero(np.diff(train.indptr) >= 2)]
    if not rows.shape[0]:
        raise UsageError("no user has two items: there is nothing to hide and nothing to find it by")
    return rows


def draw_task(rows: sp.csr_array, n_negatives: int, rng: np.random.Generator) -> Task:
    """Hide a random item of each row (B, I), each with two at least, and draw a pool of at most `n_negatives` items."""
    lengths = np.diff(rows.indptr)
    hidden_entry = rows.indptr[:-1] + (rng.random(lengths.size) * lengths).astype(np.int64)
    kept = np.ones(rows.nnz, bool)
    kept[hidden_entry] = False
    known = sp.csr_array((rows.data[kept], rows.indices[kept], rows.indptr - np.arange(lengths.size + 1)), rows.shape)
    n_items = rows.shape[1]
    pool = rng.choice(n_items, min(n_negatives, n_items), replace=False, shuffle=False).astype(np.int64)
    places = np.full(n_items, -1, np.int64)
    places[pool] = np.arange(pool.size)
    found = places[rows.indices]
    users = np.repeat(np.arange(lengths.size), lengths)
    return Task(known, rows.indices[hidden_entry].astype(np.int64), pool, (users[found >= 0], found[found >= 0]))


class Trainer(Protocol):
    """What is trained, and on which rows."""

    rows: sp.csr_array  # (U, I) with two items at least in each
    module: torch.nn.Module

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch."""

    def score(self, history: sp.csr_array) -> Any:
        """Return the scores (B, I) of histories."""

    def gauges(self) -> Mapping[str, float]:
        """Return further figures to log."""


@dataclass(kw_only=True)
class TrainedToFind(Model):
    """What ELFM and its ablation share: the options of their training, and the training.

    alpha: from 0 to 1, and what it is: `alpha_as` `label_smoothing`, as the text says, or `scale`, as printed.
    n_negatives: items of a draw, at least 1.
    learning_rate: of Adam, above 0; divided by 10 after every `step_epochs`.
    epochs: passes over the users, at least 1.
    batch_size: users of a step, at least 1.
    patience: epochs without a better MRR of the validation users after which training ends; None goes to the end. As
    many as a rate lasts, so that what a lower rate gains is seen.
    """

    alpha: Annotated[float, Meta(ge=0, le=1)] = 0.1
    alpha_as: Literal["label_smoothing", "scale"] = "label_smoothing"
    n_negatives: Annotated[int, Meta(ge=1)] = 1000
    learning_rate: Annotated[float, Meta(gt=0)] = 0.003
    epochs: Annotated[int, Meta(ge=1)] = 150
    step_epochs: Annotated[int, Meta(ge=1)] = 50
    batch_size: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[int, Meta(ge=1)] | None = 50

    def _train(self, trainer: Trainer, context: FitContext) -> None:
        """Train as section 4.4 of the paper of ELFM: Adam, its rate a tenth after every `step_epochs`.

        The MRR of at most 1,000 validation users tells when to end. Several processes of torch.distributed share the
        work.
        """
        import torch

        from recscale.models._compiled import numba_threads

        rows = trainer.rows
        plan = Plan(rows.shape[0], self.epochs, self.batch_size, describe(self, rows), self.patience, measure="mrr")
        learner = Learner(
            trainer.module,
            torch.optim.Adam(trainer.module.parameters(), lr=self.learning_rate),
            trainer.loss,
            trainer.score,
            rate=lambda epochs: 0.1 ** (epochs // self.step_epochs),
            gauges=trainer.gauges,
            is_parallel=True,
        )
        with numba_threads(context.n_threads):
            train_module(learner, plan, replace(context, validation=_some(context.validation)))


def _some(held_out: HeldOut | None) -> HeldOut | None:
    """Return every n-th of the users, so that at most `JUDGES` are left: each of them has all items scored."""
    if held_out is None or held_out.n_users <= JUDGES:
        return held_out
    return held_out.some(slice(0, None, -(-held_out.n_users // JUDGES)))
