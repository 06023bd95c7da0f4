"""Is one model better than another: paired statistics over users, from the vectors that the store keeps.

Both models were asked about the same users, so their figures are compared user by user. The p-value is that of the
paired t-test, as in table 3 of the ELFM paper (Yang et al. 2021); figures such as the MRR are far from normal, so the
interval beside it is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13), drawn once for all models, with
the percentiles of Hesterberg (2015, The American Statistician, section 3.4), without which it is too narrow for few
users. Several comparisons in one table are corrected together by Holm's method (Holm 1979). All of it is about other
users of the same models as fitted: what another fit would have changed is the spread over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recscale.errors import DataError, UsageError

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
STARS: tuple[tuple[float, str], ...] = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_BLOCK_DRAWS = 2**20  # of users in a block of resamples: 8 MB


@dataclass(frozen=True, eq=False)
class ByUser:
    """A metric by user, and how much each user counts in it.

    With values x and weights w of users, `numbers` (U,) are w x / mean(w), whose plain mean is the metric,
    sum(w x) / sum(w), and `shares` (U,) are w / mean(w): None where all users count alike, and where a record of an
    earlier version does not say.
    """

    numbers: NDArray[np.float64]
    shares: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, numbers: ArrayLike, weights: ArrayLike | None = None) -> ByUser:
        """Return what numbers (U,), and the weights (U,) that are in them, amount to."""
        vector = np.asarray(numbers, np.float64).ravel()  # float64: means of 1e5 differences of 1e-3
        if weights is None:
            return cls(vector)
        shares = np.asarray(weights, np.float64).ravel()
        return cls(vector, shares / shares.mean() if shares.any() else shares)

    @property
    def n_users(self) -> int:
        """How many users there are."""
        return len(self.numbers)

    def mean(self, users: NDArray[np.bool_] | None = None) -> float:
        """Return the metric over all users, or over some (U,); NaN if none of these has a weight or a number."""
        chosen = np.isfinite(self.numbers) if users is None else users & np.isfinite(self.numbers)
        total = np.count_nonzero(chosen) if self.shares is None else self.shares[chosen].sum()
        return float(self.numbers[chosen].sum() / total) if total else math.nan

    def effects(self) -> NDArray[np.float64]:
        """Return m + w (x - m) / mean(w), (U,), for the mean m: the same mean, and its standard error as a ratio.

        To the digits of float32, as numbers without weights are: beyond them equal values of x would differ.
        """
        if self.shares is None:
            return self.numbers
        return _rounded(self.numbers + self.numbers.mean() * (1 - self.shares))

    def values(self) -> NDArray[np.float64]:
        """Return x, (U,), to the digits of float32; NaN for users without a weight."""
        if self.shares is None:
            return self.numbers
        return _rounded(np.divide(self.numbers, self.shares, np.full(self.n_users, np.nan), where=self.shares > 0))


def _rounded(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector.astype(np.float32).astype(np.float64)


def averaged(runs: Sequence[ByUser]) -> ByUser:
    """Return the mean over runs that are of the same users."""
    shares = [run.shares for run in runs if run.shares is not None]
    return ByUser(
        np.mean([run.numbers for run in runs], axis=0),
        np.mean(shares, axis=0) if len(shares) == len(runs) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How far one model is above another over the same users; of each figure more is better.

    `difference` is the mean over users, `low` and `high` its 95 % bootstrap interval. `p_value` is of the two-sided
    paired t-test, `adjusted_p_value` after Holm's correction over the family that it was compared in. `effect_size` is
    Cohen's d_z, the difference in standard deviations of the users' own; 0 where no user differs. `wins`, `ties` and
    `losses` count the users for whom the one is better, level, or worse, of those who have a value from both.
    """

    n_users: int
    difference: float
    low: float
    high: float
    p_value: float
    adjusted_p_value: float
    effect_size: float
    wins: int
    ties: int
    losses: int

    @property
    def stars(self) -> str:
        """The adjusted p-value in the papers' manner: *** below .001, ** below .01, * below .05."""
        return stars(self.adjusted_p_value)


def can_be_paired(one: ByUser, other: ByUser) -> bool:
    """Tell whether two models have figures of at least two users in common, without which nothing can be tested."""
    if one.n_users != other.n_users:
        return False
    difference, _ = _differences(one, other, 1)
    return int(np.count_nonzero(np.isfinite(difference))) > 1


def paired(
    one: ArrayLike | ByUser,
    others: Sequence[ArrayLike | ByUser],
    *,
    higher_is_better: bool = True,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Paired]:
    """Compare the vector (U,) of one model with those of others, as one family.

    A user without a figure (NaN) in either is left out of that comparison. Where users count differently, the test and
    the interval are those of the difference of two weighted means; a user without a weight moves neither.
    Raises DataError for vectors of different lengths or with fewer than two users in common.
    """
    first = _by_user(one)
    differences, own = [], []
    for other in others:
        second = _by_user(other)
        if first.n_users != second.n_users:
            raise DataError(
                f"vectors of {first.n_users} and {second.n_users} users cannot be paired; they are of other splits"
            )
        difference, values = _differences(first, second, 1 if higher_is_better else -1)
        if np.count_nonzero(np.isfinite(difference)) < 2:
            raise DataError("fewer than two users have a figure from both models; there is nothing to test")
        differences.append(difference)
        own.append(values)
    if not differences:
        return []
    stacked = np.stack(differences, axis=1)  # (U, K)
    means = bootstrap_means(stacked, n_resamples=n_resamples, seed=seed)  # (R, K)
    found = [_paired(stacked[:, k], own[k], means[:, k]) for k in range(len(own))]
    adjusted = holm([each.p_value for each in found])
    return [replace(each, adjusted_p_value=p) for each, p in zip(found, adjusted, strict=True)]


def _by_user(values: ArrayLike | ByUser) -> ByUser:
    return values if isinstance(values, ByUser) else ByUser.of(values)


def _differences(one: ByUser, other: ByUser, sign: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much one is above another for each user (U,): in what they add to the means, and in values."""
    if one.shares is None or other.shares is None:  # a record of an earlier version goes by its numbers alone
        difference = sign * (one.numbers - other.numbers)
        return difference, difference
    return sign * (one.effects() - other.effects()), sign * (one.values() - other.values())


def _paired(difference: NDArray[np.float64], own: NDArray[np.float64], means: NDArray[np.float64]) -> Paired:
    """Return the comparison behind differences (U,), not corrected yet, with the `means` (R,) of their resamples.

    The users' `own` differences (U,) are counted.
    """
    known = difference[np.isfinite(difference)]
    mean, spread = float(known.mean()), float(known.std(ddof=1))
    tail = 100 * _tail(len(known))
    low, high = np.nanpercentile(means, (tail, 100 - tail))
    p_value = _p_value(known, spread)
    return Paired(
        n_users=len(known),
        difference=mean,
        low=float(low),
        high=float(high),
        p_value=p_value,
        adjusted_p_value=p_value,
        effect_size=mean / spread if spread > 0 else 0.0 if mean == 0 else math.copysign(math.inf, mean),
        wins=int(np.count_nonzero(own > 0)),
        ties=int(np.count_nonzero(own == 0)),
        losses=int(np.count_nonzero(own < 0)),
    )


def _p_value(difference: NDArray[np.float64], spread: float) -> float:
    """Return the two-sided p-value of the paired t-test; where no two users differ, that of the sign test."""
    if spread == 0:
        return 1.0 if difference[0] == 0 else 2.0 ** (1 - len(difference))
    from scipy.stats import ttest_1samp  # half a second to import, and only reports and comparisons need it

    return float(ttest_1samp(difference, 0.0).pvalue)


def _tail(n_users: int) -> float:
    """Return the share of resamples below an interval: what a t-interval of as many users leaves, .025 for many."""
    from scipy.special import ndtr, stdtrit

    quantile = stdtrit(n_users - 1, (1 + CONFIDENCE) / 2)
    return float(ndtr(-quantile * math.sqrt(n_users / (n_users - 1))))


def bootstrap_means(
    values: NDArray[np.float64], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return the means (R, K) of columns (U, K) over resamples of the users, the same resamples for every column.

    NaN counts for nothing. How often each user is drawn is counted first, so that a block of resamples is one matrix
    product. Raises UsageError for less than one resample.
    """
    if n_resamples < 1:
        raise UsageError(f"n_resamples is {n_resamples}; expected 1 or more")
    n_users = len(values)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    rng = np.random.default_rng(seed)
    n_rows = max(1, min(n_resamples, _BLOCK_DRAWS // n_users))
    means = np.empty((n_resamples, values.shape[1]))
    for start in range(0, n_resamples, n_rows):
        rows = min(n_rows, n_resamples - start)
        drawn = rng.integers(0, n_users, (rows, n_users)) + n_users * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + rows] = (counts @ filled) / (counts @ known)  # (r, U) @ (U, K) -> (r, K)
    return means


def stars(p_value: float) -> str:
    """Return a p-value in the papers' manner: *** below .001, ** below .01, * below .05, else nothing."""
    return next((mark for level, mark in STARS if p_value < level), "")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family after Holm's step-down correction (Holm 1979), in the same order."""
    n = len(p_values)
    adjusted = [0.0] * n
    highest = 0.0
    for place, index in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (n - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True, eq=False)
class Slice:
    """Users whose histories have from `least` to `most` items; `users` (U,) says which ones."""

    least: int
    most: int
    users: NDArray[np.bool_]

    @property
    def n_users(self) -> int:
        """How many users there are in it."""
        return int(np.count_nonzero(self.users))


def activity_slices(history_sizes: ArrayLike, n_slices: int = 4) -> list[Slice]:
    """Cut users into slices of about equal numbers by the sizes (U,) of their histories, the least active first.

    Users of one size are never parted, so there may be fewer slices. Raises UsageError for less than one slice.
    """
    if n_slices < 1:
        raise UsageError(f"n_slices is {n_slices}; expected 1 or more")
    sizes = np.asarray(history_sizes, np.int64).ravel()
    if not len(sizes):
        return []
    # The last size of each slice; that of the last slice is the largest of all.
    ends = np.unique(np.quantile(sizes, np.arange(1, n_slices + 1) / n_slices, method="inverted_cdf"))
    parts = np.searchsorted(ends, sizes)
    found = []
    for part in range(len(ends)):
        users = parts == part
        found.append(Slice(int(sizes[users].min()), int(sizes[users].max()), users))
    return found
