"""ELSA: a linear item-item model of low rank with a zero diagonal, trained by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Scores, Shape
from recscale.models._bags import Bags
from recscale.models._elsa import NormalisedLoss, fold_in
from recscale.models._inputs import checked_history
from recscale.models._training import Batch, Learner, Plan, describe, examples, session, train_module


@dataclass
class ELSA(Model):
    """Score an item by the cosines of its embedding with those of the history.

    s_u = x_u (A A' - I) with rows of A of length 1, so that the diagonal is zero; A minimises the mean over users of
    |x_u / |x_u| - s_u / |s_u||^2 (Vancura, Alves, Kasalicky and Kordik 2022, RecSys, section 3). Trained by NAdam from
    uniform Xavier weights, as by the authors' code; that code divides the loss by I too, and NAdam by the gradients'
    own size, which leaves its epsilon of 1e-8 as the only difference. No dense row of X exists while training, and
    scores (B, I) only where 3 B I < 2 D (B + I).

    factors: length of an embedding, at least 1.
    learning_rate: of NAdam, above 0.
    epochs: passes over the users, at least 1.
    batch_size: users of a step, at least 1.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    Raises NumericalError where the loss is not finite, DataError for input that is no matrix of finite numbers or a
    history over another number of items, DeadlineExceeded between two steps.
    """

    # NDCG@100 of validation users in steps of 64, 128 and 256 users: ml-1m .487 .488 .486 (128 factors); in steps of 64
    # and 256: ml-100k .462 .471, debian-depends .537 .540 (256 factors)
    factors: Annotated[int, Meta(ge=1)] = 256
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1
    epochs: Annotated[int, Meta(ge=1)] = 30
    batch_size: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[int, Meta(ge=1)] | None = 5

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train the embeddings on the rows of `train` (U, I) that are not empty."""
        import torch

        train = examples(train)
        n_users, n_items = train.shape
        with session(context):
            weight = torch.nn.init.xavier_uniform_(torch.empty(n_items, self.factors, device=context.device))
        module = torch.nn.ParameterDict({"weight": weight})
        step = NormalisedLoss(module["weight"])

        def loss(batch: Batch) -> Any:
            return step(Bags.of(train[batch.rows], context.device), 1 / batch.rows.size)

        def score(history: sp.csr_array) -> Any:
            step.normalise()
            return fold_in(history, step.unit)

        optimiser = torch.optim.NAdam(module.parameters(), lr=self.learning_rate)
        plan = Plan(n_users, self.epochs, self.batch_size, describe(self, train), self.patience)
        train_module(Learner(module, optimiser, loss, score), plan, context)
        step.normalise()
        return self._set(step.unit)

    def score(self, history: sp.csr_array) -> Scores:
        """Return x A A' - x (B, I) for each row of `history`; a tensor if the model was fitted on a device."""
        scores: Any = fold_in(checked_history(history, self.embeddings_.shape[0]), self.embeddings_)
        return scores if self.embeddings_.device.type != "cpu" else scores.numpy()

    def state(self) -> Mapping[str, Array]:
        """Return `embeddings` A (I, D), rows of length 1."""
        return {"embeddings": self.embeddings_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `embeddings`; scores on the CPU from then on."""
        import torch

        return self._set(torch.as_tensor(state["embeddings"]))

    def _set(self, embeddings: Any) -> Self:
        self.embeddings_: Any = embeddings
        return self


def estimate(model: ELSA, shape: Shape) -> Estimate:
    """Ten tables of the size of the model, the best epoch among them, and what a validation or a step has beside."""
    from recscale.models._needs import looked_at_bytes

    table = 4 * model.factors * shape.n_items
    block = 4 * min(model.batch_size, model.factors) * max(shape.n_items, model.factors)
    steps = model.epochs * (shape.n_users / model.batch_size + 1)
    multiplications = 2 * model.factors**2 * (shape.n_items + model.batch_size) * steps
    return Estimate(
        peak_bytes=10 * table + max(block, looked_at_bytes(shape)) + 2**24,
        model_bytes=table,
        fit_seconds=multiplications / 5e10 + steps * table * 2e-9,
    )


SPEC = ModelSpec(
    model=ELSA,
    title="ELSA",
    cite="Vancura et al. Scalable Linear Shallow Autoencoder for Collaborative Filtering. RecSys 2022.",
    size_knob="factors",
    sizes=(32, 64, 128, 256, 512),
    space={
        "learning_rate": Range(1e-3, 0.3, log=True),
        "epochs": Range(5, 100, log=True),
        "batch_size": Range(32, 2048, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
