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
    binary search finds: no draw has to be thrown away, and users with many items hardly cost more.
    """

    def __init__(self, rows: sp.csr_array, device: Any) -> None:
        n_items = rows.shape[1]
        lengths = np.diff(rows.indptr).astype(np.int64)
        self.room = n_items - lengths  # (U,)
        self._starts = rows.indptr.astype(np.int64)
        self._before = (rows.indices - (np.arange(rows.nnz) - np.repeat(self._starts[:-1], lengths))).astype(np.int32)
        self._on_device = None if str(device) == "cpu" else _OnDevice(self, n_items, device)

    def draw(self, users: torch.Tensor, n_each: int, rng: np.random.Generator) -> torch.Tensor:
        """Return items (B, n_each) that the users (B,) do not have; each must have one that is missing."""
        import torch

        drawn = rng.random((len(users), n_each))
        if self._on_device is not None:
            return self._on_device.items_at(users, torch.as_tensor(drawn, device=users.device))
        from recscale.models._drawn_products import Room, unseen_items

        room = Room(self.room, self._starts, self._before)
        return torch.from_numpy(unseen_items(drawn, users.numpy(), room))


class _OnDevice:
    """The same by one binary search among all users at once, for tensors that lie elsewhere than on the CPU."""

    def __init__(self, unseen: Unseen, n_items: int, device: Any) -> None:
        import torch

        users = np.repeat(np.arange(unseen.room.size), n_items - unseen.room)
        self.width = n_items + 1
        self.keys = torch.as_tensor(users * self.width + unseen._before, device=device)
        self.room, self.starts = (torch.as_tensor(a, device=device) for a in (unseen.room, unseen._starts[:-1]))

    def items_at(self, users: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return items (B, n) that the users (B,) do not have, for numbers from [0, 1)."""
        import torch

        rank = (drawn * self.room[users][:, None]).long()
        below = torch.searchsorted(self.keys, rank + (users * self.width)[:, None], right=True)
        return rank + below - self.starts[users][:, None]
