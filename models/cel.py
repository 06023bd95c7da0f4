"""CEL: matrix factorisation whose items, users or both share embeddings by clusters that are learnt with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Choice, Estimate, FitContext, ModelSpec, Range, Shape
from recscale.errors import UsageError
from recscale.models._cel import STEPS, Factorisation, Optimiser, Problem, settling
from recscale.models._clustered_embedding import ClusteredEmbedding
from recscale.models._clustering import Clustering, smallest_integers
from recscale.models._shared_vectors import SharedVectors
from recscale.models._training import Learner, Plan, describe, examples, train_module

if TYPE_CHECKING:
    from recscale.models._cel_fold_in import Collapsed


@dataclass(kw_only=True)
class CEL(SharedVectors):
    """Score an item by the product of the user's vector with that of the item's cluster, and the bias of the item.

    Clustered Embedding Learning (Chen et al. 2023, WWW, arXiv 2302.01478): entities have the vector of their cluster,
    v_i = A_c(i); training goes on in turn on the vectors and on the clusters, which are split along the first principal
    direction of their entities' gradients, and whose entities go where their loss is least (`ClusteredEmbedding`).
    The paper's factorisation is of ratings; for interactions its loss is here that of iALS,
    sum_{(u,i) in X} (1 - s_ui)^2 + alpha0 sum_{all u,i} s_ui^2 + lambda (sum_u (|I_u| + alpha0 I) |u|^2
    + sum_i (|U_i| + alpha0 U) |v_i|^2), s_ui = u . v_i + b_i, so that without clusters and bias it is iALS; by
    full-batch gradients, 10 steps an epoch. An unseen user's vector minimises this loss, all else frozen: a ridge
    regression. All items of a cluster tie but for b_i. The authors' code clusters items only.
    Values of X count as 1. With validation users the best epoch is kept, of those after the clusters have grown.

    clusters: M, the most clusters of a clustered side, at least 1; None for a vector each, on both sides.
    cluster: what is clustered: `items`, `users` or `both`.
    start_clusters: M0, at least 1.
    bias: b_i, the tie-breaker, or none.
    nonnegative: keep all vectors at or above zero, as the paper's factorisation does; unseen users' too.
    fold_in: `ridge`, or the vector of the user `cluster` whose loss on the history is least, if users are clustered.
    epochs: of 10 steps, at least 1.
    growth_share: share of the epochs in which clusters change, from 0 to 1.
    growth, split_every, reassign_every, criterion, threshold, damping, refill, average: of `Clustering`; reassigned at
        every such time, not at primes only.
    optimiser: `adam`, whose rate falls to zero in the last 30 % of the epochs, or `sgd` as in the authors' code.
    learning_rate: above 0.
    spread: length of a vector at the beginning, above 0. What is random in the users' vectors is all that tells items
        of one cluster apart, until it is worn off; 1.8 with 64 factors in the authors' code.
    personal_epochs: the last epochs, in which each item has a vector of its own, at least 0. It is drawn to the centre
        of its cluster by attachment |v_i - A_c(i)|^2, centres are means, and items go to the nearest after each step;
        the model has as many vectors as items then.
    attachment: at least 0.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early.
    Further options are those of `SharedVectors`.
    Raises UsageError where options contradict each other, NumericalError where the loss is not finite, DataError for
    input that is no matrix of finite numbers or a history over another number of items, DeadlineExceeded.
    """

    # NDCG@100 of ml-100k's validation users, lambda .01: with 200 clusters of items .430 and with none .462; clusters
    # of users .422, of both .386; none but those of items and no biases .407; own vectors of items in the last 5 epochs
    # with attachment 1, 10, 100 .456 .430 .414. With lambda .003 .387, without averaging .363, undamped .384
    clusters: Annotated[int, Meta(ge=1)] | None = 200
    cluster: Literal["items", "users", "both"] = "items"
    start_clusters: Annotated[int, Meta(ge=1)] = 1
    bias: bool = True
    nonnegative: bool = False
    fold_in: Literal["ridge", "cluster"] = "ridge"
    epochs: Annotated[int, Meta(ge=1)] = 16
    growth_share: Annotated[float, Meta(ge=0, le=1)] = 0.75
    growth: Literal["one", "geometric"] = "geometric"
    split_every: Annotated[int, Meta(ge=1)] = 1
    reassign_every: Annotated[int, Meta(ge=0)] = 1
    criterion: Literal["interactions", "entities", "gradient"] = "interactions"
    threshold: Literal["zero", "median", "interactions"] = "zero"
    damping: Annotated[float, Meta(ge=0, le=1)] = field(default=Clustering.damping)
    refill: bool = True
    average: bool = True
    optimiser: Optimiser = "adam"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.03
    spread: Annotated[float, Meta(gt=0)] = 1.0
    personal_epochs: Annotated[int, Meta(ge=0)] = 0
    attachment: Annotated[float, Meta(ge=0)] = 1.0
    patience: Annotated[int, Meta(ge=1)] | None = None

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the rows of `train` (U, I) that are not empty."""
        self._check()
        rows = examples(train)
        rows = sp.csr_array((np.ones_like(rows.data), rows.indices, rows.indptr), shape=rows.shape)
        model = Factorisation(rows, self._problem(rows), context)
        growth = 0 if self.clusters is None else min(self._growth_epochs(), self.epochs - 1)
        plan = Plan(STEPS, self.epochs, 1, describe(self, rows), self.patience, warm_up=growth)
        learner = Learner(
            model.module,
            model.optimised(self.optimiser, self.learning_rate),
            model.loss,
            lambda history: self._set(self._kept(model)).score(history),
            rate=settling(self.epochs) if self.optimiser == "adam" else lambda done: 1.0,
            before_epoch=model.before_epoch,
            after_step=model.after_step,
            gauges=model.gauges,
        )
        train_module(learner, plan, context)
        return self._set(self._kept(model))

    def _check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.fold_in == "cluster" and (self.cluster == "items" or self.clusters is None):
            raise UsageError("fold_in='cluster' needs clusters of users; use cluster='users' or cluster='both'")
        if self.personal_epochs and (self.cluster == "users" or self.clusters is None):
            raise UsageError("personal_epochs starts from clusters of items; use cluster='items' or cluster='both'")
        if self.personal_epochs >= self.epochs:
            raise UsageError(f"personal_epochs={self.personal_epochs} leaves no epoch of {self.epochs} to clusters")

    def _growth_epochs(self) -> int:
        return round(self.growth_share * (self.epochs - self.personal_epochs))

    def _clustering(self) -> Clustering:
        return Clustering(
            clusters=self.clusters or 1,
            split_every=self.split_every,
            growth=self.growth,
            growth_epochs=self._growth_epochs(),
            criterion=self.criterion,
            threshold=self.threshold,
            reassign_every=self.reassign_every,
            primes=False,
            damping=self.damping,
            refill=self.refill,
            average=self.average,
        )

    def _problem(self, rows: sp.csr_array) -> Problem:
        clustering = None if self.clusters is None else self._clustering()
        lengths = np.diff(rows.indptr), np.bincount(rows.indices, minlength=rows.shape[1])
        return Problem(
            factors=self.factors,
            user_weights=self._weights(lengths[0], rows.shape[1]),
            item_weights=self._weights(lengths[1], rows.shape[0]),
            unobserved_weight=self.unobserved_weight,
            bias=self.bias,
            nonnegative=self.nonnegative,
            users=clustering if self.cluster != "items" else None,
            items=clustering if self.cluster != "users" else None,
            start=self.start_clusters,
            spread=self.spread,
            personal_from=self.epochs - self.personal_epochs if self.personal_epochs else None,
            attachment=self.attachment,
        )

    def _kept(self, model: Factorisation) -> dict[str, NDArray[Any]]:
        """Return what scoring needs of a factorisation."""
        kept: dict[str, NDArray[Any]] = {}
        if isinstance(model.items, ClusteredEmbedding) and not model.is_personal:
            kept["item_table"] = model.items.table().cpu().numpy().copy()
            kept["item_clusters"] = smallest_integers(model.items.assignment())
        else:
            kept["item_table"] = model.item_vectors().detach().cpu().numpy().copy()
        if self.bias:
            kept["item_bias"] = model.module.bias.detach()[:, 0].cpu().numpy().copy()
        if self.fold_in == "cluster" and isinstance(model.users, ClusteredEmbedding):
            kept["user_table"] = model.users.table().cpu().numpy().copy()
        return kept

    def _fitting(self, known: Collapsed, weights: NDArray[np.float64]) -> NDArray[np.float32]:
        from recscale.models._cel_fold_in import fold_in, nearest

        if self.fold_in == "cluster":
            return nearest(known, self.state_["user_table"])
        return fold_in(known, weights, self.nonnegative)


def estimate(model: CEL, shape: Shape) -> Estimate:
    """Vectors of users and items with gradients and moments, entries in both orders; the model is what is shared."""
    from recscale.models._needs import validation_bytes

    rows = shape.n_users + shape.n_items
    vectors, bias = 4 * (model.factors + 1), 4 * shape.n_items * model.bias
    n_shared = min(model.clusters or shape.n_items, shape.n_items)
    if model.clusters is None or model.cluster == "users" or model.personal_epochs:
        kept = 4 * model.factors * shape.n_items + bias
    else:
        kept = 4 * model.factors * n_shared + shape.n_items * (1 if n_shared <= 256 else 2) + bias
    if model.fold_in == "cluster" and model.clusters is not None and model.cluster != "items":
        kept += 4 * model.factors * min(model.clusters, shape.n_users)
    losses = 0 if model.clusters is None else min(2**28, int(1.1 * shape.n_interactions * n_shared))
    return Estimate(
        peak_bytes=5 * vectors * rows + 8 * shape.n_interactions + losses + validation_bytes(shape),
        model_bytes=kept,
        fit_seconds=STEPS * model.epochs * (shape.n_interactions * 3 + rows * model.factors) * model.factors * 1e-9,
    )


SPEC = ModelSpec(
    model=CEL,
    title="CEL",
    cite="Chen et al. Clustered Embedding Learning for Recommender Systems. WWW 2023.",
    size_knob="clusters",
    sizes=(50, 100, 200, 500, 1000),
    space={
        "regularization": Range(1e-3, 0.1, log=True),
        "unobserved_weight": Range(0.01, 1.0, log=True),
        "factors": Choice((16, 32, 64, 128)),
        "epochs": Range(8, 96, log=True),
        "growth_share": Range(0.4, 0.8),
        "learning_rate": Range(0.01, 0.1, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
