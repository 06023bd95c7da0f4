"""Evaluation of a model on held-out users: score, rank or compare, and measure, in batches of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import HeldOut, Metric, Scores
from recscale.errors import DataError, ModelError, UsageError
from recscale.evaluation._tally import Tally, fields_of
from recscale.evaluation.metrics import metric
from recscale.evaluation.predicting import RatingJudge
from recscale.evaluation.ranking import RankOptions, check_scores, listed_entries, rank_with, wait_for

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

    `means` are those of `per_user`, and of `rmse`, which is the root of one; `standard_errors` are explained by
    `Tally.figure`; `weights` has the metrics in which users count differently, and how much; `catalogue` holds the
    metrics of all lists together. `tied_target_share` is the share of users whose best-placed target has the score of
    another ranked item that is no target. `ties_matter` warns that the MRR if all ties were won and if all were lost
    differ by more than 1e-3. Where nothing was ranked there are no ties: None.
    """

    n_users: int
    per_user: dict[str, NDArray[np.floating[Any]]]  # name -> (n_users,)
    means: dict[str, float]
    standard_errors: dict[str, float]
    catalogue: dict[str, float]
    score_seconds: float
    rank_seconds: float  # ranking and metrics
    weights: dict[str, NDArray[np.float32]]  # name -> (n_users,)
    tied_target_share: float | None = None
    mrr_optimistic: float | None = None
    mrr_pessimistic: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Return every metric by name, one number each."""
        return self.means | self.catalogue

    @property
    def ties_matter(self) -> bool:
        """Say whether the MRR depends on how ties fall."""
        if self.mrr_optimistic is None or self.mrr_pessimistic is None:
            return False
        return self.mrr_optimistic - self.mrr_pessimistic > TIE_TOLERANCE


class _Judge(Protocol):
    """What takes in the scores of all users, batch by batch, and says what they are worth."""

    def take(self, rows: slice, batch: HeldOut, scores: Scores) -> None: ...
    def findings(self) -> dict[str, Any]: ...


class _RankingJudge:
    """Ranks the items for each user by the scores."""

    def __init__(
        self, metrics: Sequence[Metric], shape: tuple[int, int], pool: Executor | None, n_threads: int
    ) -> None:
        n_users, n_items = shape
        self._metrics = metrics
        self._tally = Tally.of([*metrics, *(metric(name) for name in _MRR_BOUNDS)], n_users)
        self._counts = {m.cutoff: np.zeros(n_items, np.int64) for m in metrics if not m.per_user and m.cutoff}
        self._n_tied, self._n_users = 0, n_users
        n_listed = min(max((m.cutoff or 1 for m in metrics), default=1), n_items)
        self._options = RankOptions(n_listed, pool=pool, n_threads=n_threads)

    def take(self, rows: slice, batch: HeldOut, scores: Scores) -> None:
        """Take in the users in `rows`."""
        ranking = rank_with(self._options, scores, batch.history, batch.target)
        if batch.disliked is not None:
            ranking = replace(ranking, disliked=listed_entries(ranking.items, batch.disliked))
        self._tally.add(rows, ranking)
        self._n_tied += int(np.count_nonzero(ranking.first_rank_pessimistic > ranking.first_rank_optimistic))
        for cutoff, counts in self._counts.items():
            listed = ranking.items[:, :cutoff]
            np.add.at(counts, listed[listed >= 0], 1)

    def findings(self) -> dict[str, Any]:
        """Return the fields of an Evaluation."""
        figures = {m.name: self._tally.figure(m.name) for m in self._metrics if m.per_user}
        bounds = {name: self._tally.figure(name).mean for name in _MRR_BOUNDS}
        catalogue = {
            m.name: m.compute(self._counts[m.cutoff]) for m in self._metrics if not m.per_user and m.cutoff is not None
        }
        return {
            **fields_of(figures),
            "catalogue": catalogue,
            "tied_target_share": self._n_tied / self._n_users,
            **bounds,
        }


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

    For metrics of ratings nothing is ranked: the scores at the targets are the predictions, their values the truth.

    A batch has as many users as their scores fit into `buffer_bytes`, and one at least; by default 16 MiB, or what 64
    users take where that is more. Beyond the model's own needs the memory is that of one batch. `progress` is called
    with the users done and their number.
    Raises DataError for a user without a target, ModelError for scores that break the contract, UnknownName and
    UsageError for a metric that does not exist, needs what `held_out` lacks, or is of another kind than the others.
    """
    _check_users(held_out)
    shape = (held_out.n_users, int(held_out.history.shape[1]))
    chosen = tuple(metric(name) for name in dict.fromkeys(metrics))
    if buffer_bytes is None:
        buffer_bytes = max(BUFFER_BYTES, 4 * shape[1] * LEAST_USERS)
    batch_rows = max(1, buffer_bytes // (4 * shape[1]))
    score_seconds = rank_seconds = 0.0
    with _threads(n_threads) as pool:
        judge = _judge(chosen, shape, pool, n_threads)
        for start in range(0, held_out.n_users, batch_rows):
            rows = slice(start, min(start + batch_rows, held_out.n_users))
            batch = held_out.some(rows)
            started = time.perf_counter()
            scores = _checked_scores(score, batch.history)
            scored = time.perf_counter()
            judge.take(rows, batch, scores)
            del scores  # before the next batch is scored, so that its memory is used again
            score_seconds += scored - started
            rank_seconds += time.perf_counter() - scored
            if progress is not None:
                progress(rows.stop, held_out.n_users)
    return Evaluation(
        n_users=held_out.n_users, score_seconds=score_seconds, rank_seconds=rank_seconds, **judge.findings()
    )


def _judge(metrics: Sequence[Metric], shape: tuple[int, int], pool: Executor | None, n_threads: int) -> _Judge:
    """Return what judges by these metrics. Raises UsageError if some are of ranked items and some of ratings."""
    of_ratings = [m.name for m in metrics if m.judges == "ratings"]
    if not of_ratings:
        return _RankingJudge(metrics, shape, pool, n_threads)
    others = [m.name for m in metrics if m.judges != "ratings"]
    if others:
        raise UsageError(f"{of_ratings[0]} is of predicted ratings and {others[0]} of ranked items; ask for one kind")
    return RatingJudge(metrics, metric("mse"), shape[0])


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
