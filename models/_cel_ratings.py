"""CEL at its own task: the squared error of predicted ratings, and the size of the table of embeddings."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, FitContext, Options
from recscale.errors import DataError, ModelError, UsageError
from recscale.models._cel import STEPS, Factorisation, Optimiser, Problem, settling
from recscale.models._clustered_embedding import ClusteredEmbedding
from recscale.models._clustering import Clustering, Criterion, Threshold, smallest_integers
from recscale.models._training import Learner, Plan, describe, train_module

LARGEST_NORMAL = 4.4  # of some 100,000 draws, by which the public code divides them


class Ratings(NamedTuple):
    """Ratings as a list: of whom, of what, how good."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32]

    def matrix(self, shape: tuple[int, int]) -> sp.csr_array:
        """Return them as a csr_array (U, I) with an entry for each, zeros too. Raises DataError if one comes twice."""
        order = np.lexsort((self.items, self.users))
        users, items = self.users[order], self.items[order]
        if np.any((np.diff(users) == 0) & (np.diff(items) == 0)):
            raise DataError("a user has rated an item twice; keep one rating of each")
        indptr = np.searchsorted(users, np.arange(shape[0] + 1))
        return sp.csr_array((self.values[order].astype(np.float32), items, indptr), shape=shape)


class Point(NamedTuple):
    """A point of the compression curve: sizes are those of both sides, in all that a prediction reads."""

    clusters: int | None
    mse: float
    n_parameters: int
    n_bytes: int
    compression: float  # bytes of a table with a row for each user and item, per byte


@dataclass
class RatingCEL(Options):
    """Predict a rating by the product of the user's vector with that of the item's cluster.

    Clustered Embedding Learning of a non-negative factorisation (Chen et al. 2023, WWW, arXiv 2302.01478), minimising
    sum_known (r_ui - u . A_c(i))^2 + c1 (|U|^2 + |A|^2) + c2 sum_c |A_c - mean(A)|^2 by full-batch steps, each
    gradient of a cluster divided by the number of its entities, all vectors kept at or above zero. All defaults are
    those of the authors' public code, where items are clustered; with personal_from = 800 its last phase too. Decided
    here: entities move for strictly smaller losses only, and what cannot be parted is not split. Predictions are not
    clipped.

    factors: D, at least 1.
    clusters: M of a clustered side, at least 1; None for a vector each.
    cluster: `items`, `users` or `both`.
    start_clusters: M0, at least 1.
    steps: full-batch steps, at least 1, rounded up to tens; as are all the following.
    split_steps, reassign_steps, growth_steps: t2, t1, and the step that clusters change until.
    criterion, threshold, damping, primes, average: of `Clustering`.
    regularization: c1, at least 0.
    centre_penalty: c2, at least 0.
    personal_from: the step from which each item has a vector of its own, drawn to that of its cluster by `attachment`
        times their squared distance; None for never.
    optimiser, learning_rate: `sgd` as in the code, or `adam`, its rate falling to zero in the last 30 %.
    nonnegative: keep vectors at or above zero.
    Raises UsageError, NumericalError where the loss is not finite (ml-1m wants a smaller rate), DeadlineExceeded.
    """

    # mean squared error on a random fifth of ml-100k, after 1,000 steps: 10 clusters .870, 50 .867, none .990; after
    # 1,500 with personal_from = 800 .846
    factors: Annotated[int, Meta(ge=1)] = 64
    clusters: Annotated[int, Meta(ge=1)] | None = 50
    cluster: Literal["items", "users", "both"] = "items"
    start_clusters: Annotated[int, Meta(ge=1)] = 1
    steps: Annotated[int, Meta(ge=1)] = 6000
    split_steps: Annotated[int, Meta(ge=1)] = 10
    reassign_steps: Annotated[int, Meta(ge=0)] = 40
    growth_steps: Annotated[int, Meta(ge=0)] = 800
    growth: Literal["one", "geometric"] = "one"
    criterion: Criterion = "interactions"
    threshold: Threshold = "zero"
    damping: Annotated[float, Meta(ge=0, le=1)] = 0.3085375
    primes: bool = True
    average: bool = True
    regularization: Annotated[float, Meta(ge=0)] = 1.0
    centre_penalty: Annotated[float, Meta(ge=0)] = 500.0
    personal_from: Annotated[int, Meta(ge=1)] | None = None
    attachment: Annotated[float, Meta(ge=0)] = 50.0
    optimiser: Optimiser = "sgd"
    learning_rate: Annotated[float, Meta(gt=0)] = 1.25e-4
    nonnegative: bool = True

    def fit(self, ratings: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the stored entries of `ratings` (U, I); they need not be canonical. Validation users are no use."""
        if self.personal_from is not None and (self.clusters is None or self.cluster == "users"):
            raise UsageError("personal_from starts from clusters of items; use cluster='items' or cluster='both'")
        context = replace(context, validation=None)
        epochs = _tens(self.steps)
        model = Factorisation(ratings, self._problem(ratings.shape), context)
        identity = f"{describe(self, ratings)}, {zlib.crc32(ratings.data.tobytes()):08x}"
        learner = Learner(
            model.module,
            model.optimised(self.optimiser, self.learning_rate),
            model.loss,
            _no_ranking,
            rate=settling(epochs) if self.optimiser == "adam" else lambda done: 1.0,
            before_epoch=model.before_epoch,
            after_step=model.after_step,
            gauges=model.gauges,
        )
        train_module(learner, Plan(STEPS, epochs, 1, identity), context)
        self.state_ = {**_kept("user", model.users), **_kept("item", model.items)}
        if model.is_personal:
            self.state_ = {**_kept("user", model.users), "item_table": model.item_vectors().detach().cpu().numpy()}
        return self

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

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the ratings of pairs, (n,)."""
        vectors = [self.vectors("user"), self.vectors("item")]
        parts = np.array_split(np.arange(len(users)), 1 + len(users) // 2**16)
        return np.concatenate(
            [np.einsum("nd,nd->n", vectors[0][users[part]], vectors[1][items[part]]) for part in parts]
        )

    def vectors(self, side: Literal["user", "item"]) -> NDArray[np.float32]:
        """Return the vectors of all users (U, D) or items (I, D)."""
        table, clusters = self.state_[f"{side}_table"], self.state_.get(f"{side}_clusters")
        rows: NDArray[np.float32] = table if clusters is None else table[clusters]
        return rows

    def state(self) -> Mapping[str, Array]:
        """Return what a prediction reads: a table of each side, and clusters (n,) where it is clustered."""
        return self.state_

    def mse(self, ratings: Ratings) -> float:
        """Return the mean squared error of the predictions."""
        errors = ratings.values - self.predict(ratings.users, ratings.items)
        return float(np.mean(errors.astype(np.float64) ** 2))


def compression_curve(
    train: sp.csr_array, test: Ratings, clusters: Sequence[int | None], model: RatingCEL, context: FitContext
) -> Iterator[Point]:
    """Fit `model` with each number of clusters; yield its error on `test` and its size."""
    full = 4 * model.factors * sum(train.shape)
    for number in clusters:
        fitted = replace(model, clusters=number).fit(train, context)
        arrays = fitted.state().values()
        n_bytes = sum(array.nbytes for array in arrays)
        n_parameters = sum(array.size for array in arrays if array.dtype.kind == "f")
        yield Point(number, fitted.mse(test), n_parameters, n_bytes, full / n_bytes)


def random_split(ratings: Ratings, share: float, seed: int) -> tuple[Ratings, Ratings]:
    """Return a random `share` of the ratings to train on, and the others."""
    order = np.random.default_rng(seed).permutation(len(ratings.values))
    cut = round(share * len(order))
    train, test = (
        Ratings(ratings.users[places], ratings.items[places], ratings.values[places])
        for places in (order[:cut], order[cut:])
    )
    return train, test


def _tens(steps: int) -> int:
    """Return how many epochs so many steps are."""
    return -(-steps // STEPS)


def _kept(name: str, side: Any) -> dict[str, NDArray[Any]]:
    """Return what predictions need of a side."""
    if not isinstance(side, ClusteredEmbedding):
        return {f"{name}_table": side().detach().cpu().numpy()}
    table = side.table().cpu().numpy().copy()
    return {f"{name}_table": table, f"{name}_clusters": smallest_integers(side.assignment())}


def _no_ranking(_: sp.csr_array) -> NoReturn:
    """Raise ModelError."""
    raise ModelError("ratings are predicted, not ranked; there is no score of a history")
