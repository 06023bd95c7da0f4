"""The min-sum product outside numba: Triton kernels for GPUs, and plain torch for every device and type.

Imported lazily. Triton is no dependency: torch brings it along on Linux with CUDA, and without it a GPU takes the plain
route. Both accumulate in float32 (float64 for float64), in one order for each number, without atomics. The kernels are
written in outer products of two vectors, one co-cluster (or row) at a time, so nothing is (B, S, N), in no memory.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import triton  # type: ignore[import-not-found]
    import triton.language as tl  # type: ignore[import-not-found]
except ImportError:
    triton = None

if TYPE_CHECKING:
    import torch

PIECE = 2**22  # numbers (B, S, columns) that the plain route makes at once


class Route(NamedTuple):
    """One way to compute the product: both functions take affinities (B, N) and (S, N) that are not negative."""

    name: str
    scores: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"  # (B, S)
    gradients: "Callable[..., tuple[torch.Tensor, torch.Tensor]]"  # with dL/ds (B, S) third: (B, N), (S, N)


def _plain_scores(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """Return sum_c min(left_uc, right_sc), some co-clusters at a time."""
    import torch

    total = left.new_zeros(left.shape[0], right.shape[0], dtype=_sum_type(left))
    for mine, others in _pieces(left, right):
        total += torch.minimum(mine[:, None], others[None]).sum(2, dtype=total.dtype)
    return total


def _plain_gradients(
    left: "torch.Tensor", right: "torch.Tensor", gradient: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the gradients by both sides, some co-clusters at a time."""
    import torch

    by_left, by_right = [left.new_zeros(len(left), 0)], [right.new_zeros(len(right), 0)]
    for mine, others in _pieces(left, right):
        share = (mine[:, None] < others[None]).to(gradient.dtype).mul_(2)
        share += mine[:, None] == others[None]
        share *= gradient[:, :, None] / 2  # what the left side gets, (B, S, columns)
        by_left.append(share.sum(1).to(left.dtype))
        share = (others[None] < mine[:, None]).to(gradient.dtype).mul_(2)
        share += mine[:, None] == others[None]
        share *= gradient[:, :, None] / 2
        by_right.append(share.sum(0).to(right.dtype))
    return torch.cat(by_left, 1), torch.cat(by_right, 1)


def _pieces(left: "torch.Tensor", right: "torch.Tensor") -> Any:
    width = max(1, PIECE // max(1, left.shape[0] * right.shape[0]))
    return zip(left.split(width, 1), right.split(width, 1), strict=True) if left.shape[1] else ()


def _sum_type(tensor: "torch.Tensor") -> "torch.dtype":
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


PLAIN = Route("torch", _plain_scores, _plain_gradients)


@cache
def triton_route() -> Route | None:
    """Return the route by Triton, or None where it cannot be imported."""
    return None if triton is None else Route("triton", _triton_scores, _triton_gradients)


def _triton_scores(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    import torch

    mine, others = left.T.contiguous(), right.T.contiguous()  # (N, B), (N, S): what is read at once lies side by side
    n_rows, n_columns = left.shape[0], right.shape[0]
    result = left.new_empty(n_rows, n_columns, dtype=_sum_type(left))
    if result.numel():
        sizes = n_rows, n_columns, left.shape[1]
        with torch.cuda.device_of(left):
            _scores_kernel[_grid(n_rows, n_columns)](mine, others, result, *sizes, *_magnitudes(sizes))
    return result


def _triton_gradients(
    left: "torch.Tensor", right: "torch.Tensor", gradient: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    by_left = _one_gradient(left.contiguous(), right.contiguous(), gradient.T.contiguous())
    return by_left, _one_gradient(right.contiguous(), left.contiguous(), gradient.contiguous())


def _one_gradient(mine: "torch.Tensor", others: "torch.Tensor", weights: "torch.Tensor") -> "torch.Tensor":
    """Return the gradient by `mine` (R, N), for `others` (K, N) and weights (K, R)."""
    import torch

    n_rows, n_columns = mine.shape
    result = torch.empty_like(mine)
    if result.numel():
        sizes = n_rows, n_columns, others.shape[0]
        with torch.cuda.device_of(mine):
            _gradient_kernel[_grid(n_rows, n_columns)](mine, others, weights, result, *sizes, *_magnitudes(sizes))
    return result


def _grid(n_rows: int, n_columns: int) -> Any:
    return lambda tile: (triton.cdiv(n_rows, tile["ROWS"]) * triton.cdiv(n_columns, tile["COLUMNS"]),)


def _magnitudes(sizes: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the logarithms of the sizes: tiles are tuned anew for another magnitude, not for every batch."""
    return tuple(size.bit_length() for size in sizes)


if triton is not None:
    # Interpreted (TRITON_INTERPRET=1) there is nothing to time, so the first of the tiles is taken.
    _TILES = ((64, 64, 4), (32, 64, 4), (64, 128, 8), (128, 64, 8), (128, 128, 8), (32, 32, 4))
    _CONFIGS = [triton.Config({"ROWS": r, "COLUMNS": c, "STEPS": 8}, num_warps=warps) for r, c, warps in _TILES]
    _tuned = triton.autotune(
        _CONFIGS[: 1 if os.environ.get("TRITON_INTERPRET") == "1" else None],
        key=["row_magnitude", "column_magnitude", "turn_magnitude"],
    )

    @_tuned
    @triton.jit(do_not_specialize=["row_magnitude", "column_magnitude", "turn_magnitude"])
    def _scores_kernel(  # noqa: PLR0917
        left: tl.tensor,
        right: tl.tensor,
        result: tl.tensor,
        n_rows: tl.tensor,
        n_columns: tl.tensor,
        n_turns: tl.tensor,
        row_magnitude: tl.tensor,
        column_magnitude: tl.tensor,
        turn_magnitude: tl.tensor,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
        STEPS: tl.constexpr,
    ) -> None:
        """Sum one tile of the product, from (N, B) and (N, S); masked numbers are 0, and so are their minima."""
        across = tl.cdiv(n_columns, COLUMNS)
        rows = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
        columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
        mine, others = left + rows, right + columns
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for turn in range(0, n_turns, STEPS):
            for step in tl.static_range(STEPS):
                there = turn + step < n_turns
                a = tl.load(mine, mask=rows < tl.where(there, n_rows, 0), other=0.0).to(tl.float32)
                b = tl.load(others, mask=columns < tl.where(there, n_columns, 0), other=0.0).to(tl.float32)
                total += tl.minimum(a[:, None], b[None, :], propagate_nan=tl.PropagateNan.ALL)
                mine += n_rows  # a pointer that moves cannot overflow, as an offset in 32 bits would
                others += n_columns
        places = result + rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
        tl.store(places, total, mask=(rows < n_rows)[:, None] & (columns < n_columns)[None, :])

    @_tuned
    @triton.jit(do_not_specialize=["row_magnitude", "column_magnitude", "turn_magnitude"])
    def _gradient_kernel(  # noqa: PLR0917
        mine: tl.tensor,
        others: tl.tensor,
        weights: tl.tensor,
        result: tl.tensor,
        n_rows: tl.tensor,
        n_columns: tl.tensor,
        n_turns: tl.tensor,
        row_magnitude: tl.tensor,
        column_magnitude: tl.tensor,
        turn_magnitude: tl.tensor,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
        STEPS: tl.constexpr,
    ) -> None:
        """Sum weights_kr ([mine_rc < others_kc] + [mine_rc = others_kc] / 2) over k for one tile (R, N)."""
        across = tl.cdiv(n_columns, COLUMNS)
        rows = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
        columns = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
        mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
        offsets = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
        own = tl.load(mine + offsets, mask=mask, other=0.0).to(tl.float32)
        theirs, pulls = others + columns, weights + rows
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for turn in range(0, n_turns, STEPS):
            for step in tl.static_range(STEPS):
                there = turn + step < n_turns
                b = tl.load(theirs, mask=columns < tl.where(there, n_columns, 0), other=0.0).to(tl.float32)[None, :]
                pull = tl.load(pulls, mask=rows < tl.where(there, n_rows, 0), other=0.0).to(tl.float32)
                half = 0.5 * pull[:, None]
                total += tl.where(own < b, half, 0.0) + tl.where(own <= b, half, 0.0)
                theirs += n_columns
                pulls += n_rows
        tl.store(result + offsets, total.to(result.dtype.element_ty), mask=mask)
