"""The leading eigenvectors of a large symmetric matrix that is known by its products with blocks of vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import NumericalError

Product = Callable[[NDArray[np.float32]], NDArray[np.float32]]

BLOCK = 64  # vectors that are multiplied at once
TOLERANCE = 1e-5  # of a residual |A v - t v|, in units of the largest eigenvalue
TINY = float(np.finfo(np.float32).tiny)
NOTHING = 1e-6  # an eigenvalue below this, in the same units, is 0 in float32
TRIALS = 4  # steps in which a new random block may bring what was missed
SHORT = 0.02  # a direction this much shorter than another, or than what was last taken out, is taken out once more
COLUMNS = 8192  # of the basis that a thread works on at once; the sums do not depend on the number of threads
MOST_STEPS = 2000


def leading_eigenvectors(
    product: Product, n: int, k: int, context: FitContext
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the k largest eigenvalues (k,) of A, descending, and their eigenvectors as rows (k, n), orthonormal.

    A is symmetric, positive semi-definite and (n, n); `product` maps rows (K, n) to rows @ A. Eigenvalues that are 0
    in float32 are left out, so there may be fewer than k. Block Lanczos with thick restarts (Wu and Simon 2000, SIAM
    Journal on Matrix Analysis and Applications, with one vector where there is a block here) and full
    orthogonalisation. Random at the start by the seed of the context. When all have settled, a new random block is let
    in, and the search ends once it brings nothing: a block finds an eigenvalue at most as often as it has vectors, yet
    1 occurs as often as a graph has parts.
    Peak: 2 k + 256 vectors, and as much as three blocks. Raises NumericalError if it does not settle, DeadlineExceeded.
    """
    from threadpoolctl import threadpool_limits

    # threads of our own on parts of the columns: those of BLAS spin against numba's between two products, and made
    # two threads take 7.6 times the CPU time of one here
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(max(1, context.n_threads)) as pool:
        if n <= _width(k):
            return _dense(product, n, k, context)
        return _Search(product, (n, k), context, pool).run()


def _width(k: int) -> int:
    """Return how many vectors the basis holds at most."""
    return 2 * k + 4 * BLOCK


def _dense(product: Product, n: int, k: int, context: FitContext) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decompose the whole matrix, where it is no larger than a basis would be."""
    values, vectors = np.linalg.eigh(product(np.eye(n, dtype=np.float32)).astype(np.float64))
    context.progress(1, 1)
    return _leading(values[::-1][:k], vectors[:, ::-1].T[:k])


def _leading(values: NDArray[Any], vectors: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return copies of the eigenpairs that are not 0."""
    kept = int(np.count_nonzero(values > NOTHING * max(float(values[0]), TINY))) if values.size else 0
    return values[:kept].astype(np.float32), np.array(vectors[:kept], np.float32, order="C")


class _Search:
    """The state of one search: an orthonormal basis (M, n), and A in that basis."""

    def __init__(self, product: Product, size: tuple[int, int], context: FitContext, pool: Executor) -> None:
        self.product, self.context, self.pool = product, context, pool
        self.n, self.k = size
        self.rng = context.rng()
        self.most = _width(self.k)
        self.basis = np.empty((self.most, self.n), np.float32)
        self.projected = np.zeros((self.most, self.most))
        self.parts = [slice(first, first + COLUMNS) for first in range(0, self.n, COLUMNS)]
        self.size = 0  # vectors in the basis
        self.n_last = 0  # of them in the last block, whose products are not known yet
        self.n_near = 0  # of them that those products can be expected to lie along
        self.taken = 0.0  # the longest part that the last pass took out of these products

    def run(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Expand and restart until the leading eigenvalues have settled, and stay as they are beside a random block."""
        settled, n_trials = np.full(self.k, -np.inf), 0
        rest, is_near = self._random_block(), False
        for step in range(1, MOST_STEPS + 1):
            block = self._orthonormal(rest, is_clean=step > 1 and n_trials < TRIALS)
            self._append(block, is_near)
            rest = self._expand()
            values, rotation = np.linalg.eigh(self.projected[: self.size, : self.size])
            values, rotation = values[::-1], rotation[:, ::-1]
            leading, scale = values[: self.k], max(float(values[0]), TINY)
            error = self._error(rest, rotation) / scale if self.size >= self.k else np.inf
            self.context.progress(step, MOST_STEPS)
            if np.isfinite(error):
                self.context.log("residual", step, error)
            n_trials -= 1
            is_new = error <= TOLERANCE and n_trials <= 0 and bool(np.any(leading > settled + TOLERANCE * scale))
            if error <= TOLERANCE and n_trials <= 0 and not is_new:
                self._rotate(rotation[:, : self.k])
                return _leading(leading, self.basis[: self.k])
            if is_new:
                settled, n_trials, rest = leading.copy(), TRIALS, self._random_block()
            is_near = not np.isfinite(settled).any()  # a random block breaks the recurrence
            if is_new or self.size + BLOCK > self.most:
                self._restart(values, rotation)
                is_near = False
        raise NumericalError(f"the {self.k} leading eigenvectors did not settle in {MOST_STEPS} steps; ask for fewer")

    def _expand(self) -> NDArray[np.float32]:
        """Multiply the last block by A, enter it, and return what of the products lies outside the basis.

        They lie along the last two blocks, or all after a restart; of the rest, one pass takes out what rounding left.
        """
        first = self.size - self.n_last
        image = self.product(self.basis[first : self.size])
        shares = np.zeros((self.size, self.n_last))
        shares[self.size - self.n_near :] = self._take_out(image, self.size - self.n_near)
        left = self._take_out(image)
        self.taken = float(np.sqrt(np.einsum("ij,ij->j", left, left).max(initial=0.0)))
        shares += left
        self.projected[: self.size, first : self.size] = shares
        self.projected[first : self.size, : self.size] = shares.T
        return image

    def _error(self, rest: NDArray[np.float32], rotation: NDArray[np.float64]) -> float:
        """Return the largest residual of the leading Ritz pairs: what they share in the last block leaks by `rest`."""
        shares = rotation[self.size - self.n_last : self.size, : self.k]  # (K, k)
        squares = np.einsum("ik,ij,jk->k", shares, self._products(rest, rest), shares, optimize=True)
        return float(np.sqrt(squares.max(initial=0.0).clip(0.0)))

    def _restart(self, values: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        """Keep the leading Ritz vectors and some more; a part of the columns at a time."""
        kept = min(self.size, self.k + BLOCK)
        self._rotate(rotation[:, :kept])
        self.projected[:] = 0
        self.projected[np.arange(kept), np.arange(kept)] = values[:kept]
        self.size = kept

    def _rotate(self, rotation: NDArray[np.float64]) -> None:
        turned = np.ascontiguousarray(rotation.T, np.float32)  # (kept, M)

        def rotate(part: slice) -> None:
            self.basis[: len(turned), part] = turned @ self.basis[: self.size, part]

        list(self.pool.map(rotate, self.parts))

    def _random_block(self) -> NDArray[np.float32]:
        return self.rng.standard_normal((BLOCK, self.n), dtype=np.float32)

    def _products(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return left @ right' for rows (K, n) and (L, n)."""
        product = np.zeros((len(left), len(right)))
        for partial in self.pool.map(lambda part: left[:, part] @ right[:, part].T, self.parts):
            product += partial
        return product

    def _take_out(self, block: NDArray[np.float32], first: int = 0) -> NDArray[np.float64]:
        """Subtract from the rows of a block (K, n) what lies in the basis from `first` on; return the shares (M, K)."""
        basis = self.basis[first : self.size]
        shares = self._products(basis, block)
        narrow = np.ascontiguousarray(shares.T, np.float32)

        def subtract(part: slice) -> None:
            block[:, part] -= narrow @ basis[:, part]

        list(self.pool.map(subtract, self.parts))
        return shares

    def _orthonormal(self, block: NDArray[np.float32], is_clean: bool) -> NDArray[np.float32]:
        """Return orthonormal rows for what a block has outside of the basis; for a random one if that is nothing.

        A clean block was taken out of the basis: what rounding left matters where a direction is short beside another,
        or beside what the last pass took out: once the products lie in the basis, all that is left of them is rounding.
        """
        block, shortest, longest = self._combined(block, TINY)
        if not is_clean or shortest < SHORT * max(longest, self.taken):
            self._take_out(block)
            block, _, _ = self._combined(block, 0.1)
        return block if len(block) else self._orthonormal(self._random_block(), False)

    def _combined(self, block: NDArray[np.float32], least: float) -> tuple[NDArray[np.float32], float, float]:
        """Return orthonormal combinations of the rows, those of a length above `least` and not lost in rounding.

        And the shortest and the longest of these lengths. By the eigenvectors of the Gram matrix: two matrix
        products, where a QR decomposition takes 10 times as long.
        """
        values, vectors = np.linalg.eigh(self._products(block, block))
        lengths = np.sqrt(values.clip(0))
        longest = float(lengths.max(initial=0.0))
        kept = lengths > max(least, 3e-4 * longest)
        turned = (vectors[:, kept] / lengths[kept]).T.astype(np.float32)
        combined = np.empty((len(turned), self.n), np.float32)

        def combine(part: slice) -> None:
            combined[:, part] = turned @ block[:, part]

        list(self.pool.map(combine, self.parts))
        return combined, float(lengths[kept].min(initial=longest)), longest

    def _append(self, block: NDArray[np.float32], is_near: bool) -> None:
        """Add a block; `is_near` says that its products lie along it and the block before alone."""
        self.basis[self.size : self.size + len(block)] = block
        self.n_near = self.n_last + len(block) if is_near else self.size + len(block)
        self.size, self.n_last = self.size + len(block), len(block)
