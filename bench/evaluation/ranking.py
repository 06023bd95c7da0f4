"""Ranking of the whole catalogue for a batch of users: one masking rule and one tie rule, wherever the scores lie.

The key of an item is (score falling, place in the tie order rising); the history is never ranked. NumPy arrays and
CPU tensors go through a compiled kernel, other tensors are ranked on their device by the same rule.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Ranking, Scores
from recscale.errors import DataError, ModelError, UsageError
from recscale.evaluation._arguments import NO_TARGET, NOT_FINITE, RANKED, TARGET_IN_HISTORY, Output, Rows
from recscale.evaluation._ties import TieOrder, tie_order

if TYPE_CHECKING:
    import torch

__all__ = [
    "RankOptions",
    "TieOrder",
    "check_scores",
    "listed_entries",
    "rank",
    "rank_tensor",
    "rank_with",
    "scores_at",
    "tie_order",
    "wait_for",
]

_LOW_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class RankOptions:
    """How to rank: lists of `k` items, ties by `item_order`, on the CPU by `n_threads` of a `pool` if there is one."""

    k: int
    item_order: TieOrder | None = None
    pool: Executor | None = None
    n_threads: int = 1


def rank(
    scores: Scores, history: sp.csr_array, target: sp.csr_array, *, k: int, item_order: TieOrder | None = None
) -> Ranking:
    """Rank the items for B users by `scores` (B, I), without their `history` (B, I), and find their `target` (B, I).

    The history is masked in the scores themselves while this runs, and put back: the memory needed beyond them is
    a few arrays of I numbers, on another device about twice the scores, plus a copy if `scores` is read-only or not
    contiguous. `item_order` is `tie_order(I)` unless given.
    Raises ModelError for scores of the wrong shape or type, or not finite, DataError for a user without a target
    or with a target in the history, UsageError for k below 1.
    """
    return rank_with(RankOptions(k, item_order), scores, history, target)


def rank_with(options: RankOptions, scores: Scores, history: sp.csr_array, target: sp.csr_array) -> Ranking:
    """Do as `rank` does, with several threads if the `options` say so."""
    check_scores(scores, history.shape)
    if isinstance(scores, np.ndarray):
        return _rank_array(scores, history, target, options)
    if scores.device.type == "cpu":
        return rank_with(options, scores.detach().numpy(), history, target)
    return rank_tensor(scores, history, target, k=options.k, item_order=options.item_order)


def check_scores(scores: Any, shape: tuple[int, int]) -> None:
    """Raise ModelError unless `scores` is a float32 array or tensor of the `shape` of the histories."""
    if not hasattr(scores, "dtype") or not hasattr(scores, "shape") or sp.issparse(scores):
        raise ModelError(f"scores are a {type(scores).__name__}, not a numpy array or a torch tensor")
    dtype = str(scores.dtype).removeprefix("torch.")
    if tuple(scores.shape) != tuple(shape) or dtype != "float32":
        raise ModelError(
            f"scores have the shape {tuple(scores.shape)} and the type {dtype}, not {tuple(shape)} and float32"
        )


def wait_for(scores: Scores) -> None:
    """Wait until the device has computed `scores`: to time one step, and not the next, by it."""
    if not isinstance(scores, np.ndarray) and scores.device.type == "cuda":
        import torch

        torch.cuda.synchronize(scores.device)


def listed_entries(items: NDArray[np.int32], matrix: sp.csr_array) -> NDArray[np.bool_]:
    """Return which of the listed `items` (B, K) are stored entries of `matrix` (B, I): (B, K)."""
    n_rows, n_items = matrix.shape
    rows = np.arange(n_rows, dtype=np.int64)
    stored = np.repeat(rows, np.diff(matrix.indptr)) * n_items + matrix.indices
    found: NDArray[np.bool_] = np.isin(rows[:, None] * n_items + items, stored) & (items >= 0)
    return found


def scores_at(scores: Scores, matrix: sp.csr_array) -> NDArray[np.float32]:
    """Return the scores (B, I) at the stored entries of `matrix` (B, I), in their order, as a numpy array."""
    if isinstance(scores, np.ndarray):
        found: NDArray[np.float32] = scores[np.repeat(np.arange(len(scores)), np.diff(matrix.indptr)), matrix.indices]
        return found
    chosen: NDArray[np.float32] = scores.detach()[_coordinates(matrix, scores.device)].cpu().numpy()
    return chosen


def _check_length(k: int) -> None:
    if k < 1:
        raise UsageError(f"a ranked list has at least 1 item, not k={k}")


def _check_status(status: NDArray[np.int8]) -> None:
    """Raise for the rows that could not be ranked."""
    if not status.any():
        return
    counts, n_rows = np.bincount(status, minlength=NO_TARGET + 1), len(status)
    if counts[NO_TARGET]:
        raise DataError(f"{counts[NO_TARGET]} of {n_rows} users have no target; drop them from the split")
    if counts[NOT_FINITE]:
        raise ModelError(f"{counts[NOT_FINITE]} of {n_rows} rows of scores hold NaN or infinite numbers")
    raise DataError(f"{counts[TARGET_IN_HISTORY]} of {n_rows} users have a target that is part of their history")


def _rank_array(
    scores: NDArray[np.float32], history: sp.csr_array, target: sp.csr_array, options: RankOptions
) -> Ranking:
    """Rank on the CPU, without the interpreter's lock."""
    from recscale.evaluation import _kernels

    _check_length(options.k)
    if not (scores.flags.c_contiguous and scores.flags.writeable):
        scores = np.array(scores, order="C")
    n_rows, n_items = scores.shape
    out = Output.empty(n_rows, options.k)
    order = tie_order(n_items)
    if options.item_order is not None:
        order = TieOrder(*(_read_only(values, np.int32) for values in options.item_order))
    known, wanted = (Rows(_read_only(m.indptr, np.int64), _read_only(m.indices, np.int32)) for m in (history, target))

    def rank_part(rows: slice) -> None:
        _kernels.rank_rows(scores[rows], known.part(rows), wanted.part(rows), order, out.part(rows))

    parts = _parts(n_rows, options)
    if options.pool is None or len(parts) == 1:
        rank_part(slice(0, n_rows))
    else:
        list(options.pool.map(rank_part, parts))
    _check_status(out.status)
    return Ranking(
        items=out.items,
        hits=out.hits,
        n_targets=np.diff(target.indptr).astype(np.int64, copy=False),
        first_rank=out.first[:, 0],
        first_rank_optimistic=out.first[:, 1],
        first_rank_pessimistic=out.first[:, 2],
        n_nonzero=out.n_nonzero,
        n_items=n_items,
    )


def _parts(n_rows: int, options: RankOptions) -> list[slice]:
    """Cut the rows into a part for each thread, of 16 rows at least: to start one takes as long as to rank 5 rows."""
    n_parts = max(1, min(options.n_threads, n_rows // 16))
    edges = [n_rows * part // n_parts for part in range(n_parts + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(edges)))


def _read_only(values: NDArray[Any], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """Return a view (a copy only where the type differs) of the kind for which the kernel is compiled."""
    view = np.ascontiguousarray(values, dtype=dtype).view()
    view.flags.writeable = False
    return view


def rank_tensor(
    scores: torch.Tensor, history: sp.csr_array, target: sp.csr_array, *, k: int, item_order: TieOrder | None = None
) -> Ranking:
    """Do as `rank` does with torch alone, on the device of `scores`; only the lists and ranks come to the host."""
    import torch

    check_scores(scores, history.shape)
    _check_length(k)
    _check_status(np.where(np.diff(target.indptr) == 0, NO_TARGET, RANKED).astype(np.int8))
    with torch.inference_mode():
        scores = scores.detach().contiguous()
        order = _on_device(item_order or tie_order(scores.shape[1]), scores.device)
        lowest, highest = torch.aminmax(scores, dim=1)  # both are NaN where a row holds one
        finite = lowest.isfinite() & highest.isfinite()
        _check_status(torch.where(finite, RANKED, NOT_FINITE).to(torch.int8).cpu().numpy())
        n_nonzero = _count(scores != 0)
        known, wanted = (_coordinates(matrix, scores.device) for matrix in (history, target))
        saved = scores[known]
        scores[known] = -torch.inf
        try:
            first = _first_ranks(scores, wanted, order)
            items = _top_items(scores, k, order)
        finally:
            scores[known] = saved
        hits = _hits(items, wanted, scores.shape[1])
        return Ranking(
            items=items.to(torch.int32).cpu().numpy(),
            hits=hits.cpu().numpy(),
            n_targets=np.diff(target.indptr).astype(np.int64, copy=False),
            first_rank=first[0].cpu().numpy(),
            first_rank_optimistic=first[1].cpu().numpy(),
            first_rank_pessimistic=first[2].cpu().numpy(),
            n_nonzero=n_nonzero.cpu().numpy(),
            n_items=int(scores.shape[1]),
        )


_Coordinates = tuple["torch.Tensor", "torch.Tensor"]


def _on_device(order: TieOrder, device: torch.device) -> _Coordinates:
    """Return the two arrays of `order` as int64 tensors, kept on the device from batch to batch."""
    if order is tie_order(len(order.rank)):
        return _default_on_device(len(order.rank), device)
    return _upload(order.rank, device), _upload(order.items, device)


@functools.lru_cache(maxsize=4)
def _default_on_device(n_items: int, device: torch.device) -> _Coordinates:
    order = tie_order(n_items)
    return _upload(order.rank, device), _upload(order.items, device)


def _upload(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    import torch

    return torch.from_numpy(values.astype(np.int64)).to(device)


def _coordinates(matrix: sp.csr_array, device: torch.device) -> _Coordinates:
    """Return the row and column numbers of the stored entries."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return _upload(rows, device), _upload(matrix.indices, device)


def _keys(scores: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Return unique int64 keys that order as (score falling, rank rising) does; -0.0 counts as 0.0."""
    import torch

    bits = (scores + 0.0).view(torch.int32)
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32) | (_LOW_BITS - ranks)


def _count(conditions: torch.Tensor) -> torch.Tensor:
    """Return how many hold in each row; in 32 bits, as on the CPU torch makes a copy of the type of the sum."""
    import torch

    return conditions.sum(1, dtype=torch.int32).long()


def _first_ranks(
    scores: torch.Tensor, wanted: _Coordinates, order: _Coordinates
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rank of the best-placed target of each row, and its optimistic and pessimistic bound."""
    import torch

    rows, items = wanted
    ranks, ordered = order
    found = scores[wanted]
    status = torch.full((len(scores),), RANKED, dtype=torch.int8, device=scores.device)
    status[rows[found == -torch.inf]] = TARGET_IN_HISTORY
    _check_status(status.cpu().numpy())
    smallest = torch.iinfo(torch.int64).min
    best = torch.full((len(scores),), smallest, device=scores.device)
    best.scatter_reduce_(0, rows, _keys(found, ranks[items]), "amax")
    best_rank = _LOW_BITS - (best & _LOW_BITS)
    best_score = scores.gather(1, ordered[best_rank][:, None])
    n_equal = torch.zeros_like(best).scatter_add_(0, rows, (found == best_score[rows, 0]).long())
    optimistic = _count(scores > best_score) + 1
    n_tied = _count(scores == best_score) - n_equal
    first = optimistic.clone()
    for part in n_tied.nonzero()[:, 0].split(max(1, len(scores) // 4)):
        first[part] += _count((scores[part] == best_score[part]) & (ranks < best_rank[part, None]))
    return first, optimistic, optimistic + n_tied


def _top_items(scores: torch.Tensor, k: int, order: _Coordinates) -> torch.Tensor:
    """Return the (B, k) items ranked first, -1 where fewer can be ranked.

    The k blocks with the largest maxima hold the k best items, unless more than k items reach the k-th score: only
    rows where that is so are ranked by their keys, a sixteenth of the rows at a time.
    """
    import torch

    n_rows, n_items = scores.shape
    n_listed = min(k, n_items)
    items, values = _block_candidates(scores, n_listed)
    values, place = values.topk(n_listed)
    items = items.gather(1, place)
    by_key = _keys(values, order[0][items]).argsort(dim=1, descending=True)
    items, values = items.gather(1, by_key), values.gather(1, by_key)
    last = values[:, -1:]
    crowded = (_count(scores >= last) > n_listed) & (last[:, 0] > -torch.inf)
    for rows in crowded.nonzero()[:, 0].split(max(1, n_rows // 16)):
        kept = _keys(scores[rows], order[0]).topk(n_listed).indices
        items[rows], values[rows] = kept, scores[rows].gather(1, kept)
    items = items.masked_fill(values == -torch.inf, -1)
    return torch.nn.functional.pad(items, (0, k - n_listed), value=-1)


def _block_candidates(scores: torch.Tensor, n_listed: int) -> _Coordinates:
    """Return the items of the `n_listed` blocks with the largest maxima, and their scores.

    Item i belongs to block i mod n_blocks, as in the kernel.
    """
    import torch

    n_items = scores.shape[1]
    n_blocks = min(n_items, max(4 * n_listed, int((n_listed * n_items) ** 0.5) // 32 * 32))
    n_whole = n_items // n_blocks * n_blocks
    maxima = scores[:, :n_whole].unflatten(1, (-1, n_blocks)).amax(1)
    tail = n_items - n_whole
    maxima[:, :tail] = torch.maximum(maxima[:, :tail], scores[:, n_whole:])
    blocks = maxima.topk(n_listed).indices
    starts = torch.arange(0, n_items, n_blocks, device=scores.device)
    items = (starts[:, None] + blocks[:, None, :]).flatten(1)
    outside = items >= n_items
    items = items.masked_fill_(outside, n_items - 1)
    return items, scores.gather(1, items).masked_fill_(outside, -torch.inf)


def _hits(items: torch.Tensor, wanted: _Coordinates, n_items: int) -> torch.Tensor:
    """Return which of the ranked `items` (B, K) are targets; the coordinates of a csr_array rise."""
    import torch

    flat = wanted[0] * n_items + wanted[1]
    asked = torch.arange(len(items), device=items.device)[:, None] * n_items + items
    place = torch.searchsorted(flat, asked).clamp_(max=len(flat) - 1)
    return (flat[place] == asked) & (items >= 0)
