"""Numba kernel of the inference of models that score by x . y_i + b_i: a user's vector is trained, the items frozen.

Every user is trained alone, on the whole history and in each step against the same other items as everybody, so that
the scores depend on nobody else. Imported lazily.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from recscale.models._compiled import compiled

Objective: TypeAlias = Literal["logistic pairs", "hinge pairs", "logistic", "ranked hinge"]
OBJECTIVES: dict[Objective, int] = {"logistic pairs": 0, "hinge pairs": 1, "logistic": 2, "ranked hinge": 3}
LARGEST_SCORE = 40.0  # exp(2 * 40) is still a float32
DECAYS = (0.9, 0.999)  # of Adam's means
LEAST = 1e-8  # added to the square root in Adam
UNBOUNDED = 1e30  # infinity does not exist under fastmath


class Frozen(NamedTuple):
    """What users are trained against, all of it fixed."""

    items: NDArray[np.float32]  # (I, D)
    biases: NDArray[np.float32]  # (I,)
    negatives: NDArray[np.int32]  # (S, M) ascending: items that stand in a step for all that a user does not have
    pool: NDArray[np.float32]  # (S, M, D) their vectors: in a row they are read twice as fast
    pool_biases: NDArray[np.float32]  # (S, M)
    start: NDArray[np.float32]  # (D,) where each user begins
    objective: int
    weight: float  # of the negatives in `logistic`, the gap to be reached in the hinges
    n_nearest: int  # negatives that the nearest is looked for among, in `ranked hinge`
    regularization: float
    rate: float
    radius: float  # of the ball that a vector is kept in; UNBOUNDED for none


def train_users(indptr: NDArray[Any], indices: NDArray[Any], frozen: Frozen) -> NDArray[np.float32]:
    """Return the vectors (B, D) of the rows of a history; `start` for a row without items or without negatives.

    Lowers by Adam, whose rate falls linearly to zero, the mean over the items p of the row and the negatives n of
    softplus(s_n - s_p), of max(0, weight - s_p + s_n), or of softplus(-s_p) + weight softplus(s_n); or over p of the
    largest such hinge among about `n_nearest` of the n, times ln(1 + I share of those above 0). Each plus
    regularization / 2 |x|^2. There are S steps, against the negatives of one row each.
    """
    users = np.tile(frozen.start, (indptr.size - 1, 1))
    starts, items = indptr.astype(np.int64, copy=False), indices.astype(np.int32, copy=False)
    _train_users(starts, items, frozen, users, min(len(users), 16 * get_num_threads()))
    return users


@compiled(fastmath=True)
def _scores(vectors: Any, biases: Any, user: Any, result: Any) -> None:
    for row in range(vectors.shape[0]):
        score = biases[row]
        for factor in range(user.size):
            score += vectors[row, factor] * user[factor]
        result[row] = min(max(score, np.float32(-LARGEST_SCORE)), np.float32(LARGEST_SCORE))


@compiled(fastmath=True)
def _logistic_pairs(positive: Any, negative: Any, weights: Any) -> None:
    """Sum the weights 1 / (1 + exp(s_p - s_n)) of all pairs: `pull` over the negatives, `push` over the positives."""
    pull, push = weights
    for n in range(negative.size):
        negative[n] = np.exp(-negative[n])
    push[:] = 0
    for p in range(positive.size):
        total, own = np.float32(0), np.exp(positive[p])
        for n in range(negative.size):
            weight = np.float32(1) / (np.float32(1) + own * negative[n])
            total += weight
            push[n] += weight
        pull[p] = total


@compiled(fastmath=True)
def _hinge_pairs(positive: Any, negative: Any, gap: Any, weights: Any) -> None:
    """Count the pairs that are less than the gap apart, by positive and by negative."""
    pull, push = weights
    push[:] = 0
    for p in range(positive.size):
        total, bound = np.float32(0), positive[p] - gap
        for n in range(negative.size):
            near = np.float32(negative[n] > bound)
            total += near
            push[n] += near
        pull[p] = total


@compiled(fastmath=True)
def _ranked_hinge(positive: Any, negative: Any, frozen: Any, n_others: Any, weights: Any) -> None:
    """Weigh of each positive the nearest of each group of negatives, by its rank; as if it stood for the group.

    Of G groups each has every G-th negative: about as many as an entry has in training. One group of all of them draws
    users to other items than training does: Recall@20 of 2,000 users of the published split of gowalla .155, now .166.
    """
    pull, push = weights
    pull[:], push[:] = 0, 0
    n_groups = max(1, round(n_others / frozen.n_nearest))
    for p in range(positive.size):
        bound = positive[p] - np.float32(frozen.weight)
        for group in range(n_groups):
            n_near, n_all, nearest = 0, 0, group
            for n in range(group, negative.size, n_groups):
                n_all += negative[n] > -LARGEST_SCORE
                n_near += negative[n] > bound
                if negative[n] > negative[nearest]:
                    nearest = n
            weight = np.float32(np.log(1 + frozen.items.shape[0] * n_near / max(1, n_all)) * n_others / n_groups)
            pull[p] += weight
            push[nearest] += weight


@compiled(fastmath=True)
def _logistic(positive: Any, negative: Any, weight: Any, n_others: Any, weights: Any) -> None:
    """Write the pull of each positive and the push of each negative, as if each met every one of the others."""
    pull, push = weights
    for p in range(positive.size):
        pull[p] = np.float32(n_others) / (np.float32(1) + np.exp(positive[p]))
    for n in range(negative.size):
        push[n] = weight * np.float32(positive.size) / (np.float32(1) + np.exp(-negative[n]))


@compiled(fastmath=True)
def _add_weighted(vectors: Any, weights: Any, sign: Any, total: Any) -> None:
    """Add sign * sum of weight * vector."""
    for row in range(vectors.shape[0]):
        weight = sign * weights[row]
        for factor in range(total.size):
            total[factor] += weight * vectors[row, factor]


@compiled(fastmath=True)
def _adam(user: Any, gradient: Any, moments: Any, step: Any, rate: Any) -> None:
    first, second = np.float32(DECAYS[0]), np.float32(DECAYS[1])
    scale = np.float32(1 / (1 - DECAYS[1] ** step))
    rate = np.float32(rate / (1 - DECAYS[0] ** step))
    for factor in range(user.size):
        slope = gradient[factor]
        moments[0, factor] = first * moments[0, factor] + (np.float32(1) - first) * slope
        moments[1, factor] = second * moments[1, factor] + (np.float32(1) - second) * slope * slope
        user[factor] -= rate * moments[0, factor] / (np.sqrt(moments[1, factor] * scale) + np.float32(LEAST))


@compiled(fastmath=True)
def _train(liked: Any, frozen: Any, user: Any) -> None:
    """Train one user on the rows `liked` of the items, against those of `negatives` that are not among them."""
    n_steps, n_drawn = frozen.negatives.shape
    positives, offsets, positive = frozen.items[liked], frozen.biases[liked], np.empty(liked.size, np.float32)
    negative, weights = np.empty(n_drawn, np.float32), (np.empty_like(positive), np.empty(n_drawn, np.float32))
    gradient, moments = np.empty_like(user), np.zeros((2, user.size), np.float32)
    strength, weight = np.float32(frozen.regularization), np.float32(frozen.weight)
    for step in range(n_steps):
        _scores(positives, offsets, user, positive)
        _scores(frozen.pool[step], frozen.pool_biases[step], user, negative)
        n_others = n_drawn - _sink_known(frozen.negatives[step], liked, negative)
        if n_others == 0:  # but for tiny catalogues these are users who have all there is, in every step
            continue
        if frozen.objective == 0:
            _logistic_pairs(positive, negative, weights)
        elif frozen.objective == 1:
            _hinge_pairs(positive, negative, weight, weights)
        elif frozen.objective == 3:
            _ranked_hinge(positive, negative, frozen, n_others, weights)
        else:
            _logistic(positive, negative, weight, n_others, weights)
        gradient[:] = 0
        share = np.float32(1.0 / (liked.size * n_others))
        _add_weighted(positives, weights[0], -share, gradient)
        _add_weighted(frozen.pool[step], weights[1], share, gradient)
        for factor in range(user.size):
            gradient[factor] += strength * user[factor]
        _adam(user, gradient, moments, step + 1, frozen.rate * (1 - step / n_steps))
        length = np.sqrt((user * user).sum())
        if length > frozen.radius:
            user *= np.float32(frozen.radius / length)


@compiled()
def _sink_known(negatives: Any, history: Any, scores: Any) -> Any:
    """Give negatives that are in the history the least score there is; return their number; both ascend."""
    place, n_known = 0, 0
    for row in range(negatives.size):
        while place < history.size and history[place] < negatives[row]:
            place += 1
        if place < history.size and history[place] == negatives[row]:
            scores[row] = -LARGEST_SCORE
            n_known += 1
    return n_known


@compiled()
def _take(others: Any, frozen: Any, vectors: Any, offsets: Any) -> Any:
    """Copy the vectors and biases of some items to the first rows; return how many there are."""
    for row in range(others.size):
        vectors[row] = frozen.items[others[row]]
        offsets[row] = frozen.biases[others[row]]
    return others.size


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
def _train_users(indptr: Any, indices: Any, frozen: Any, users: Any, n_strands: Any) -> None:
    # rows are dealt out in turn, so that a run of long histories does not keep one thread busy
    for strand in prange(n_strands):
        for row in range(strand, users.shape[0], n_strands):
            history = indices[indptr[row] : indptr[row + 1]]
            if history.size > 0:
                _train(history, frozen, users[row])
