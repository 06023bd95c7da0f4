"""What every adapter checks at its entry."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp

from recscale.contract import canonical
from recscale.errors import DataError


def checked_history(history: Any, n_items: int) -> sp.csr_array:
    """Return `history` (B, I) in canonical form. Raises DataError if it has another number of items than the model."""
    rows = canonical(history)
    if rows.shape[1] != n_items:
        raise DataError(f"the history has {rows.shape[1]} items, the model was fitted on {n_items}; use one vocabulary")
    return rows
