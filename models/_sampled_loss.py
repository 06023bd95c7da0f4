"""What ELFM and its ablation are trained for: find the one item that was hidden from a history among random others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import UsageError
from recscale.models._training import Batch, Learner, Plan, describe, train_module

if TYPE_CHECKING:
    import torch

SMALLEST = 1e-8  # added to a score in the ratio, whose logarithm does not exist for 0


class Task(NamedTuple):
    """One step: what each user of a batch is known by, what is to be found, and among what."""

    known: sp.csr_array  # (B, I) the rows of the batch without the hidden items
    hidden: NDArray[np.int64]  # (B,) one item of each row
    pool: NDArray[np.int64]  # (S,) random items, all different, the same for all users
    taken: tuple[NDArray[np.int64], NDArray[np.int64]]  # user and place in the pool of items that are in a row


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
        """Return the mean loss over users from scores of the hidden items (B,) and of the pool (B, S)."""
        import torch

        users, places = (torch.as_tensor(part, device=pool.device) for part in task.taken)
        scores = torch.cat([hidden[:, None], pool], dim=1)  # (B, 1 + S)
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed[users, places + 1] = False
        if self.loss == "softmax":
            logs = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
        else:
            total = (scores * allowed).sum(1, keepdim=True)
            logs = (scores + SMALLEST).log() - (total + SMALLEST * allowed.sum(1, keepdim=True)).log()
        if self.alpha_as == "scale":
            return -self.alpha * logs[:, 0].mean()
        spread = torch.where(allowed, logs, 0).sum(1) / allowed.sum(1)
        return -((1 - self.alpha) * logs[:, 0] + self.alpha * spread).mean()


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


def train_to_find(model: Any, trainer: Trainer, context: FitContext) -> None:
    """Train as section 4.4 of the paper of ELFM, by the options of `model` of the same names as ELFM's.

    Adam, its rate a tenth after every `step_epochs`, and the MRR of the validation users to tell when to end.
    """
    import torch

    from recscale.models._compiled import numba_threads

    optimiser = torch.optim.Adam(trainer.module.parameters(), lr=model.learning_rate)
    identity = describe(model, trainer.rows)
    plan = Plan(trainer.rows.shape[0], model.epochs, model.batch_size, identity, model.patience, measure="mrr")
    learner = Learner(
        trainer.module,
        optimiser,
        trainer.loss,
        trainer.score,
        rate=lambda epochs: 0.1 ** (epochs // model.step_epochs),
        gauges=trainer.gauges,
    )
    with numba_threads(context.n_threads):
        train_module(learner, plan, context)
