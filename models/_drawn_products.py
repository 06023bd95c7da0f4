"""Products of users with the items drawn for them, read from the table where they lie, as one autograd function.

On the CPU alone. Looking the vectors up first, as (B, n, W), and letting autograd add them up again takes most of a
step: one of 4,096 entries of ml-1m with 64 factors takes MF-BPR 3 ms instead of 7, GMF 6 instead of 17, uCML, of 16
negatives, 8 instead of 65. Imported lazily, because compiled kernels need numba.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled

if TYPE_CHECKING:
    import torch


class Given(NamedTuple):
    """What the products are of, as arrays."""

    table: NDArray[np.float32]  # (I, W)
    users: NDArray[np.float32]  # (B, W)
    items: NDArray[np.int64]  # (B, n)


def products_and_squares(
    table: torch.Tensor, users: torch.Tensor, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x_b . y and |y|^2, (B, n) each: y is row `items`[b, j] of `table` (I, W), x_b row b of `users` (B, W).

    float32 on the CPU, `items` int64. Can be differentiated by `table` and `users`; sums go in the order of the
    entries, whatever the number of threads.
    """
    found: tuple[torch.Tensor, torch.Tensor] = _function().apply(table, users, items)
    return found


class Room(NamedTuple):
    """Where the unseen items of users are."""

    sizes: NDArray[np.int64]  # (U,) how many there are
    starts: NDArray[np.int64]  # (U + 1,) where the entries of a user begin
    before: NDArray[np.int32]  # of each entry, how many items less than it its user does not have


def unseen_items(drawn: NDArray[np.float64], users: NDArray[np.int64], room: Room) -> NDArray[np.int64]:
    """Return items (B, n) that the users (B,) do not have, for numbers (B, n) from [0, 1); see `Unseen`."""
    items = np.empty(drawn.shape, np.int64)
    _draw(drawn, users, room, items)
    return items


@cache
def _function() -> Any:
    """Return the autograd function; made at the first call, since torch takes seconds to import."""
    import torch

    class DrawnProducts(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
        @staticmethod
        def forward(ctx: Any, table: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> Any:
            ctx.save_for_backward(table, users, items)
            products, squares = users.new_empty(items.shape), users.new_empty(items.shape)
            _look_up(_given(table, users, items), products.numpy(), squares.numpy())
            return products, squares

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, by_product: torch.Tensor, by_square: torch.Tensor) -> Any:
            table, users, items = ctx.saved_tensors
            given, weights = _given(table, users, items), (_array(by_product), _array(by_square))
            of_table, of_users = torch.zeros_like(table), torch.empty_like(users)
            _add_to_users(given, weights[0], of_users.numpy())
            _add_to_items(given, weights, of_table.numpy(), get_num_threads())
            return of_table, of_users, None

    return DrawnProducts


def _given(table: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> Given:
    return Given(_array(table), _array(users), _array(items))


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().contiguous().numpy()
    return array


@compiled(parallel=True, fastmath=True)
def _look_up(given: Any, products: Any, squares: Any) -> None:
    table, users, items = given
    for entry in prange(items.shape[0]):
        user = users[entry]
        for slot in range(items.shape[1]):
            item = table[items[entry, slot]]
            product, square = np.float32(0), np.float32(0)
            for factor in range(user.size):
                product += user[factor] * item[factor]
                square += item[factor] * item[factor]
            products[entry, slot] = product
            squares[entry, slot] = square


@compiled(parallel=True, fastmath=True)
def _add_to_users(given: Any, by_product: Any, total: Any) -> None:
    table, _, items = given
    for entry in prange(items.shape[0]):
        own = total[entry]
        own[:] = 0
        for slot in range(items.shape[1]):
            item, weight = table[items[entry, slot]], by_product[entry, slot]
            for factor in range(own.size):
                own[factor] += weight * item[factor]


@compiled(parallel=True, fastmath=True)
def _add_to_items(given: Any, weights: Any, total: Any, n_strands: Any) -> None:
    """Add to the gradient of the table; each strand to items of its own, so that no two write to one row."""
    table, users, items = given
    by_product, by_square = weights
    for strand in prange(n_strands):
        for entry in range(items.shape[0]):
            user = users[entry]
            for slot in range(items.shape[1]):
                number = items[entry, slot]
                if number % n_strands != strand:
                    continue
                own, item = total[number], table[number]
                weight, twice = by_product[entry, slot], 2 * by_square[entry, slot]
                for factor in range(user.size):
                    own[factor] += weight * user[factor] + twice * item[factor]


@compiled(parallel=True)
def _draw(drawn: Any, users: Any, room: Any, items: Any) -> None:
    sizes, starts, before = room
    for entry in prange(users.size):
        user = users[entry]
        first, last = starts[user], starts[user + 1]
        for slot in range(drawn.shape[1]):
            rank = np.int64(drawn[entry, slot] * sizes[user])
            low, high = first, last
            while low < high:
                middle = (low + high) // 2
                if before[middle] <= rank:
                    low = middle + 1
                else:
                    high = middle
            items[entry, slot] = rank + low - first
