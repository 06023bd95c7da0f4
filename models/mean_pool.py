"""Mean pooling: a user is the mean of the items of the history. ELFM without its co-clusters, trained the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Array, Estimate, FitContext, ModelSpec, Range, Scores, Shape, canonical
from recscale.models._inputs import checked_history
from recscale.models._sampled_loss import Target, TrainedToFind, draw_task, trainable
from recscale.models._training import Batch, session

if TYPE_CHECKING:
    import torch


@dataclass
class MeanPool(TrainedToFind):
    """Score an item by its dot product with the pooled history: s_ui = e_i . W sum_j w_j e_j over the items j of u.

    w_j = 1 / |I_u| (`mean`), or softmax_j(h . e_j / sqrt d), the attention of ELFM with one head (`attention`). The
    ablation of ELFM (Yang, Schnabel, Bennett and Dumais 2021, RecSys): its embeddings, aggregator, draws and training
    (softmax alone, since scores may be negative), but no co-clusters, so what these buy can be read off.
    I d + d^2 parameters, and d more with attention.

    factors: d, at least 1.
    pooling: `mean` or `attention`.
    l2: weight of the mean squared length of the embeddings of candidates, at least 0.
    The options of the training are those of `TrainedToFind`, the errors those of ELFM.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    pooling: Literal["mean", "attention"] = "mean"
    l2: Annotated[float, Meta(ge=0)] = 0.0

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the rows of `train` (U, I) that have two items at least."""
        trainer = _Trainer(self, trainable(canonical(train)), context)
        self._train(trainer, context)
        return self._set([table.detach() for table in trainer.module])

    def _set(self, tables: list[torch.Tensor]) -> Self:
        self.tables_ = tables
        return self

    def score(self, history: sp.csr_array) -> Scores:
        """Return the scores (B, I) of each row of `history`; a tensor if the model was trained on a device."""
        import torch

        rows = checked_history(history, self.tables_[0].shape[0])
        with torch.no_grad():
            scores = pooled(rows, self.tables_) @ self.tables_[0].T  # (B, d) @ (d, I)
        return scores if scores.device.type != "cpu" else scores.numpy()

    def state(self) -> Mapping[str, Array]:
        """Return `items` (I, d), `mixing` (d, d) and, with attention, `head` (1, d)."""
        return dict(zip(("items", "mixing", "head"), self.tables_, strict=False))

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        import torch

        return self._set([torch.as_tensor(state[name]) for name in ("items", "mixing", "head") if name in state])


def pooled(rows: sp.csr_array, tables: list[torch.Tensor]) -> torch.Tensor:
    """Return W sum_j w_j e_j (B, d) of the histories in `rows` (B, I); 0 for an empty one."""
    import torch
    from torch.nn.functional import embedding_bag

    items, mixing, *head = tables
    arrays = rows.indices.astype(np.int64), rows.indptr[:-1].astype(np.int64)
    places, starts = (torch.as_tensor(array, device=items.device) for array in arrays)
    if not head:
        return embedding_bag(places, items, starts, mode="mean") @ mixing.T
    exponents = (items @ head[0].T)[:, 0] / items.shape[1] ** 0.5
    weights = (exponents - exponents.max().detach()).exp()[places]
    total = embedding_bag(places, torch.ones_like(items[:, :1]), starts, mode="sum", per_sample_weights=weights)
    summed = embedding_bag(places, items, starts, mode="sum", per_sample_weights=weights)
    return (summed / total.clamp(min=torch.finfo(total.dtype).tiny)) @ mixing.T


class _Trainer:
    """The parameters under training, and what the loop asks of them."""

    def __init__(self, model: MeanPool, rows: sp.csr_array, context: FitContext) -> None:
        import torch

        self.model, self.rows = model, rows
        self.target = Target("softmax", model.alpha, model.alpha_as)
        scale = model.factors**-0.5
        sizes = [rows.shape[1], model.factors, *([1] if model.pooling == "attention" else [])]
        with session(context):
            drawn = [scale * torch.randn(n, model.factors) for n in sizes]
        drawn[1] = torch.eye(model.factors) + 0.1 * drawn[1]
        self.module = torch.nn.ParameterList(table.to(context.device) for table in drawn)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the part of a batch in its loss: to find the hidden items."""
        import torch

        task = draw_task(self.rows[batch.rows], self.model.n_negatives, batch.rng).part(batch.part)
        items = self.module[0]
        users = pooled(task.known, list(self.module))  # (B, d)
        hidden, pool = (items[torch.as_tensor(part, device=items.device)] for part in (task.hidden, task.pool))
        loss = self.target((users * hidden).sum(1), users @ pool.T, task)
        if self.model.l2:
            lengths = hidden.square().sum(1).mean() + pool.square().sum(1).mean()
            loss = loss + self.model.l2 * task.share * lengths
        return loss

    def score(self, history: sp.csr_array) -> Any:
        """Return the scores (B, I) of histories, for the validation."""
        import torch

        with torch.no_grad():
            return pooled(history, list(self.module)) @ self.module[0].T

    def gauges(self) -> dict[str, float]:
        """Return nothing more."""
        return {}


def estimate(model: MeanPool, shape: Shape) -> Estimate:
    """Parameters with gradients, moments and the best epoch, the candidates of a step, and a validation."""
    from recscale.models._needs import judges, looked_at_bytes
    from recscale.models._sampled_loss import JUDGES

    n_users, n_items, factors = shape.n_users, shape.n_items, model.factors
    parameters = n_items * factors + factors**2
    batch = min(model.batch_size, n_users)
    steps = -(-n_users // max(1, batch))
    of_an_epoch = 2e-9 * shape.n_interactions * factors + 4.4e-8 * judges(shape, JUDGES) * n_items + 3.3e-3 * steps
    return Estimate(
        peak_bytes=26 * parameters
        + 36 * batch * min(model.n_negatives, n_items)
        + int(2.7 * looked_at_bytes(shape, JUDGES)),
        model_bytes=4 * parameters,
        fit_seconds=model.epochs * of_an_epoch,
    )


SPEC = ModelSpec(
    model=MeanPool,
    title="MeanPool",
    cite="Yang et al. Local Factor Models for Large-Scale Inductive Recommendation. RecSys 2021 (an ablation of it).",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={"learning_rate": Range(1e-3, 3e-2, log=True), "alpha": Range(0.0, 0.3), "l2": Range(0.0, 1e-2)},
    devices=("cpu", "cuda"),
    is_parallel=True,
    estimate=estimate,
)
