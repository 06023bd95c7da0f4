"""Evaluation of a model on held-out users: score, rank and measure in batches of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import HeldOut, Metric, Ranking, Scores
from recscale.errors import DataError, ModelError
from recscale.evaluation.metrics import metric
from recscale.evaluation.ranking import RankOptions, check_scores, rank_with, wait_for

BUFFER_BYTES = 16 << 20
"""Scores of a batch. From 8 to 24 MB the speed is the same (48 CPU-us a user for 20,000 items and 64 factors); below,
the matrix product suffers (55 at 2.6 MB); above 32 MB malloc gives memory back and it is touched anew (54 at 40 MB)."""
LEAST_USERS = 64
"""Of a batch by default: models that read all of their weights for each batch want company. SANSA with 427,147 items
scores 85 users a second by 64, and 11 by the nine that fit into 16 MiB."""
TIE_TOLERANCE = 1e-3
"""The optimistic and the pessimistic MRR may differ by this much before ties are said to matter."""

_MRR_BOUNDS = ("mrr_optimistic", "mrr_pessimistic")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model is worth on held-out users.

    `means` and `standard_errors` (std / sqrt(n)) are those of `per_user`; `catalogue` holds the metrics of all lists
    together. `tied_target_share` is the share of users whose best-placed target has the score of another ranked
    item that is no target. `ties_matter` warns that the MRR if all ties were won and if all were lost differ by
    more than 1e-3.
    """

    n_users: int
    per_user: dict[str, NDArray[np.float32]]  # name -> (n_users,)
    means: dict[str, float]
    standard_errors: dict[str, float]
    catalogue: dict[str, float]
    tied_target_share: float
    mrr_optimistic: float
    mrr_pessimistic: float
    score_seconds: float
    rank_seconds: float  # ranking and metrics

    @property
    def metrics(self) -> dict[str, float]:
        """Return every metric by name, one number each."""
        return self.means | self.catalogue

    @property
    def ties_matter(self) -> bool:
        """Say whether the MRR depends on how ties fall."""
        return self.mrr_optimistic - self.mrr_pessimistic > TIE_TOLERANCE


@dataclass(eq=False)
class _Tally:
    """The results so far."""

    metrics: tuple[Metric, ...]
    shape: tuple[int, int]
    per_user: dict[str, NDArray[np.float32]] = field(init=False)
    counts: dict[int, NDArray[np.int64]] = field(init=False)  # cut-off -> (I,)
    n_tied: int = 0

    def __post_init__(self) -> None:
        n_users, n_items = self.shape
        self.per_user = {m.name: np.empty(n_users, dtype=np.float32) for m in self.metrics if m.per_user}
        self.counts = {m.cutoff: np.zeros(n_items, np.int64) for m in self.metrics if not m.per_user and m.cutoff}

    @property
    def n_listed(self) -> int:
        """The length of the lists that the metrics need, at most the catalogue."""
        return min(max((m.cutoff or 1 for m in self.metrics), default=1), self.shape[1])

    def add(self, start: int, ranking: Ranking) -> None:
        """Enter the users from row `start` on."""
        stop = start + len(ranking.items)
        for m in self.metrics:
            if m.per_user:
                self.per_user[m.name][start:stop] = m.compute(ranking)
        self.n_tied += int(np.count_nonzero(ranking.first_rank_pessimistic > ranking.first_rank_optimistic))
        for cutoff, counts in self.counts.items():
            listed = ranking.items[:, :cutoff]
            np.add.at(counts, listed[listed >= 0], 1)


def evaluate(
    score: Callable[[sp.csr_array], Scores],
    held_out: HeldOut,
    metrics: Sequence[str],
    *,
    buffer_bytes: int | None = None,
    n_threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Return the `metrics` of a model's method `score` (B, I) -> (B, I) on the users of `held_out`.

    A batch has as many users as their scores fit into `buffer_bytes`, and one at least; by default 16 MiB, or what 64
    users take where that is more. Beyond the model's own needs the memory is that of one batch. `progress` is called
    with the users done and their number.
    Raises DataError for a user without a target, ModelError for scores that break the contract, UnknownName and
    UsageError for a metric that does not exist.
    """
    _check_users(held_out)
    shape = (held_out.n_users, int(held_out.history.shape[1]))
    tally = _Tally(tuple(metric(name) for name in dict.fromkeys((*metrics, *_MRR_BOUNDS))), shape)
    if buffer_bytes is None:
        buffer_bytes = max(BUFFER_BYTES, 4 * shape[1] * LEAST_USERS)
    batch_rows = max(1, buffer_bytes // (4 * shape[1]))
    score_seconds = rank_seconds = 0.0
    with _threads(n_threads) as pool:
        options = RankOptions(tally.n_listed, pool=pool, n_threads=n_threads)
        for start in range(0, held_out.n_users, batch_rows):
            rows = slice(start, start + batch_rows)
            batch = HeldOut(held_out.history[rows], held_out.target[rows])
            started = time.perf_counter()
            scores = _checked_scores(score, batch.history)
            scored = time.perf_counter()
            tally.add(start, rank_with(options, scores, batch.history, batch.target))
            del scores  # before the next batch is scored, so that its memory is used again
            score_seconds += scored - started
            rank_seconds += time.perf_counter() - scored
            if progress is not None:
                progress(start + batch.n_users, held_out.n_users)
    return _summary(tally, tuple(metrics), (score_seconds, rank_seconds))


def _check_users(held_out: HeldOut) -> None:
    history, target = held_out.history, held_out.target
    if history.shape != target.shape:
        raise DataError(f"histories of the shape {history.shape} do not go with targets of the shape {target.shape}")
    if held_out.n_users == 0:
        raise DataError("there are no held-out users to evaluate on")
    n_without = int(np.count_nonzero(np.diff(target.indptr) == 0))
    if n_without:
        raise DataError(f"{n_without} of {held_out.n_users} held-out users have no target; drop them from the split")


def _checked_scores(score: Callable[[sp.csr_array], Scores], history: sp.csr_array) -> Scores:
    """Return the scores of a batch, finished on their device. Raises ModelError naming the model."""
    scores = score(history)
    try:
        check_scores(scores, history.shape)
    except ModelError as error:
        owner = getattr(score, "__self__", None)
        raise ModelError(f"{type(owner).__name__}.score: {error}" if owner is not None else str(error)) from None
    wait_for(scores)
    return scores


@contextmanager
def _threads(n_threads: int) -> Iterator[Executor | None]:
    """Yield a pool, or None for one thread. Its threads sleep between batches; those of numba or OpenMP would spin."""
    if n_threads <= 1:
        yield None
        return
    with ThreadPoolExecutor(n_threads, thread_name_prefix="recscale-rank") as pool:
        yield pool


def _summary(tally: _Tally, names: tuple[str, ...], seconds: tuple[float, float]) -> Evaluation:
    n_users = tally.shape[0]
    means = {name: float(values.mean(dtype=np.float64)) for name, values in tally.per_user.items()}
    per_user = {name: tally.per_user[name] for name in names if name in tally.per_user}
    errors = {name: float(values.std(dtype=np.float64)) / n_users**0.5 for name, values in per_user.items()}
    catalogue = {
        m.name: m.compute(tally.counts[m.cutoff]) for m in tally.metrics if not m.per_user and m.cutoff is not None
    }
    return Evaluation(
        n_users=n_users,
        per_user=per_user,
        means={name: means[name] for name in per_user},
        standard_errors=errors,
        catalogue=catalogue,
        tied_target_share=tally.n_tied / n_users,
        mrr_optimistic=means["mrr_optimistic"],
        mrr_pessimistic=means["mrr_pessimistic"],
        score_seconds=seconds[0],
        rank_seconds=seconds[1],
    )
