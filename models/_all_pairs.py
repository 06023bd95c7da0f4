"""The whole Gram matrix X'X as a sparse matrix of the pairs that occur, written once into arrays of its exact size.

Imported lazily, because compiled kernels need numba. Rows are summed in the order of the users, so the result does
not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._compiled import compiled, numba_threads
from recscale.models._neighbours import Rows, csr
from recscale.models._sparse_gram import Interactions, clear_row, sum_row, workspace

STEPS = 16  # how often a pass looks up: for progress, the deadline and Ctrl-C


def row_lengths(data: Interactions, context: FitContext) -> NDArray[np.int64]:
    """Return how many entries each row of X'X has, (I,). Raises DeadlineExceeded."""
    lengths = np.zeros(data.n_items, np.int64)
    with numba_threads(context.n_threads):
        work = workspace(data, data.n_items)
        for span in _spans(data):
            _count(data, work, span, lengths)
            context.progress(span[1], 2 * data.n_items)
    return lengths


def all_pairs(data: Interactions, lengths: NDArray[np.int64], context: FitContext) -> sp.csr_array:
    """Return X'X (I, I) as float32 with sorted indices, given the lengths of its rows.

    Peak: the result and the workspace, 9 I bytes a strand. Raises DeadlineExceeded.
    """
    indptr = np.zeros(data.n_items + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    rows = Rows(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
    with numba_threads(context.n_threads):
        work = workspace(data, data.n_items)
        for span in _spans(data):
            _fill(data, work, span, rows)
            context.progress(data.n_items + span[1], 2 * data.n_items)
    return csr(rows, data.n_items)


def _spans(data: Interactions) -> Iterator[tuple[int, int]]:
    """Cut the items into spans of like work."""
    cuts = np.searchsorted(data.work, np.linspace(0, data.work[-1], STEPS + 1)[1:-1])
    return pairwise(np.unique(np.concatenate((cuts, [0, data.n_items])).clip(0, data.n_items)).tolist())


@compiled(parallel=True)
def _count(data: Any, work: Any, span: Any, lengths: Any) -> None:
    strands = work.sums.shape[0]
    for strand in prange(strands):
        sums, seen = work.sums[strand], work.seen[strand]
        for item in range(span[0] + strand, span[1], strands):
            touched = sum_row(data, item, sums, seen, work.touched[strand])
            lengths[item] = touched.size
            clear_row(sums, seen, touched)


@compiled()
def _in_order(touched: Any, sums: Any, seen: Any, indices: Any) -> None:
    """Write the touched columns in ascending order; where they are many, a scan of all columns is faster."""
    if touched.size * 16 < sums.size:
        indices[:] = touched
        indices.sort()
        return
    place = 0
    for column in range(sums.size):
        if (seen[column] if seen.size else sums[column] != 0) and place < indices.size:
            indices[place] = column
            place += 1


@compiled(parallel=True)
def _fill(data: Any, work: Any, span: Any, rows: Any) -> None:
    strands = work.sums.shape[0]
    indptr, indices, values = rows
    for strand in prange(strands):
        sums, seen = work.sums[strand], work.seen[strand]
        for item in range(span[0] + strand, span[1], strands):
            touched = sum_row(data, item, sums, seen, work.touched[strand])
            own = indices[indptr[item] : indptr[item + 1]]
            _in_order(touched, sums, seen, own)
            for place in range(own.size):
                values[indptr[item] + place] = sums[own[place]]
            clear_row(sums, seen, touched)
