"""SSVD: item embeddings from the pruned eigenvectors of the matrix that CHOL factors; it collapses under pruning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import FitWarning
from recscale.models._inputs import checked_history
from recscale.models._precision import Precision, Ridge, chol_target, in_float32, precision_matrix


@dataclass
class SSVD(Model):
    """Score by pruned spectral embeddings: s_u = (x_u H) H' diag(pi).

    A = beta D - P = Q diag(values) Q', with P = (X'X + l2 I)^-1, D = diag(P), pi = 1 / diag(P); H is
    Q diag(values)^1/2 with the k entries of largest magnitude of each row kept (Van Balen and Goethals 2021, WWW,
    section 4.3 and table 2: the foil of CHOL, whose factor is sparse by nature and survives the pruning). By the
    eigenvalues of a symmetric matrix, since the paper found the singular value decomposition unstable.
    Peak of a fit: 3 I*I*4 bytes.

    l2: weight of the squared norm of the weights, in interactions, above 0.
    k: entries kept of each embedding, at least 1; None, or I and more, keeps all.
    beta: factor of the diagonal, above 1; raised with a FitWarning where A would not be positive definite.
    precision: in which X'X is inverted; A is decomposed in float32.
    Raises NumericalError if the inverse cannot be trusted in this precision; DataError for input that is no matrix of
    finite numbers, or a history over another number of items; DeadlineExceeded (not within the decomposition).
    """

    l2: Annotated[float, Meta(gt=0)] = 500.0
    k: Annotated[int, Meta(ge=1)] | None = 200
    beta: Annotated[float, Meta(gt=1)] = 2.0
    precision: Precision = "float32"

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Invert the regularised Gram matrix of `train` (U, I) in place, and decompose the shifted inverse."""
        from recscale.models import _embeddings as kernels
        from recscale.models._compiled import numba_threads

        train = canonical(train)
        n_items = train.shape[1]
        matrix = in_float32(precision_matrix(train, Ridge(self.l2, precision=self.precision), context))
        matrix, prior = chol_target(matrix, self.beta, context)
        spectral = _spectral(matrix, context)  # (I, I)
        del matrix
        if self.k is None or self.k >= n_items:
            if self.k is not None:
                warnings.warn(f"k={self.k} prunes nothing of {n_items} items", FitWarning, stacklevel=2)
            return self._set(spectral, prior)
        with numba_threads(context.n_threads):
            return self._set(kernels.largest_in_rows(spectral, self.k, lower=False), prior)

    def shrunk(self, size: int | None, context: FitContext = FitContext()) -> Self:
        """Return the model with k = `size`, from this one with a larger k."""
        from recscale.models import _embeddings as kernels
        from recscale.models._compiled import numba_threads

        smaller = replace(self, k=size)
        if size is None or size >= self.prior_.size:
            return smaller._set(self.embeddings_, self.prior_)
        if not isinstance(self.embeddings_, np.ndarray):
            return smaller._set(kernels.largest_stored(self.embeddings_, size), self.prior_)
        with numba_threads(context.n_threads):
            return smaller._set(kernels.largest_in_rows(self.embeddings_, size, lower=False), self.prior_)

    def _set(self, embeddings: Any, prior: NDArray[np.float32]) -> Self:
        from recscale.models import _embeddings as kernels

        self.embeddings_, self.prior_ = embeddings, prior
        is_dense = isinstance(embeddings, np.ndarray)
        self.prepared_: Any = None if is_dense else kernels.prepared(embeddings, prior)
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return (x H) H' diag(pi) (B, I) for each row x of `history`."""
        from recscale.models import _embeddings as kernels
        from recscale.models._neighbours import rows_of

        rows = checked_history(history, self.prior_.size)
        if self.prepared_ is None:
            hidden = rows @ self.embeddings_  # (B, I) @ (I, I) -> (B, I)
            return np.asarray((hidden @ self.embeddings_.T) * self.prior_)
        return kernels.scores(rows_of(rows), self.prepared_)

    def state(self) -> Mapping[str, Array]:
        """Return `embeddings` H (I, I), sparse if pruned, and `prior` pi (I,)."""
        return {"embeddings": self.embeddings_, "prior": self.prior_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `embeddings` and `prior`."""
        return self._set(state["embeddings"], state["prior"])


def _spectral(matrix: NDArray[np.float32], context: FitContext) -> NDArray[np.float32]:
    """Return Q diag(values)^1/2 (I, I), largest value first. Overwrites the symmetric `matrix`."""
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    context.progress(0, matrix.shape[0])
    with threadpool_limits(context.n_threads, user_api="blas"):
        values, vectors = eigh(matrix.T, overwrite_a=True, check_finite=False, driver="evr")
    context.progress(matrix.shape[0], matrix.shape[0])
    scale = np.sqrt(np.maximum(values[::-1], 0)).astype(np.float32)
    return np.ascontiguousarray(vectors[:, ::-1]) * scale


def estimate(model: SSVD, shape: Shape) -> Estimate:
    """Three I*I arrays: the matrix, its eigenvectors, and their copy in rows."""
    n_items = shape.n_items
    is_dense = model.k is None or model.k >= n_items
    kept = 4 * n_items**2 if is_dense else 8 * (model.k or 0) * n_items
    return Estimate(
        peak_bytes=max(12 * n_items**2, 16 * n_items**2 if model.precision == "float64" else 0)
        + shape.n_interactions
        + 8 * shape.n_users
        + 512 * n_items
        + 2**24,
        model_bytes=kept + 8 * n_items,
        fit_seconds=9 * n_items**3 / 6e10 + shape.n_pairs * 2e-9,
    )


SPEC = ModelSpec(
    model=SSVD,
    title="SSVD",
    cite="Van Balen and Goethals. High-dimensional Sparse Embeddings for Collaborative Filtering. WWW 2021.",
    size_knob="k",
    sizes=(20, 50, 100, 200, 400, None),
    space={"l2": Range(1.0, 10_000.0, log=True)},
    estimate=estimate,
)
