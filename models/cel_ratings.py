"""CEL for ratings: its own task, the squared error of predicted ratings against the size of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Range, Shape
from recscale.errors import UsageError
from recscale.models._cel import STEPS, Factorisation, Optimiser, Problem, settling
from recscale.models._clustered_embedding import ClusteredEmbedding
from recscale.models._clustering import Clustering, Criterion, Threshold, smallest_integers
from recscale.models._rated import rated, rated_history
from recscale.models._training import Learner, Plan, describe, train_module

if TYPE_CHECKING:
    from recscale.models._cel_fold_in import Collapsed

LARGEST_NORMAL = 4.4  # of some 100,000 draws, by which the public code divides them


@dataclass
class RatingCEL(Model):
    """Predict a rating by the product of the user's vector with that of the item's cluster.

    Clustered Embedding Learning of a non-negative factorisation (Chen et al. 2023, WWW, arXiv 2302.01478), minimising
    sum_known (r_ui - u . A_c(i))^2 + c1 (|U|^2 + |A|^2) + c2 sum_c |A_c - mean(A)|^2 by full-batch steps, each
    gradient of a cluster divided by the number of its entities, all vectors kept at or above zero. The defaults are
    those of the authors' public code, where items are clustered, but for the steps (6,000 there), the rate of `sgd`
    (which falls there as 1 / (1 + step / 10,000)), and the growth (`one` there, which ends at 81 clusters); with
    personal_from = 800 its last phase too. Decided here: entities move for strictly smaller losses only, and what
    cannot be parted is not split. Predictions are not clipped.
    The model holds no vectors of users. That of a user minimises sum_{i rated} (r_i - u . A_c(i))^2 + c1 |u|^2 over
    u >= 0, all else frozen: of a training user, what the training converges to; where users are clustered, it is the
    vector of the cluster whose squared error on the history is least. Without a rating it is 0, and so are predictions.
    Values are ratings, a stored 0 too.

    factors: D, at least 1.
    clusters: M of a clustered side, at least 1; None for a vector each.
    cluster: `items`, `users` or `both`.
    start_clusters: M0, at least 1.
    steps: full-batch steps, at least 1, rounded up to tens; as are all the following.
    split_steps, reassign_steps, growth_steps: t2, t1, and the step that clusters change until.
    criterion, threshold, damping, primes, average: of `Clustering`.
    regularization: c1, above 0.
    centre_penalty: c2, at least 0.
    personal_from: the step from which each item has a vector of its own, drawn to that of its cluster by `attachment`
        times their squared distance; None for never.
    optimiser, learning_rate: `sgd` as in the code, or `adam`, its rate falling to zero in the last 30 %.
    nonnegative: keep vectors at or above zero.
    Raises UsageError, NumericalError where the loss is not finite (ml-1m wants a smaller rate), DataError for input
    that is no matrix of finite numbers, rates a pair twice or is a history over another number of items,
    DeadlineExceeded.
    """

    # Mean squared error under the protocol ratings on ml-100k: 5 clusters .894, 10 .879, 20 .871, 50 .869, 100 .871,
    # 200 .874, none 1.042. On another random fifth, by the trained vectors of users and by those folded in, grown by
    # `one`: 10 clusters .870 and .866, 50 .867 and .861, none .990 and 1.050, and after the 6,000 steps of the code,
    # which cost six times as much, .884 and .886, .865 and .867, 1.218 and 1.226: training comes to what is folded in.
    factors: Annotated[int, Meta(ge=1)] = 64
    clusters: Annotated[int, Meta(ge=1)] | None = 50
    cluster: Literal["items", "users", "both"] = "items"
    start_clusters: Annotated[int, Meta(ge=1)] = 1
    steps: Annotated[int, Meta(ge=1)] = 1000
    split_steps: Annotated[int, Meta(ge=1)] = 10
    reassign_steps: Annotated[int, Meta(ge=0)] = 40
    growth_steps: Annotated[int, Meta(ge=0)] = 800
    growth: Literal["one", "geometric"] = "geometric"
    criterion: Criterion = "interactions"
    threshold: Threshold = "zero"
    damping: Annotated[float, Meta(ge=0, le=1)] = 0.3085375
    primes: bool = True
    average: bool = True
    regularization: Annotated[float, Meta(gt=0)] = 1.0
    centre_penalty: Annotated[float, Meta(ge=0)] = 500.0
    personal_from: Annotated[int, Meta(ge=1)] | None = None
    attachment: Annotated[float, Meta(ge=0)] = 50.0
    optimiser: Optimiser = "sgd"
    learning_rate: Annotated[float, Meta(gt=0)] = 1.25e-4
    nonnegative: bool = True

    scores_are_ratings: ClassVar[Literal[True]] = True

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the stored entries of `train` (U, I). Validation users are no use."""
        if self.personal_from is not None and (self.clusters is None or self.cluster == "users"):
            raise UsageError("personal_from starts from clusters of items; use cluster='items' or cluster='both'")
        context, epochs, ratings = replace(context, validation=None), _tens(self.steps), rated(train)
        model = Factorisation(ratings, self._problem(ratings.shape), context)
        learner = Learner(
            model.module,
            model.optimised(self.optimiser, self.learning_rate),
            model.loss,
            self.score,
            rate=settling(epochs) if self.optimiser == "adam" else lambda done: 1.0,
            before_epoch=model.before_epoch,
            after_step=model.after_step,
            gauges=model.gauges,
        )
        train_module(learner, Plan(STEPS, epochs, 1, describe(self, ratings)), context)
        state = _kept("item", model.items)
        if model.is_personal:
            state = {"item_table": model.item_vectors().detach().cpu().numpy()}
        if isinstance(model.users, ClusteredEmbedding):
            state["user_table"] = model.users.table().cpu().numpy().copy()
        return self.load_state(state)

    def _problem(self, shape: tuple[int, int]) -> Problem:
        clustering = None if self.clusters is None else self._clustering()
        return Problem(
            factors=self.factors,
            user_weights=np.zeros(shape[0]),
            item_weights=np.zeros(shape[1]),
            row_penalty=self.regularization,
            centre_penalty=self.centre_penalty,
            nonnegative=self.nonnegative,
            users=clustering if self.cluster != "items" else None,
            items=clustering if self.cluster != "users" else None,
            start=self.start_clusters,
            spread=self.factors**0.5 / LARGEST_NORMAL,
            personal_from=None if self.personal_from is None else _tens(self.personal_from),
            attachment=self.attachment,
        )

    def _clustering(self) -> Clustering:
        return Clustering(
            clusters=self.clusters or 1,
            split_every=_tens(self.split_steps),
            growth=self.growth,
            growth_epochs=_tens(self.growth_steps),
            criterion=self.criterion,
            threshold=self.threshold,
            reassign_every=_tens(self.reassign_steps),
            primes=self.primes,
            damping=self.damping,
            average=self.average,
        )

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the predicted ratings of all items, (B, I), for users with these ratings."""
        predicted: NDArray[np.float32] = self.user_vectors(history) @ self.state_["item_table"].T  # (B, D) @ (D, M)
        return predicted[:, self.state_["item_clusters"]] if "item_clusters" in self.state_ else predicted

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the vectors of the users, (B, D), that fit their ratings best."""
        from recscale.models._cel_fold_in import fold_in, nearest

        ratings = rated_history(history, self.n_items_)
        known = self._collapsed(ratings)
        if "user_table" in self.state_:
            return nearest(known, self.state_["user_table"])
        return fold_in(known, np.full(ratings.shape[0], self.regularization), self.nonnegative)

    def _collapsed(self, ratings: sp.csr_array) -> Collapsed:
        """Return how many items of each cluster the users have rated, and the sums of these ratings."""
        from recscale.models._cel_fold_in import Collapsed, Frozen

        vectors = self.state_["item_table"].astype(np.float64)
        clusters = self.state_.get("item_clusters", np.arange(self.n_items_))
        places, shape = clusters[ratings.indices].astype(np.int64), (ratings.shape[0], len(vectors))
        counts, sums = (
            sp.csr_array((values, places.copy(), ratings.indptr.copy()), shape=shape)
            for values in (np.ones(ratings.nnz), ratings.data.astype(np.float64))
        )
        for matrix in (counts, sums):
            matrix.sum_duplicates()
        nothing = np.zeros(vectors.shape[1])  # no loss on what a user has not rated
        return Collapsed(counts, sums.data, Frozen(vectors, np.diag(nothing), nothing))

    def state(self) -> Mapping[str, Array]:
        """Return `item_table` (M, D) and `item_clusters` (I,), or a table (I, D) alone; `user_table` if clustered."""
        return self.state_

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        self.state_: dict[str, NDArray[Any]] = dict(state)
        self.n_items_ = len(state.get("item_clusters", state["item_table"]))
        return self


def _tens(steps: int) -> int:
    """Return how many epochs so many steps are."""
    return -(-steps // STEPS)


def _kept(name: str, side: Any) -> dict[str, NDArray[Any]]:
    """Return what predictions need of a side."""
    if not isinstance(side, ClusteredEmbedding):
        return {f"{name}_table": side().detach().cpu().numpy()}
    table = side.table().cpu().numpy().copy()
    return {f"{name}_table": table, f"{name}_clusters": smallest_integers(side.assignment())}


def estimate(model: RatingCEL, shape: Shape) -> Estimate:
    """Vectors of users and items with gradients and moments, entries in both orders; the model is what is shared."""
    rows = shape.n_users + shape.n_items
    n_shared = min(model.clusters or shape.n_items, shape.n_items)
    if model.clusters is None or model.cluster == "users" or model.personal_from is not None:
        kept = 4 * model.factors * shape.n_items
    else:
        kept = 4 * model.factors * n_shared + shape.n_items * (1 if n_shared <= 256 else 2)
    if model.clusters is not None and model.cluster != "items":
        kept += 4 * model.factors * min(model.clusters, shape.n_users)
    # what a row is to lose at each centre, some at a time
    losses = 0 if model.clusters is None else 16 * min(2**24, model.clusters * max(shape.n_users, shape.n_items))
    return Estimate(
        peak_bytes=36 * model.factors * rows + 80 * shape.n_interactions + losses + 2**24,
        model_bytes=kept,
        fit_seconds=model.steps * (shape.n_interactions * 3 + rows) * model.factors * 1e-9,
    )


SPEC = ModelSpec(
    model=RatingCEL,
    title="CEL for ratings",
    cite="Chen et al. Clustered Embedding Learning for Recommender Systems. WWW 2023.",
    size_knob="clusters",
    sizes=(5, 10, 20, 50, 100, 200),
    space={
        "regularization": Range(0.1, 10.0, log=True),
        "centre_penalty": Range(1.0, 1000.0, log=True),
        "factors": Choice((16, 32, 64, 128)),
        "steps": Range(500, 4000, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
