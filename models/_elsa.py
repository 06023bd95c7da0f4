"""The loss of ELSA and its gradient, without the scores (B, I) that it is defined on; shared by its two models.

For a row x with y = (x A) A' - x and z = x A, |x/|x| - y/|y||^2 = 2 - 2 <x,y> / (|x| |y|), where <x,y> = z.z - x.x and
|y|^2 = |A z|^2 - 2 z.z + x.x. |A z|^2 = z (A'A) z', or the norm of a dense row: whichever takes fewer multiplications.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import scipy.sparse as sp

from recscale.models._bags import PIECE, Bags

if TYPE_CHECKING:
    import torch

LEAST_SQUARE = 1e-6  # |y|^2 as a share of |x|^2 below which float32 no longer knows it


class NormalisedLoss:
    """The loss and its gradient for one table of item weights W (I, D), with two buffers of its size.

    One thread, with B, I, D = 1,024, 41,000, 256: 181 ms a step, the dense route 1,024, the literal form under autograd
    3,538; 256, 3,043, 256: 17, 26, 41. Autograd would also take eight fresh tables a step, at 0.3 to 1 GB/s.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        import torch

        self.weight = weight
        self.unit = torch.empty_like(weight, requires_grad=False)  # A (I, D), rows of length 1
        self.gradient = torch.empty_like(weight, requires_grad=False)
        self._rows = max(1, PIECE // weight.shape[1])

    def normalise(self) -> torch.Tensor:
        """Bring A up to date with W; return the lengths of the rows of W, (I, 1)."""
        import torch

        weight = self.weight.detach()
        lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-12)
        torch.div(weight, lengths, out=self.unit)
        return lengths

    def __call__(self, rows: Bags, factor: float) -> torch.Tensor:
        """Return the sum of the losses of the rows times the factor, and write its gradient to W."""
        lengths = self.normalise()
        unit, squares = self.unit, rows.by_row(rows.values.square())
        hidden = rows.times(unit, rows.values)  # z (B, D)
        own = (hidden * hidden).sum(1)
        dense = _dense_is_cheaper(hidden.shape[0], *unit.shape)
        product = hidden @ unit.T if dense else None  # z A' (B, I)
        back = product @ unit if product is not None else hidden @ (unit.T @ unit)  # z A'A (B, D)
        output = (back * hidden).sum(1) - 2 * own + squares  # |y|^2
        known = ~(output <= LEAST_SQUARE * squares)  # NaN stays one; an empty row has no direction, nor has y = 0
        scale = (squares * output).where(known, 1.0).rsqrt() * known  # 1 / (|x| |y|)
        losses = 2 * (squares > 0) - 2 * (own - squares) * scale
        by_output = (own - squares) * scale / output.where(known, 1.0)  # of the loss by |y|^2, (B,)
        pull = (2 * by_output)[:, None] * back - (4 * scale + 4 * by_output)[:, None] * hidden
        if product is not None:
            _product(product.T, (2 * by_output)[:, None] * hidden, self.gradient)
        else:
            _product(unit, 2 * (hidden.T @ (by_output[:, None] * hidden)), self.gradient)
        rows.add_transposed(pull, rows.values, self.gradient)
        self._project(lengths / factor)
        self.weight.grad = self.gradient
        return losses.sum() * factor + 0 * lengths.sum()  # NaN once a length is infinite

    def _project(self, lengths: torch.Tensor) -> None:
        """Turn the gradient by A into that by W: (g - A (A.g)) / |W|, row by row."""
        for first in range(0, lengths.shape[0], self._rows):
            part = slice(first, first + self._rows)
            gradient, unit = self.gradient[part], self.unit[part]
            gradient.addcmul_(unit, (unit * gradient).sum(1, keepdim=True), value=-1).div_(lengths[part])


def _product(left: torch.Tensor, right: torch.Tensor, target: torch.Tensor) -> None:
    import torch

    torch.mm(left, right, out=target)


def _dense_is_cheaper(n_rows: int, n_items: int, n_factors: int) -> bool:
    """Compare 3 products of (B, I, D) with 2 of (I, D, D) and 2 of (B, D, D)."""
    return 3 * n_rows * n_items < 2 * n_factors * (n_items + n_rows)


def fold_in(history: sp.csr_array, unit: torch.Tensor) -> torch.Tensor:
    """Return x A A' - x (B, I) for rows x of `history` and A (I, D), on the device of A."""
    rows = Bags.of(history, unit.device)
    scores = rows.times(unit, rows.values) @ unit.T
    scores[rows.rows, rows.items] -= rows.values
    return scores
