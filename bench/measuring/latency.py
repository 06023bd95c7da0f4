"""How long one user waits for scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from recscale.abilities import Incremental
from recscale.errors import DataError

_WARM_UP_USERS = 10


def single_user_latency(
    score: Callable[[sp.csr_array], Any],
    history: sp.csr_array,
    *,
    n_users: int = 200,
    budget_seconds: float = 5.0,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds that `score` takes for one user of `history` (B, I).

    Up to `n_users` users, drawn by `seed`, are scored one at a time, after up to ten that are not counted. A slow
    model is stopped once `budget_seconds` have passed, half of them at most for warming up; one user is always
    counted. Scores that come back on a GPU are waited for. Raises DataError if there is no user.
    """
    if history.shape[0] == 0:
        raise DataError("no user to time: the history has no rows")
    rows = np.random.default_rng(seed).permutation(history.shape[0])[:n_users]
    started = time.perf_counter()
    for row in rows[:_WARM_UP_USERS]:
        _seconds_of(score, history[[row]])
        if time.perf_counter() - started > budget_seconds / 2:
            break
    seconds = []
    for row in rows:
        seconds.append(_seconds_of(score, history[[row]]))
        if time.perf_counter() - started > budget_seconds:
            break
    return float(np.median(seconds)), float(np.percentile(seconds, 99))


def _seconds_of(score: Callable[[sp.csr_array], Any], history: sp.csr_array) -> float:
    """Return the seconds of one call, until its result could be read."""
    started = time.perf_counter()
    _wait_for(score(history))
    return time.perf_counter() - started


def _wait_for(scores: Any) -> None:
    """Wait until scores could be read, where they come on a GPU."""
    if getattr(scores, "is_cuda", False):
        sys.modules["torch"].cuda.synchronize(scores.device)


def update_latency(
    model: Incremental, history: sp.csr_array, *, n_users: int = 200, budget_seconds: float = 5.0, seed: int = 0
) -> tuple[float, float, float]:
    """Return what one more item of a user costs a model that keeps a state: median, 99th percentile, and the state's.

    The seconds are those from the new item to the new scores of all items; the last figure is the median of the update
    of the state within them. Up to `n_users` users of `history` (B, I), drawn by `seed`, each have one item at random
    added to the others, after ten that are not counted; it stops once `budget_seconds` have passed.
    Raises DataError if there is no user with an item.
    """
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.flatnonzero(np.diff(history.indptr)))[:n_users]
    if not users.size:
        raise DataError("no user to time: no history holds an item")
    started = time.perf_counter()
    whole, states = [], []
    for user in [*users[:_WARM_UP_USERS], *users]:
        row = history[[user]]
        item = rng.choice(row.indices)
        state = model.remove(model.user_state(row), np.array([item]))
        scores = model.score_state(state)
        _wait_for(scores)
        begun = time.perf_counter()
        state = model.add(state, np.array([item]))
        _wait_for(scores)  # for the device where they lie, which the state shares
        states.append(time.perf_counter() - begun)
        _wait_for(model.score_state(state))
        whole.append(time.perf_counter() - begun)
        if len(whole) > min(_WARM_UP_USERS, users.size) and time.perf_counter() - started > budget_seconds:
            break
    warm_up = min(_WARM_UP_USERS, users.size)
    whole, states = whole[warm_up:], states[warm_up:]
    return float(np.median(whole)), float(np.percentile(whole, 99)), float(np.median(states))
