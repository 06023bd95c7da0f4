"""What goes into the ranking kernel and what comes out, as tuples of arrays that numba can take apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RANKED, NOT_FINITE, TARGET_IN_HISTORY, NO_TARGET = 0, 1, 2, 3


class Rows(NamedTuple):
    """The column numbers of B sparse rows: those of row b are `indices[indptr[b]:indptr[b + 1]]`."""

    indptr: NDArray[np.int64]  # (B + 1,)
    indices: NDArray[np.int32]

    def part(self, rows: slice) -> Rows:
        """Return some rows, without a copy."""
        return Rows(self.indptr[rows.start : rows.stop + 1], self.indices)


class Output(NamedTuple):
    """What is found out about each row; `first` holds the first rank and its two bounds."""

    items: NDArray[np.int32]  # (B, K)
    hits: NDArray[np.bool_]  # (B, K)
    first: NDArray[np.int64]  # (B, 3)
    n_nonzero: NDArray[np.int64]  # (B,)
    status: NDArray[np.int8]  # (B,) one of the constants above

    @classmethod
    def empty(cls, n_rows: int, k: int) -> Output:
        """Return what the kernel is to fill: no items, no hits."""
        return cls(
            items=np.full((n_rows, k), -1, dtype=np.int32),
            hits=np.zeros((n_rows, k), dtype=np.bool_),
            first=np.zeros((n_rows, 3), dtype=np.int64),
            n_nonzero=np.zeros(n_rows, dtype=np.int64),
            status=np.zeros(n_rows, dtype=np.int8),
        )

    def part(self, rows: slice) -> Output:
        """Return some rows, without a copy."""
        return Output(self.items[rows], self.hits[rows], self.first[rows], self.n_nonzero[rows], self.status[rows])
