"""Random items that a user does not have: drawn evenly, and none in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    import torch


class Unseen:
    """Draws among the items that are not in a row of a matrix (U, I), on its device.

    The r-th unseen item of a user with items a_0 < a_1 < ... is r plus the number of k with a_k - k <= r, which a
    binary search finds among all users at once: no draw has to be thrown away, and users with many items cost no more.
    """

    def __init__(self, rows: sp.csr_array, device: Any) -> None:
        import torch

        n_users, n_items = rows.shape
        lengths = np.diff(rows.indptr).astype(np.int64)
        users = np.repeat(np.arange(n_users), lengths)
        rank = np.arange(rows.nnz) - rows.indptr[:-1].astype(np.int64)[users]
        self.width = n_items + 1
        self.room = n_items - lengths  # (U,)
        self.keys = torch.as_tensor(users * self.width + rows.indices - rank, device=device)
        self.starts = torch.as_tensor(rows.indptr[:-1].astype(np.int64), device=device)

    def draw(self, users: torch.Tensor, n_each: int, rng: np.random.Generator) -> torch.Tensor:
        """Return items (B, n_each) that the users (B,) do not have; each must have one that is missing."""
        import torch

        room = self.room[users.cpu().numpy()][:, None]
        drawn = torch.as_tensor(rng.integers(0, room, (room.size, n_each)), device=users.device)
        below = torch.searchsorted(self.keys, drawn + (users * self.width)[:, None], right=True)
        return drawn + below - self.starts[users][:, None]
