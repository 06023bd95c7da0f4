"""CEL-Lite: clustered embeddings that are learnt from a stream of users, as this project reconstructs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Choice, Estimate, FitContext, ModelSpec, Range, Shape
from recscale.models._clustering import smallest_integers
from recscale.models._shared_vectors import SharedVectors
from recscale.models._training import Learner, Plan, describe, examples, train_module


@dataclass(kw_only=True)
class CELLite(SharedVectors):
    """Score an item by the product of the user's vector with that of the item's cluster, and the bias of the item.

    A reconstruction: the code of CEL-Lite (Chen et al. 2023, WWW, arXiv 2302.01478) is not public, and no more of it
    was at hand than that it learns online at an optimal cost. Here users come in batches, and the past costs nothing:
    - the vectors of a batch of users are solved for, as those of unseen users are;
    - the table of clusters and the biases take a step of Adagrad on the loss of CEL over the batch, the gradient of a
      cluster divided by the number of its items;
    - an item whose interactions have passed a power of two goes to the best of its cluster, its sibling and the nearest
      other clusters, by the loss over its last users alone;
    - a cluster that has taken `split_after` interactions since its last split is split by gradient PCA, the gradients
      too from the last users of its items; the new cluster copies the vector.
    Items alone are clustered. Values of X count as 1. Runs on the CPU.

    clusters: M, the most clusters, at least 1.
    split_after: interactions, above 0; None is what brings all clusters by half of the training, 1/3 of its
        interactions over M.
    buffer: last users that are remembered of an item, at least 1.
    candidates: nearest other clusters that an item is tried in, at least 0.
    average: divide the gradient of a cluster by the number of its items.
    learning_rate: of Adagrad, above 0.
    epochs: passes over the users, at least 1; 1 is a stream.
    batch_size: users of a step, at least 1.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    Further options are those of `SharedVectors`. Raises NumericalError where the loss is not finite, DataError for
    input that is no matrix of finite numbers or a history over another number of items, DeadlineExceeded.
    """

    clusters: Annotated[int, Meta(ge=1)] = 200
    split_after: Annotated[float, Meta(gt=0)] | None = None
    buffer: Annotated[int, Meta(ge=1)] = 64
    candidates: Annotated[int, Meta(ge=0)] = 4
    average: bool = True
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1
    epochs: Annotated[int, Meta(ge=1)] = 20
    batch_size: Annotated[int, Meta(ge=1)] = 100
    patience: Annotated[int, Meta(ge=1)] | None = None

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the rows of `train` (U, I) that are not empty."""
        import torch

        from recscale.models._cel_lite import Rules, Stream

        rows = examples(train)
        after = self.split_after or self.epochs * rows.nnz / (3 * self.clusters)
        rules = Rules(
            factors=self.factors,
            clusters=self.clusters,
            unobserved_weight=self.unobserved_weight,
            regularization=self.regularization,
            split_after=after,
            buffer=self.buffer,
            candidates=self.candidates,
            average=self.average,
        )
        stream = Stream(rows, rules, context)
        stream.optimiser = torch.optim.Adagrad(stream.module.parameters(), lr=self.learning_rate)

        def kept() -> dict[str, Any]:
            state = {name: array.copy() for name, array in stream.kept().items()}
            return state | {"item_clusters": smallest_integers(state["item_clusters"])}

        learner = Learner(
            stream.module,
            stream.optimiser,
            stream.loss,
            lambda history: self._set(kept()).score(history),
            after_step=stream.after_step,
            gauges=stream.items.gauges,
        )
        plan = Plan(rows.shape[0], self.epochs, self.batch_size, describe(self, rows), self.patience)
        train_module(learner, plan, context)
        return self._set(kept())


def estimate(model: CELLite, shape: Shape) -> Estimate:
    """Vectors of the users, last users of the items, and the data; the model is what is shared, and the biases."""
    from recscale.models._needs import validation_bytes

    n_shared = min(model.clusters, shape.n_items)
    buffers = shape.n_users * model.factors * 4 + shape.n_items * (model.buffer * 4 + 64)
    return Estimate(
        peak_bytes=buffers
        + 16 * n_shared * model.factors
        + 24 * shape.n_interactions
        + validation_bytes(shape)
        + 2**24,
        model_bytes=4 * model.factors * n_shared + shape.n_items * (5 if n_shared <= 256 else 6),
        fit_seconds=model.epochs * (shape.n_interactions + shape.n_users * model.factors) * model.factors**2 * 2.5e-9,
    )


SPEC = ModelSpec(
    model=CELLite,
    title="CEL-Lite (our reconstruction)",
    cite="Chen et al. Clustered Embedding Learning for Recommender Systems. WWW 2023.",
    size_knob="clusters",
    sizes=(50, 100, 200, 500, 1000),
    space={
        "regularization": Range(1e-3, 0.1, log=True),
        "unobserved_weight": Range(0.01, 1.0, log=True),
        "learning_rate": Range(0.02, 0.5, log=True),
        "factors": Choice((16, 32, 64, 128)),
    },
    devices=("cpu",),
    estimate=estimate,
)
