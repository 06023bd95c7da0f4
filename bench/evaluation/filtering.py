"""Filters: which interactions count. A filter is part of the identity of a data set and never applied in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale._parameters import build
from recscale.contract import Array, Dataset, Filter
from recscale.errors import DataError, UnknownName, UsageError
from recscale.evaluation import _entries

NAMED_FILTERS: Mapping[str, Filter] = MappingProxyType(
    {
        "none": Filter(),
        "5-core": Filter(min_user_items=5, min_item_users=5, repeat=True),
        "10-core": Filter(min_user_items=10, min_item_users=10, repeat=True),
        "20-core": Filter(min_user_items=20, min_item_users=20, repeat=True),
        # Liang et al. 2018: ratings of at least 4, users of at least 5 (MovieLens, Netflix)
        "liang-ml": Filter(min_rating=4, min_user_items=5),
        # Liang et al. 2018: songs of at least 200 users first, so that some end below (Million Song Dataset)
        "liang-msd": Filter(min_user_items=20, min_item_users=200),
        # Yang et al. 2021: the thresholds that give their MovieLens figures, and those that they print
        "elfm-ml": Filter(min_rating=4, min_user_items=5, min_item_users=5),
        "elfm-text": Filter(min_user_items=10, min_item_users=10),
        "elfm-ml-text": Filter(min_rating=4, min_user_items=10, min_item_users=10),
        "elfm-web": Filter(min_user_items=10, min_item_users=10, drop_top_items=30),
    }
)
_SHOWN_STEPS = 6  # of a repeated filter that leaves nothing; one line has to hold them


def resolve_filter(name: str, overrides: Mapping[str, Any] | None = None) -> Filter:
    """Return the named filter with some of its fields replaced.

    Raises UnknownName for a filter or field that does not exist, UsageError for a value that does not fit.
    """
    if name not in NAMED_FILTERS:
        raise UnknownName("filter", name, NAMED_FILTERS)
    rule: Filter = build(Filter, f"filter {name}", asdict(NAMED_FILTERS[name]) | dict(overrides or {}))
    _check(rule)
    return rule


def apply_filter(dataset: Dataset, rule: Filter) -> Dataset:
    """Return the data set that `rule` leaves, without the users and items that have no interaction left.

    The order of users, items and interactions stays. A data set that loses nothing is returned as it is; otherwise
    the fingerprint is the SHA-256 of the arrays left. Needs one byte for each interaction beyond the result.
    Of `truth`, the arrays whose names start with "user" or "item" are cut along their first axis.
    Raises UsageError for a rule that makes no sense for this data, DataError if nothing is left.
    """
    _check(rule)
    if rule.min_rating is not None and dataset.ratings is None:
        raise UsageError(
            f"min_rating={rule.min_rating:g} needs ratings, and {dataset.name!r} has none; use a filter without it"
        )
    work = _Work(dataset)
    work.run(rule)
    if not work.n_left:
        raise DataError(work.explanation())
    return keep_entries(dataset, work.keep)


def _check(rule: Filter) -> None:
    """Raise UsageError for a filter that makes no sense for any data."""
    for name in ("min_user_items", "min_item_users", "drop_top_items"):
        if getattr(rule, name) < 0:
            raise UsageError(f"filter: {name}={getattr(rule, name)} is negative; expected 0 or more")
    if rule.min_rating is not None and not math.isfinite(rule.min_rating):
        raise UsageError(f"filter: min_rating={rule.min_rating} is no threshold; expected a finite number")
    if rule.order not in ("items-first", "users-first"):
        raise UsageError(f"filter: order={rule.order!r} is unknown; expected 'items-first' or 'users-first'")


class _Work:
    """A filter at work: which entries are still in, and what each step left."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.matrix = dataset.interactions
        self.keep: NDArray[np.bool_] = np.ones(self.matrix.nnz, dtype=np.bool_)
        self.n_left = int(self.matrix.nnz)
        self.steps: list[str] = [f"as read: {self.n_left:,} interactions"]

    def run(self, rule: Filter) -> None:
        """Apply the steps of `rule` in order, until nothing changes if it says so."""
        if rule.min_rating is not None and self.dataset.ratings is not None:
            np.greater_equal(self.dataset.ratings, rule.min_rating, out=self.keep)
            self._note(f"rating >= {rule.min_rating:g}")
        if rule.drop_top_items:
            counts = _entries.count_items(self.matrix, self.keep)
            most_popular_first = np.argsort(-counts, kind="stable")
            self._drop_items(most_popular_first[: rule.drop_top_items])
            self._note(f"without the {rule.drop_top_items} most popular items")
        steps = [self._require_users_of_items, self._require_items_of_users]
        thresholds = [rule.min_item_users, rule.min_user_items]
        turns = list(zip(steps, thresholds, strict=True))
        if rule.order == "users-first":
            turns.reverse()
        while self.n_left:
            before = self.n_left
            for step, threshold in turns:
                if threshold > 1:
                    step(threshold)
            if not rule.repeat or self.n_left == before:
                break

    def explanation(self) -> str:
        """Say what each step left, in one line."""
        shown = self.steps
        if len(shown) > _SHOWN_STEPS:
            shown = [*shown[: _SHOWN_STEPS - 1], f"... {len(shown) - _SHOWN_STEPS} more steps", shown[-1]]
        return f"the filter leaves nothing of {self.dataset.name!r} ({'; '.join(shown)}); lower its thresholds"

    def _require_users_of_items(self, threshold: int) -> None:
        counts = _entries.count_items(self.matrix, self.keep)
        self._drop_items(np.flatnonzero((counts > 0) & (counts < threshold)))
        self._note(f"items with >= {threshold} users")

    def _require_items_of_users(self, threshold: int) -> None:
        counts = _entries.count_users(self.matrix, self.keep)
        drop = (counts > 0) & (counts < threshold)
        lengths = np.diff(self.matrix.indptr)
        if drop.any():
            for rows, entries in _entries.row_blocks(self.matrix.indptr):
                self.keep[entries] &= np.repeat(~drop[rows], lengths[rows])
        self._note(f"users with >= {threshold} items")

    def _drop_items(self, items: NDArray[np.int64]) -> None:
        stays = np.ones(self.matrix.shape[1], dtype=np.bool_)
        stays[items] = False
        if len(items):
            for part in _entries.blocks(self.matrix.nnz):
                self.keep[part] &= stays[self.matrix.indices[part]]

    def _note(self, label: str) -> None:
        self.n_left = int(np.count_nonzero(self.keep))
        self.steps.append(f"{label}: {self.n_left:,}")


def keep_entries(dataset: Dataset, keep: NDArray[np.bool_]) -> Dataset:
    """Return `dataset` with the entries in `keep` alone, and the users and items that they need.

    One that loses nothing is returned as it is; otherwise the fingerprint is the SHA-256 of the arrays left.
    """
    matrix = dataset.interactions
    users = np.flatnonzero(_entries.count_users(matrix, keep))
    items = np.flatnonzero(_entries.count_items(matrix, keep))
    if keep.all() and (len(users), len(items)) == matrix.shape:
        return dataset

    def aligned(array: Any) -> Any:
        return None if array is None else array[keep]

    result = replace(
        dataset,
        interactions=_entries.select(matrix, keep, users, items),
        user_ids=dataset.user_ids[users],
        item_ids=dataset.item_ids[items],
        timestamps=aligned(dataset.timestamps),
        sequence=aligned(dataset.sequence),
        ratings=aligned(dataset.ratings),
        parts=aligned(dataset.parts),
        item_titles=None if dataset.item_titles is None else dataset.item_titles[items],
        truth=_cut_truth(dataset.truth, users, items),
    )
    return replace(result, fingerprint=_fingerprint(result))


def _cut_truth(
    truth: Mapping[str, Array] | None, users: NDArray[np.int64], items: NDArray[np.int64]
) -> Mapping[str, Array] | None:
    """Return the known truth of the users and items left."""
    if truth is None:
        return None
    rows = {"user": users, "item": items}
    return {name: value[rows[name[:4]]] if name[:4] in rows else value for name, value in truth.items()}


def _fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the arrays that a protocol reads."""
    names = ("interactions", "user_ids", "item_ids", "timestamps", "sequence", "ratings", "parts")
    arrays = {name: getattr(dataset, name) for name in names}
    return _entries.fingerprint({name: array for name, array in arrays.items() if array is not None})
