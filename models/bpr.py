"""BPR: matrix factorisation by pairwise ranking, as the library implicit does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import NumericalError
from recscale.models._inputs import checked_history

# 512 instead of 256 moved NDCG@20 by less than .004 on ml-100k, and takes twice the time
N_NEGATIVES = 256


@dataclass
class BPR(Model):
    """Score an item by its bias and the product of its factors with a user vector that is fitted to the history.

    Maximises the sum over users, their items p and other items n of ln sigma(s_up - s_un) less
    lambda/2 (|x_u|^2 + |y_p|^2 + |y_n|^2), s_ui = x_u . y_i + b_i (Rendle et al. 2009, UAI, section 4). Trained by
    implicit's BayesianPersonalizedRanking: a negative is the item of a random interaction, so popular items come up
    more often, and the bias is the last column of the factors.
    implicit folds no users in. An unseen user's vector is taken `fold_in_steps` accelerated gradient steps (Nesterov
    1983) from zero up the mean of ln sigma(s_up - s_un) - lambda/2 |x_u|^2 over the history and the same 256 negatives
    for everyone, quantiles of the popularity distribution, less the history. Nothing is drawn, so a user's scores
    depend on that user alone.

    factors: length of the vectors without the bias, at least 1.
    learning_rate: of the training, above 0.
    regularization: lambda, at least 0.
    iterations: as many samples as there are interactions each, at least 1.
    fold_in_steps: at least 1. Few steps stop early on purpose: see the comment at its default.
    Raises NumericalError where the factors come out as NaN, DataError for input that is no matrix of finite numbers
    or a history over another number of items, DeadlineExceeded between two iterations.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    learning_rate: Annotated[float, Meta(gt=0)] = 0.01
    regularization: Annotated[float, Meta(ge=0)] = 0.01
    iterations: Annotated[int, Meta(ge=1)] = 100
    # NDCG@20 of implicit's own user vectors, then of folded-in ones after 5, 10 and 50 steps for the same users:
    # ml-100k .289, .409 .332 .264 (a fifth of the entries held out, settings as above); gowalla .043, .043 .046 .052
    # (8,000 users of the published split, rate .05, 60 iterations). For a tenth of the users, never seen: ml-100k
    # .418 .393 .340, gowalla .054 .055 .060, debian-depends .175 .217 .201 (rate .05). None is best everywhere.
    # All 29,858 users of gowalla take 5.6 s with 10 steps and 30 s with 50, on two threads of a busy machine
    fold_in_steps: Annotated[int, Meta(ge=1)] = 10

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train the factors of `train` (U, I) by stochastic gradient steps, on one thread."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking
        from implicit.recommender_base import ModelFitError
        from threadpoolctl import threadpool_limits

        train = canonical(train)
        with threadpool_limits(1, "blas"):
            trainer = BayesianPersonalizedRanking(
                factors=self.factors,
                learning_rate=self.learning_rate,
                regularization=self.regularization,
                iterations=self.iterations,
                num_threads=1,  # threads write to the same factors without locks: two runs would never agree
                random_state=context.seed,
            )
            try:
                trainer.fit(
                    sp.csr_matrix(train),  # implicit takes no csr_array
                    show_progress=False,
                    callback=lambda iteration, *_: context.progress(iteration + 1, self.iterations),
                )
            except ModelFitError as error:
                raise NumericalError(f"BPR came to NaN: {error}; lower learning_rate") from error
        return self.load_state({"item_factors": trainer.item_factors, "negatives": _negatives(train)})

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user vectors times the item factors, plus the biases: (B, I)."""
        users = self.user_vectors(history)  # (B, D)
        with_bias = np.concatenate([users, np.ones((len(users), 1), np.float32)], axis=1)
        scores: NDArray[np.float32] = with_bias @ self.item_factors_.T
        return scores

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the item factors (I, D) without the bias, which raises an item for all users alike: it is no place."""
        return self.item_factors_[:, :-1]

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user vectors (B, D); the fold-in knows of the biases, and leaves popularity to them."""
        from recscale.models._bpr_fold_in import Frozen, fold_in

        rows = checked_history(history, self.item_factors_.shape[0])
        frozen = Frozen(self.item_factors_, self.negatives_, float(self.regularization), self.fold_in_steps)
        return fold_in(rows.indptr, rows.indices, frozen)

    def state(self) -> Mapping[str, Array]:
        """Return `item_factors` (I, D + 1), the bias last, and `negatives` (M,), the item numbers to compare with."""
        return {"item_factors": self.item_factors_, "negatives": self.negatives_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back the factors and the negatives."""
        self.item_factors_: NDArray[np.float32] = state["item_factors"]
        self.negatives_: NDArray[np.int32] = state["negatives"]
        return self


def _negatives(train: sp.csr_array) -> NDArray[np.int32]:
    """Return the items at the middles of equal slices of all interactions, sorted by item: (M,), ascending."""
    items = np.sort(train.indices).astype(np.int32)
    n_negatives = min(N_NEGATIVES, items.size)
    places = (np.arange(n_negatives) + 0.5) / max(n_negatives, 1) * items.size
    return items[places.astype(np.int64)]


def estimate(model: BPR, shape: Shape) -> Estimate:
    """Return the factors of users and items, and the data three times over; the model is the items' alone."""
    return Estimate(
        peak_bytes=4 * (model.factors + 1) * (shape.n_users + shape.n_items) + 24 * shape.n_interactions,
        model_bytes=4 * (model.factors + 1) * shape.n_items + 4 * N_NEGATIVES,
        fit_seconds=model.iterations * shape.n_interactions * (2e-7 + 5e-9 * model.factors),
    )


SPEC = ModelSpec(
    model=BPR,
    title="BPR",
    cite="Rendle et al. BPR: Bayesian Personalized Ranking from Implicit Feedback. UAI 2009.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "learning_rate": Range(1e-3, 0.2, log=True),
        "regularization": Range(1e-4, 0.1, log=True),
        "iterations": Range(20, 200),
        "fold_in_steps": Range(2, 40, log=True),
    },
    estimate=estimate,
)
