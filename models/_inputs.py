"""What every adapter checks at its entry, and how rows reach a device."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from recscale.contract import canonical
from recscale.errors import DataError

if TYPE_CHECKING:
    import torch


def checked_history(history: Any, n_items: int) -> sp.csr_array:
    """Return `history` (B, I) in canonical form. Raises DataError if it has another number of items than the model."""
    rows = canonical(history)
    if rows.shape[1] != n_items:
        raise DataError(f"the history has {rows.shape[1]} items, the model was fitted on {n_items}; use one vocabulary")
    return rows


def sparse_tensor(rows: sp.csr_array, device: torch.device) -> torch.Tensor:
    """Return a csr_array as a sparse tensor on the device."""
    import torch

    parts = [torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices)]
    parts.append(torch.from_numpy(rows.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*parts, size=rows.shape, check_invariants=True).to(device)
