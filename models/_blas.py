"""BLAS and LAPACK calls on blocks of a larger matrix, in place: scipy's routines with a leading dimension.

The Python interfaces of numpy and scipy copy a block that is not contiguous, or cannot accumulate into it. These
calls take the address of a block and release the interpreter lock, so several threads can each work on blocks of
their own. Imported lazily, because looking up the routines needs numba.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack  # noqa: F401  loaded here, so that its threads can be limited before the first call
from numba.extending import get_cython_function_address
from numpy.typing import NDArray

from recscale.errors import NumericalError

_FLAGS = {letter: ctypes.create_string_buffer(letter.encode()) for letter in "LRNT"}
_PREFIXES = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}


def _routine(library: str, name: str, n_arguments: int) -> Any:
    prototype = ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * n_arguments))
    return prototype(get_cython_function_address(f"scipy.linalg.cython_{library}", name))


def _integer(value: int) -> Any:
    """Return an address; 64 bits read as 32 give the same number on a little-endian machine, whatever the build."""
    return ctypes.byref(ctypes.c_int64(value))


class Blocks:
    """A square C-ordered matrix seen as Fortran does: entry (r, c) is `matrix[c, r]`, the lower triangle its upper one.

    A block is given by its first row and column. All triangular work is on the lower triangle (r >= c).
    """

    def __init__(self, matrix: NDArray[Any]) -> None:
        if not (matrix.flags.c_contiguous and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]):
            raise ValueError(f"a square C-ordered matrix is needed, not {matrix.shape} with strides {matrix.strides}")
        prefix = _PREFIXES[matrix.dtype]
        real = ctypes.c_float if prefix == "s" else ctypes.c_double
        self.matrix, self._stride, self._itemsize = matrix, _integer(matrix.shape[0]), matrix.itemsize
        self._start: int = matrix.ctypes.data
        self._one, self._minus_one = ctypes.byref(real(1.0)), ctypes.byref(real(-1.0))
        self._gemm = _routine("blas", prefix + "gemm", 13)
        self._syrk = _routine("blas", prefix + "syrk", 10)
        self._trsm = _routine("blas", prefix + "trsm", 11)
        self._potrf = _routine("lapack", prefix + "potrf", 5)
        self._potri = _routine("lapack", prefix + "potri", 5)

    def _at(self, row: int, column: int) -> int:
        """Return the address of an entry, in 64 bits: 32 overflow from 46,341 columns on."""
        return self._start + int(row + column * self.matrix.shape[0]) * self._itemsize

    def subtract_product(self, left: tuple[int, int, str], right: tuple[int, int, str], size: tuple[int, int, int],
                         target: tuple[int, int]) -> None:  # fmt: skip
        """target (m, n) -= op(left) (m, k) @ op(right) (k, n); `size` is (m, n, k), op 'N' or 'T'."""
        m, n, k = map(_integer, size)
        self._gemm(_FLAGS[left[2]], _FLAGS[right[2]], m, n, k, self._minus_one, self._at(*left[:2]), self._stride,
                   self._at(*right[:2]), self._stride, self._one, self._at(*target), self._stride)  # fmt: skip

    def subtract_square(self, panel: tuple[int, int, str], size: tuple[int, int], target: tuple[int, int]) -> None:
        """Subtract op(panel) (m, k) times its transpose from the lower triangle of target (m, m); `size` is (m, k)."""
        m, k = map(_integer, size)
        self._syrk(_FLAGS["L"], _FLAGS[panel[2]], m, k, self._minus_one, self._at(*panel[:2]), self._stride,
                   self._one, self._at(*target), self._stride)  # fmt: skip

    def solve(self, triangle: int, target: tuple[int, int], size: tuple[int, int], side: str, op: str) -> None:
        """target (m, n) = op(L)^-1 target (side 'L') or target op(L)^-1 (side 'R'), L at (triangle, triangle)."""
        m, n = map(_integer, size)
        self._trsm(_FLAGS[side], _FLAGS["L"], _FLAGS[op], _FLAGS["N"], m, n, self._one,
                   self._at(triangle, triangle), self._stride, self._at(*target), self._stride)  # fmt: skip

    def factor(self, first: int, size: int) -> None:
        """Overwrite a diagonal block by its Cholesky factor L. Raises NumericalError."""
        info = ctypes.c_int64(0)
        self._potrf(_FLAGS["L"], _integer(size), self._at(first, first), self._stride, ctypes.byref(info))
        if info.value != 0:
            row = first + info.value - 1
            raise NumericalError(f"the matrix is not positive definite in {self.matrix.dtype} (found at row {row})")

    def invert_factored(self, first: int, size: int) -> None:
        """Overwrite the Cholesky factor L of a diagonal block by (L L')^-1."""
        info = ctypes.c_int64(0)
        self._potri(_FLAGS["L"], _integer(size), self._at(first, first), self._stride, ctypes.byref(info))
        if info.value != 0:
            raise NumericalError(f"the diagonal block at row {first} is singular in {self.matrix.dtype}")
