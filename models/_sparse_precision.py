"""A sparse inverse of a regularised Gram matrix: exact inverses of the small blocks around each item.

Imported lazily, because compiled kernels need numba. The blocks are of the Gram matrix itself, summed from the data
as they are needed, and so positive definite. Read from a thresholded Gram matrix instead, with 100 neighbours of each
item of ml-1m, 615 of 3,043 blocks were indefinite and MRF's NDCG@100 fell from .478 to .117.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.errors import NumericalError
from recscale.models._block_inverse import FAILED, IN_FLOAT64, solve_blocks
from recscale.models._compiled import compiled, numba_threads
from recscale.models._local_grams import LocalBlocks, local_grams
from recscale.models._neighbours import Rows, csr, n_strands
from recscale.models._sparse_gram import Interactions, Measure, workspace

BATCH_BYTES = 2**30  # of local Gram matrices at a time; each batch sums anew the rows of X'X that it needs


@dataclass(frozen=True)
class Blocks:
    """How the sparse inverse is taken.

    ridge: what is added to the diagonal of the matrix, above 0: a number or (I,).
    overlap: r, the share of a block whose columns are taken from it (Steck 2019, NeurIPS, section 3.2); with 0 every
        item has a block of its own.
    result: `precision`, the inverse, or `weights`, -P_ij / P_jj with a zero diagonal, divided block by block.
    closeness: by which |M_ij| the members of a block are ranked where r > 0; None for that of the matrix itself.
    """

    ridge: float | NDArray[np.float64]
    overlap: float = 0.0
    result: Literal["precision", "weights"] = "precision"
    closeness: Measure | None = None


class _Listed(NamedTuple):
    """Blocks one after another. The items whose columns are wanted are the last `wanted` of a block."""

    ptr: NDArray[np.int64]  # (blocks + 1,) of members
    members: NDArray[np.int32]
    wanted: NDArray[np.int64]  # (blocks,)
    packed: NDArray[np.int64]  # (blocks + 1,) of upper triangles, row by row
    columns: NDArray[np.int64]  # (blocks + 1,) of solved columns


def sparse_inverse(
    data: Interactions, measure: Measure, pattern: sp.csr_array, blocks: Blocks, context: FitContext
) -> sp.csr_array:
    """Return columns of an approximate (M + diag(ridge))^-1, column j as row j of a csr_array (I, I).

    M = S (X'X - h h') S is the matrix of `measure`. Row j of `pattern` (I, I), which holds the diagonal and entries of
    X'X, lists the neighbours of item j: it is the pattern of column j, and the block in which that is found. So the
    result is symmetric only as far as the pattern and the approximation are; `_sparse_gram.united` makes it so.
    Steck 2019 (NeurIPS), section 3.2: items by number of neighbours, ties by popularity; each one not yet done gets
    the block of its neighbours, and it and the nearest of them, ceil(r n) in all, are done; overlaps are averaged.
    Entries of the pattern that no block gave (r > 0) are left out. Flops: n^3 / 3 a block of n items, so the pattern
    should have bounded rows: no union, in which a hub has thousands of neighbours.
    Peak: 1 GiB of local Gram matrices, the solved columns, and the result.
    Raises NumericalError where a block is not positive definite even in float64; DeadlineExceeded.
    """
    n_items = data.n_items
    factors = np.column_stack((measure.scale, measure.centre, np.broadcast_to(blocks.ridge, n_items)))  # (I, 3)
    if not np.all(factors[:, 2] > 0):
        raise NumericalError(f"the ridge of a sparse inverse must be above 0; it is {factors[:, 2].min():g}")
    rows = Rows(pattern.indptr.astype(np.int64), pattern.indices.astype(np.int32, copy=False), pattern.data)
    with numba_threads(context.n_threads):
        listed = _list_blocks(data, rows, blocks.closeness or measure, blocks.overlap)
        solved = np.empty(listed.columns[-1], np.float32)
        _solve(data, listed, factors, solved, context)
        return _collected(listed, solved, rows, blocks.result == "weights")


def _list_blocks(data: Interactions, pattern: Rows, closeness: Measure, overlap: float) -> _Listed:
    """Return the blocks of section 3.2, largest first."""
    sizes, popularity = np.diff(pattern.indptr), np.diff(data.item_ptr)
    order = np.lexsort((-popularity, -sizes))
    factors = np.column_stack((closeness.scale, closeness.centre))
    members = np.empty(pattern.indices.size, np.int32)
    ptr, wanted, n_blocks = _list(pattern, order, (factors, overlap), members)
    lengths, wanted = np.diff(ptr[: n_blocks + 1]), wanted[:n_blocks]
    return _Listed(
        ptr[: n_blocks + 1],
        members[: ptr[n_blocks]],
        wanted,
        _starts(lengths * (lengths + 1) // 2),
        _starts(lengths * wanted),
    )


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))


def _solve(data: Interactions, listed: _Listed, factors: Any, solved: Any, context: FitContext) -> None:
    """Fill `solved`, a batch of blocks at a time."""
    n_blocks, packed = listed.wanted.size, listed.packed
    capacity = max(BATCH_BYTES // 4, int(np.diff(packed).max(initial=0)))
    grams = np.empty(min(capacity, int(packed[-1])), np.float32)  # reused, for fresh memory is slow
    work = workspace(data, data.n_items)
    first, n_doubled = 0, 0
    while first < n_blocks:
        last = max(first + 1, int(np.searchsorted(packed, packed[first] + capacity, side="right")) - 1)
        starts = packed[first : last + 1] - packed[first]
        local_grams(data, LocalBlocks(listed.ptr[first : last + 1], listed.members, starts, upper=True), work, grams)
        outcome = solve_blocks(grams, listed, factors, (first, last, n_strands(last - first)), solved)
        n_failed, n_doubled = int((outcome == FAILED).sum()), n_doubled + int((outcome == IN_FLOAT64).sum())
        if n_failed:
            raise NumericalError(f"{n_failed} of {last - first} blocks are not positive definite; use a larger l2")
        first = last
        context.progress(first, n_blocks)
    context.log("blocks", 0, n_blocks)
    context.log("blocks_in_float64", 0, n_doubled)


def _collected(listed: _Listed, solved: Any, pattern: Rows, divided: bool) -> sp.csr_array:
    """Return the solved columns on the pattern, averaged where they overlap."""
    n_items = pattern.indptr.size - 1
    lengths = np.diff(listed.ptr)
    entries = np.repeat(listed.ptr[1:] - listed.wanted, listed.wanted)  # of the members that are wanted
    places = np.arange(entries.size) - np.repeat(_starts(listed.wanted)[:-1], listed.wanted)
    owners = listed.members[entries + places]
    blocks = np.repeat(np.arange(lengths.size, dtype=np.int32), listed.wanted)
    order = np.argsort(owners, kind="stable")
    ptr = _starts(np.bincount(owners, minlength=n_items))
    values, kept = np.zeros(pattern.indices.size, np.float32), np.zeros(pattern.indices.size, np.bool_)
    found = (ptr, blocks[order], places[order].astype(np.int32))
    sources = (listed.ptr, listed.members, listed.columns, solved)
    _average(found, sources, pattern, (n_strands(n_items), divided), (values, kept))
    counts = np.add.reduceat(kept, pattern.indptr[:-1], dtype=np.int64) if n_items else np.zeros(0, np.int64)
    return csr(Rows(_starts(counts), pattern.indices[kept], values[kept]), n_items)


@compiled()
def _list(pattern: Any, order: Any, how: Any, members: Any) -> Any:
    """Write the members of each block, the nearest last; return their starts, how many are wanted, and the number."""
    factors, overlap = how
    done = np.zeros(order.size, np.bool_)
    ptr, wanted, n_blocks = np.zeros(order.size + 1, np.int64), np.zeros(order.size, np.int64), 0
    for item in order:
        if done[item]:
            continue
        start, stop = pattern.indptr[item], pattern.indptr[item + 1]
        size, place = stop - start, ptr[n_blocks]
        near = np.empty(size, np.float64)
        for j in range(size):
            other = pattern.indices[start + j]
            centred = pattern.data[start + j] - factors[item, 1] * factors[other, 1]
            near[j] = -np.inf if other == item else -abs(centred) * factors[other, 0]
        by_nearness = np.argsort(near, kind="mergesort")  # of equally near ones the lower index comes first
        for j in range(size):
            members[place + size - 1 - j] = pattern.indices[start + by_nearness[j]]
        n_wanted = max(1, int(np.ceil(overlap * size)))
        for j in range(size - n_wanted, size):
            done[members[place + j]] = True
        wanted[n_blocks] = n_wanted
        n_blocks += 1
        ptr[n_blocks] = place + size
    return ptr, wanted, n_blocks


@compiled(parallel=True)
def _average(found: Any, sources: Any, pattern: Any, how: Any, result: Any) -> None:
    """Write the mean of what the blocks say of each entry of the pattern."""
    ptr, blocks, places = found
    member_ptr, members, column_ptr, solved = sources
    strands, divided = how
    values, kept = result
    n_items = ptr.size - 1
    for strand in prange(strands):
        slots, counts = np.full(n_items, -1, np.int32), np.zeros(n_items, np.int32)
        for item in range(strand, n_items, strands):
            start, stop = pattern.indptr[item], pattern.indptr[item + 1]
            for slot in range(start, stop):
                slots[pattern.indices[slot]] = slot - start
                counts[slot - start] = 0
            for entry in range(ptr[item], ptr[item + 1]):
                block = blocks[entry]
                others = members[member_ptr[block] : member_ptr[block + 1]]
                size, n_wanted = others.size, (column_ptr[block + 1] - column_ptr[block]) // others.size
                column = solved[column_ptr[block] + places[entry] * size :][:size]
                scale = -1 / column[size - n_wanted + places[entry]] if divided else np.float32(1)
                for j in range(size):
                    slot = slots[others[j]]
                    if slot >= 0 and not (divided and others[j] == item):
                        values[start + slot] += scale * column[j]
                        counts[slot] += 1
            for slot in range(start, stop):
                slots[pattern.indices[slot]] = -1
                if counts[slot - start] > 0:
                    values[slot] /= counts[slot - start]
                    kept[slot] = True
