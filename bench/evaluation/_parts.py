"""A split in the making, and the parts of a matrix that splits are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import HeldOut
from recscale.evaluation.protocols import ProtocolOptions

TRAIN, TEST, VALID = 0, 1, 2  # the values of Dataset.parts


@dataclass(frozen=True, eq=False)
class Parts:
    """A split before it has its fingerprint."""

    options: ProtocolOptions
    train: sp.csr_array
    valid: HeldOut
    test: HeldOut
    items: NDArray[np.int64]
    users: NDArray[np.int64]  # the rows of the test users
    valid_users: NDArray[np.int64]
    dropped_users: int


def published(known: sp.csr_array, wanted: sp.csr_array) -> tuple[HeldOut, NDArray[np.int64]]:
    """Return the users that have something to be found, and their rows."""
    users = filled(wanted)
    return HeldOut(some(known, users), some(wanted, users)), users


def filled(matrix: sp.csr_array) -> NDArray[np.int64]:
    """Return the rows that hold anything."""
    return np.flatnonzero(np.diff(matrix.indptr))


def some(matrix: sp.csr_array, rows: NDArray[np.int64]) -> sp.csr_array:
    """Return `rows` of `matrix`; the matrix itself, not a copy, if that is all of them in order."""
    if len(rows) == matrix.shape[0] and np.array_equal(rows, np.arange(len(rows))):
        return matrix
    return matrix[rows]
