"""Numba kernel of the BPR fold-in: the user vector of largest likelihood, all items frozen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled

LARGEST_SCORE = 40.0  # exp(2 * 40) is still a float32


class Frozen(NamedTuple):
    """What the users are fitted against: items and negatives with their bias in the last column, and the schedule."""

    items: NDArray[np.float32]  # (I, D + 1)
    negatives: NDArray[np.int32]  # (M,) ascending, repeats allowed
    regularization: float
    n_steps: int


def fold_in(indptr: NDArray[Any], indices: NDArray[Any], frozen: Frozen) -> NDArray[np.float32]:
    """Return the user vectors (B, D) of the rows of a history; zeros for a row without items or without negatives."""
    users = np.zeros((indptr.size - 1, frozen.items.shape[1] - 1), np.float32)
    starts, items = indptr.astype(np.int64, copy=False), indices.astype(np.int32, copy=False)
    _fold_in(starts, items, frozen, users, min(len(users), 16 * get_num_threads()))
    return users


@compiled(fastmath=True)
def _exponentials(vectors: Any, user: Any, sign: Any, result: Any) -> None:
    """Write exp(sign * (v . u + b)) for each vector with its bias behind it."""
    n_factors = user.size
    for row in range(vectors.shape[0]):
        score = vectors[row, n_factors]
        for factor in range(n_factors):
            score += vectors[row, factor] * user[factor]
        result[row] = np.exp(sign * min(max(score, np.float32(-LARGEST_SCORE)), np.float32(LARGEST_SCORE)))


@compiled(fastmath=True)
def _pair_weights(positive: Any, negative: Any, pull: Any, push: Any) -> None:
    """Sum the weights 1 / (1 + exp(s_p - s_n)) of all pairs: `pull` over the negatives, `push` over the positives."""
    push[:] = 0
    for p in range(positive.size):
        total = np.float32(0)
        for n in range(negative.size):
            weight = np.float32(1) / (np.float32(1) + positive[p] * negative[n])
            total += weight
            push[n] += weight
        pull[p] = total


@compiled(fastmath=True)
def _add_weighted(vectors: Any, weights: Any, sign: Any, total: Any) -> None:
    """Add sign * sum of weight * vector, biases left out."""
    for row in range(vectors.shape[0]):
        weight = sign * weights[row]
        for factor in range(total.size):
            total[factor] += weight * vectors[row, factor]


@compiled(fastmath=True)
def _curvature(positives: Any, negatives: Any, n_factors: Any) -> Any:
    """Return the mean of |v_p - v_n|^2 over all pairs, a quarter of which bounds the curvature of the likelihood."""
    squares, dot = np.float64(0), np.float64(0)
    for factor in range(n_factors):
        p, n = positives[:, factor], negatives[:, factor]
        squares += (p * p).mean() + (n * n).mean()
        dot += p.mean() * n.mean()
    return squares - 2 * dot


@compiled(fastmath=True)
def _climb(positives: Any, negatives: Any, frozen: Any, user: Any) -> None:
    """Climb from the zero vector by `n_steps` accelerated gradient steps."""
    n_factors = user.size
    positive, negative = np.empty(len(positives), np.float32), np.empty(len(negatives), np.float32)
    pull, push = np.empty_like(positive), np.empty_like(negative)
    strength = np.float64(frozen.regularization)
    rate = 1.0 / (strength + 0.25 * _curvature(positives, negatives, n_factors) + 1e-12)
    n_pairs = np.float32(positive.size * negative.size)
    ahead, gradient = user.copy(), np.empty_like(user)
    momentum = 1.0
    for _ in range(frozen.n_steps):
        _exponentials(positives, ahead, np.float32(1), positive)
        _exponentials(negatives, ahead, np.float32(-1), negative)
        _pair_weights(positive, negative, pull, push)
        gradient[:] = 0
        _add_weighted(positives, pull, np.float32(1), gradient)
        _add_weighted(negatives, push, np.float32(-1), gradient)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum * momentum))
        share = np.float32((momentum - 1.0) / following)
        for factor in range(n_factors):
            step = np.float32(rate) * (gradient[factor] / n_pairs - np.float32(strength) * ahead[factor])
            moved = ahead[factor] + step
            ahead[factor] = moved + share * (moved - user[factor])
            user[factor] = moved
        momentum = following


@compiled()
def _without(negatives: Any, history: Any) -> Any:
    """Return the negatives that are not in the history; both ascend."""
    kept = np.empty_like(negatives)
    size, place = 0, 0
    for item in negatives:
        while place < history.size and history[place] < item:
            place += 1
        if place == history.size or history[place] != item:
            kept[size] = item
            size += 1
    return kept[:size]


@compiled(parallel=True)
def _fold_in(indptr: Any, indices: Any, frozen: Any, users: Any, n_strands: Any) -> None:
    # rows are dealt out in turn, so that a run of long histories does not keep one thread busy
    for strand in prange(n_strands):
        for row in range(strand, users.shape[0], n_strands):
            history = indices[indptr[row] : indptr[row + 1]]
            negatives = _without(frozen.negatives, history)
            if history.size > 0 and negatives.size > 0:
                _climb(frozen.items[history], frozen.items[negatives], frozen, users[row])
