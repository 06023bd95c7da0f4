"""The aggregator of ELFM in its reduced form: affinities of users and items to co-clusters, for training and serving.

Heads h_c and co-clusters e_c are the same for all users, so the attention of a user (equations 2 and 5) is two sums
over rows of two tables by item: with Q_ic = exp(h_c . e_i / sqrt d) and F_ic = e_i . (W' e_c),
a_uc = max(sum_i Q_ic F_ic / sum_i Q_ic, 0) over the items i of u. No (B, n, N) and no (B, N, d) tensor is made.
Constants of the heads in the exponent cancel out and keep it in range; users whom they do not help are treated alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.errors import UsageError
from recscale.models._bags import Bags
from recscale.models._compiled import compiled
from recscale.models._neighbours import rows_of

if TYPE_CHECKING:
    import torch

ITEMS = 512  # of a piece of the table on the CPU; 256 to 2,048 are within 4 %
SAFE = 30.0  # exponents up to which no constant is needed, nor a look at the sums: e^-30 to e^30 are far from the ends
LEAST = 1e-24  # sums of Q below which float32 loses items that count, or their gradients
ALONE = 2**22  # numbers of a user who is treated alone
KEPT = 1e-6  # share of a sum that must remain in removals, or it is summed anew
REMOVALS = 1000  # after which it is summed anew in any case: 1,000 errors of 1e-16


class Parameters(NamedTuple):
    """What is trained: (I + 2 N) d + d^2 numbers."""

    items: torch.Tensor  # e_i (I, d)
    heads: torch.Tensor  # h_c (N, d)
    clusters: torch.Tensor  # e_c (N, d)
    mixing: torch.Tensor  # W (d, d)


class Sums(Protocol):
    """Sums over a batch of histories, whose items are numbered in a row and cut into pieces; a table is Q beside F."""

    n_rows: int
    lengths: NDArray[np.int64]  # (B,)
    pieces: list[slice]

    def add(self, piece: slice, table: torch.Tensor, totals: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Add Q and Q o F of the items of the piece to the totals (B, N) of their users, from their table (n, 2 N)."""

    def pull(self, piece: slice, table: torch.Tensor, pulls: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write dL/dlog Q and dL/dF over the table, from the gradients (B, N) by the totals."""


class Buffers:
    """Memory that the steps of a training share, so that the table (n, 2 N) of a batch can wait for its gradient.

    Without, it is made twice. 1,024 users, 45,000 entries, 15,600 distinct items, N = 512, d = 64, one busy
    core: 156 ms a step with buffers, 187 without; its GEMMs alone 109, the printed form in 64 buckets by length 1,148.
    """

    def __init__(self) -> None:
        self._flat: torch.Tensor | None = None
        self.turn = 0  # of the batch whose table this is

    def table(self, n_items: int, joined: torch.Tensor) -> torch.Tensor:
        """Return room for the table of another batch."""
        size, flat = n_items * len(joined), self._flat
        if flat is None or flat.numel() < size or (flat.device, flat.dtype) != (joined.device, joined.dtype):
            self._flat = flat = joined.new_empty(size + size // 4)
        self.turn += 1
        return flat[:size].view(n_items, len(joined))


def item_affinities(items: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Return max(e_i . e_c, 0), equation 5: (S, d), (N, d) -> (S, N)."""
    return (items @ clusters.T).relu()


def user_affinities(rows: sp.csr_array, parameters: Parameters, *, buffers: Buffers | None = None) -> torch.Tensor:
    """Return a_uc (B, N) of the histories in `rows` (B, I), whose entries count as ones; 0 for an empty history.

    Differentiable once. Peak beyond parameters and their gradients, for n items that occur in the batch: 5 tables
    (B, N), 2 (n, d), and a table (512, 2 N), or (n, 2 N) in `buffers`. Outside of numba always (n, 2 N), twice.
    """
    import torch

    items, heads, clusters, mixing = parameters
    distinct, places = np.unique(rows.indices, return_inverse=True)
    local = sp.csr_array((np.ones(rows.nnz, np.float32), places, rows.indptr), shape=(rows.shape[0], distinct.size))
    own = items.index_select(0, torch.as_tensor(distinct.astype(np.int64), device=items.device))
    joined = torch.cat([heads / heads.shape[1] ** 0.5, clusters @ mixing])  # (2 N, d); rows e_c' W = (W' e_c)'
    constants = _constants(own.detach(), joined[: len(heads)].detach())
    affinity, weak = _function().apply(own, joined, (sums_of(local, items), constants, buffers))
    if constants is None or not weak.any():
        result: torch.Tensor = affinity
        return result
    users = torch.nonzero(weak)[:, 0]
    histories = (local.indices[local.indptr[user] : local.indptr[user + 1]] for user in users.tolist())
    alone = [_alone(own, history, joined) for history in histories]
    return affinity.index_copy(0, users, torch.stack(alone))


def sums_of(local: sp.csr_array, like: torch.Tensor) -> Sums:
    """Return what sums for tensors like this one: numba for float32 on the CPU, else torch."""
    import torch

    compiles = like.device.type == "cpu" and like.dtype == torch.float32
    return _CompiledSums(local) if compiles else _TorchSums(local, like)


def _constants(items: torch.Tensor, heads: torch.Tensor) -> torch.Tensor | None:
    """Return the largest h_c . e_i of each head over these items, (N,), or None if all are small.

    |h_c| |e_i| bounds them, so at the norms of a usual training the product is not computed twice.
    """
    import torch

    if not items.shape[0]:
        return None
    longest = [torch.linalg.vector_norm(table, dim=1).max() for table in (items, heads)]
    if bool(longest[0] * longest[1] <= SAFE):
        return None
    return torch.stack([(part @ heads.T).amax(0) for part in items.split(ITEMS)]).amax(0)


class _Table:
    """Q beside F, made piece by piece, or still there in buffers if those are at this `turn`."""

    def __init__(self, items: torch.Tensor, joined: torch.Tensor, plan: Any, turn: int = -1) -> None:
        sums, self.constants, buffers = plan
        self.items, self.joined = items, joined
        self._there = buffers is not None and buffers.turn == turn
        largest = max((piece.stop - piece.start for piece in sums.pieces), default=0)
        self._room = joined.new_empty(largest, len(joined)) if buffers is None else None
        self._whole: Any = None if buffers is None else buffers.table(len(items), joined)

    def made(self, piece: slice) -> torch.Tensor:
        """Return the table of the items of a piece, (n, 2 N)."""
        import torch

        items = self.items[piece]
        table: torch.Tensor = self._whole[piece] if self._room is None else self._room[: len(items)]
        if not self._there:
            torch.mm(items, self.joined.T, out=table)
            weights = table[:, : len(self.joined) // 2]
            if self.constants is not None:
                weights -= self.constants
            weights.exp_()
        return table


@cache
def _function() -> Any:
    """Return the autograd function; made at the first call, since torch takes seconds to import."""
    import torch

    class Aggregate(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
        """(n, d), (2 N, d) -> affinities (B, N), and which users (B,) are too far below the constants."""

        @staticmethod
        def forward(ctx: Any, items: Any, joined: Any, plan: Any) -> Any:
            sums, constants, buffers = plan
            table = _Table(items, joined, plan)
            total = joined.new_zeros(sums.n_rows, len(joined) // 2)  # Z
            result = torch.zeros_like(total)
            for piece in sums.pieces:
                sums.add(piece, table.made(piece), (total, result))
            weak = _weak(total, sums) & (constants is not None)
            total.masked_fill_(weak[:, None], 0)
            result.div_(total).clamp_(min=0).masked_fill_(total == 0, 0)
            ctx.save_for_backward(items, joined, total, result)
            ctx.plan, ctx.turn = plan, buffers.turn if buffers is not None else 0
            ctx.mark_non_differentiable(weak)
            return result, weak

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Any, _: Any) -> Any:
            items, joined, total, result = ctx.saved_tensors
            sums = ctx.plan[0]
            by_sum = torch.where(result > 0, gradient / total, 0)  # dL/dB
            by_total = -by_sum * result  # dL/dZ
            table = _Table(items, joined, ctx.plan, ctx.turn)
            by_items, by_joined = torch.zeros_like(items), torch.zeros_like(joined)
            for piece in sums.pieces:
                by_table = table.made(piece)
                sums.pull(piece, by_table, (by_total, by_sum))
                torch.mm(by_table, joined, out=by_items[piece])
                by_joined.addmm_(by_table.T, items[piece])
            return by_items, by_joined, None

    return Aggregate


def _weak(total: torch.Tensor, sums: Any) -> torch.Tensor:
    """Say which users (B,) have a history, and a sum that float32 does not hold well."""
    import torch

    return torch.as_tensor(sums.lengths > 0, device=total.device) & ~(total >= LEAST).all(1)


def _alone(items: torch.Tensor, own: Any, joined: torch.Tensor) -> torch.Tensor:
    """Return a_uc (N,) of one user by a softmax with constants of its own, some heads at a time."""
    import torch
    from torch.utils.checkpoint import checkpoint

    history = items.index_select(0, torch.as_tensor(np.asarray(own, np.int64), device=items.device))
    width = max(1, ALONE // len(own))
    parts = zip(*(half.split(width) for half in joined.chunk(2)), strict=True)
    options = {"use_reentrant": False, "preserve_rng_state": False}  # on the way back too one part exists at a time
    return torch.cat([checkpoint(_attention, history, *part, **options) for part in parts])


def _attention(history: torch.Tensor, heads: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Return a_uc (N,) from the embeddings of a history (n, d)."""
    weights = (history @ heads.T).softmax(0)  # (n, N)
    return (weights * (history @ mixed.T)).sum(0).relu()


class _CompiledSums:
    """Sums of float32 on the CPU, each in the order of the items, whatever the threads and the users beside it."""

    def __init__(self, local: sp.csr_array) -> None:
        self.n_rows, n_items = local.shape
        self.lengths = np.diff(local.indptr)
        self.pieces = [slice(first, min(first + ITEMS, n_items)) for first in range(0, n_items, ITEMS)]
        self._by_user = rows_of(local if local.has_sorted_indices else local.sorted_indices())
        self._by_item = rows_of(sp.csr_array(local.T.tocsr()))

    def add(self, piece: slice, table: Any, totals: Any) -> None:
        _add(self._by_user, (piece.start, piece.stop), table.numpy(), totals[0].numpy(), totals[1].numpy())

    def pull(self, piece: slice, table: Any, pulls: Any) -> None:
        _pull(self._by_item, piece.start, table.numpy(), pulls[0].numpy(), pulls[1].numpy())


class _TorchSums:
    """Sums by torch, on any device and in any type, of all items at once."""

    def __init__(self, local: sp.csr_array, like: torch.Tensor) -> None:
        self.n_rows, n_items = local.shape
        self.lengths = np.diff(local.indptr)
        self.pieces = [slice(0, n_items)] if n_items else []
        self._bags = Bags.of(local, like.device)

    def add(self, piece: slice, table: Any, totals: Any) -> None:
        weights, values = table.chunk(2, 1)
        totals[0].add_(self._bags.times(weights.contiguous()))
        totals[1].add_(self._bags.times(weights * values))

    def pull(self, piece: slice, table: Any, pulls: Any) -> None:
        import torch

        weights, values = table.chunk(2, 1)
        by_weights, by_values = torch.zeros_like(weights), torch.zeros_like(weights)
        ones = self._bags.values.to(weights.dtype)
        self._bags.add_transposed(pulls[0], ones, by_weights)
        self._bags.add_transposed(pulls[1], ones, by_values)
        by_weights.addcmul_(values, by_values)
        torch.mul(weights, by_values, out=values)
        weights.mul_(by_weights)


@compiled(parallel=True)
def _add(by_user: Any, piece: Any, table: Any, total: Any, result: Any) -> None:
    first, last = piece
    for user in prange(total.shape[0]):
        start, stop = by_user.indptr[user], by_user.indptr[user + 1]
        begin = start + np.searchsorted(by_user.indices[start:stop], first)
        stop = start + np.searchsorted(by_user.indices[start:stop], last)
        for entry in range(begin, stop):
            _add_one(table[by_user.indices[entry] - first], total[user], result[user])


@compiled(fastmath=True)
def _add_one(one: Any, total: Any, result: Any) -> None:
    p, a = one[: total.size], one[total.size :]
    for i in range(total.size):
        total[i] += p[i]
        result[i] += p[i] * a[i]


@compiled(parallel=True)
def _pull(by_item: Any, first: Any, table: Any, by_total: Any, by_sum: Any) -> None:
    n_clusters = by_sum.shape[1]
    for place in prange(table.shape[0]):
        by_weights, by_values = np.zeros(n_clusters, np.float32), np.zeros(n_clusters, np.float32)
        for entry in range(by_item.indptr[first + place], by_item.indptr[first + place + 1]):
            user = by_item.indices[entry]
            _add_both(by_weights, by_values, by_total[user], by_sum[user])
        _finish(table[place], by_weights, by_values)


@compiled(fastmath=True)
def _add_both(one: Any, two: Any, a: Any, b: Any) -> None:
    for i in range(one.size):
        one[i] += a[i]
        two[i] += b[i]


@compiled(fastmath=True)
def _finish(row: Any, by_weights: Any, by_values: Any) -> None:
    weights, values = row[: by_values.size], row[by_values.size :]
    for i in range(by_values.size):
        q, f = weights[i], values[i]
        weights[i] = q * (by_weights[i] + f * by_values[i])
        values[i] = q * by_values[i]


@dataclass
class UserState:
    """The sums of one user, 2 N numbers in float64, and the history that they are of."""

    total: torch.Tensor  # Z (N,)
    result: torch.Tensor  # B (N,)
    items: set[int] = field(default_factory=set)
    kept: float = 1.0  # share of each sum that is left of removals, at least
    removals: int = 0  # since the sums were made


class ItemTables:
    """A trained model ready to serve: Q and Q o F of all items, 2 I N numbers, with the constants of the heads frozen.

    An update of a user (equations 3 and 4) adds or takes away one row of each: O(N).
    """

    def __init__(self, parameters: Parameters) -> None:
        import torch

        self.items, heads, clusters, mixing = (table.detach() for table in parameters)
        self._joined = torch.cat([heads / heads.shape[1] ** 0.5, clusters @ mixing])
        heads, mixed = self._joined.chunk(2)
        self.constants = torch.stack([(part @ heads.T).amax(0) for part in self.items.split(ITEMS)]).amax(0)
        self.weights = (self.items @ heads.T).sub_(self.constants).exp_()  # Q (I, N), at most 1
        self.weighted = (self.items @ mixed.T).mul_(self.weights)  # Q o F (I, N)

    def user_affinities(self, rows: sp.csr_array) -> torch.Tensor:
        """Return a_uc (B, N) of the histories in `rows` (B, I), without a gradient; 0 for an empty history."""
        import torch
        from torch.nn.functional import embedding_bag

        arrays = rows.indices.astype(np.int64), rows.indptr[:-1].astype(np.int64), np.diff(rows.indptr) > 0
        places, starts, filled = (torch.as_tensor(array, device=self.items.device) for array in arrays)
        total, result = (embedding_bag(places, table, starts, mode="sum") for table in (self.weights, self.weighted))
        result.div_(total).clamp_(min=0).masked_fill_(total == 0, 0)
        for user in torch.nonzero(filled & ~(total >= LEAST).all(1))[:, 0].tolist():
            own = rows.indices[rows.indptr[user] : rows.indptr[user + 1]]
            result[user] = _alone(self.items, own, self._joined)
        return result

    def state(self, items: Any = ()) -> UserState:
        """Return the state of a user with these items."""
        import torch

        zeros = torch.zeros_like(self.constants, dtype=torch.float64)
        return self.add(UserState(zeros, zeros.clone()), items)

    def add(self, state: UserState, items: Any) -> UserState:
        """Add items to the history, in place; those that are in it already change nothing."""
        for item in (int(item) for item in items):
            if item not in state.items:
                state.items.add(item)
                state.total += self.weights[item]
                state.result += self.weighted[item]
        return state

    def remove(self, state: UserState, items: Any) -> UserState:
        """Take items out of the history, in place, and sum anew what is left where too little of a sum remains.

        Raises UsageError for an item that is not in the history, before any is taken out.
        """
        gone = [int(item) for item in items]
        for item in gone:
            if item not in state.items:
                raise UsageError(f"item {item} cannot be removed: it is none of the {len(state.items)} of the history")
        for item in dict.fromkeys(gone):
            state.items.discard(item)
            before = state.total.clone()
            state.total -= self.weights[item]
            state.result -= self.weighted[item]
            state.kept *= float((state.total / before).nan_to_num_(1.0).min())
            state.removals += 1
        if not state.items or state.kept < KEPT or state.removals >= REMOVALS:
            fresh = self.state(sorted(state.items))
            state.total, state.result, state.kept, state.removals = fresh.total, fresh.result, 1.0, 0
        return state

    def affinity(self, state: UserState) -> torch.Tensor:
        """Return a_uc (N,) of a state, in float32; 0 for an empty history."""
        if not state.items:
            return self.constants.new_zeros(self.constants.shape)
        if bool((state.total < LEAST).any()):
            return _alone(self.items, sorted(state.items), self._joined)
        return (state.result / state.total).clamp_(min=0).to(self.items.dtype)
