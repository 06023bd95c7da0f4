"""The min-sum product of ELFM, s_us = sum_c min(a_uc, c_sc), with its gradient, and scores of a whole catalogue.

On the CPU compiled by numba, on a GPU by Triton (`_min_sum_gpu`); no tensor of users x items x co-clusters anywhere.
Each number is summed in a fixed order that hangs neither on the threads nor on the rows beside it. Imported lazily.
1,024 x 1,001 x 512, one busy core: forward 28 ms, with backward 111; a GEMM 17, torch.cdist(p=1) with backward 856.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from recscale.errors import UsageError
from recscale.models._compiled import compiled
from recscale.models._min_sum_gpu import PLAIN, Route, triton_route

if TYPE_CHECKING:
    import torch

USERS, ITEMS = 256, 64  # of a tile that one thread works on
COLUMNS = 1024  # co-clusters whose numbers of four users and two items stay in the first cache
GRADIENT_ROWS, GRADIENT_COLUMNS = 64, 512
LANES = 8  # rows that are added up at once: 32 ms a pass, by fours 37, by twelves 35
STRANDS = 16
LINE = 16  # numbers of a cache line
TIES = 2**13  # of positive numbers in one strand, beyond which ties are no exception
PROBES = 16  # looks into a table for each number that goes in
PACKED = 2**17  # numbers of a tile of items by co-cluster: half the second cache
DENSE = (
    0.75  # share of positive affinities from which skipping the others no longer pays: 66 ms against 52 at 1, 36 at .5
)


def min_sum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return sum_c min(left_uc, right_sc) (B, S) for affinities (B, N) and (S, N), none of them negative.

    ELFM, equation 6; differentiable once. The gradient of a minimum goes to the smaller number, half to each of two
    equal ones, as in (sum a + sum b - |a - b|_1) / 2. NaN goes through. float64 stays float64, all else is summed in
    float32: bfloat16 costs no more than its rounding of the affinities.
    Raises UsageError for two devices, types or numbers of co-clusters.
    """
    result: torch.Tensor = _function().apply(left, right, route_of(left, right))
    return result


def route_of(left: torch.Tensor, right: torch.Tensor) -> Route:
    """Return what serves these tensors: numba for float32 on the CPU, Triton on a GPU that has it, else plain torch."""
    import torch

    kinds = {(tensor.device, tensor.dtype, tensor.shape[1:]) for tensor in (left, right)}
    if len(kinds) > 1 or left.dim() != 2:
        raise UsageError(
            f"min-sum takes (B, N) and (S, N) of one type on one device, not {tuple(left.shape)} {left.dtype} on "
            f"{left.device} and {tuple(right.shape)} {right.dtype} on {right.device}"
        )
    if left.device.type == "cpu" and left.dtype == torch.float32:
        return COMPILED
    on_gpu = left.device.type == "cuda" and left.dtype != torch.float64
    return (triton_route() if on_gpu else None) or PLAIN


@cache
def _function() -> Any:
    """Return the autograd function; made at the first call, since torch takes seconds to import."""
    import torch

    class MinSum(torch.autograd.Function):  # type: ignore[misc]  # torch is Any to mypy
        @staticmethod
        def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor, route: Route) -> torch.Tensor:
            ctx.save_for_backward(left, right)
            ctx.route = route
            return route.scores(left, right)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return *ctx.route.gradients(*ctx.saved_tensors, gradient), None

    return MinSum


def _scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the product (B, S) of two float32 tensors on the CPU."""
    return _fill(left, right, np.arange(left.shape[0]), left.new_empty(left.shape[0], right.shape[0]))


def _fill(left: torch.Tensor, right: torch.Tensor, rows: NDArray[np.int64], result: torch.Tensor) -> torch.Tensor:
    """Write the product of some rows of `left` to those rows of `result`."""
    _min_sums(_array(left), _array(right), rows, result.numpy())
    for sums, lost in ((left.sum(1), result), (right.sum(1), result.T)):  # the instruction drops NaN on one side
        if sums.isnan().any():
            lost[sums.isnan()] = np.nan
    return result


def _gradients(left: torch.Tensor, right: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by `left` (B, N) and by `right` (S, N).

    To compare by < and by <= takes 60 ms a pass, < alone 36. Equal positive numbers are so few, as a rule, that they
    are looked up in a hash table instead, for 10 ms; what equal zeros get is known from the sum of the weights.
    """
    import torch

    mine, others, by_row = _array(left), _array(right), _array(gradient)
    ties, counts = np.empty((STRANDS, TIES, 3), np.int32), np.zeros(STRANDS, np.int64)  # (strand, tie, where)
    _find_ties(mine.view(np.int32), others.view(np.int32), ties, counts)
    few = bool((counts <= TIES).all())
    by_left = _one_gradient(mine, others, by_row, few)
    by_right = _one_gradient(others, mine, np.ascontiguousarray(by_row.T), few)
    if few:
        _add_ties(ties, counts, by_row, (by_left, by_right))
    return torch.from_numpy(by_left), torch.from_numpy(by_right)


def _one_gradient(
    mine: NDArray[np.float32], others: NDArray[np.float32], weights: NDArray[np.float32], few: bool
) -> NDArray[np.float32]:
    """Return the gradient by `mine` (R, N); with `few` ties, without what ties of positive numbers get."""
    result = np.zeros_like(mine)
    if few:
        _add_gradients(mine, others, weights, result, True)
    else:  # x <= y is z < y for the next number z below x
        _add_gradients(mine, others, weights / 2, result, False)
        below = np.where(mine > 0, np.nextafter(mine, np.float32(-1)), np.float32(-1))
        _add_gradients(below, others, weights / 2, result, False)
    return result


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


COMPILED = Route("numba", _scores, _gradients)


class Catalogue:
    """Affinities of all items (I, N), ready to score users; on the CPU with a second copy, by tiles of items."""

    def __init__(self, item_affinity: torch.Tensor) -> None:
        self.item_affinity = item_affinity.detach()
        self._packed: Any = None  # (tiles, N, items of a tile); zeros at the end
        if route_of(item_affinity, item_affinity) is COMPILED:
            items = _array(item_affinity)
            width = min(256, max(64, 1 << (PACKED // max(items.shape[1], 1)).bit_length() - 1))
            self._packed = np.zeros((-(-items.shape[0] // width), items.shape[1], width), np.float32)
            for first, tile in zip(range(0, len(items), width), self._packed, strict=True):
                part = items[first : first + width]
                tile[:, : len(part)] = part.T

    def scores(self, user_affinity: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the scores (B, I) of users with these affinities (B, N), without a gradient; written to `out`.

        min(0, x) = 0, so the zeros of a user with few others are skipped. Which way, hangs on the user alone.
        """
        users, items = user_affinity.detach(), self.item_affinity
        route = route_of(users, items)
        if route is not COMPILED:
            scores = route.scores(users, items)
            return scores if out is None else out.copy_(scores)
        result = users.new_empty(users.shape[0], items.shape[0]) if out is None else out
        array = _array(users)
        counts = np.count_nonzero(array, axis=1)
        dense = (counts >= DENSE * array.shape[1]) | np.isnan(array.sum(axis=1))
        if dense.any():
            _fill(users, items, np.flatnonzero(dense), result)
        rest = np.flatnonzero(~dense)
        starts = np.concatenate(([0], np.cumsum(-(-counts[rest] // LANES) * LANES)))
        listed = np.zeros(starts[-1], np.int32), np.zeros(starts[-1], np.float32)
        _list_positive(array, rest, starts, listed)
        _score_sparse(self._packed, (rest, starts, *listed), result.numpy())
        return result


@compiled(parallel=True)
def _min_sums(left: Any, right: Any, rows: Any, result: Any) -> None:
    n_users, n_items = rows.size, right.shape[0]
    across = -(-n_items // ITEMS)
    for tile in prange(-(-n_users // USERS) * across):
        top, start = tile // across * USERS, tile % across * ITEMS
        bottom, stop = min(top + USERS, n_users), min(start + ITEMS, n_items)
        for user in range(top, bottom):
            result[rows[user], start:stop] = 0
        for first in range(0, left.shape[1], COLUMNS):
            columns = first, min(first + COLUMNS, left.shape[1])
            for user in range(top, bottom, 4):
                v, w, x = min(user + 1, bottom - 1), min(user + 2, bottom - 1), min(user + 3, bottom - 1)
                users = rows[user], rows[v], rows[w], rows[x]
                for item in range(start, stop, 2):
                    _add_block(left, right, users, (item, stop, *columns), result)


@compiled(fastmath=True)
def _add_block(left: Any, right: Any, users: Any, where: Any, result: Any) -> None:
    """Add the minima of four users and two items; twice the same where they repeat, at the end of a tile."""
    (u, v, w, x), (s, stop, first, last) = users, where
    t = min(s + 1, stop - 1)
    a, b = left[u][first:last], left[v][first:last]  # a slice of both axes would hide that numbers are side by side
    c, d = left[w][first:last], left[x][first:last]
    p, q = right[s][first:last], right[t][first:last]
    us, vs, ws, xs = result[u, s], result[v, s], result[w, s], result[x, s]
    ut, vt, wt, xt = result[u, t], result[v, t], result[w, t], result[x, t]
    for i in range(last - first):  # eight sums stay in registers; twelve are slower by a tenth
        us += a[i] if a[i] < p[i] else p[i]
        vs += b[i] if b[i] < p[i] else p[i]
        ws += c[i] if c[i] < p[i] else p[i]
        xs += d[i] if d[i] < p[i] else p[i]
        ut += a[i] if a[i] < q[i] else q[i]
        vt += b[i] if b[i] < q[i] else q[i]
        wt += c[i] if c[i] < q[i] else q[i]
        xt += d[i] if d[i] < q[i] else q[i]
    result[u, s], result[v, s], result[w, s], result[x, s] = us, vs, ws, xs
    result[u, t], result[v, t], result[w, t], result[x, t] = ut, vt, wt, xt


@compiled(parallel=True)
def _add_gradients(mine: Any, others: Any, weights: Any, result: Any, zeros: Any) -> None:
    """Add sum_s w_us [a_uc < c_sc] to `result` (B, N); with `zeros`, also half the weight where both are 0."""
    for tile in prange(-(-mine.shape[0] // GRADIENT_ROWS)):
        top, bottom = tile * GRADIENT_ROWS, min((tile + 1) * GRADIENT_ROWS, mine.shape[0])
        _add_tile(mine[top:bottom], others, weights[top:bottom], result[top:bottom])
        for row in range(top, bottom if zeros else top):
            _share_zeros(mine[row], weights[row], result[row])


@compiled()
def _copy(source: Any, target: Any) -> None:
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            target[row, column] = source[row, column]


@compiled()
def _add_tile(mine: Any, others: Any, weights: Any, result: Any) -> None:
    """Work on copies, for rows of 2^k numbers lie in the same sets of a cache: 75 ms against 120 at N = 2,048."""
    n_rows, n_columns = mine.shape
    own, theirs = np.empty((n_rows, GRADIENT_COLUMNS), np.float32), np.zeros((LANES, GRADIENT_COLUMNS), np.float32)
    total, pulls = np.empty((n_rows, GRADIENT_COLUMNS), np.float32), np.zeros(LANES, np.float32)
    for first in range(0, n_columns, GRADIENT_COLUMNS):
        last = min(first + GRADIENT_COLUMNS, n_columns)
        _copy(mine[:, first:last], own)
        _copy(result[:, first:last], total)
        for other in range(0, others.shape[0], LANES):
            stop = min(other + LANES, others.shape[0])
            _copy(others[other:stop, first:last], theirs)
            for row in range(n_rows):
                for lane in range(LANES):
                    pulls[lane] = weights[row, other + lane] if other + lane < stop else 0
                _add_smaller(own[row][: last - first], theirs, pulls, total[row])
        _copy(total[:, : last - first], result[:, first:last])


@compiled(fastmath=True)
def _share_zeros(own: Any, weights: Any, target: Any) -> None:
    """Give zeros half of the weight of other zeros: of all the weight that is not on greater numbers."""
    total = weights.sum()
    for column in range(own.size):
        if own[column] == 0:
            target[column] = np.float32(0.5) * (target[column] + total)


@compiled(fastmath=True)
def _add_smaller(own: Any, theirs: Any, pulls: Any, total: Any) -> None:
    a, b, c, d, e, f, g, h = theirs[0], theirs[1], theirs[2], theirs[3], theirs[4], theirs[5], theirs[6], theirs[7]
    k, j, m, n, o, p, q, r = pulls[0], pulls[1], pulls[2], pulls[3], pulls[4], pulls[5], pulls[6], pulls[7]
    zero = np.float32(0)
    for i in range(own.size):
        x = own[i]
        first = (k if x < a[i] else zero) + (j if x < b[i] else zero)
        second = (m if x < c[i] else zero) + (n if x < d[i] else zero)
        third = (o if x < e[i] else zero) + (p if x < f[i] else zero)
        total[i] += first + second + third + (q if x < g[i] else zero) + (r if x < h[i] else zero)


@compiled(parallel=True)
def _find_ties(left: Any, right: Any, ties: Any, counts: Any) -> None:
    """Look the numbers of `left`, given by their bits, up among those of `right` in the same column.

    A tie is (row, row of the other, column); a count beyond TIES means: too many.
    """
    for strand in prange(STRANDS):
        for block in range(strand, -(-left.shape[1] // LINE), STRANDS):
            columns, standing = slice(block * LINE, (block + 1) * LINE), (counts[strand], block * LINE)
            counts[strand] = _block_ties(left[:, columns], right[:, columns], standing, ties[strand])


@compiled()
def _block_ties(left: Any, right: Any, standing: Any, ties: Any) -> Any:
    """Note the ties of columns that share cache lines; return how many there are now."""
    count, first = standing
    size = 4
    while size < 4 * right.shape[0]:
        size *= 2
    table, places = np.empty(size, np.int32), np.empty(size, np.int32)
    mine, others = left.T.copy(), right.T.copy()
    for column in range(len(mine)):
        if count <= TIES:
            table[:] = 0
            budget = _put_in(others[column], table, places)
            count = _look_up(mine[column], (table, places), (count, first + column, budget), ties)
    return count


@compiled()
def _slot(bits: Any, size: Any) -> Any:
    return ((np.int64(bits) * 0x9E3779B1) >> 24) & (size - 1)


@compiled()
def _put_in(numbers: Any, table: Any, places: Any) -> Any:
    """Hash the positive numbers, equal ones in places of their own; return how many more probes are allowed, or -1."""
    budget = PROBES * (numbers.size + 64)
    for place in range(numbers.size):
        if numbers[place] > 0:
            slot = _slot(numbers[place], table.size)
            while table[slot] != 0:
                slot = (slot + 1) & (table.size - 1)
                budget -= 1
            table[slot], places[slot] = numbers[place], place
            if budget < 0:
                return -1
    return budget


@compiled()
def _look_up(numbers: Any, hashed: Any, standing: Any, ties: Any) -> Any:
    """Note the ties of one column; return how many there are now, or more than TIES if there is no end to them."""
    table, places = hashed
    count, column, budget = standing
    if budget < 0:
        return TIES + 1
    budget += PROBES * numbers.size
    for place in range(numbers.size):
        if numbers[place] > 0:
            slot = _slot(numbers[place], table.size)
            while table[slot] != 0:
                if table[slot] == numbers[place]:
                    if count >= TIES:
                        return TIES + 1
                    ties[count, 0], ties[count, 1], ties[count, 2] = place, places[slot], column
                    count += 1
                slot = (slot + 1) & (table.size - 1)
                budget -= 1
            if budget < 0:
                return TIES + 1
    return count


@compiled()
def _add_ties(ties: Any, counts: Any, weights: Any, results: Any) -> None:
    by_left, by_right = results
    for strand in range(counts.size):
        for tie in range(counts[strand]):
            row, other, column = ties[strand, tie, 0], ties[strand, tie, 1], ties[strand, tie, 2]
            half = np.float32(0.5) * weights[row, other]
            by_left[row, column] += half
            by_right[other, column] += half


@compiled()
def _list_positive(affinity: Any, users: Any, starts: Any, listed: Any) -> None:
    """List the co-clusters of each user and the affinities; the room behind them keeps co-cluster 0, affinity 0."""
    clusters, values = listed
    for place in range(users.size):
        entry, row = starts[place], affinity[users[place]]
        for cluster in range(row.size):
            if row[cluster] != 0:
                clusters[entry], values[entry] = cluster, row[cluster]
                entry += 1


@compiled(parallel=True)
def _score_sparse(packed: Any, listed: Any, result: Any) -> None:
    users, starts, clusters, values = listed
    n_items, width = result.shape[1], packed.shape[2]
    for tile in prange(packed.shape[0]):
        first, last = tile * width, min((tile + 1) * width, n_items)
        sums = np.empty(width, np.float32)
        for place in range(users.size):
            sums[:] = 0
            for entry in range(starts[place], starts[place + 1], LANES):
                _add_eight(packed[tile], clusters[entry : entry + LANES], values[entry : entry + LANES], sums)
            result[users[place], first:last] = sums[: last - first]


@compiled(fastmath=True)
def _add_eight(items: Any, clusters: Any, values: Any, sums: Any) -> None:
    a, b, c, d = items[clusters[0]], items[clusters[1]], items[clusters[2]], items[clusters[3]]
    e, f, g, h = items[clusters[4]], items[clusters[5]], items[clusters[6]], items[clusters[7]]
    k, j, m, n = values[0], values[1], values[2], values[3]
    o, p, q, r = values[4], values[5], values[6], values[7]
    for i in range(sums.size):
        first = (k if k < a[i] else a[i]) + (j if j < b[i] else b[i]) + (m if m < c[i] else c[i])
        second = (n if n < d[i] else d[i]) + (o if o < e[i] else e[i]) + (p if p < f[i] else f[i])
        sums[i] += first + second + (q if q < g[i] else g[i]) + (r if r < h[i] else h[i])
