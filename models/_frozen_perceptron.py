"""Numba kernel of the inference of NeuMF: a user's two vectors are trained, the items and the perceptron frozen.

Every user is trained alone, as in `_frozen_items`, so that the scores depend on nobody else: batches of users in torch
round differently with their size, which 50 steps of Adam made 1e-3 of a score. Imported lazily.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recscale.models._compiled import compiled
from recscale.models._frozen_items import _adam, _logistic, _take, _without


class Perceptron(NamedTuple):
    """What users are trained against, all of it fixed; D numbers enter the product, H the first rectifier."""

    items: NDArray[np.float32]  # (I, D + H): the item's vector times h, and what it adds before the first rectifier
    biases: NDArray[np.float32]  # (I,)
    negatives: NDArray[np.int32]  # (S, M) ascending: items that stand in a step for all that a user does not have
    start: NDArray[np.float32]  # (2 D,) where each user begins
    user_layer: NDArray[np.float32]  # (H, D)
    sizes: NDArray[np.int64]  # (L,) numbers that leave each rectifier; the first is H
    layers: NDArray[np.float32]  # (in, out) and then the biases (out,), from one rectifier to the next, all in a row
    head: NDArray[np.float32]  # of what leaves the last one
    weight: float  # of the negatives
    regularization: float
    rate: float


def train_users(indptr: NDArray[Any], indices: NDArray[Any], frozen: Perceptron) -> NDArray[np.float32]:
    """Return the vectors (B, 2 D) of the rows of a history; `start` for a row without items or without negatives.

    Lowers by Adam, whose rate falls linearly to zero, the mean of softplus(-s_p) over the items p of the row plus
    weight times that of softplus(s_n) over the negatives n plus regularization / 2 |x|^2. There are S steps, against
    the negatives of one row each.
    """
    users = np.tile(frozen.start, (indptr.size - 1, 1))
    starts, items = indptr.astype(np.int64, copy=False), indices.astype(np.int32, copy=False)
    with threadpool_limits(1, "blas"):  # the users are in parallel, not the products
        _train_users(starts, items, frozen, users, min(len(users), 16 * get_num_threads()))
    return users


@compiled()
def _layer(frozen: Any, layer: Any) -> Any:
    """Return the weights (in, out) and biases (out,) between rectifiers `layer` - 1 and `layer`."""
    first = 0
    for before in range(1, layer):
        first += (frozen.sizes[before - 1] + 1) * frozen.sizes[before]
    entering, leaving = frozen.sizes[layer - 1], frozen.sizes[layer]
    last = first + entering * leaving
    return frozen.layers[first:last].reshape((entering, leaving)), frozen.layers[last : last + leaving]


@compiled()
def _part(buffer: Any, n_rows: Any, sizes: Any, layer: Any) -> Any:
    """Return what leaves a rectifier, (n, size), of a buffer for all of them."""
    first = n_rows * sizes[:layer].sum()
    return buffer[first : first + n_rows * sizes[layer]].reshape((n_rows, sizes[layer]))


@compiled(fastmath=True)
def _forward(items: Any, frozen: Any, user: Any, hidden: Any) -> Any:
    """Write what leaves each rectifier; return the scores (n,) without the biases."""
    n_rows, factors = items.shape[0], user.size // 2
    by_user = np.dot(frozen.user_layer, user[factors:])
    first = _part(hidden, n_rows, frozen.sizes, 0)
    scores = np.empty(n_rows, np.float32)
    for row in range(n_rows):
        total = np.float32(0)
        for factor in range(factors):
            total += items[row, factor] * user[factor]
        scores[row] = total
        for unit in range(by_user.size):
            first[row, unit] = max(items[row, factors + unit] + by_user[unit], np.float32(0))
    for layer in range(1, frozen.sizes.size):
        weights, biases = _layer(frozen, layer)
        after = _part(hidden, n_rows, frozen.sizes, layer)
        np.dot(_part(hidden, n_rows, frozen.sizes, layer - 1), weights, after)
        for row in range(n_rows):
            for unit in range(biases.size):
                after[row, unit] = max(after[row, unit] + biases[unit], np.float32(0))
    last = _part(hidden, n_rows, frozen.sizes, frozen.sizes.size - 1)
    scores += np.dot(last, frozen.head)
    return scores


@compiled(fastmath=True)
def _backward(items: Any, frozen: Any, slopes: Any, hidden: Any, gradient: Any) -> None:
    """Add the gradient by the user's vectors to `gradient`, from those by the scores; overwrites `hidden`."""
    n_rows, factors, top = items.shape[0], gradient.size // 2, frozen.sizes.size - 1
    last = _part(hidden, n_rows, frozen.sizes, top)
    for row in range(n_rows):
        for factor in range(factors):
            gradient[factor] += slopes[row] * items[row, factor]
        for unit in range(frozen.head.size):
            last[row, unit] = slopes[row] * frozen.head[unit] if last[row, unit] > 0 else np.float32(0)
    for layer in range(top, 0, -1):
        before = _part(hidden, n_rows, frozen.sizes, layer - 1)
        pulled = np.dot(_part(hidden, n_rows, frozen.sizes, layer), _layer(frozen, layer)[0].T)
        for row in range(n_rows):
            for unit in range(before.shape[1]):
                before[row, unit] = pulled[row, unit] if before[row, unit] > 0 else np.float32(0)
    by_user = np.zeros(frozen.sizes[0], np.float32)
    first = _part(hidden, n_rows, frozen.sizes, 0)
    for row in range(n_rows):
        for unit in range(by_user.size):
            by_user[unit] += first[row, unit]
    gradient[factors:] += np.dot(by_user, frozen.user_layer)


@compiled(fastmath=True)
def _train(liked: Any, frozen: Any, user: Any) -> None:
    """Train one user on the rows `liked` of the items, against those of `negatives` that are not among them."""
    n_steps, most = frozen.negatives.shape
    room = liked.size + most
    items, biases = np.empty((room, frozen.items.shape[1]), np.float32), np.empty(room, np.float32)
    _take(liked, frozen, items, biases)
    hidden, slopes = np.empty(room * frozen.sizes.sum(), np.float32), np.empty(room, np.float32)
    gradient, moments = np.empty_like(user), np.zeros((2, user.size), np.float32)
    for step in range(n_steps):
        others = _without(frozen.negatives[step], liked)
        size = _take(others, frozen, items[liked.size :], biases[liked.size :])
        if size == 0:
            continue
        n_rows, share = liked.size + size, np.float32(1.0 / (liked.size * size))
        scores = _forward(items[:n_rows], frozen, user, hidden) + biases[:n_rows]
        pull, push = slopes[: liked.size], slopes[liked.size : n_rows]
        _logistic(scores[: liked.size], scores[liked.size :], np.float32(frozen.weight), size, (pull, push))
        pull *= -share
        push *= share
        gradient[:] = np.float32(frozen.regularization) * user
        _backward(items[:n_rows], frozen, slopes, hidden, gradient)
        _adam(user, gradient, moments, step + 1, frozen.rate * (1 - step / n_steps))


@compiled(parallel=True)
def _train_users(indptr: Any, indices: Any, frozen: Any, users: Any, n_strands: Any) -> None:
    # rows are dealt out in turn, so that a run of long histories does not keep one thread busy
    for strand in prange(n_strands):
        for row in range(strand, users.shape[0], n_strands):
            history = indices[indptr[row] : indptr[row + 1]]
            if history.size > 0:
                _train(history, frozen, users[row])
