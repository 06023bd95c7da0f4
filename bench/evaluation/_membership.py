"""Who belongs to which co-cluster, and how many do.

Axes: E entities (users or items), N co-clusters. Affinities are read in blocks of `BLOCK_BYTES`, and those of many
users are computed block by block, so that an array (E, N) of them need not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.errors import DataError, UnknownName

Rule = Literal["positive", "strong", "top1", "top5"]
RULES: tuple[Rule, ...] = get_args(Rule)
BLOCK_BYTES = 64 << 20
_ROUNDING = 1e-6  # an affinity this share below mean + 2 std still reaches it: 0 and 1 with a share of 0.2 sit on it


def blocks(n: int, bytes_each: int) -> Iterator[slice]:
    """Cut range(n) into slices whose entries, of `bytes_each`, fit into a block; one entry at least."""
    step = max(1, BLOCK_BYTES // max(1, bytes_each))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def ratio(part: Any, whole: Any) -> float:
    """Return part / whole, NaN of nothing."""
    return float(part / whole) if whole else float("nan")


def checked_affinity(affinity: Any, entities: str) -> NDArray[np.float32]:
    """Return affinities as an (E, N) float32 array, uncopied if it is one. Raises DataError naming the `entities`."""
    try:
        if sp.issparse(affinity) or np.iscomplexobj(affinity):
            raise TypeError("they are sparse or complex")
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            array = np.asarray(affinity).astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the affinities of {entities} are no dense array of real numbers: {error}") from None
    if array.ndim != 2:
        raise DataError(
            f"the affinities of {entities} have the shape {array.shape}; expected ({entities}, co-clusters)"
        )
    for rows in blocks(len(array), 4 * array.shape[1]):
        if not np.isfinite(array[rows]).all():
            raise DataError(f"the affinities of {entities} hold NaN or infinite numbers; expected finite ones")
    return array


@dataclass(frozen=True, eq=False)
class Computed:
    """Affinities (E, N) that `function` computes from rows of `source` (E, ...), block by block, when they are read."""

    function: Callable[[Any], Any]
    source: Any

    def __len__(self) -> int:
        """E."""
        return int(self.source.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Return the affinities of some entities. Raises DataError."""
        return checked_affinity(self.function(self.source[rows]), "users")


@dataclass(frozen=True, eq=False)
class Membership:
    """Who belongs to which co-cluster: a positive affinity that is at least `least`, which broadcasts to (E, N)."""

    affinity: NDArray[np.float32]  # (E, N)
    least: NDArray[np.float32]  # (1, 1), (1, N) or (E, 1)

    @classmethod
    def under(cls, rule: Rule, affinity: NDArray[np.float32], strong: NDArray[np.float32] | None = None) -> Membership:
        """Return the membership under a rule, `strong` by the thresholds of a census. Raises UnknownName.

        Without thresholds by those of the entities themselves.
        """
        if rule not in RULES:
            raise UnknownName("membership rule", rule, RULES)
        if rule == "positive" or not affinity.size:
            return cls(affinity, np.zeros((1, 1), np.float32))
        if rule == "strong":
            return cls(affinity, Census.of(affinity, affinity.shape[1]).strong if strong is None else strong)
        return cls(affinity, _best(affinity, int(rule[3:])))

    def block(self, rows: slice, columns: slice | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return some rows and columns of the membership, densely."""
        values = self.affinity[rows][:, columns]
        least = self.least[rows] if len(self.least) > 1 else self.least
        belongs: NDArray[np.bool_] = values >= (least[:, columns] if least.shape[1] > 1 else least)
        belongs &= values > 0
        return belongs

    def sizes(self) -> NDArray[np.int64]:
        """Return (N,) the number of entities in each co-cluster."""
        sizes: NDArray[np.int64] = np.count_nonzero(self.block(slice(None), slice(None)), axis=0)
        return sizes


def _best(affinity: NDArray[np.float32], n_best: int) -> NDArray[np.float32]:
    """Return (E, 1) each entity's `n_best`-th largest affinity: those tied with it belong as well."""
    place = max(0, affinity.shape[1] - n_best)
    least = np.empty((len(affinity), 1), np.float32)
    for rows in blocks(len(affinity), 4 * affinity.shape[1]):
        values = affinity[rows]
        least[rows, 0] = values.max(axis=1) if n_best == 1 else np.partition(values, place, axis=1)[:, place]
    return least


@dataclass(frozen=True, eq=False)
class Census:
    """How many entities belong to each co-cluster, under every rule, and how much."""

    n_entities: int
    sizes: Mapping[Rule, NDArray[np.int64]]  # (N,) each
    mass: NDArray[np.float64]  # (N,) the sum of the positive affinities
    strong: NDArray[np.float32]  # (1, N) mean + 2 std over all entities, negative affinities as 0

    @classmethod
    def of(cls, affinity: NDArray[np.float32] | Computed, n_clusters: int) -> Census:
        """Count in two passes over the affinities (E, N). Raises DataError for a block of another width than N."""
        sizes: dict[Rule, NDArray[np.int64]] = {rule: np.zeros(n_clusters, np.int64) for rule in RULES}
        mean, squares, n_seen = np.zeros(n_clusters), np.zeros(n_clusters), 0
        for block in _read(affinity, n_clusters):
            for rule in RULES:
                if rule != "strong":
                    sizes[rule] += Membership.under(rule, block).sizes()
            positive = np.maximum(block, 0).astype(np.float64)
            away = positive.mean(axis=0) - mean
            n_seen += len(block)
            mean += away * (len(block) / n_seen)
            # spreads of two parts are merged as by Chan, Golub and LeVeque 1983
            squares += len(block) * positive.var(axis=0) + away**2 * (len(block) * (n_seen - len(block)) / n_seen)
        strong = (mean + 2 * np.sqrt(squares / max(1, n_seen))) * (1 - _ROUNDING)
        thresholds = strong[None].astype(np.float32)
        for block in _read(affinity, n_clusters):
            sizes["strong"] += Membership.under("strong", block, thresholds).sizes()
        return cls(n_seen, sizes, mean * n_seen, thresholds)

    @property
    def effective_number(self) -> float:
        """exp(entropy) of the co-clusters' shares of all mass: N if all are equal, 1 if one has all, 0 of no mass."""
        return effective_number(self.mass)

    @property
    def positive_share(self) -> float:
        """The share of all affinities that is positive; NaN where there is none."""
        positive = self.sizes["positive"]
        return ratio(positive.sum(), self.n_entities * positive.size)


def _read(affinity: NDArray[np.float32] | Computed, n_clusters: int) -> Iterator[NDArray[np.float32]]:
    for rows in blocks(len(affinity), 16 * n_clusters):
        block = affinity[rows]
        if block.shape != (rows.stop - rows.start, n_clusters):
            raise DataError(
                f"{rows.stop - rows.start} users have affinities of the shape {block.shape}; "
                f"expected {n_clusters} co-clusters, as items have"
            )
        yield block


def effective_number(mass: NDArray[np.float64]) -> float:
    """Return exp(entropy) of the shares of `mass`: N if all are equal, 1 if one has all, 0 if there is no mass."""
    shares = mass[mass > 0] / mass.sum() if mass.any() else np.empty(0)
    return float(np.exp(-(shares * np.log(shares)).sum())) if shares.size else 0.0


def non_degenerate(items: Census, users: Census, min_items: int, min_users: int) -> dict[Rule, NDArray[np.int64]]:
    """Return by rule the co-clusters that have that many members at least."""
    return {rule: np.flatnonzero((items.sizes[rule] >= min_items) & (users.sizes[rule] >= min_users)) for rule in RULES}
