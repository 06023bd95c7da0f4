"""Training by several processes at once, where torch.distributed runs: each takes a part of every batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recscale.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train one module together, and which of them this is. One alone exchanges nothing."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Group:
        """Return the group that torch.distributed was started with (by torchrun, for example), or one alone."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def part(self, n: int) -> slice:
        """Return which of `n` things are this process's own; the parts differ by one at most."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the processes, in place; return it. It is the same in all of them afterwards."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the tensors of the first, in place."""
        if self.size > 1:
            from torch import distributed

            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def agree(self, numbers: list[int], device: torch.device) -> None:
        """Make sure that all processes have the same numbers. Raises UsageError in all of them if they do not."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        largest = torch.tensor(numbers + [-number for number in numbers], device=device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        if largest.tolist() != numbers + [-number for number in numbers]:
            raise UsageError(
                "the processes would not train the same: give all of them the same data, options, seed and validation"
                " users, and one checkpoint that all can read"
            )
