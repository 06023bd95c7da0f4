"""A small planted data set with a known answer, on which any model can be tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

N_BLOCKS = 4
ITEMS_PER_BLOCK = 20
N_ITEMS = N_BLOCKS * ITEMS_PER_BLOCK + 1  # the last item is one that nobody has
N_TRAIN_USERS = 240
N_HELD_OUT_USERS = 96
N_TARGETS = 2


@dataclass(frozen=True, eq=False)
class Board:
    """Four blocks of users who mostly take items of their own block, popular ones more often.

    The last two training rows have one item and none. In `history` the first row is empty and the second has one
    item; neither of them has targets, and every other row has two of its own block.
    """

    train: sp.csr_array  # (240, 81)
    history: sp.csr_array  # (96, 81)
    target: sp.csr_array  # (96, 81)


def planted_board(seed: int = 0) -> Board:
    """Draw the board of that seed."""
    rng = np.random.default_rng(seed)
    train = [_draw_user(rng, user % N_BLOCKS) for user in range(N_TRAIN_USERS - 2)]
    history, target = [np.empty(0, np.int64), np.zeros(1, np.int64)], [np.empty(0, np.int64)] * 2
    for user in range(2, N_HELD_OUT_USERS):
        block = user % N_BLOCKS
        items = _draw_user(rng, block)
        own = items[items // ITEMS_PER_BLOCK == block]
        wanted = own[-N_TARGETS:]
        history.append(np.setdiff1d(items, wanted))
        target.append(wanted)
    one_item, nothing = np.full(1, ITEMS_PER_BLOCK), np.empty(0, np.int64)
    return Board(_matrix([*train, one_item, nothing]), _matrix(history), _matrix(target))


def placement(scores: NDArray[np.float32], board: Board) -> float:
    """Return the mean share of a user's unknown items that score below a target: 0.5 at random, 1 at best.

    Ties count one half. The error of a random ranking is about 0.29 / sqrt(188) = 0.021.
    """
    shares = []
    for user in range(2, scores.shape[0]):
        unknown = np.ones(scores.shape[1], bool)
        unknown[board.history[[user]].indices] = False
        for item in board.target[[user]].indices:
            others = unknown.copy()
            others[item] = False
            below, same = scores[user, others] < scores[user, item], scores[user, others] == scores[user, item]
            shares.append(below.mean() + 0.5 * same.mean())
    return float(np.mean(shares))


def _draw_user(rng: np.random.Generator, block: int) -> NDArray[np.int64]:
    """Draw 6 to 11 items in random order, at least four of them of the block."""
    popularity = (1.0 + np.arange(ITEMS_PER_BLOCK)) ** -0.7
    n_items = int(rng.integers(6, 12))
    n_own = max(4, int(rng.binomial(n_items, 0.9)))
    own = rng.choice(ITEMS_PER_BLOCK, size=n_own, replace=False, p=popularity / popularity.sum())
    elsewhere = rng.integers(0, N_BLOCKS * ITEMS_PER_BLOCK, size=max(0, n_items - n_own))
    items = np.concatenate([own + block * ITEMS_PER_BLOCK, elsewhere]).astype(np.int64)
    return rng.permutation(np.unique(items))


def _matrix(rows: list[NDArray[np.int64]]) -> sp.csr_array:
    """Return rows of item numbers as a binary (U, I) matrix in canonical form."""
    ordered = [np.sort(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum([row.size for row in ordered])]).astype(np.int32)
    items = np.concatenate(ordered).astype(np.int32)
    return sp.csr_array((np.ones(items.size, np.float32), items, starts), shape=(len(rows), N_ITEMS))
