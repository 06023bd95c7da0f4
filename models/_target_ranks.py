"""How high the targets of users rank, counted in passes over the scores without a copy of them."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled
from recscale.models._validation import CUTOFF


@compiled(parallel=True)
def reciprocal_ranks(
    scores: NDArray[np.floating],
    known_start: NDArray[np.integer],
    known: NDArray[np.integer],
    wanted_start: NDArray[np.integer],
    wanted: NDArray[np.integer],
) -> tuple[NDArray[np.float32], bool]:
    """Return 1 / rank of the best target of each user, (B,), 0 for one without targets, and whether all is finite.

    `scores` is (B, I); the items of user u are `known[known_start[u]:known_start[u + 1]]`, which are left out, and the
    targets `wanted[wanted_start[u]:wanted_start[u + 1]]`, none of which is known. Ties count half.
    Some 50 times as fast as masks and comparisons in torch (14 and 700 ms for 400 users and 41,000 items on one core).
    """
    n_users = scores.shape[0]
    values = np.zeros(n_users, np.float32)
    finite = np.ones(n_users, np.bool_)
    for user in prange(n_users):
        row = scores[user]
        best = -np.inf
        for entry in range(wanted_start[user], wanted_start[user + 1]):
            best = max(best, row[wanted[entry]])
        above = 0
        level = 0
        broken = 0
        for item in range(row.size):
            above += row[item] > best
            level += row[item] == best
            broken += not np.abs(row[item]) < np.inf
        for entry in range(known_start[user], known_start[user + 1]):
            above -= row[known[entry]] > best
            level -= row[known[entry]] == best
        finite[user] = broken == 0
        if wanted_start[user] < wanted_start[user + 1]:
            values[user] = 1 / (0.5 + above + 0.5 * level)
    return values, bool(finite.all())


@compiled(parallel=True)
def ndcg(
    scores: NDArray[np.floating],
    known_start: NDArray[np.integer],
    known: NDArray[np.integer],
    wanted_start: NDArray[np.integer],
    wanted: NDArray[np.integer],
) -> tuple[NDArray[np.float64], bool]:
    """Return the NDCG@100 of each user, (B,), and whether all is finite.

    Arguments, ties and users without targets as in `reciprocal_ranks`; the ideal has min(100, targets) hits.
    7 to 16 times as fast as masks and topk in torch (23 and 358 ms for 400 users, 2,673 targets and 41,000 items, 4.4
    and 31 ms for as many, 12,713 targets and 3,000 items, on one core).
    """
    n_users = scores.shape[0]
    values = np.zeros(n_users)
    finite = np.ones(n_users, np.bool_)
    for user in prange(n_users):
        row = scores[user]
        broken = 0
        for item in range(row.size):
            broken += not np.abs(row[item]) < np.inf
        finite[user] = broken == 0
        found = np.sort(row[wanted[wanted_start[user] : wanted_start[user + 1]]])[::-1]
        gain = 0.0
        for score in found:
            above = 0
            level = 0
            for item in range(row.size):
                above += row[item] > score
                level += row[item] == score
            for entry in range(known_start[user], known_start[user + 1]):
                above -= row[known[entry]] > score
                level -= row[known[entry]] == score
            rank = 0.5 + above + 0.5 * level
            if rank > CUTOFF:
                break  # and so do the targets below
            gain += 1 / np.log2(1 + rank)
        ideal = 0.0
        for place in range(min(CUTOFF, found.size)):
            ideal += 1 / np.log2(2.0 + place)
        if found.size > 0:
            values[user] = gain / ideal
    return values, bool(finite.all())
