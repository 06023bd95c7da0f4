"""The regularised precision matrix of the items, P = (X'X + l2 I + p/(1-p) diag(X'X))^-1, dense and in one buffer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import FitWarning, NumericalError

Precision = Literal["float32", "float64"]
LANCZOS_STEPS = 40

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ridge:
    """What is added to the diagonal of X'X, and the precision in which the sum is inverted."""

    l2: float
    dropout: float = 0.0
    precision: Precision = "float32"

    @property
    def dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.precision == "float64" else np.float32


def precision_matrix(train: sp.csr_array, ridge: Ridge, context: FitContext) -> Any:
    """Return P (I, I) of `train` (U, I) in the precision of the ridge: an array, or a tensor on the context's device.

    Peak on the CPU: 1 I*I entries. Raises NumericalError if the inverse cannot be trusted in this precision;
    DeadlineExceeded.
    """
    from recscale.models import _gram, _inverse

    on_device = context.device != "cpu"
    matrix = _gram.gram(train, context, mirrored=on_device, dtype=ridge.dtype)
    diagonal = matrix.reshape(-1)[:: train.shape[1] + 1]
    diagonal *= 1.0 + ridge.dropout / (1.0 - ridge.dropout)
    diagonal += ridge.l2
    del diagonal
    try:
        if not on_device:
            _inverse.invert(matrix, context)
            return matrix
        import torch

        moved = torch.from_numpy(matrix).to(context.device)
        del matrix
        _inverse.invert_on_device(moved, context)
        return moved
    except NumericalError as error:
        remedy = "" if ridge.precision == "float64" else "precision=float64 or "
        raise NumericalError(f"{error}; l2={ridge.l2:g} is too small for it: use {remedy}a larger l2") from None


def in_float32(matrix: Any) -> Any:
    """Return a square matrix in float32; an array in the first half of its own memory, the other half is given back."""
    if not isinstance(matrix, np.ndarray):
        return matrix.float()
    if matrix.dtype == np.float32:
        return matrix
    return _narrowed(matrix)


def _narrowed(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    n_items = matrix.shape[0]
    narrow = matrix.reshape(-1).view(np.float32)
    for row in range(n_items):
        narrow[row * n_items : (row + 1) * n_items] = matrix[row].copy()
    del narrow
    matrix.resize(((n_items * n_items + 1) // 2,), refcheck=False)  # realloc shrinks in place
    return matrix.view(np.float32)[: n_items * n_items].reshape(n_items, n_items)


def largest_eigenvalue(product: Callable[[Vector], Vector], start: Vector) -> float:
    """Return an upper estimate of the largest eigenvalue of a symmetric operator (I,) -> (I,), from `start` (I,).

    Lanczos with full reorthogonalisation: the largest Ritz value and its residual (Parlett 1980, The Symmetric
    Eigenvalue Problem, section 13.2), until that is below half a percent.
    """
    from scipy.linalg import eigh_tridiagonal

    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(LANCZOS_STEPS, start.size)):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        known = np.array(basis)  # (steps, I)
        for _ in range(2):  # twice is enough
            image = image - known.T @ (known @ image)
        beside.append(float(np.linalg.norm(image)))
        values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
        residual = beside[-1] * abs(vectors[-1, -1])
        if residual <= 5e-3 * abs(values[-1]):
            break
        basis.append(image / beside[-1])
    return float(values[-1] + residual)


def chol_target(precision: Any, beta: float, context: FitContext) -> tuple[Any, NDArray[np.float32]]:
    """Replace P (I, I) by A = beta diag(P) - P in its own memory; return it, and the prior 1 / diag(P) (I,).

    A is positive definite if and only if beta is above the largest eigenvalue of diag(P)^-1/2 P diag(P)^-1/2
    (1.37 on ml-1m at l2 = 500). Where it is not, beta is raised to 1.05 times that bound, with a FitWarning.
    """
    on_host = isinstance(precision, np.ndarray)
    diagonal = precision.diagonal().copy() if on_host else precision.diagonal().cpu().numpy()
    root = 1.0 / np.sqrt(diagonal.astype(np.float64))
    multiply = _product_on_host if on_host else _product_on_device
    start = context.rng().standard_normal(root.size)
    bound = largest_eigenvalue(lambda vector: root * multiply(precision, root * vector, context), start)
    context.log("least_beta", 0, bound)
    beta = raised_beta(beta, bound)
    if on_host:
        np.negative(precision, out=precision)
        precision.reshape(-1)[:: root.size + 1] = (beta - 1.0) * diagonal
    else:
        precision.neg_()
        precision.diagonal().mul_(-(beta - 1.0))
    return precision, (1.0 / diagonal).astype(np.float32)


def sparse_chol_target(
    precision: sp.csr_array, beta: float, context: FitContext
) -> tuple[sp.csr_array, NDArray[np.float32]]:
    """Return what `chol_target` does for a sparse symmetric P (I, I), as a new matrix."""
    diagonal = precision.diagonal().astype(np.float64)
    root = sp.diags_array(1.0 / np.sqrt(diagonal))
    normalised = sp.csr_array(root @ precision @ root)
    bound = largest_eigenvalue(normalised.dot, context.rng().standard_normal(diagonal.size))
    del normalised
    context.log("least_beta", 0, bound)
    shifted = sp.csr_array(sp.diags_array(raised_beta(beta, bound) * diagonal) - precision)
    return shifted, (1.0 / diagonal).astype(np.float32)


def raised_beta(beta: float, bound: float) -> float:
    """Return `beta`, or 1.05 times `bound` with a FitWarning where beta is no more than 1.01 times the bound."""
    if beta > 1.01 * bound:
        return beta
    raised = 1.05 * bound
    warnings.warn(
        f"beta={beta:g} leaves beta D - P not positive definite; raised to {raised:.4g}, 1.05 times its largest "
        "normalised eigenvalue",
        FitWarning,
        stacklevel=2,
    )
    return raised


def _product_on_host(matrix: Any, vector: Vector, context: FitContext) -> Vector:
    from recscale.models._gram import symmetric_product

    return symmetric_product(matrix, vector[:, None], context)[:, 0]


def _product_on_device(matrix: Any, vector: Vector, context: FitContext) -> Vector:
    import torch

    moved = torch.from_numpy(vector).to(matrix.device)
    result: Vector = torch.cat([rows.double() @ moved for rows in matrix.split(1024)]).cpu().numpy()
    return result
