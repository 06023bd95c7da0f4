"""Small planted data sets with a known answer, on which any model can be tried."""

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
RATED_SHARE = 0.5  # of all pairs, half of them to be predicted


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


def rating_board(seed: int = 0) -> Board:
    """Draw a board of ratings: integers from 0 to 5, a 0 stored like any other, as many to be predicted as known.

    A rating is the sum of how good the item is, how kind the user, and .8 more within the user's own block, with noise
    of .5. Rows are as on the other board: two training rows with one rating and none, a history without and one of one.
    """
    rng = np.random.default_rng(seed)
    quality, n_users = rng.normal(2.0, 1.0, N_ITEMS), N_TRAIN_USERS + N_HELD_OUT_USERS
    own = np.arange(n_users)[:, None] % N_BLOCKS == np.arange(N_ITEMS) // ITEMS_PER_BLOCK
    exact = quality + rng.normal(0.0, 0.7, n_users)[:, None] + 0.8 * own + rng.normal(0.0, 0.5, (n_users, N_ITEMS))
    ratings = np.clip(np.rint(exact), 0, 5).astype(np.float32)
    kept = rng.random(ratings.shape)
    kept[:, -1] = 1.0
    known, wanted = kept < RATED_SHARE / 2, (kept >= RATED_SHARE / 2) & (kept < RATED_SHARE)
    known[N_TRAIN_USERS - 2 : N_TRAIN_USERS + 2] = False
    wanted[N_TRAIN_USERS : N_TRAIN_USERS + 2] = False
    known[[N_TRAIN_USERS - 2, N_TRAIN_USERS + 1], ITEMS_PER_BLOCK] = True
    held_out = slice(N_TRAIN_USERS, None)
    trained = (known | wanted)[:N_TRAIN_USERS]
    trained[N_TRAIN_USERS - 2 :] = known[N_TRAIN_USERS - 2 : N_TRAIN_USERS]
    return Board(
        _rated(ratings[:N_TRAIN_USERS], trained),
        _rated(ratings[held_out], known[held_out]),
        _rated(ratings[held_out], wanted[held_out]),
    )


def unexplained(scores: NDArray[np.float32], board: Board) -> float:
    """Return the mean squared error of the predicted ratings, as a share of that of the mean training rating."""
    users = np.repeat(np.arange(scores.shape[0]), np.diff(board.target.indptr))
    given = board.target.data.astype(np.float64)
    errors, deviations = scores[users, board.target.indices] - given, board.train.data.mean() - given
    return float((errors @ errors) / (deviations @ deviations))


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


def _rated(ratings: NDArray[np.float32], chosen: NDArray[np.bool_]) -> sp.csr_array:
    """Return the chosen ratings, zeros too, as a (U, I) matrix with sorted indices."""
    starts = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    return sp.csr_array((ratings[chosen], np.nonzero(chosen)[1].astype(np.int32), starts), shape=ratings.shape)


def _matrix(rows: list[NDArray[np.int64]]) -> sp.csr_array:
    """Return rows of item numbers as a binary (U, I) matrix in canonical form."""
    ordered = [np.sort(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum([row.size for row in ordered])]).astype(np.int32)
    items = np.concatenate(ordered).astype(np.int32)
    return sp.csr_array((np.ones(items.size, np.float32), items, starts), shape=(len(rows), N_ITEMS))
