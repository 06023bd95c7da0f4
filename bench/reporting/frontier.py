"""Which configurations are worth having: those that nothing else beats in both cost and score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recscale.errors import UsageError

Point = tuple[float, float]  # (cost, score)


def frontier(points: Sequence[Point], *, lower_cost: bool = True, higher_score: bool = True) -> list[int]:
    """Return the indices of the Pareto-optimal points, from the cheapest to the dearest.

    A point is left out if another one is at least as good in both and better in one, so equal points stand or fall
    together; they come in the order in which they were given. Points with NaN or infinite numbers are never on it.
    """
    found: list[int] = []
    best = -math.inf
    best_cost = math.nan
    for cost, negative_score, index in sorted(_oriented(points, lower_cost, higher_score)):
        if -negative_score > best or (-negative_score == best and cost == best_cost):
            best, best_cost = -negative_score, cost
            found.append(index)
    return found


def smallest_within(
    points: Sequence[Point], share: float, *, lower_cost: bool = True, higher_score: bool = True
) -> int | None:
    """Return the index of the cheapest point whose score is within `share` (0.01 is 1 %) of the best one.

    Of equally cheap points the better one wins, then the first; None if no point has finite numbers.
    Raises UsageError for a share outside of 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"share={share} is not a share; expected a number from 0 to 1, such as 0.01 for 1 %")
    oriented = sorted(_oriented(points, lower_cost, higher_score))
    if not oriented:
        return None
    best = min(negative_score for _, negative_score, _ in oriented)
    bound = best + share * abs(best)
    return next(index for _, negative_score, index in oriented if negative_score <= bound)


def _oriented(points: Sequence[Point], lower_cost: bool, higher_score: bool) -> list[tuple[float, float, int]]:
    """Return (cost, -score, index) such that less is better in both, for the points with finite numbers."""
    return [
        (cost if lower_cost else -cost, -score if higher_score else score, index)
        for index, (cost, score) in enumerate(points)
        if math.isfinite(cost) and math.isfinite(score)
    ]
