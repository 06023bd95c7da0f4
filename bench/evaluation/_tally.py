"""Metrics user by user, gathered batch by batch, and what they come to in the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recscale.contract import Metric


class Figure(NamedTuple):
    """A metric: its mean, the standard error of that, and for each user a number, whose plain mean is that mean.

    `weights` are how much each user counts in it; None where all count alike.
    """

    mean: float
    standard_error: float
    per_user: NDArray[np.floating[Any]]  # (n_users,)
    weights: NDArray[np.float32] | None = None  # (n_users,)


class _Column(NamedTuple):
    metric: Metric
    values: NDArray[np.float32]  # (n_users,)
    weights: NDArray[np.float64] | None


@dataclass(eq=False)
class Tally:
    """The metrics that have a number for each user."""

    columns: dict[str, _Column]

    @classmethod
    def of(cls, metrics: Sequence[Metric], n_users: int) -> Tally:
        """Make room for so many users."""
        return cls(
            {
                m.name: _Column(m, np.empty(n_users, np.float32), np.empty(n_users) if m.weigh else None)
                for m in metrics
                if m.per_user
            }
        )

    def add(self, rows: slice, judged: Any) -> None:
        """Enter the users in `rows`, of whom `judged` is the Ranking or the Predictions."""
        for column in self.columns.values():
            column.values[rows] = column.metric.compute(judged)
            if column.metric.weigh is not None and column.weights is not None:
                column.weights[rows] = column.metric.weigh(judged)

    def figure(self, name: str) -> Figure:
        """Return what a metric came to.

        With weights w the mean is m = sum w x / sum w, and the number of a user is w x / mean(w), so that whoever
        averages these numbers, or their differences between two models, averages as m does. The standard error is that
        of a ratio of two means, the deviation of w (x - m) / mean(w) over users by the square root of their number:
        users are drawn independently, the ratings of one user are not. A mean of nothing is 0. Weighed numbers are
        float64, so that a division by the weight gives back the user's own value to the last digit of float32.
        """
        values, weights = self.columns[name].values, self.columns[name].weights
        n_users = len(values)
        if weights is None:
            mean = float(values.mean(dtype=np.float64))
            return Figure(mean, float(values.std(dtype=np.float64)) / n_users**0.5, values)
        if not weights.any():
            return Figure(0.0, 0.0, np.zeros_like(weights), weights.astype(np.float32))
        shares = weights / weights.mean()
        mean = float((shares * values).mean())
        error = float((shares * (values - mean)).std()) / n_users**0.5
        return Figure(mean, error, shares * values, weights.astype(np.float32))


def fields_of(figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    """Return the fields of an Evaluation that figures by the name of the metric fill."""
    return {
        "per_user": {name: figure.per_user for name, figure in figures.items()},
        "means": {name: figure.mean for name, figure in figures.items()},
        "standard_errors": {name: figure.standard_error for name, figure in figures.items()},
        "weights": {name: figure.weights for name, figure in figures.items() if figure.weights is not None},
    }
