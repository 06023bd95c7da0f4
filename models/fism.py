"""FISM: a linear item-item model that is the product of two factor matrices, trained by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Range, Scores, Shape
from recscale.models._bags import Bags
from recscale.models._fism import Tables, add_gradient, hidden, paired, squared
from recscale.models._inputs import checked_history
from recscale.models._training import Batch, Learner, Plan, describe, examples, session, train_module

START = 0.1  # length of a vector that training starts from


@dataclass
class FISM(Model):
    """Score an item by its bias and the mean-like sum of the factors of the history times its own.

    s_ui = b_i + n^-alpha sum_{j in I_u without i} p_j . q_i, n the number of items summed: |I_u| - 1 for an item of the
    history, |I_u| for any other (Kabbur, Ning and Karypis 2013, KDD, equation 4; the user's bias changes no ranking
    and is left out). Values of X count as 1.
    `rmse` (equation 5) lowers the sum over users of (1 - s_ui)^2 over the history and s_uj^2 over `negatives` unknown
    items a known one, drawn at random in the paper and here in expectation, which is their mean square and has a closed
    form through Q'Q. `auc` (equation 7) lowers (1 - s_ui + s_uj)^2 over pairs of a known item and `negatives` random
    unknown ones, i left out of the history on both sides (algorithm 2; draws that hit the history are dropped).
    Both with regularization (|P|^2 + |Q|^2) + bias_regularization |b|^2, by Adam on batches of users.

    factors: length of the vectors, at least 1.
    loss: `rmse` or `auc`.
    alpha: 0 adds the history up, 1 takes its mean.
    negatives: rho, at least 1.
    regularization: beta, at least 0, against sums over all users.
    bias_regularization: gamma, at least 0.
    learning_rate: of Adam, above 0.
    epochs: passes over the users, at least 1.
    batch_size: users of a step, at least 1.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    Raises NumericalError where the loss is not finite, DataError for input that is no matrix of finite numbers or a
    history over another number of items, DeadlineExceeded between two steps.
    """

    # NDCG@100 of validation users, `rmse` with beta 10, by negatives 3, 10, 50: ml-1m .473 .481 .461; with 10 negatives
    # and beta 1, 3, 10: ml-100k .475 .477 .463; with beta 1 and 10, 50 negatives: debian-depends .554 .585
    factors: Annotated[int, Meta(ge=1)] = 64
    loss: Literal["rmse", "auc"] = "rmse"
    alpha: Annotated[float, Meta(ge=0, le=1)] = 0.5
    negatives: Annotated[int, Meta(ge=1)] = 10
    regularization: Annotated[float, Meta(ge=0)] = 3.0
    bias_regularization: Annotated[float, Meta(ge=0)] = 1.0
    # at rates .01, .003 and .001, with the other defaults: ml-1m .477 .484 .484, debian-depends .540 .558 .561; on
    # amazon-cds the loss goes up and down twentyfold with .01 and falls with .001, at which .095 is reached
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    epochs: Annotated[int, Meta(ge=1)] = 100
    batch_size: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[int, Meta(ge=1)] | None = 10

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train the factors on the rows of `train` (U, I) that are not empty."""
        import torch

        train = examples(train)
        n_users, n_items = train.shape
        with session(context):
            spread = START / self.factors**0.5
            history = torch.nn.init.normal_(torch.empty(n_items, self.factors, device=context.device), std=spread)
            items = torch.nn.init.normal_(torch.zeros(n_items, self.factors + 1, device=context.device), std=spread)
            items[:, -1] = 0
        module = torch.nn.ParameterDict({"p": history, "q": items})
        tables = Tables(module["p"], module["q"], self.alpha)
        strength = torch.full((self.factors + 1,), float(self.regularization), device=context.device)
        strength[-1] = self.bias_regularization

        def loss(batch: Batch) -> Any:
            rows = Bags.of(train[batch.rows], context.device)
            if self.loss == "rmse":
                total = squared(rows, tables, self.negatives)
            else:
                total = paired(rows, tables, self.negatives, batch.rng)
            for table in tables[:2]:
                weights = strength[: table.shape[1]] * (batch.rows.size / n_users)
                add_gradient(table, 2 * weights * table.detach())
                total = total + weights @ table.detach().square().sum(0)
            return total / rows.items.numel()

        def score(known: sp.csr_array) -> Any:
            return hidden(Bags.of(known, context.device), tables) @ tables.items.T

        optimiser = torch.optim.Adam(module.parameters(), lr=self.learning_rate)
        plan = Plan(n_users, self.epochs, self.batch_size, describe(self, train), self.patience)
        train_module(Learner(module, optimiser, loss, score), plan, context)
        return self._set(module["p"].detach(), module["q"].detach())

    def score(self, history: sp.csr_array) -> Scores:
        """Return the biases and the products of the factors (B, I); a tensor if the model was fitted on a device."""
        rows = checked_history(history, self.tables_.items.shape[0])
        device = self.tables_.items.device
        scores: Any = hidden(Bags.of(rows, device), self.tables_) @ self.tables_.items.T
        return scores if device.type != "cpu" else scores.numpy()

    def state(self) -> Mapping[str, Array]:
        """Return `history_factors` P (I, D) and `item_factors` Q (I, D + 1), the bias last."""
        return {"history_factors": self.tables_.history, "item_factors": self.tables_.items}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back the factors; scores on the CPU from then on."""
        import torch

        return self._set(torch.as_tensor(state["history_factors"]), torch.as_tensor(state["item_factors"]))

    def _set(self, history: Any, items: Any) -> Self:
        self.tables_ = Tables(history, items, self.alpha)
        return self


def estimate(model: FISM, shape: Shape) -> Estimate:
    """Two tables ten times over while training, and what a step or a validation has beside; the model is the tables."""
    from recscale.models._needs import looked_at_bytes

    tables = 4 * (2 * model.factors + 1) * shape.n_items
    looked_up = 1 if model.loss == "rmse" else 1 + model.negatives
    steps = model.epochs * (shape.n_users / model.batch_size + 1)
    beside = max((looked_up - 1) * 2**26, looked_at_bytes(shape))
    return Estimate(
        peak_bytes=10 * tables + beside + 2**24,
        model_bytes=tables,
        fit_seconds=model.epochs * shape.n_interactions * model.factors * looked_up * 1e-8 + steps * tables * 2e-9,
    )


SPEC = ModelSpec(
    model=FISM,
    title="FISM",
    cite="Kabbur, Ning and Karypis. FISM: Factored Item Similarity Models for Top-N Recommender Systems. KDD 2013.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "loss": Choice(("rmse", "auc")),
        "alpha": Range(0.0, 1.0),
        "negatives": Choice((3, 10, 30, 100)),
        "regularization": Range(0.01, 1000.0, log=True),
        "learning_rate": Range(1e-4, 0.03, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
