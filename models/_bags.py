"""Sparse rows times dense tables on any device, in both directions and for any weights of the entries.

Sums run in a fixed order without atomics, so a GPU too gives the same bits at each call. Nothing of the size
(n entries, D) is made but in `dots`, a piece at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    import torch

PIECE = 2**18  # numbers of a piece that is worked on in the cache


@dataclass(frozen=True)
class Bags:
    """The entries of a csr_array (B, I) on a device, as bags of items by row and as bags of rows by item."""

    items: torch.Tensor  # (n entries,) as are rows, values, order and rows_by_item
    rows: torch.Tensor
    values: torch.Tensor
    starts: torch.Tensor  # (B,)
    lengths: torch.Tensor  # (B,)
    order: torch.Tensor  # of the entries by item
    rows_by_item: torch.Tensor
    starts_by_item: torch.Tensor  # (n touched,)
    touched: torch.Tensor  # the items that occur

    @classmethod
    def of(cls, matrix: sp.csr_array, device: Any) -> Bags:
        """Bring a matrix to the device."""
        import torch

        lengths = np.diff(matrix.indptr)
        rows = np.repeat(np.arange(lengths.size), lengths)
        numbered = sp.csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        by_item = numbered.T.tocsr()
        touched = np.flatnonzero(np.diff(by_item.indptr))
        by_row = (matrix.indices, rows, matrix.data, matrix.indptr[:-1], lengths)
        others = (by_item.data, by_item.indices, by_item.indptr[touched], touched)
        wide = (part.astype(np.float32 if part.dtype.kind == "f" else np.int64) for part in (*by_row, *others))
        return cls(*(torch.as_tensor(part, device=device) for part in wide))

    def times(self, table: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return W @ table: (B, I) @ (I, D) -> (B, D), for W with these weights at the entries, or ones."""
        return _sums(self.items, table, self.starts, weights)

    def add_transposed(self, right: torch.Tensor, weights: torch.Tensor, target: torch.Tensor) -> None:
        """Add W' @ right to target: (I, B) @ (B, D) -> (I, D)."""
        if self.touched.numel():
            sums = _sums(self.rows_by_item, right, self.starts_by_item, weights[self.order])
            target.index_add_(0, self.touched, sums)

    def dots(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return left[row] . right[item] for each entry: (B, D), (I, D) -> (n entries,)."""
        import torch

        n_each = max(1, PIECE // left.shape[1])
        pieces = zip(self.rows.split(n_each), self.items.split(n_each), strict=True)
        return torch.cat(
            [left.index_select(0, rows).mul_(right.index_select(0, items)).sum(1) for rows, items in pieces]
        )

    def by_row(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum of the weights of each row, (B,)."""
        return _sums(self.order.new_zeros(1).expand_as(self.items), weights.new_ones(1, 1), self.starts, weights)[:, 0]

    def by_item(self, weights: torch.Tensor, n_items: int) -> torch.Tensor:
        """Return the sum of the weights of each item, (I,)."""
        total = weights.new_zeros(n_items, 1)
        self.add_transposed(weights.new_ones(self.starts.numel(), 1), weights, total)
        return total[:, 0]


def _sums(places: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, weights: Any) -> torch.Tensor:
    """Return the weighted sum of the rows of the table in each bag."""
    import torch

    return torch.nn.functional.embedding_bag(places, table, starts, mode="sum", per_sample_weights=weights)
