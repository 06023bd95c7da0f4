"""WRMF: weighted matrix factorisation by alternating least squares, as the library implicit does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import NumericalError
from recscale.models._inputs import checked_history


@dataclass
class WRMF(Model):
    """Score an item by the product of its factors with those of the user, which are solved for from the history.

    Minimises sum_ui c_ui (p_ui - x_u . y_i)^2 + lambda (sum_u |x_u|^2 + sum_i |y_i|^2), with p = 1 and c = alpha x for
    an interaction of value x, p = 0 and c = 1 elsewhere (Hu, Koren and Volinsky 2008, ICDM, equation 3, where
    c = 1 + alpha x). Trained by implicit's AlternatingLeastSquares with its three conjugate gradient steps. An
    unseen user is folded in exactly: x_u = (Y'Y + lambda I + sum_i (c_ui - 1) y_i y_i')^-1 sum_i c_ui y_i, the
    items frozen.

    factors: length of the vectors, at least 1.
    regularization: lambda, above 0; not scaled by frequency.
    alpha: weight of an interaction, above 0; that of all else is 1.
    iterations: passes over users and items, at least 1.
    Raises NumericalError where the factors come out as NaN, DataError for input that is no matrix of finite numbers
    or a history over another number of items, DeadlineExceeded between two iterations.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    # On validation users of debian-depends, ml-100k and lastfm-2k 10 was at least level with .01 and 1 at every alpha
    regularization: Annotated[float, Meta(gt=0)] = 10.0
    # implicit's own default of 1 gives positives no more weight than all else. NDCG@20 of 6,000 users with 1, 10 and 40
    # and regularization .01: gowalla's published test part .083 .124 .130, ml-1m's validation part .241 .232 .173
    alpha: Annotated[float, Meta(gt=0)] = 10.0
    iterations: Annotated[int, Meta(ge=1)] = 15

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Alternate between the factors of the users and of the items of `train` (U, I)."""
        from implicit.recommender_base import ModelFitError
        from threadpoolctl import threadpool_limits

        matrix = sp.csr_matrix(canonical(train))  # implicit takes no csr_array
        with threadpool_limits(1, "blas"):  # implicit's own threads call BLAS
            solver = self._solver(random_state=context.seed, num_threads=context.n_threads)
            try:
                solver.fit(
                    matrix,
                    show_progress=False,
                    callback=lambda iteration, *_: context.progress(iteration + 1, self.iterations),
                )
            except ModelFitError as error:
                raise NumericalError(f"WRMF came to NaN: {error}; raise regularization or lower alpha") from error
        return self.load_state({"item_factors": solver.item_factors})

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user factors times the item factors: (B, I)."""
        scores: NDArray[np.float32] = self.user_vectors(history) @ self.item_factors_.T  # (B, D) @ (D, I) -> (B, I)
        return scores

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the item factors (I, D)."""
        return self.item_factors_

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user factors (B, D)."""
        rows = sp.csr_matrix(checked_history(history, self.item_factors_.shape[0]))
        vectors: NDArray[np.float32] = self.fold_in_.recalculate_user(np.arange(rows.shape[0]), rows)
        return vectors

    def state(self) -> Mapping[str, Array]:
        """Return `item_factors` (I, D); the (D, D) Gram matrix of the fold-in is computed from them."""
        return {"item_factors": self.item_factors_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `item_factors`."""
        from threadpoolctl import threadpool_limits

        self.item_factors_: NDArray[np.float32] = state["item_factors"]
        with threadpool_limits(1, "blas"):
            self.fold_in_ = self._solver()
        self.fold_in_.item_factors = self.item_factors_
        return self

    def _solver(self, **options: Any) -> Any:
        """Return implicit's model with these hyper-parameters."""
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(
            factors=self.factors,
            regularization=self.regularization,
            alpha=self.alpha,
            iterations=self.iterations,
            **options,
        )


def estimate(model: WRMF, shape: Shape) -> Estimate:
    """Return the factors of users and items, and the data with its transpose; the model is the items' alone."""
    factors = 4 * model.factors * (shape.n_users + shape.n_items)
    # three conjugate gradient steps: two products of length D an interaction and step, on both sides
    multiplications = shape.n_interactions * model.factors * 14 + model.factors**2 * (shape.n_users + shape.n_items) * 4
    return Estimate(
        peak_bytes=factors + 24 * shape.n_interactions,
        model_bytes=4 * model.factors * shape.n_items,
        fit_seconds=model.iterations * multiplications * 4e-10,
    )


SPEC = ModelSpec(
    model=WRMF,
    title="WRMF",
    cite="Hu, Koren and Volinsky. Collaborative Filtering for Implicit Feedback Datasets. ICDM 2008.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "regularization": Range(1e-3, 1e3, log=True),
        "alpha": Range(0.5, 100.0, log=True),
        "iterations": Range(5, 30),
    },
    estimate=estimate,
)
