"""Predicted ratings beside those that were given, and the errors between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.contract import HeldOut, Metric, Scores
from recscale.errors import ModelError
from recscale.evaluation._tally import Tally, fields_of
from recscale.evaluation.ranking import scores_at

_SQUARES = "mse"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Ratings of B users, n in all, user by user: what a model predicts, and what they gave. Each user has one."""

    predicted: NDArray[np.float32]  # (n,)
    given: NDArray[np.float32]  # (n,)
    starts: NDArray[np.integer[Any]]  # (B + 1,) where the ratings of each user begin, and their number

    @property
    def errors(self) -> NDArray[np.float64]:
        """Return predicted less given, (n,)."""
        return self.predicted.astype(np.float64) - self.given

    def counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each user, (B,)."""
        return np.diff(self.starts).astype(np.int64)

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of the values (n,) over the ratings of each user, (B,)."""
        sums: NDArray[np.float64] = np.add.reduceat(values, self.starts[:-1])
        return sums / self.counts()


def predictions(scores: Scores, batch: HeldOut) -> Predictions:
    """Return the scores (B, I) where a batch of users has its targets. Raises ModelError for one that is not finite."""
    predicted = scores_at(scores, batch.target)
    n_odd = int(np.count_nonzero(~np.isfinite(predicted)))
    if n_odd:
        raise ModelError(f"{n_odd} of {len(predicted)} predicted ratings are NaN or infinite")
    return Predictions(predicted, batch.target.data, batch.target.indptr)


class RatingJudge:
    """Takes in the scores of all users, batch by batch, and says what the predictions are worth."""

    def __init__(self, metrics: Sequence[Metric], squares: Metric, n_users: int) -> None:
        self._metrics = metrics
        self._tally = Tally.of([*(m for m in metrics if m.name != squares.name), squares], n_users)

    def take(self, rows: slice, batch: HeldOut, scores: Scores) -> None:
        """Take in the users in `rows`."""
        self._tally.add(rows, predictions(scores, batch))

    def findings(self) -> dict[str, Any]:
        """Return the fields of an Evaluation.

        The root of the mean square has no vector of its own; its standard error is that of the square by the
        derivative of the root.
        """
        fields = fields_of({m.name: self._tally.figure(m.name) for m in self._metrics if m.per_user})
        squares = self._tally.figure(_SQUARES)
        means, errors = fields["means"], fields["standard_errors"]
        for m in self._metrics:
            if not m.per_user:
                means[m.name] = float(m.compute(squares.mean))
                errors[m.name] = squares.standard_error / (2 * math.sqrt(squares.mean)) if squares.mean else 0.0
        return {**fields, "means": {m.name: means[m.name] for m in self._metrics}, "catalogue": {}}
