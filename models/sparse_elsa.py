"""Sparse ELSA: ELSA with long embeddings of which each item keeps few entries, pruned while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Scores, Shape
from recscale.errors import UsageError
from recscale.models._elsa import fold_in
from recscale.models._inputs import checked_history
from recscale.models._pruning import PrunedWeights, prepared_for_scoring, sparse_fold_in
from recscale.models._training import Learner, Plan, describe, examples, session, train_module


@dataclass
class SparseELSA(Model):
    """Score an item by the cosines of its sparse embedding with those of the history.

    s_u = x_u (A A' - I) as in ELSA, but with k of the D entries of each row of A kept (Vancura, Spisak, Alves and Peska
    2026, WWW, "Efficient Learning of Sparse Representations from Interactions"; from the text alone). Before epoch e,
    each row keeps its D (k / D)^(e / P) entries of largest magnitude, P the epochs of pruning; what is pruned stays so.
    With k = D it is ELSA with D factors.

    k: entries kept for each item, from 1 to `dimensions`.
    dimensions: D, at least 1.
    learning_rate: of NAdam, above 0.
    epochs: passes over the users, at least 1; k is reached in the last one at the latest.
    pruning_epochs: P, at least 1.
    batch_size: users of a step, at least 1.
    patience: as in ELSA; only epochs with k entries count.
    Raises NumericalError where the loss is not finite, UsageError for k above `dimensions`, DataError for input that is
    no matrix of finite numbers or a history over another number of items, DeadlineExceeded between two steps.
    """

    # NDCG@100 of validation users with 5, 10 and 15 epochs of pruning: ml-1m .481 .487 .489, ml-100k .449 .439 .440;
    # ELSA with 128 factors .488 and .467, EASE .488 and .455
    k: Annotated[int, Meta(ge=1)] = 64
    dimensions: Annotated[int, Meta(ge=1)] = 1024
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1
    epochs: Annotated[int, Meta(ge=1)] = 25
    pruning_epochs: Annotated[int, Meta(ge=1)] = 10
    batch_size: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[int, Meta(ge=1)] | None = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k > self.dimensions:
            raise UsageError(f"sparse_elsa: k={self.k} is above dimensions={self.dimensions}; keep at most all of them")

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train and prune the embeddings on the rows of `train` (U, I) that are not empty."""
        import torch

        train = examples(train)
        n_users, n_items = train.shape
        with session(context):
            weight = torch.nn.init.xavier_uniform_(torch.empty(n_items, self.dimensions, device=context.device))
        weights = PrunedWeights(weight, self.learning_rate, context)
        plan = Plan(n_users, self.epochs, self.batch_size, describe(self, train), self.patience, self._pruned_for - 1)
        learner = Learner(
            weights.module,
            weights.optimiser,
            lambda batch: weights.loss(train[batch.rows]),
            weights.score,
            before_epoch=lambda epoch: weights.prune(self._kept(epoch)),
            gauges=weights.gauges,
        )
        train_module(learner, plan, context)
        return self._set(weights.embeddings(), weights.on_device())

    @property
    def _pruned_for(self) -> int:
        """Epochs until only k entries are trained."""
        return min(self.pruning_epochs, self.epochs - 1) + 1

    def _kept(self, epoch: int) -> int:
        """Return the number of entries that each row keeps in an epoch, counted from 0."""
        share = min(1.0, epoch / max(1, self._pruned_for - 1)) if self.epochs > 1 else 1.0
        kept: int = round(self.dimensions * (self.k / self.dimensions) ** share)
        return kept

    def score(self, history: sp.csr_array) -> Scores:
        """Return x A A' - x (B, I) for each row of `history`; a tensor if the model was fitted on a device."""
        rows = checked_history(history, self.embeddings_.shape[0])
        if self.device_embeddings_ is not None:
            return fold_in(rows, self.device_embeddings_)
        return sparse_fold_in(rows, self.prepared_)

    def state(self) -> Mapping[str, Array]:
        """Return `embeddings` A (I, D), sparse, rows of length 1."""
        return {"embeddings": self.embeddings_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `embeddings`; scores on the CPU from then on."""
        return self._set(state["embeddings"])

    def _set(self, embeddings: sp.csr_array, on_device: Any = None) -> Self:
        """Take the embeddings, and the same in dense form where a device has them."""
        self.embeddings_ = embeddings
        self.device_embeddings_ = on_device
        self.prepared_ = None if on_device is not None else prepared_for_scoring(embeddings)
        return self


def estimate(model: SparseELSA, shape: Shape) -> Estimate:
    """Five dense tables while all entries are trained, the scores of a step or a Gram matrix; the model is sparse."""
    table = 4 * model.dimensions * shape.n_items
    block = 4 * min(model.batch_size, model.dimensions) * max(shape.n_items, model.dimensions)
    steps = shape.n_users / model.batch_size + 1  # of an epoch
    whole = 6 * min(model.batch_size, model.dimensions) * shape.n_items * model.dimensions
    pruned = 6 * model.batch_size * shape.n_items * model.k
    dense_epochs = min(model.epochs, 0.6 * model.pruning_epochs)
    return Estimate(
        peak_bytes=6 * table + 2 * block + 24 * shape.n_interactions + 2**25,
        model_bytes=8 * model.k * shape.n_items + 4 * (shape.n_items + 1),
        fit_seconds=steps * (dense_epochs * (whole / 1e11 + table * 4e-9) + model.epochs * pruned / 2e10),
    )


SPEC = ModelSpec(
    model=SparseELSA,
    title="Sparse ELSA",
    cite="Vancura et al. Efficient Learning of Sparse Representations from Interactions. WWW 2026.",
    size_knob="k",
    sizes=(8, 16, 32, 64, 128),
    space={
        "learning_rate": Range(1e-3, 0.3, log=True),
        "pruning_epochs": Range(3, 20),
        "batch_size": Range(64, 2048, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
