"""What the models of ratings take: matrices in which a stored zero is a rating."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from recscale.contract import canonical
from recscale.errors import DataError


def rated(matrix: Any) -> sp.csr_array:
    """Return ratings (U, I) as a float32 csr_array with sorted indices and every stored entry, zeros too.

    Raises DataError for what is no matrix of finite numbers, and where a user has rated an item twice.
    """
    ratings = canonical(matrix, keep_zeros=True)
    n_given: int = getattr(matrix, "nnz", ratings.nnz)  # of a dense array, what is not zero
    if n_given != ratings.nnz:
        raise DataError("a user has rated an item twice; keep one rating of each")
    return ratings


def rated_history(history: Any, n_items: int) -> sp.csr_array:
    """Return the ratings of users (B, I) as `rated` does. Raises DataError for another number of items too."""
    ratings = rated(history)
    if ratings.shape[1] != n_items:
        raise DataError(
            f"the history has {ratings.shape[1]} items, the model was fitted on {n_items}; use one vocabulary"
        )
    return ratings
