"""Power laws: a straight line through logarithms, how sure it is, what it predicts, and where it meets a limit.

log y = a + b log x is fitted by least squares; b is the exponent. Its interval and that of what a further run would
need are those of the t-distribution (Draper and Smith 1998, sections 1.4 and 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from recscale.errors import DataError

CONFIDENCE = 0.95
SIZES_FOR_AN_INTERVAL = 3
HORIZON = 1_000.0  # times the largest size: beyond it nothing is predicted
_LARGEST_LOG = 700.0  # e to this is a number yet


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A straight line through logarithms: y = exp(height) (x / exp(centre))^exponent.

    `spread` is the sum of squares of log x around its mean `centre`; `scatter` the standard deviation of log y around
    the line on `degrees` degrees of freedom, which are 0 for fewer than three different sizes.
    """

    exponent: float
    centre: float
    height: float
    spread: float
    scatter: float
    n: int
    degrees: int

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the exponent; None for too few sizes."""
        if not self.degrees:
            return None
        half = self._quantile() * self.scatter / math.sqrt(self.spread)
        return self.exponent - half, self.exponent + half

    def at(self, x: float, side: int = 0) -> float:
        """Return y at x: that of the line, or the lower (-1) or upper (1) end of the 95 % prediction interval."""
        distance = math.log(x) - self.centre
        value = self.height + self.exponent * distance
        if side:
            value += side * self._quantile() * self.scatter * math.sqrt(1 + 1 / self.n + distance**2 / self.spread)
        return math.exp(min(value, _LARGEST_LOG))

    def _quantile(self) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, (1 + CONFIDENCE) / 2))


def power_law(xs: ArrayLike, ys: ArrayLike) -> PowerLaw:
    """Fit a power law to positive numbers. Raises DataError for fewer than two different x.

    Several y of one x, such as those of seeds, are one point, their geometric mean: what keeps a size off the line
    keeps all runs of that size off it, so that runs are not independent points.
    """
    u, place = np.unique(np.log(np.asarray(xs, np.float64)), return_inverse=True)
    v = np.bincount(place, np.log(np.asarray(ys, np.float64))) / np.bincount(place)
    n_sizes = len(u)
    if n_sizes < 2:
        raise DataError(f"a power law needs two different sizes at least, not {n_sizes}")
    centre, height = float(u.mean()), float(v.mean())
    spread = float(np.sum((u - centre) ** 2))
    exponent = float(np.sum((u - centre) * (v - height))) / spread
    degrees = n_sizes - 2 if n_sizes >= SIZES_FOR_AN_INTERVAL else 0
    rest = v - height - exponent * (u - centre)
    scatter = math.sqrt(float(rest @ rest) / degrees) if degrees else math.nan
    return PowerLaw(
        exponent=exponent, centre=centre, height=height, spread=spread, scatter=scatter, n=n_sizes, degrees=degrees
    )


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """At which size a model leaves its limit, with a 95 % interval; None: beyond 1,000 times the largest size.

    It is never put below the largest size that finished, nor beyond the size that was seen to run out, which is
    `ran_out_at` where the law alone would have put it higher. `has_interval` is false for too few sizes.
    """

    limit: float
    at: float | None
    low: float | None = None
    high: float | None = None
    has_interval: bool = False
    ran_out_at: float | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What the law of all smaller sizes says of the largest one, and what was measured there (a mean over seeds)."""

    at: float
    measured: float
    predicted: float
    ratio: float  # measured / predicted
    low: float | None = None
    high: float | None = None


def leaves(
    law: PowerLaw, limit: float, base: tuple[float, float], largest: float, ran_out_at: float | None = None
) -> Break:
    """Return where a law, and what the process holds beside it (at 0, and for each unit of size), meet a limit.

    From the size `largest`, which finished, to `ran_out_at`, which did not, if there was one.
    """
    middle, low, high = (
        _crossing(lambda x, side=side: law.at(x, side) + base[0] + base[1] * x, limit, largest)  # type: ignore[misc]
        for side in ((0, 1, -1) if law.degrees else (0, 0, 0))
    )
    at = middle
    if ran_out_at is not None:
        at, low, high = (min(x or math.inf, ran_out_at) for x in (middle, low, high))
    seen = ran_out_at if at != middle else None
    if not law.degrees:
        return Break(limit=limit, at=at, ran_out_at=seen)
    return Break(limit=limit, at=at, low=low, high=high, has_interval=True, ran_out_at=seen)


def _crossing(curve: Callable[[float], float], limit: float, start: float) -> float | None:
    """Return where a curve first is at a limit, from `start` on; None if it is below it at the horizon."""
    from scipy.optimize import brentq

    def above(log_x: float) -> float:
        return math.log(curve(math.exp(log_x))) - math.log(limit)

    first, last = math.log(start), math.log(start * HORIZON)
    if above(first) >= 0:
        return start
    if above(last) < 0:
        return None
    return math.exp(float(brentq(above, first, last)))


def base_line(xs: Sequence[float], bases: Sequence[float]) -> tuple[float, float]:
    """Return the straight line of what the process holds before: libraries, and the data, which grow with x."""
    slope, constant = np.polyfit(xs, bases, 1)
    return (float(constant), float(slope)) if slope > 0 else (float(np.mean(bases)), 0.0)


def prediction(xs: Sequence[float], ys: Sequence[float]) -> Prediction | None:
    """Return what the smaller sizes say of the largest one; None where they are fewer than two."""
    largest = max(xs)
    smaller = [(x, y) for x, y in zip(xs, ys, strict=True) if x < largest]
    if len({x for x, _ in smaller}) < 2:
        return None
    law = power_law(*zip(*smaller, strict=True))
    measured = math.exp(float(np.mean([math.log(y) for x, y in zip(xs, ys, strict=True) if x == largest])))
    predicted = law.at(largest)
    return Prediction(
        at=largest,
        measured=measured,
        predicted=predicted,
        ratio=measured / predicted,
        low=law.at(largest, -1) if law.degrees else None,
        high=law.at(largest, 1) if law.degrees else None,
    )
