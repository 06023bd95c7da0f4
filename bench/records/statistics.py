"""Is one model better than another: paired statistics over users, from the vectors that the store keeps.

Both models were asked about the same users, so their figures are compared user by user. The p-value is that of the
paired t-test, as in table 3 of the ELFM paper (Yang et al. 2021); figures such as the MRR are far from normal, so the
interval beside it is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13), drawn once for all models. Several
comparisons in one table are corrected together by Holm's method (Holm 1979).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How far one model is above another over the same users; of each figure more is better.

    `difference` is the mean over users, `low` and `high` its 95 % bootstrap interval. `p_value` is of the two-sided
    paired t-test, `adjusted_p_value` after Holm's correction over the family that it was compared in. `effect_size` is
    Cohen's d_z, the difference in standard deviations of the users' own; 0 where no user differs. `wins`, `ties` and
    `losses` count the users for whom the one is better, level, or worse.
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


def paired(
    one: ArrayLike,
    others: Sequence[ArrayLike],
    *,
    higher_is_better: bool = True,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Paired]:
    """Compare the vector (U,) of one model with those of others, as one family.

    A user without a figure (NaN) in either is left out of that comparison. Raises DataError for vectors of different
    lengths or with fewer than two users in common.
    """
    first = _signed(one, higher_is_better)
    differences = []
    for other in others:
        second = _signed(other, higher_is_better)
        if first.shape != second.shape:
            raise DataError(
                f"vectors of {len(first)} and {len(second)} users cannot be paired; they are of other splits"
            )
        difference = first - second
        if np.count_nonzero(np.isfinite(difference)) < 2:
            raise DataError("fewer than two users have a figure from both models; there is nothing to test")
        differences.append(difference)
    if not differences:
        return []
    stacked = np.stack(differences, axis=1)  # (U, K)
    means = bootstrap_means(stacked, n_resamples=n_resamples, seed=seed)  # (R, K)
    tail = 100 * (1 - CONFIDENCE) / 2
    lows, highs = np.nanpercentile(means, (tail, 100 - tail), axis=0)  # (K,) each
    found = [_paired(stacked[:, k], float(lows[k]), float(highs[k])) for k in range(len(differences))]
    adjusted = holm([each.p_value for each in found])
    return [replace(each, adjusted_p_value=p) for each, p in zip(found, adjusted, strict=True)]


def _signed(values: ArrayLike, higher_is_better: bool) -> NDArray[np.float64]:
    vector = np.asarray(values, np.float64).ravel()  # float64: means of 1e5 differences of 1e-3
    return vector if higher_is_better else -vector


def _paired(difference: NDArray[np.float64], low: float, high: float) -> Paired:
    """Return the comparison behind differences (U,), not corrected yet."""
    known = difference[np.isfinite(difference)]
    mean, spread = float(known.mean()), float(known.std(ddof=1))
    p_value = _p_value(known, spread)
    return Paired(
        n_users=len(known),
        difference=mean,
        low=low,
        high=high,
        p_value=p_value,
        adjusted_p_value=p_value,
        effect_size=mean / spread if spread > 0 else 0.0 if mean == 0 else math.copysign(math.inf, mean),
        wins=int(np.count_nonzero(known > 0)),
        ties=int(np.count_nonzero(known == 0)),
        losses=int(np.count_nonzero(known < 0)),
    )


def _p_value(difference: NDArray[np.float64], spread: float) -> float:
    """Return the two-sided p-value of the paired t-test; where no two users differ, 1 for no difference, else 0."""
    if spread == 0:
        return 1.0 if difference[0] == 0 else 0.0
    from scipy.stats import ttest_1samp  # half a second to import, and only reports and comparisons need it

    return float(ttest_1samp(difference, 0.0).pvalue)


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
