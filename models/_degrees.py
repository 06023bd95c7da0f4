"""The degrees of a bipartite graph of users and items, for models that need interactions of at least 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import canonical
from recscale.errors import DataError


def checked_positive(train: Any, model: str) -> sp.csr_array:
    """Return `train` (U, I) in canonical form. Raises DataError if an interaction is below 0."""
    rows = canonical(train)
    least = rows.data.min(initial=0)
    if least < 0:
        raise DataError(f"an interaction is {least:g}; {model} needs numbers of at least 0")
    return rows


def degrees(train: sp.csr_array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of the rows (U,) and of the columns (I,)."""
    values = train.data.astype(np.float64)
    of_entry = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    # bincount counts in whole numbers where there is nothing to add
    users = np.bincount(of_entry, values, minlength=train.shape[0]).astype(np.float64, copy=False)
    items = np.bincount(train.indices, values, minlength=train.shape[1]).astype(np.float64, copy=False)
    return users, items


def power(sums: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return sums to a power; 0 stays 0 whatever the exponent."""
    powers = np.zeros(sums.shape)
    np.power(sums, exponent, out=powers, where=sums > 0)
    return powers
