"""Co-clusters as sets: which items come first, how often those occur together.

Axes: E entities (users or items), N co-clusters, H held-out users. Beside the arrays of the caller a few blocks of
affinities are held, and never anything (I, I).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import canonical
from recscale.errors import DataError
from recscale.evaluation._membership import Membership, blocks, ratio
from recscale.evaluation._ties import tie_order

N_TOP = 20
_WINDOW = 0.1


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % bootstrap interval; all three NaN where nothing was averaged."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """Return the three numbers, the ends as `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def bootstrap(values: NDArray[np.float64], rng: np.random.Generator, n_resamples: int = 1000) -> Interval:
    """Return the mean of `values` with the 2.5th and 97.5th percentile of the means of resamples.

    The interval of values that are all equal has no width, however few they are.
    """
    if values.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    means = np.empty(n_resamples)
    for part in blocks(n_resamples, 8 * values.size):
        means[part] = values[rng.integers(0, values.size, (part.stop - part.start, values.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))


def pattern(matrix: Any, what: str, shape: tuple[int | None, int]) -> sp.csr_array:
    """Return a matrix as (U, I) ones in float64, whose sums are exact. Raises DataError if the `shape` differs."""
    matrix = canonical(matrix)
    if matrix.shape[1] != shape[1] or shape[0] not in (None, matrix.shape[0]):
        expected = f"({'users' if shape[0] is None else shape[0]}, {shape[1]})"
        raise DataError(f"{what} has the shape {matrix.shape}; with these affinities it must have {expected}")
    return sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)


def top_items(affinity: NDArray[np.float32], columns: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return (len(columns), n) the items of largest affinity of those co-clusters, falling; -1 where none is positive.

    Ties fall as in the ranking: by one fixed random permutation of the items.
    """
    tops = np.full((columns.size, n), -1, np.int64)
    for part in blocks(columns.size, 4 * len(affinity)):
        values = np.ascontiguousarray(affinity[:, columns[part]].T)  # (n_columns, I)
        for row, place in enumerate(range(part.start, part.stop)):
            first = first_items(values[row], n)
            tops[place, : first.size] = first
    return tops


def first_items(values: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Return up to `n` items with the largest positive of the `values` (I,), falling."""
    place = max(0, values.size - n)
    least = np.partition(values, place)[place] if values.size else np.float32(0)
    candidates = np.flatnonzero(values >= least if least > 0 else values > 0)
    order = np.lexsort((tie_order(values.size).rank[candidates], -values[candidates]))
    return candidates[order[:n]]


def jaccard_blocks(one: NDArray[np.int64], other: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Yield the Jaccard indices of the lists of `one` (N1, n) with all of `other` (N2, n), some rows at a time.

    Each list holds at least one item; -1 is no item.
    """
    n_items = 1 + int(max(one.max(initial=0), other.max(initial=0)))
    left, right = _incidence(one, n_items), _incidence(other, n_items).T.tocsr()
    n_left, n_right = (one >= 0).sum(axis=1), (other >= 0).sum(axis=1)
    for rows in blocks(len(one), 24 * len(other)):
        shared = (left[rows] @ right).toarray()
        yield shared / (n_left[rows, None] + n_right - shared)


def _incidence(lists: NDArray[np.int64], n_items: int) -> sp.csr_array:
    owners, places = np.nonzero(lists >= 0)
    ones = np.ones(owners.size)
    return sp.csr_array((ones, (owners, lists[owners, places])), shape=(len(lists), n_items))


def mean_jaccard(lists: NDArray[np.int64]) -> float:
    """Return the mean over all pairs of lists; one with itself, which is 1, is taken out. NaN for fewer than two."""
    total = sum(float(block.sum()) for block in jaccard_blocks(lists, lists)) - len(lists)
    return ratio(total, len(lists) * (len(lists) - 1))


def best_jaccard(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Return the mean of the best Jaccard index of each list with one on the other side, both ways."""
    best_left, best_right = [], np.zeros(len(right))
    for block in jaccard_blocks(left, right):
        best_left.append(block.max(axis=1))
        best_right = np.maximum(best_right, block.max(axis=0))
    return float((np.concatenate(best_left).mean() + best_right.mean()) / 2)


def inside_and_expected(
    items: Membership, users: Membership, columns: NDArray[np.int64], interactions: sp.csr_array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (len(columns),) the interactions inside those co-clusters, and k_u k_i / m summed over their pairs."""
    item_degrees, user_degrees = interactions.sum(axis=0), interactions.sum(axis=1)
    inside, expected = np.zeros(columns.size), np.zeros(columns.size)
    for part in blocks(columns.size, 16 * sum(interactions.shape)):
        item_sets = items.block(slice(None), columns[part]).astype(np.float64)  # (I, n)
        user_sets = users.block(slice(None), columns[part]).astype(np.float64)  # (B, n)
        inside[part] = ((interactions @ item_sets) * user_sets).sum(axis=0)  # (B, I) @ (I, n) -> (B, n)
        expected[part] = (item_degrees @ item_sets) * (user_degrees @ user_sets) / max(1, interactions.nnz)
    return inside, expected


@dataclass(frozen=True, eq=False)
class CoOccurrence:
    """How often items occur together among H held-out users; only pairs that are asked for are counted."""

    by_item: sp.csr_array  # (I, H) ones

    @classmethod
    def of(cls, reference: sp.csr_array) -> CoOccurrence:
        """Take the users' rows (H, I). Raises DataError if there is nothing in them."""
        if not reference.nnz:
            raise DataError("the reference holds no interactions; expected those of held-out users")
        return cls(reference.T.tocsr())

    def counts(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (m, m) the number of users who have both items, and on the diagonal who have the one."""
        rows = self.by_item[items]  # (m, H)
        both: NDArray[np.float64] = (rows @ rows.T).toarray()
        return both

    def npmi(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (m, m) normalised pointwise mutual information (Bouma 2009), -1 to 1; the diagonal has no meaning.

        ln(p_ij / (p_i p_j)) / -ln(p_ij) with p = (count + 1/H) / (H + 1/H); -1 where no user has both, 1 where all do.
        """
        n_users = self.by_item.shape[1]
        both = self.counts(items)
        logs = np.log((both + 1 / n_users) / (n_users + 1 / n_users))
        single = np.diagonal(logs)
        everywhere = both == n_users
        result: NDArray[np.float64] = (logs - single[:, None] - single) / np.where(everywhere, -1.0, -logs)
        result[everywhere] = 1.0
        result[both == 0] = -1.0
        return result

    def cosine(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (m, m) n_ij / sqrt(n_i n_j), 0 to 1; 0 for an item that no user has."""
        both = self.counts(items)
        single = np.sqrt(np.maximum(np.diagonal(both), 1.0))
        result: NDArray[np.float64] = both / (single[:, None] * single)
        return result


def outsiders(values: NDArray[np.float32], n_least: int, soft_rank: int) -> NDArray[np.int64]:
    """Return the items that are not in a co-cluster, given its affinities (I,).

    Those without affinity or, where they are fewer than `n_least`, those beyond the `soft_rank` first items or beyond
    the first half of a smaller catalogue.
    """
    outside = np.flatnonzero(values <= 0)
    if outside.size >= n_least:
        return outside
    depth = min(soft_rank, max(N_TOP, values.size // 2))
    return np.flatnonzero(values < np.partition(values, values.size - depth)[values.size - depth])


@dataclass(frozen=True, eq=False)
class Popularity:
    """How often each item occurs in training, and random items that occur about as often as given ones."""

    counts: NDArray[np.float64]  # (I,)
    bin: NDArray[np.int64]  # (I,) in which bin an item is
    bins: list[NDArray[np.int64]]  # the items of each, as many in every one, of rising popularity

    @classmethod
    def of(cls, popularity: Any, n_items: int, n_bins: int) -> Popularity:
        """Take one count for each item. Raises DataError."""
        try:
            counts = np.asarray(popularity, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"popularity is no array of counts: {error}") from None
        if counts.shape != (n_items,):
            raise DataError(f"popularity has the shape {counts.shape}; expected one count for each of {n_items} items")
        if not np.isfinite(counts).all() or counts.min(initial=0) < 0:
            raise DataError("popularity holds negative numbers, NaN or infinity; expected counts")
        bins = np.array_split(np.lexsort((tie_order(n_items).rank, counts)), min(n_bins, n_items))
        bin_of = np.empty(n_items, np.int64)
        for number, items in enumerate(bins):
            bin_of[items] = number
        return cls(counts, bin_of, bins)

    def matched(self, items: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return as many different items at random, at each place one of the same bin."""
        wanted, drawn = self.bin[items], np.empty_like(items)
        for number in np.unique(wanted):
            places = np.flatnonzero(wanted == number)
            drawn[places] = rng.choice(self.bins[number], places.size, replace=False)
        return drawn

    def question(
        self, inside: NDArray[np.int64], outside: NDArray[np.int64], n_least: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], float]:
        """Return the items inside and behind them an intruder, one of those outside that are about as popular.

        And the share by which they may differ from the mean of those inside: 0.1, or that of the `n_least` nearest. To
        double it until there are enough, in a catalogue with a steep head, lets in almost all items, most of them rare.
        """
        mean = self.counts[inside].mean()
        distance = np.abs(self.counts[outside] - mean) / (mean or 1.0)
        window = max(_WINDOW, float(np.partition(distance, n_least - 1)[n_least - 1]))
        return np.append(inside, rng.choice(outside[distance <= window])), window


def credit(association: NDArray[np.float64]) -> float:
    """Return what picking the item least associated with the others earns, the last of the four being the intruder."""
    sums = association.sum(axis=1) - np.diagonal(association)
    least = sums <= sums.min() + 1e-9  # sums of the same numbers in another order are tied
    return float(least[-1] / np.count_nonzero(least))


def mean_npmi(together: CoOccurrence, items: NDArray[np.int64], cutoffs: tuple[int, ...]) -> list[float]:
    """Return the mean NPMI over pairs of the first k items at each cut-off; NaN where there are fewer."""
    npmi = together.npmi(items)
    return [npmi[np.triu_indices(k, 1)].mean() if items.size >= k else np.nan for k in cutoffs]


def best_f1(found: Membership, truth: sp.csr_array, rng: np.random.Generator | None = None) -> tuple[float, float]:
    """Return the mean best F1 of the rows of `truth` (T, E) and of the found sets, shuffled where `rng` is given."""
    n_true = np.diff(truth.indptr)
    best_true, best_found = np.zeros(truth.shape[0]), [np.zeros(0)]
    for columns in blocks(found.affinity.shape[1], 4 * truth.shape[1] + 16 * truth.shape[0]):
        sets = found.block(slice(None), columns)  # (E, n)
        sets = sets if rng is None else rng.permuted(sets, axis=0)
        sizes = np.count_nonzero(sets, axis=0)
        f1 = 2.0 * (truth @ sets.astype(np.float32)) / (n_true[:, None] + sizes)  # (T, E) @ (E, n) -> (T, n)
        best_true = np.maximum(best_true, f1.max(axis=1))
        best_found.append(f1.max(axis=0)[sizes > 0])
    matches = np.concatenate(best_found)
    return float(best_true.mean()), float(matches.mean()) if matches.size else 0.0
