"""EASE: a linear item-item model with a zero diagonal, in closed form; its pruned form; and its EDLAE diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Scores, Shape, canonical
from recscale.models._inputs import checked_history, sparse_tensor
from recscale.models._precision import Precision, Ridge, in_float32, precision_matrix

if TYPE_CHECKING:
    import torch


@dataclass
class EASE(Model):
    """Score an item by a ridge regression on the other items of the history.

    P = (X'X + l2 I + p/(1-p) diag(X'X))^-1, B_ij = -P_ij / P_jj, B_jj = 0, s_u = x_u B (Steck 2019, WWW, eq. 8; the
    term with p is Steck 2020, NeurIPS, "Autoencoders that don't overfit towards the Identity", section 3: p = 0 is
    EASE). P is kept and scaled while scoring, so B never exists beside it.
    With k, the k * I weights of largest magnitude are kept, over all of B or k in each column (Van Balen and
    Goethals 2021, WWW, section 4); without a refit, and equal magnitudes in row order.
    Peak of a fit on the CPU: 1 I*I*4 bytes in float32, 2 in float64, and the kept weights.

    l2: weight of the squared norm of B, in interactions, above 0.
    dropout: p, the share of a history that training hides from itself, at least 0 and below 1.
    k: mean number of weights kept for each item, at least 1; None keeps P whole, as does k of I - 1 or more.
    pruning: `global` magnitude threshold, or the k largest of each `column`.
    precision: in which X'X is inverted; weights and scores are float32.
    Raises NumericalError if the inverse cannot be trusted in this precision; DataError for input that is no matrix of
    finite numbers, or a history over another number of items; DeadlineExceeded.
    """

    l2: Annotated[float, Meta(gt=0)] = 500.0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    k: Annotated[int, Meta(ge=1)] | None = None
    pruning: Literal["global", "column"] = "global"
    precision: Precision = "float32"

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Invert the regularised Gram matrix of `train` (U, I) in place."""
        from recscale.models._compiled import numba_threads

        train = canonical(train)
        ridge = Ridge(self.l2, self.dropout, self.precision)
        inverse = in_float32(precision_matrix(train, ridge, context))  # (I, I), an array or on the device
        if self.k is None or self.k >= train.shape[1] - 1:
            return self._set(inverse, None)
        on_host = inverse if isinstance(inverse, np.ndarray) else inverse.cpu().numpy()
        with numba_threads(context.n_threads):
            return self._set(None, self._pruned(on_host), None if inverse is on_host else inverse.device)

    def _pruned(self, inverse: NDArray[np.float32]) -> sp.csr_array:
        """Return the kept weights (I, I)."""
        from recscale.models import _item_weights as kernels

        assert self.k is not None
        scale = -1.0 / inverse.diagonal()
        if self.pruning == "column":
            return kernels.largest_by_column(inverse, scale, self.k)
        return kernels.largest_overall(inverse, scale, self.k * scale.size)

    def shrunk(self, size: int | None, context: FitContext = FitContext()) -> Self:
        """Return the model with k = `size`, from this one with a larger k."""
        from recscale.models._compiled import numba_threads
        from recscale.models._embeddings import largest_stored

        smaller, weights = replace(self, k=size), self.weights_
        if weights is None:
            n_items = self.scale_.size
            if size is None or size >= n_items - 1:
                return smaller._set(self.precision_matrix_, None)
            with numba_threads(context.n_threads):
                return smaller._set(None, smaller._pruned(self.precision_matrix_))
        assert size is not None
        if self.pruning == "column":
            return smaller._set(None, sp.csr_array(largest_stored(sp.csr_array(weights.T), size).T))
        return smaller._set(None, _largest(weights, size * weights.shape[0]))

    def _set(self, inverse: Any, weights: sp.csr_array | None, device: torch.device | None = None) -> Self:
        """Take one of the two states, with what is derived from it."""
        self.precision_matrix_: Any = inverse
        self.weights_ = weights
        self.scale_: Any = None if inverse is None else -1.0 / inverse.diagonal()  # (I,)
        self.device_weights_ = None if device is None or weights is None else sparse_tensor(weights.T.tocsr(), device)
        return self

    def score(self, history: sp.csr_array) -> Scores:
        """Return x B (B, I) for each row of `history`; a tensor if the model was fitted on a device."""
        from recscale.models import _item_weights as dense
        from recscale.models import _neighbours as sparse

        matrix: Any = self.weights_ if self.precision_matrix_ is None else self.precision_matrix_
        rows = checked_history(history, matrix.shape[0])
        if self.device_weights_ is not None:
            return (self.device_weights_ @ sparse_tensor(rows, self.device_weights_.device).to_dense().T).T
        if self.weights_ is not None:
            return sparse.dense_product(sparse.rows_of(rows), sparse.rows_of(self.weights_), rows.shape[1])
        if isinstance(matrix, np.ndarray):
            return dense.dense_scores(sparse.rows_of(rows), matrix, self.scale_)
        return self._score_on_device(rows)

    def _score_on_device(self, rows: sp.csr_array) -> torch.Tensor:
        """Return x B = (x P) / -diag(P) + x, where the last term takes out what an item would add to itself."""
        x = sparse_tensor(rows, self.precision_matrix_.device)
        scores = (x @ self.precision_matrix_).mul_(self.scale_)  # (B, I) @ (I, I) -> (B, I)
        return scores.add_(x.to_dense())

    def state(self) -> Mapping[str, Array]:
        """Return `precision_matrix` P (I, I), or the kept `weights` (I, I), sparse."""
        if self.weights_ is not None:
            return {"weights": self.weights_}
        return {"precision_matrix": self.precision_matrix_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `precision_matrix` or `weights`; scores on the CPU from then on."""
        return self._set(state.get("precision_matrix"), state.get("weights"))


def _largest(weights: sp.csr_array, n_kept: int) -> sp.csr_array:
    """Return the `n_kept` stored weights of largest magnitude (I, I), equal ones by row, then by column."""
    from recscale.models._neighbours import Rows, csr

    magnitudes = np.abs(weights.data)
    if n_kept >= magnitudes.size:
        return weights
    threshold = np.partition(magnitudes, magnitudes.size - n_kept)[magnitudes.size - n_kept]
    kept = magnitudes > threshold
    kept[np.flatnonzero(magnitudes == threshold)[: n_kept - np.count_nonzero(kept)]] = True
    indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(kept)), dtype=np.int64)[weights.indptr]
    return csr(Rows(indptr, weights.indices[kept], weights.data[kept]), weights.shape[1])


def estimate(model: EASE, shape: Shape) -> Estimate:
    """One I*I buffer in the precision of the inverse, a part of the data transposed, and the kept weights."""
    n_items = shape.n_items
    width = 8 if model.precision == "float64" else 4
    dense = 4 * n_items**2
    is_dense = model.k is None or model.k >= n_items - 1
    kept = 0 if is_dense else 8 * (model.k or 0) * n_items + 4 * (n_items + 1)
    copies = 2 if model.pruning == "column" else 1
    extra = 8 * shape.n_users + 256 * n_items + 2**24  # places in the rows, vectors, and the buffers of BLAS
    return Estimate(
        peak_bytes=max(width * n_items**2, dense + copies * kept) + shape.n_interactions + extra,
        model_bytes=dense if is_dense else kept,
        fit_seconds=n_items**3 / 1.3e11 + shape.n_pairs * 2e-9,  # two cores at 130 GFLOP/s
    )


SPEC = ModelSpec(
    model=EASE,
    title="EASE",
    cite="Steck. Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019.",
    size_knob="k",
    sizes=(20, 50, 100, 200, 400, None),
    space={"l2": Range(1.0, 10_000.0, log=True), "dropout": Range(0.0, 0.75)},
    devices=("cpu", "cuda"),
    estimate=estimate,
)
