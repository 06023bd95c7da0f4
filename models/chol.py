"""CHOL: sparse high-dimensional item embeddings, the pruned Cholesky factor of a shifted precision matrix."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Range, Scores, Shape, canonical
from recscale.errors import FitWarning, Skipped
from recscale.models._inputs import checked_history, sparse_tensor
from recscale.models._precision import (
    Precision,
    Ridge,
    chol_target,
    in_float32,
    precision_matrix,
    sparse_chol_target,
)

if TYPE_CHECKING:
    import torch

UNPACKED = 1 << 24  # numbers of a packed triangle that are unpacked at once, to be pruned
Order = Literal["popular", "unpopular", "random", "as-is"]


@dataclass
class CHOL(Model):
    """Score an item by the product of its sparse embedding with those of the history: s_u = (x_u E) E' diag(pi).

    A = beta D - P = L L', with P = (X'X + l2 I)^-1, D = diag(P), pi = 1 / diag(P); E is L with the k entries of largest
    magnitude of each row kept (Van Balen and Goethals 2021, WWW, equations 5 to 8 and section 3.4). Off the diagonal
    L L' diag(pi) is the B of EASE; its diagonal, beta - 1, only moves items of the history, which are never ranked.
    Row i of L has at most i + 1 entries, so what comes first in the order has the shortest embedding.
    With k = None the whole triangle is kept, packed: I (I + 1) / 2 numbers, half of EASE.
    Peak of a fit on the CPU: 1 I*I*4 bytes in float32, 2 in float64, and the kept embeddings.
    With the other factorizations nothing of I*I exists: P is sparse, column j the inverse of the block of X'X + l2 I
    around item j and its nearest `neighbors` by G_ij / sqrt((G_ii + l2) (G_jj + l2)) among those with a user in common
    (Steck 2019, NeurIPS, section 3.2, with an overlap of 0), made symmetric by the mean where both columns have an
    entry (by the smaller where |P_ij| > sqrt(P_ii P_jj), with a FitWarning) and by the one where one has it.
    `incomplete` factors A without fill, IC(0), so L L' is A exactly where P has an entry; 40 bytes for each of these.
    `cholmod` factors A exactly, by CHOLMOD in a fill-reducing order; where L would have more than `max_fill` entries,
    the weakest of P are left out, with a FitWarning; 40 bytes for each of L.

    l2: weight of the squared norm of the weights, in interactions, above 0.
    k: entries kept of each embedding, at least 1; None, or I and more, keeps all.
    beta: factor of the diagonal, above 1; raised to 1.05 times the largest eigenvalue of D^-1/2 P D^-1/2, with a
        FitWarning, where A would not be positive definite.
    factorization: `dense`, or where I*I does not fit `incomplete`, or `cholmod` (needs the extra of that name).
    neighbors: of each item, at least 1; where not dense.
    max_fill: entries of the factor before pruning, at least 1; for cholmod.
    order: of the items in the factorisation, but for cholmod: `popular` first (the text of section 3.4), or for
        comparison `unpopular` first (the public code, where it sorts, begins with those that meet the fewest others),
        `random`, or `as-is`.
    precision: in which X'X is inverted; A is factored in float32.
    Raises NumericalError if the inverse cannot be trusted in this precision; DataError for input that is no matrix of
    finite numbers, or a history over another number of items; for cholmod MissingExtra and OutOfMemory;
    DeadlineExceeded.
    """

    l2: Annotated[float, Meta(gt=0)] = 500.0
    k: Annotated[int, Meta(ge=1)] | None = 200
    beta: Annotated[float, Meta(gt=1)] = 2.0
    order: Order = "popular"
    precision: Precision = "float32"
    factorization: Literal["dense", "incomplete", "cholmod"] = "dense"
    # NDCG@100 of validation users with incomplete, neighbors 20/50/100/200: lastfm-2k .353/.366/.376/.379 (dense .381),
    # debian-depends .587/.592/.595/.597 (.605), ml-1m .436/.433/.441/.457 (.484); the cost grows with the square
    neighbors: Annotated[int, Meta(ge=1)] = 50
    max_fill: Annotated[int, Meta(ge=1)] = 60_000_000

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Invert the regularised Gram matrix of `train` (U, I) and factor it, both in place if dense."""
        train = canonical(train)
        return self._fit_dense(train, context) if self.factorization == "dense" else self._fit_sparse(train, context)

    def _fit_sparse(self, train: sp.csr_array, context: FitContext) -> Self:
        from recscale.models import _embeddings, _incomplete

        by_cholmod = self.factorization == "cholmod"
        if by_cholmod:
            from recscale.models import _cholmod

            _cholmod.require_cholmod()
        if context.device != "cpu":
            raise Skipped(f"factorization={self.factorization} runs on the CPU alone; use device=cpu or dense")
        precision = self._sparse_precision(train, context)
        if by_cholmod:
            precision = _cholmod.within_fill(precision, self.max_fill, context)
        shifted, prior = sparse_chol_target(precision, self.beta, context)
        del precision
        if by_cholmod:
            embeddings = _cholmod.factor_rows(shifted, self.k, context)
        else:
            embeddings = _incomplete.incomplete_rows(shifted, _order(train, self.order, context), context)
            embeddings = embeddings if self.k is None else _embeddings.largest_stored(embeddings, self.k)
        if self.k is not None and self.k >= prior.size:
            _warn_of_size(self.k, prior.size)
        return self._set({"embeddings": embeddings, "prior": prior})

    def _sparse_precision(self, train: sp.csr_array, context: FitContext) -> sp.csr_array:
        """Return P (I, I), symmetric, from the blocks around each item."""
        from recscale.models import _sparse_gram as grams
        from recscale.models._sparse_precision import Blocks, sparse_inverse

        data = grams.interactions(train)
        squares = np.bincount(train.indices, train.data.astype(np.float64) ** 2, minlength=train.shape[1])
        nearness = grams.Measure(1.0 / np.sqrt(squares + self.l2), np.zeros(squares.size))
        pattern = grams.sparse_gram(data, nearness, grams.Keep(self.neighbors), context)
        plain = grams.plain(train.shape[1])
        columns = sparse_inverse(data, plain, pattern, Blocks(self.l2), context)
        return _bounded(grams.united(columns), columns)

    def _fit_dense(self, train: sp.csr_array, context: FitContext) -> Self:
        from recscale.models import _embeddings as kernels
        from recscale.models._compiled import numba_threads

        order = _order(train, self.order, context)
        sorted_train = _reordered(train, order)
        ridge = Ridge(self.l2, precision=self.precision)
        matrix = in_float32(precision_matrix(sorted_train, ridge, context))  # (I, I), an array or on the device
        del sorted_train
        matrix, prior = chol_target(matrix, self.beta, context)
        triangle, device = _factored(matrix, context), None if context.device == "cpu" else matrix.device
        del matrix
        weights = np.empty_like(prior)
        weights[order] = prior
        n_items = order.size
        if self.k is None or self.k >= n_items:
            _warn_of_size(self.k, n_items)
            return self._set({"triangle": kernels.pack(triangle), "order": order, "prior": weights}, device)
        with numba_threads(context.n_threads):
            by_rank = kernels.largest_in_rows(triangle, self.k, lower=True)  # (I, I)
        del triangle
        return self._set({"embeddings": _by_item(by_rank, order), "prior": weights}, device)

    def shrunk(self, size: int | None, context: FitContext = FitContext()) -> Self:
        """Return the model with k = `size`, from this one with a larger k."""
        from recscale.models import _embeddings as kernels
        from recscale.models._compiled import numba_threads

        smaller, prior = replace(self, k=size), self.state_["prior"]
        if size is None or size >= prior.size:
            return smaller._set(self.state_)
        if "embeddings" in self.state_:
            embeddings = kernels.largest_stored(self.state_["embeddings"], size)
        else:
            with numba_threads(context.n_threads):
                by_rank = _largest_in_packed(self.state_["triangle"], prior.size, size)
            embeddings = _by_item(by_rank, self.state_["order"])
        return smaller._set({"embeddings": embeddings, "prior": prior})

    def _set(self, state: Mapping[str, Array], device: torch.device | None = None) -> Self:
        self.state_ = dict(state)
        self.on_device_: Any = None if device is None else _moved(self.state_, device)
        self.prepared_: Any = None
        if device is None and "embeddings" in self.state_:
            from recscale.models import _embeddings as kernels

            self.prepared_ = kernels.prepared(self.state_["embeddings"], self.state_["prior"])
        return self

    def score(self, history: sp.csr_array) -> Scores:
        """Return (x E) E' diag(pi) (B, I) for each row x of `history`; a tensor if the model was fitted on a device."""
        from recscale.models import _embeddings as kernels
        from recscale.models._neighbours import rows_of

        prior = self.state_["prior"]
        rows = checked_history(history, prior.size)
        if self.on_device_ is not None:
            return _score_on_device(rows, self.on_device_)
        if "triangle" in self.state_:
            return kernels.packed_scores(rows_of(rows), self.state_["triangle"], self.state_["order"], prior)
        return kernels.scores(rows_of(rows), self.prepared_)

    def state(self) -> Mapping[str, Array]:
        """Return `prior` pi (I,), and sparse `embeddings` (I, I) or the packed `triangle` and its `order`."""
        return self.state_

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        return self._set(state)


def _bounded(matrix: sp.csr_array, columns: sp.csr_array) -> sp.csr_array:
    """Return the symmetric `matrix`, the mean of `columns` and its transpose, without entries that cannot be.

    Where |P_ij| > sqrt(P_ii P_jj) the two blocks tell of different worlds (of items that are sums of others, one block
    has all the parts and the other has not), and the smaller of their two entries is taken, with a FitWarning.
    """
    root = np.sqrt(matrix.diagonal())
    rows = np.repeat(np.arange(root.size), np.diff(matrix.indptr))
    wrong = np.flatnonzero(np.abs(matrix.data) > (1 + 1e-5) * root[rows] * root[matrix.indices])
    if wrong.size:
        i, j = rows[wrong], matrix.indices[wrong]
        both = np.stack([np.asarray(columns[i, j]), np.asarray(columns[j, i]), root[i] * root[j]])
        least = np.where(both == 0, np.inf, np.abs(both)).min(axis=0)
        matrix.data[wrong] = np.sign(matrix.data[wrong]) * least
        warnings.warn(
            f"{wrong.size} entries of the sparse precision matrix were larger than its diagonal allows, and reduced",
            FitWarning,
            stacklevel=2,
        )
    return matrix


def _warn_of_size(k: int | None, n_items: int) -> None:
    if k is not None:
        warnings.warn(f"k={k} prunes nothing of {n_items} items: all is kept", FitWarning, stacklevel=3)


def _order(train: sp.csr_array, order: Order, context: FitContext) -> NDArray[np.int32]:
    """Return the items in the order of the factorisation, (I,)."""
    n_items = train.shape[1]
    if order == "as-is":
        return np.arange(n_items, dtype=np.int32)
    if order == "random":
        return context.rng().permutation(n_items).astype(np.int32)
    counts = np.bincount(train.indices, minlength=n_items)
    return np.argsort(-counts if order == "popular" else counts, kind="stable").astype(np.int32)


def _by_item(by_rank: sp.csr_array, order: NDArray[np.int32]) -> sp.csr_array:
    """Return the rows in the order of the items, where row r is that of item order[r]."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(order.size, dtype=order.dtype)
    return sp.csr_array(by_rank[ranks])


def _largest_in_packed(triangle: NDArray[np.float32], n_items: int, n_kept: int) -> sp.csr_array:
    """Return the `n_kept` entries of largest magnitude in each row of a packed lower triangle, as csr_array (I, I)."""
    from recscale.models import _embeddings as kernels

    parts, height = [], max(1, min(n_items, UNPACKED // n_items))
    for first in range(0, n_items, height):
        block = np.zeros((min(height, n_items - first), n_items), np.float32)
        for row, target in enumerate(block, start=first):
            target[: row + 1] = triangle[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2]
        parts.append(kernels.largest_in_rows(block, n_kept, lower=False))
    return sp.csr_array(sp.vstack(parts, format="csr"))


def _reordered(train: sp.csr_array, order: NDArray[np.int32]) -> sp.csr_array:
    """Return `train` with its columns in the given order, rows sorted."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(order.size, dtype=order.dtype)
    result = sp.csr_array((train.data.copy(), ranks[train.indices], train.indptr.copy()), shape=train.shape)
    result.sort_indices()
    return result


def _factored(matrix: Any, context: FitContext) -> NDArray[np.float32]:
    """Return L (I, I) in the lower triangle of an array, in the memory of a `matrix` that is an array."""
    from recscale.models import _gram, _inverse

    if isinstance(matrix, np.ndarray):
        _inverse.factor(matrix, context)
        _gram.mirror(matrix, context)
        return matrix
    _inverse.factor_on_device(matrix, context)
    lower: NDArray[np.float32] = matrix.T.contiguous().cpu().numpy()
    return lower


def _moved(state: Mapping[str, Array], device: torch.device) -> tuple[Any, Any]:
    """Return E (I, I) and the prior (I,) on the device; a packed triangle is unpacked there."""
    import torch

    prior = torch.from_numpy(state["prior"]).to(device)
    if "embeddings" in state:
        return sparse_tensor(state["embeddings"], device), prior
    n_items, order = prior.numel(), torch.from_numpy(state["order"]).to(device).long()
    dense = torch.zeros((n_items, n_items), device=device)
    for rank, item in enumerate(order.tolist()):
        start = rank * (rank + 1) // 2
        dense[item, : rank + 1] = torch.from_numpy(state["triangle"][start : start + rank + 1])
    return dense, prior


def _score_on_device(rows: sp.csr_array, parts: tuple[Any, Any]) -> torch.Tensor:
    import torch

    embeddings, prior = parts
    x = torch.from_numpy(rows.toarray()).to(prior.device)  # (B, I)
    # a sparse matrix multiplies from the left alone: ((E' x')' E')' = E (E' x')
    hidden = embeddings.T.to_sparse_csr() @ x.T if embeddings.is_sparse_csr else embeddings.T @ x.T
    return (embeddings @ hidden).T * prior


def estimate(model: CHOL, shape: Shape) -> Estimate:
    """One I*I buffer in the precision of the inverse, two copies of the kept embeddings, the data in another order."""
    n_items = shape.n_items
    if model.factorization != "dense":
        return _sparse_estimate(model, shape)
    width = 8 if model.precision == "float64" else 4
    is_dense = model.k is None or model.k >= n_items
    kept = 2 * n_items * (n_items + 1) + 8 * n_items if is_dense else 8 * (model.k or 0) * n_items + 8 * n_items
    extra = 8 * shape.n_users + 512 * n_items + 2**24
    return Estimate(
        peak_bytes=max(width * n_items**2, 4 * n_items**2 + (0 if is_dense else 2 * kept))
        + 9 * shape.n_interactions
        + extra,
        model_bytes=kept,
        fit_seconds=4 * n_items**3 / 3 / 1.3e11 + shape.n_pairs * 2e-9,  # two cores at 130 GFLOP/s
    )


def _sparse_estimate(model: CHOL, shape: Shape) -> Estimate:
    """The sparse precision and the factor with their copies, 1 GiB of blocks, and the data with its transpose."""
    n_items = shape.n_items
    pattern = n_items * min(model.neighbors + 1, n_items)
    filled = min(model.max_fill, n_items * (n_items + 1) // 2) if model.factorization == "cholmod" else pattern
    kept = 8 * min(filled, (model.k or n_items) * n_items) + 8 * n_items
    blocks = min(2**30, 2 * pattern * (model.neighbors + 1))
    return Estimate(
        peak_bytes=max(40 * filled, blocks + 40 * pattern) + 24 * shape.n_interactions + 256 * n_items + 2**26,
        model_bytes=kept,
    )


SPEC = ModelSpec(
    model=CHOL,
    title="CHOL",
    cite="Van Balen and Goethals. High-dimensional Sparse Embeddings for Collaborative Filtering. WWW 2021.",
    size_knob="k",
    sizes=(20, 50, 100, 200, 400, None),
    space={"l2": Range(1.0, 10_000.0, log=True), "beta": Range(1.5, 5.0), "order": Choice(("popular", "random"))},
    devices=("cpu", "cuda"),
    estimate=estimate,
)
