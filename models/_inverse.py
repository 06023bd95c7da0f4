"""The inverse and the Cholesky factor of a positive definite matrix in place, by blocks, with no second (I, I) array.

Imported lazily, because the kernels need numba; torch is imported by the function for devices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import NumericalError
from recscale.models._blas import Blocks
from recscale.models._gram import mirror, symmetric_product

if TYPE_CHECKING:
    import torch

BLOCK = 512  # columns of a step; at I = 9,000 blocks of 256, 384, 512, 768 reach 90, 85, 91, 89 % of the GEMM rate
LARGEST_TILE = 2048  # rows and columns of one task: 93 % of the GEMM rate, tiles of 1,024 90 %
N_PROBES = 2
TOLERANCE = 1e-3

Span = tuple[int, int]
Job = Callable[[], None]


def invert(matrix: NDArray[Any], context: FitContext, *, block: int = BLOCK, tolerance: float = TOLERANCE) -> float:
    """Replace a symmetric positive definite `matrix` (I, I) by its inverse; return the residual |(G^-1) G e - e| / |e|.

    Symmetric Gauss-Jordan by blocks (the sweep operator of Goodnight 1979, The American Statistician 33): with L the
    Cholesky factor of pivot block k and W = A_:k L^-T, first A_ij -= W_i W_j' for all other blocks, then A_:k = W L^-1
    and A_kk = -(L L')^-1. When every block was pivot once, A is minus the inverse, after I^3 flops: as many as
    Cholesky, triangular inverse and product take, but each step is one product on the whole triangle, in place.
    Only the upper triangle is read; nothing of size I is allocated but the probes e. Each task is a single-threaded
    BLAS call on a tile: OpenBLAS's own threads crash inside spotrf from about 26,000 columns on.
    Raises NumericalError where the matrix is not positive definite, or where the residual on random vectors e,
    taken in float64, is above `tolerance`; DeadlineExceeded between steps. The matrix is then of no use.
    """
    probes = context.rng().choice([-1.0, 1.0], size=(matrix.shape[0], N_PROBES))  # (I, K)
    images = symmetric_product(matrix, probes, context)
    _sweep_all(matrix, context, block)
    mirror(matrix, context, sign=-1)
    return _checked(symmetric_product(matrix, images, context) - probes, context, tolerance)


def factor(matrix: NDArray[Any], context: FitContext, *, block: int = BLOCK) -> None:
    """Replace the upper triangle of a symmetric positive definite `matrix` (I, I) by L', where A = L L'.

    The lower triangle is neither read nor written. The steps of `invert` on what follows the pivot alone: I^3 / 3
    flops. Raises NumericalError where the matrix is not positive definite; DeadlineExceeded between steps.
    """
    _sweep_all(matrix, context, block, only_after=True)


def factor_on_device(matrix: torch.Tensor, context: FitContext, *, block: int = 1024) -> None:
    """Replace the upper triangle of a symmetric positive definite `matrix` (I, I) by L' on its own device.

    The rest of the matrix is not zeroed. Right-looking, by panels (block, I); raises what `factor` does.
    """
    import torch

    n_items = matrix.shape[0]
    for first in range(0, n_items, block):
        last = min(first + block, n_items)
        triangle = _device_factor(matrix, first, last)
        matrix[first:last, first:last] = triangle.T
        if last < n_items:
            panel = torch.linalg.solve_triangular(triangle, matrix[first:last, last:], upper=False)  # (b, I - last)
            matrix[first:last, last:] = panel
            for row in range(last, n_items, 4 * block):  # what lies below the diagonal blocks is never computed
                stop = min(row + 4 * block, n_items)
                matrix[row:stop, row:].addmm_(panel[:, row - last : stop - last].T, panel[:, row - last :], alpha=-1)
        context.progress(last, n_items)


def _device_factor(matrix: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Return the Cholesky factor of a diagonal block. Raises NumericalError."""
    import torch

    triangle, info = torch.linalg.cholesky_ex(matrix[first:last, first:last])
    if int(info) != 0:
        kind = str(matrix.dtype).removeprefix("torch.")
        raise NumericalError(f"the matrix is not positive definite in {kind} (found at row {first + int(info) - 1})")
    return triangle


def invert_on_device(
    matrix: torch.Tensor, context: FitContext, *, block: int = 1024, tolerance: float = TOLERANCE
) -> float:
    """Replace a full symmetric positive definite `matrix` (I, I) by its inverse on its own device.

    The same sweep on both triangles, 2 I^3 flops; three panels (I, block) are all the extra memory, where
    torch.cholesky_inverse takes two more matrices. Returns and raises what `invert` does.
    """
    import torch

    n_items = matrix.shape[0]
    probes = torch.from_numpy(context.rng().choice([-1.0, 1.0], size=(n_items, N_PROBES))).to(matrix.device)
    images = _double_product(matrix, probes, block)
    for first in range(0, n_items, block):
        last = min(first + block, n_items)
        triangle = _device_factor(matrix, first, last)
        panel = torch.linalg.solve_triangular(triangle, matrix[first:last], upper=False)  # W': (b, I)
        panel[:, first:last] = 0
        matrix.addmm_(panel.T, panel, alpha=-1)
        panel = torch.linalg.solve_triangular(triangle.T, panel, upper=True)  # (W L^-1)'
        matrix[first:last] = panel
        matrix[:, first:last] = panel.T
        matrix[first:last, first:last] = -torch.cholesky_inverse(triangle)
        context.progress(last, n_items)
    matrix.neg_()
    errors = _double_product(matrix, images, block) - probes
    return _checked(errors.cpu().numpy(), context, tolerance)


def _double_product(matrix: torch.Tensor, vectors: torch.Tensor, block: int) -> torch.Tensor:
    """Return `matrix @ vectors` (I, K) in float64, a panel of the matrix at a time."""
    import torch

    return torch.cat([rows.double() @ vectors for rows in matrix.split(block)])


def _checked(errors: NDArray[np.float64], context: FitContext, tolerance: float) -> float:
    """Return the root mean square of the worst probe's `errors` (I, K). Raises NumericalError if it is too large."""
    residual = float(np.sqrt((errors**2).mean(axis=0).max())) if errors.size else 0.0
    context.log("inverse_residual", 0, residual)
    if not residual <= tolerance:  # also when it is NaN
        raise NumericalError(f"the inverse has a relative residual of {residual:.1e}, more than {tolerance:.0e}")
    return residual


def _sweep_all(matrix: NDArray[Any], context: FitContext, block: int, *, only_after: bool = False) -> None:
    """Sweep every block in turn, which leaves minus the inverse in the upper triangle; `only_after` it, the factor."""
    n_items = matrix.shape[0]
    sweep = _Sweep(matrix, block, max(1, context.n_threads), only_after=only_after)
    with _workers(context.n_threads) as run:
        sweep.blocks.factor(0, min(block, n_items))
        for first in range(0, n_items, block):
            last = min(first + block, n_items)
            run(sweep.panel_jobs((first, last), forward=True))
            run(sweep.update_jobs((first, last)))
            if not only_after:
                run(sweep.panel_jobs((first, last), forward=False))
                sweep.finish((first, last))
            context.progress(last, n_items)


@contextmanager
def _workers(n_threads: int) -> Iterator[Callable[[list[Job]], None]]:
    """Give a function that runs jobs on `n_threads` threads, each with a single-threaded BLAS, and waits for all."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        pool = ThreadPoolExecutor(max(1, n_threads))

        def run(jobs: list[Job]) -> None:
            for future in [pool.submit(job) for job in jobs]:
                future.result()

        try:
            yield run
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after Ctrl-C only the running tiles are finished


def _spans(first: int, last: int, width: int) -> list[Span]:
    """Cut `first` to `last` into even spans of at most `width`."""
    n_spans = -(-(last - first) // width)
    edges = [first + (last - first) * i // n_spans for i in range(n_spans + 1)] if n_spans else [first]
    return list(pairwise(edges))


class _Sweep:
    """The jobs of one step of the sweep.

    The panel A_:k lies where the triangle has it: rows past the pivot as they are, rows before it transposed, at
    (pivot, row). So no panel is copied; the flags of BLAS turn it.
    """

    def __init__(self, matrix: NDArray[Any], block: int, n_threads: int, *, only_after: bool = False) -> None:
        self.blocks, self.block, self.n_items = Blocks(matrix), block, matrix.shape[0]
        self.only_after = only_after  # leave alone what comes before the pivot: this is Cholesky
        self.tile = max(block, min(LARGEST_TILE, self.n_items // (2 * n_threads)))  # small enough to keep all busy

    def panel_jobs(self, pivot: Span, *, forward: bool) -> list[Job]:
        """Return W = A_:k L^-T where `forward`, else W L^-1, in place, a span of rows at a time."""
        first, last = pivot
        width = max(128, self.tile // 2)
        before = [] if self.only_after else _spans(0, first, width)
        spans = before + _spans(last, self.n_items, width)
        return [lambda span=span: self._solve(pivot, span, forward) for span in spans]  # type: ignore[misc]

    def _solve(self, pivot: Span, span: Span, forward: bool) -> None:
        (first, last), (start, stop) = pivot, span
        if start >= last:
            self.blocks.solve(first, (start, first), (stop - start, last - first), "R", "T" if forward else "N")
        else:
            self.blocks.solve(first, (first, start), (last - first, stop - start), "L", "N" if forward else "T")

    def update_jobs(self, pivot: Span) -> list[Job]:
        """Return A_ij -= W_i W_j' by tiles; first of all the next pivot, which is factored while the rest goes on."""
        first, last = pivot
        following = min(last + self.block, self.n_items)
        spans = [
            *([] if self.only_after else _spans(0, first, self.tile)),
            *_spans(last, following, self.block),
            *_spans(following, self.n_items, self.tile),
        ]
        jobs: list[Job] = [lambda: self._next_pivot(pivot, (last, following))] if last < self.n_items else []
        for i, columns in enumerate(spans):
            for rows in spans[i:]:
                if not columns == rows == (last, following):
                    jobs.append(lambda rows=rows, columns=columns: self._update(pivot, rows, columns))  # type: ignore[misc]
        return jobs

    def _next_pivot(self, pivot: Span, following: Span) -> None:
        self._update(pivot, following, following)
        self.blocks.factor(following[0], following[1] - following[0])

    def _update(self, pivot: Span, rows: Span, columns: Span) -> None:
        left, right = self._panel(pivot, rows), self._panel(pivot, columns)
        n_rows, depth = rows[1] - rows[0], pivot[1] - pivot[0]
        target = (rows[0], columns[0])
        if rows == columns:
            self.blocks.subtract_square(left, (n_rows, depth), target)
        else:
            turned = (right[0], right[1], "T" if right[2] == "N" else "N")
            self.blocks.subtract_product(left, turned, (n_rows, columns[1] - columns[0], depth), target)

    def _panel(self, pivot: Span, span: Span) -> tuple[int, int, str]:
        """Return where W of some rows begins, and the flag that makes it (rows, pivot)."""
        return (span[0], pivot[0], "N") if span[0] >= pivot[1] else (pivot[0], span[0], "T")

    def finish(self, pivot: Span) -> None:
        """Put minus the inverse of the pivot block in its place."""
        first, last = pivot
        self.blocks.invert_factored(first, last - first)
        diagonal = self.blocks.matrix[first:last, first:last]
        np.negative(diagonal, out=diagonal)
