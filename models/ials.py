"""iALS: matrix factorisation by alternating least squares, with its penalty scaled by frequency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import NumericalError
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._ials import Penalty


@dataclass
class IALS(Model):
    """Score an item by the product of its factors with those of the user, which are solved for from the history.

    Minimises sum_{(u,i) in X} (1 - w_u . h_i)^2 + alpha0 sum_{all u,i} (w_u . h_i)^2
    + lambda (sum_u (|I_u| + alpha0 I)^nu |w_u|^2 + sum_i (|U_i| + alpha0 U)^nu |h_i|^2)
    (Rendle, Krichene, Zhang and Koren 2021, arXiv 2110.14037), users and items in turn, users first. An unseen user is
    folded in by the exact solution, whatever the solver: w_u = (alpha0 H'H + sum_{i in I_u} h_i h_i'
    + lambda (|I_u| + alpha0 I)^nu 1)^-1 sum_{i in I_u} h_i, the items frozen.
    With nu = 0 it is WRMF with alpha = 1 + 1 / alpha0 and alpha times the lambda, whose scores are 1 + alpha0 times as
    large. Validation users are not looked at.

    factors: D, length of the vectors, at least 1.
    regularization: lambda, above 0.
    unobserved_weight: alpha0, above 0; about 1e-7 / alpha0 is what float32 costs.
    epochs: passes over users and items, at least 1.
    exponent: nu, at least 0; 0 takes the same penalty for all.
    solver: `cholesky` solves each system; `cg` takes some conjugate gradient steps from where a vector was.
    cg_steps: of `cg`, at least 1.
    stddev: length of an item's vector at the start, above 0.
    Values of interactions do not matter. Raises DataError for input that is no matrix of finite numbers or a history
    over another number of items, NumericalError where a system is not positive definite in float32 or the loss not
    finite, DeadlineExceeded between two half epochs.
    """

    # NDCG@100 of validation users, D = 64, by alpha0 .1, .1, .2, .2 and lambda .003, .005, .003, .005: ml-1m .469 .473
    # .480 .482, debian-depends .555 .549 .540 .522; both are the paper's for ML-20M. More factors want more of both
    # on ml-1m: with 256 these defaults reach .446 and .612, alpha0 .3 and lambda .004 reach .489 on ml-1m with 128
    factors: Annotated[int, Meta(ge=1)] = 64
    regularization: Annotated[float, Meta(gt=0)] = 0.003
    unobserved_weight: Annotated[float, Meta(gt=0)] = 0.1
    epochs: Annotated[int, Meta(ge=1)] = 16
    exponent: Annotated[float, Meta(ge=0)] = 1.0
    # loss and NDCG of validation users of debian-depends and ml-1m agree to 1e-4 between the two; an epoch of 10,000
    # users, 12,000 items and 250,000 interactions takes .15 s by cg and .47 s by cholesky with D = 64 on a busy core
    solver: Literal["cholesky", "cg"] = "cg"
    cg_steps: Annotated[int, Meta(ge=1)] = 3
    stddev: Annotated[float, Meta(gt=0)] = 0.1

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Alternate between the factors of the users and of the items of `train` (U, I)."""
        from threadpoolctl import threadpool_limits

        from recscale.models._compiled import numba_threads
        from recscale.models._ials import solve, turn

        by_user = canonical(train)
        by_item = by_user.T.tocsr()
        penalty, n_steps = self._penalty(), self.cg_steps if self.solver == "cg" else 0
        users = np.zeros((by_user.shape[0], self.factors), np.float32)
        items = context.rng().standard_normal((by_user.shape[1], self.factors), np.float32)
        items *= self.stddev / self.factors**0.5
        with numba_threads(context.n_threads), threadpool_limits(1, "blas"):
            for epoch in range(self.epochs):
                turn(items, users, context.n_threads)
                solve(by_user, items, penalty, users, n_steps)
                context.progress(2 * epoch + 1, 2 * self.epochs)
                turn(users, items, context.n_threads)
                loss = solve(by_item, users, penalty, items, n_steps) + penalty.cost(by_user, users)
                context.log("loss", epoch + 1, loss)
                if not np.isfinite(loss):
                    raise NumericalError(
                        f"the loss became {loss} in epoch {epoch + 1}; lower regularization or exponent"
                    )
                context.progress(2 * epoch + 2, 2 * self.epochs)
            del users
            turn(items, None, context.n_threads)
        return self.load_state({"item_factors": items})

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user factors times the item factors: (B, I)."""
        scores: NDArray[np.float32] = self.user_vectors(history) @ self.item_factors_.T  # (B, D) @ (D, I) -> (B, I)
        return scores

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the item factors (I, D)."""
        return self.item_factors_

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the folded-in user factors (B, D)."""
        from recscale.models._ials import solve

        rows = checked_history(history, self.item_factors_.shape[0])
        vectors = np.zeros((rows.shape[0], self.item_factors_.shape[1]), np.float32)
        solve(rows, self.item_factors_, self._penalty(), vectors)
        return vectors

    def state(self) -> Mapping[str, Array]:
        """Return `item_factors` (I, D), whose columns are orthogonal."""
        return {"item_factors": self.item_factors_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `item_factors`."""
        self.item_factors_: NDArray[np.float32] = state["item_factors"]
        return self

    def _penalty(self) -> Penalty:
        from recscale.models._ials import Penalty

        return Penalty(float(self.unobserved_weight), float(self.regularization), float(self.exponent))


def estimate(model: IALS, shape: Shape) -> Estimate:
    """Return the factors of users and items, and the data with its transpose; the model is the items' alone."""
    n_factors, n_rows = model.factors, shape.n_users + shape.n_items
    if model.solver == "cg":
        multiplications = shape.n_interactions * n_factors * 4 * (model.cg_steps + 1)
    else:
        squares = min(shape.n_pairs, shape.n_interactions * n_factors) + shape.n_interactions * n_factors
        multiplications = squares * n_factors // 2 + n_rows * n_factors**2
    return Estimate(
        peak_bytes=4 * n_factors * n_rows + 28 * shape.n_interactions + 48 * n_factors**2 + 2**15 * n_factors,
        model_bytes=4 * n_factors * shape.n_items,
        fit_seconds=model.epochs * (multiplications + n_rows * n_factors**2) * 2.5e-10,
    )


SPEC = ModelSpec(
    model=IALS,
    title="iALS",
    cite="Rendle, Krichene, Zhang and Koren. Revisiting the Performance of iALS on Item Recommendation Benchmarks. "
    "RecSys 2022.",
    size_knob="factors",
    sizes=(16, 32, 64, 128, 256, 512),
    space={
        "regularization": Range(1e-4, 0.1, log=True),
        "unobserved_weight": Range(0.01, 1.0, log=True),
        "epochs": Range(4, 32),
    },
    estimate=estimate,
)
