"""How long one user waits for scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

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
    scores = score(history)
    if getattr(scores, "is_cuda", False):
        sys.modules["torch"].cuda.synchronize(scores.device)
    return time.perf_counter() - started
