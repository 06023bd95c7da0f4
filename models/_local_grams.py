"""The Gram matrices of many small blocks of items, each row of X'X summed once and read by all blocks that need it.

Imported lazily, because compiled kernels need numba.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._sparse_gram import Interactions, Workspace, clear_row, sum_row


class LocalBlocks(NamedTuple):
    """Some blocks of items: block b is members[ptr[b]:ptr[b + 1]], and its matrix begins at starts[b]."""

    ptr: NDArray[np.int64]  # (blocks + 1,)
    members: NDArray[np.int32]
    starts: NDArray[np.int64]  # (blocks + 1,)
    upper: bool  # the upper triangles alone, row by row


class _Containing(NamedTuple):
    """For each item the blocks that it is in, and its place there."""

    items: NDArray[np.int32]  # that are in any
    ptr: NDArray[np.int64]  # (I + 1,)
    blocks: NDArray[np.int32]
    places: NDArray[np.int32]


def local_grams(data: Interactions, blocks: LocalBlocks, work: Workspace, grams: NDArray[np.float32]) -> None:
    """Write the block of X'X on each of the `blocks` to `grams`."""
    containing = _containing(blocks, data.n_items)
    _local_grams(data, containing, blocks, work, grams)


def _containing(blocks: LocalBlocks, n_items: int) -> _Containing:
    """Turn the blocks around."""
    first, last = blocks.ptr[0], blocks.ptr[-1]
    lengths, members = np.diff(blocks.ptr), blocks.members[first:last]
    places = (np.arange(members.size) - np.repeat(blocks.ptr[:-1] - first, lengths)).astype(np.int32)
    by_item = sp.csr_array((places, members, blocks.ptr - first), shape=(lengths.size, n_items)).tocsc()
    items = np.flatnonzero(np.diff(by_item.indptr)).astype(np.int32)
    return _Containing(items, by_item.indptr.astype(np.int64), by_item.indices.astype(np.int32), by_item.data)


@compiled(parallel=True)
def _local_grams(data: Any, containing: Any, blocks: Any, work: Any, grams: Any) -> None:
    strands = work.sums.shape[0]
    for strand in prange(strands):
        sums, seen = work.sums[strand], work.seen[strand]
        for index in range(strand, containing.items.size, strands):
            item = containing.items[index]
            touched = sum_row(data, item, sums, seen, work.touched[strand])
            for entry in range(containing.ptr[item], containing.ptr[item + 1]):
                block, row = containing.blocks[entry], np.int64(containing.places[entry])
                others = blocks.members[blocks.ptr[block] : blocks.ptr[block + 1]]
                start = blocks.starts[block] + row * others.size
                if blocks.upper:
                    start -= row * (row - 1) // 2
                    others = others[row:]
                for j in range(others.size):
                    grams[start + j] = sums[others[j]]
            clear_row(sums, seen, touched)
