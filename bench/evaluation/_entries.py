"""What filters and protocols need of the stored entries of a matrix, in blocks, so that nothing large is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

BLOCK = 1 << 22  # entries; numpy widens int32 indices to int64, so 35 M of them at once would take 280 MB each time


def blocks(n_entries: int) -> Iterator[slice]:
    """Yield the slices that cut `n_entries` into blocks."""
    for start in range(0, n_entries, BLOCK):
        yield slice(start, min(start + BLOCK, n_entries))


def row_blocks(indptr: NDArray[Any]) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, entries) slices of about one block each; a row is never cut."""
    row, n_rows = 0, len(indptr) - 1
    while row < n_rows:
        beyond = int(np.searchsorted(indptr, int(indptr[row]) + BLOCK, side="right")) - 1
        stop = min(max(beyond, row + 1), n_rows)
        yield slice(row, stop), slice(int(indptr[row]), int(indptr[stop]))
        row = stop


def count_items(matrix: sp.csr_array, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many of the entries in `keep` each item has: (I,)."""
    counts = np.zeros(matrix.shape[1], dtype=np.int64)
    for part in blocks(matrix.nnz):
        counts += np.bincount(matrix.indices[part][keep[part]], minlength=matrix.shape[1])
    return counts


def count_users(matrix: sp.csr_array, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many of the entries in `keep` each user has: (U,)."""
    counts = np.zeros(matrix.shape[0], dtype=np.int64)
    for rows, part in row_blocks(matrix.indptr):
        running = np.zeros(part.stop - part.start + 1, dtype=np.int64)
        np.cumsum(keep[part], out=running[1:])
        bounds = matrix.indptr[rows.start : rows.stop + 1] - part.start
        counts[rows] = np.diff(running[bounds])
    return counts


def of_rows(matrix: sp.csr_array, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (place in `rows`, position in the matrix) of every stored entry of `rows`, row by row."""
    starts = matrix.indptr[rows].astype(np.int64)
    lengths = matrix.indptr[rows + 1].astype(np.int64) - starts
    place = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
    before = np.cumsum(lengths) - lengths
    return place, np.arange(len(place), dtype=np.int64) + (starts - before)[place]


def select(
    matrix: sp.csr_array, keep: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> sp.csr_array:
    """Return the entries in `keep` as a binary matrix of `rows` and `columns`, both ascending.

    Every kept entry must lie in both. Takes 8 bytes for each kept entry beyond the result's row pointers.
    """
    counts = count_users(matrix, keep)[rows]
    indptr = np.zeros(len(rows) + 1, dtype=matrix.indptr.dtype)
    np.cumsum(counts, out=indptr[1:])
    indices = matrix.indices[keep]
    rename(indices, columns, matrix.shape[1])
    return binary(indices, indptr, len(columns), ordered=True)


def rename(indices: NDArray[Any], columns: NDArray[np.int64], n_columns: int) -> None:
    """Replace each index among `n_columns` columns by its place in `columns`, in place (-1: not among them)."""
    place = lookup(columns, n_columns).astype(indices.dtype)
    for part in blocks(len(indices)):
        indices[part] = place[indices[part]]


def lookup(columns: NDArray[np.int64], n_columns: int) -> NDArray[np.int64]:
    """Return for each of `n_columns` columns its place in `columns`, or -1: (n_columns,)."""
    place = np.full(n_columns, -1, dtype=np.int64)
    place[columns] = np.arange(len(columns))
    return place


def binary(indices: NDArray[Any], indptr: NDArray[Any], n_columns: int, *, ordered: bool) -> sp.csr_array:
    """Return the canonical matrix of ones at these places; sorts each row in place unless `ordered`."""
    ones = np.ones(len(indices), dtype=np.float32)
    matrix = sp.csr_array((ones, indices, indptr), shape=(len(indptr) - 1, n_columns))
    matrix.has_sorted_indices = ordered
    matrix.sort_indices()
    matrix.has_canonical_format = True  # entries of a canonical matrix: no duplicates, and no need to look for them
    return matrix


def from_pairs(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> sp.csr_array:
    """Return the binary matrix of entries that are given row by row, `rows` ascending."""
    indptr = np.zeros(shape[0] + 1, dtype=np.int32 if len(rows) < np.iinfo(np.int32).max else np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    return binary(columns.astype(indptr.dtype), indptr, shape[1], ordered=False)


def fingerprint(arrays: Mapping[str, Any], *, header: str = "") -> str:
    """Return the SHA-256 of named arrays and csr_arrays, whatever the width of their integers."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        value = arrays[name]
        parts = {"": value}
        if isinstance(value, sp.csr_array):
            parts = {".indptr": value.indptr, ".indices": value.indices, ".data": value.data}
        for suffix, array in parts.items():
            _update(digest, f"{name}{suffix}", np.asarray(array))
        if isinstance(value, sp.csr_array):
            digest.update(str(tuple(map(int, value.shape))).encode())
    return digest.hexdigest()


def _update(digest: Any, name: str, array: NDArray[Any]) -> None:
    """Feed one array, with its name, kind and shape, to the digest."""
    kind = array.dtype.kind
    digest.update(f"\n{name} {'s' if kind in 'OSU' else kind} {array.shape}\n".encode())
    flat = array.reshape(-1)
    for part in blocks(flat.size):
        if kind in "OSU":  # text, however it is held: the same ids give the same digest
            texts = [str(value).encode() for value in flat[part].tolist()]
            digest.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
            digest.update(b"".join(texts))
        else:
            wide = flat[part].astype("<i8" if kind in "iu" else flat.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(wide).data)
