"""The protocols at work: who is held out, what is known of them, and what has to be found.

The seed of a split is an option of its protocol, `split_seed`, and no other seed reaches it: runs that differ in the
seed of the model share one split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Dataset, HeldOut, Split
from recscale.errors import DataError, UsageError
from recscale.evaluation import _entries
from recscale.evaluation._parts import TEST, TRAIN, VALID, Parts, filled, published, some
from recscale.evaluation._rated import split_liked, split_ratings
from recscale.evaluation.protocols import Fixed, FoldIn, HoldOneOut, ProtocolOptions, Ratings, protocol_text


def split(dataset: Dataset, options: ProtocolOptions) -> Split:
    """Return training rows, validation users and test users of `dataset`, which is filtered already.

    `Split.protocol` is the text of the options, with the target that was taken; `Split.dropped_users` counts the test
    users without a target; the fingerprint is the SHA-256 of all arrays and of that text.
    Raises UsageError for options that this data cannot meet, DataError if no test user has a target.
    """
    parts = _SPLITTERS[type(options)](dataset, options)
    if not parts.test.n_users:
        raise DataError(f"{options.name}: no test user of {dataset.name!r} has an item to be found; filter less")
    result = Split(
        train=parts.train,
        valid=parts.valid,
        test=parts.test,
        protocol=protocol_text(parts.options),
        fingerprint="",
        items=parts.items,
        users=parts.users,
        dropped_users=parts.dropped_users,
    )
    return replace(result, fingerprint=split_fingerprint(result))


def split_fingerprint(result: Split) -> str:
    """Return the SHA-256 of all arrays of a split and of its protocol."""
    arrays: dict[str, Any] = {
        "train": result.train,
        "valid.history": result.valid.history,
        "valid.target": result.valid.target,
        "test.history": result.test.history,
        "test.target": result.test.target,
        "items": result.items,
        "users": result.users,
    }
    arrays |= {
        f"{name}.disliked": part.disliked
        for name, part in (("valid", result.valid), ("test", result.test))
        if part.disliked is not None
    }
    return _entries.fingerprint(arrays, header=f"{result.protocol}\n{result.dropped_users}\n")


@dataclass(frozen=True, eq=False)
class _Held:
    """The interactions of held-out users with items of the vocabulary, user by user."""

    users: NDArray[np.int64]  # (B,) rows of the data set
    place: NDArray[np.int64]  # (n,) place in `users`
    column: NDArray[np.int64]  # (n,) place in the vocabulary
    position: NDArray[np.int64]  # (n,) position in the data set
    n_items: int
    starts: NDArray[np.int64] = field(init=False)  # (B + 1,)

    def __post_init__(self) -> None:
        counts = np.bincount(self.place, minlength=len(self.users))
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def of(cls, dataset: Dataset, users: NDArray[np.int64], items: NDArray[np.int64]) -> _Held:
        """Gather what `users` have of `items`."""
        matrix = dataset.interactions
        place, position = _entries.of_rows(matrix, users)
        column = _entries.lookup(items, matrix.shape[1])[matrix.indices[position]]
        known = column >= 0
        return cls(users, place[known], column[known], position[known], len(items))

    def in_order(self, *keys: NDArray[Any] | None) -> NDArray[np.int64]:
        """Return the entries user by user, ordered by the first key, then the next; then as they are stored."""
        known = [key[self.position] for key in keys if key is not None]
        return np.lexsort((*reversed(known), self.place))

    def parted(self, is_target: NDArray[np.bool_]) -> tuple[HeldOut, NDArray[np.int64]]:
        """Return history and target of the users that have a target, and the rows of these users."""
        has_target = np.bincount(self.place[is_target], minlength=len(self.users)) > 0
        renumbered = np.cumsum(has_target) - 1
        kept = has_target[self.place]
        shape = (int(has_target.sum()), self.n_items)
        history, target = (
            _entries.from_pairs(renumbered[self.place[chosen]], self.column[chosen], shape)
            for chosen in (kept & ~is_target, kept & is_target)
        )
        return HeldOut(history, target), self.users[has_target]


def _fold_in(dataset: Dataset, options: FoldIn) -> Parts:
    """Split as the published code of Liang et al. does, draw for draw, if the ids sort as they do there."""
    if options.liked is not None:
        return split_liked(dataset, options, _fold_in_all)
    return _fold_in_all(dataset, options)


def _fold_in_all(dataset: Dataset, options: FoldIn) -> Parts:
    """Split all interactions."""
    by_id = _rows_by_id(dataset)
    n_heldout = _heldout_count(dataset, options.name, options.n_heldout, most=10_000)
    ranks = np.random.RandomState(options.split_seed).permutation(len(by_id))
    users = by_id[ranks]
    items = _items_by_appearance(dataset, users[: -2 * n_heldout])
    train = _train_rows(dataset, users[: -2 * n_heldout], items)

    def hold_out(part: slice) -> tuple[HeldOut, NDArray[np.int64]]:
        held = _Held.of(dataset, users[part], items)
        return held.parted(_share_of_each(held, dataset.sequence, np.argsort(ranks[part]), options))

    valid, valid_users = hold_out(slice(-2 * n_heldout, -n_heldout))
    test, test_users = hold_out(slice(-n_heldout, None))
    return Parts(options, train, valid, test, items, test_users, valid_users, n_heldout - test.n_users)


def _share_of_each(
    held: _Held, sequence: NDArray[np.int64] | None, ascending: NDArray[np.int64], options: FoldIn
) -> NDArray[np.bool_]:
    """Choose int(test_share * n) entries of each user, in the order and with the generator of the published code.

    One draw of 10 to 20 microseconds a user: half a second for 50,000 users, so a loop will do.
    """
    generator = np.random.RandomState(options.split_seed)
    ordered = held.in_order(sequence)
    is_target = np.zeros(len(ordered), dtype=np.bool_)
    for user in ascending.tolist():
        start, stop = int(held.starts[user]), int(held.starts[user + 1])
        n_items = stop - start
        if n_items >= options.min_items:
            chosen = generator.choice(n_items, size=int(options.test_share * n_items), replace=False)
            is_target[ordered[start + chosen]] = True
    return is_target


def _hold_one_out(dataset: Dataset, options: HoldOneOut) -> Parts:
    """Hold out random users; one item each is the target."""
    if options.target == "recent" and dataset.timestamps is None:
        raise UsageError(f"target='recent' needs times, and {dataset.name!r} has none; use target='random'")
    if options.target == "auto":
        options = replace(options, target="random" if dataset.timestamps is None else "recent")
    n_heldout = _heldout_count(dataset, options.name, options.n_heldout, most=40_000)
    generator = np.random.default_rng(options.split_seed)
    users = _rows_by_id(dataset)[generator.permutation(dataset.interactions.shape[0])]
    train_users = np.sort(users[: -2 * n_heldout])
    items = np.flatnonzero(_entries.count_items(dataset.interactions, _entries_of(dataset, train_users)))
    train = _train_rows(dataset, train_users, items)

    def hold_out(part: slice) -> tuple[HeldOut, NDArray[np.int64]]:
        held = _Held.of(dataset, users[part], items)
        return held.parted(_one_of_each(held, dataset, options, generator))

    valid, valid_users = hold_out(slice(-2 * n_heldout, -n_heldout))
    test, test_users = hold_out(slice(-n_heldout, None))
    return Parts(options, train, valid, test, items, test_users, valid_users, n_heldout - test.n_users)


def _one_of_each(
    held: _Held, dataset: Dataset, options: HoldOneOut, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose one entry of each user that has at least two."""
    counts = np.diff(held.starts)
    if options.target == "recent":
        ordered, offsets = held.in_order(dataset.timestamps, dataset.sequence), counts - 1
    else:
        ordered, offsets = held.in_order(dataset.sequence), generator.integers(0, np.maximum(counts, 1))
    enough = counts >= 2
    is_target = np.zeros(len(held.place), dtype=np.bool_)
    is_target[ordered[held.starts[:-1][enough] + offsets[enough]]] = True
    return is_target


def _fixed(dataset: Dataset, options: Fixed) -> Parts:
    """Take the published parts; the catalogue stays whole, for published figures count what training never saw.

    Users without a training row are no row of `train`, but are scored, with an empty history, if they have a target.
    """
    parts = dataset.parts
    if parts is None:
        raise UsageError(f"fixed: {dataset.name!r} has no published split; use fold-in or hold-one-out")
    unknown = np.setdiff1d(parts, [TRAIN, TEST, VALID])
    if len(unknown):
        raise DataError(f"fixed: {dataset.name!r} has part {unknown[0]}; expected 0 train, 1 test or 2 validation")
    matrix = dataset.interactions
    everyone, items = np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
    train = _entries.select(matrix, parts == TRAIN, everyone, items)
    if not train.nnz:
        raise DataError(f"fixed: {dataset.name!r} has no training rows (part 0)")
    known = train
    if options.mask_validation:
        known = _entries.select(matrix, (parts == TRAIN) | (parts == VALID), everyone, items)
    valid, valid_users = published(train, _entries.select(matrix, parts == VALID, everyone, items))
    test, users = published(known, _entries.select(matrix, parts == TEST, everyone, items))
    dropped = len(everyone) - len(users)
    return Parts(options, some(train, filled(train)), valid, test, items, users, valid_users, dropped)


def _rows_by_id(dataset: Dataset) -> NDArray[np.int64]:
    """Return the rows in ascending order of the users' ids, so that no split depends on the order of a file."""
    ids = dataset.user_ids
    try:
        if np.all(ids[:-1] <= ids[1:]):
            return np.arange(len(ids))
        return np.argsort(ids, kind="stable")
    except TypeError:
        raise DataError(f"the user ids of {dataset.name!r} are of several types and cannot be sorted") from None


def _heldout_count(dataset: Dataset, protocol: str, wanted: int | None, *, most: int) -> int:
    """Return how many users are held out, for the test and again for validation."""
    n_users = dataset.interactions.shape[0]
    n_heldout = max(1, min(n_users // 10, most)) if wanted is None else wanted
    if 2 * n_heldout >= n_users:
        raise UsageError(
            f"{protocol}: n_heldout={n_heldout} holds out {2 * n_heldout} users (test and validation), and "
            f"{dataset.name!r} has {n_users} after its filter; expected at most {max(0, (n_users - 1) // 2)}"
        )
    return n_heldout


def _entries_of(dataset: Dataset, users: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which stored entries are of `users`: (nnz,)."""
    chosen = np.zeros(dataset.interactions.shape[0], dtype=np.bool_)
    chosen[users] = True
    return np.repeat(chosen, np.diff(dataset.interactions.indptr))


def _items_by_appearance(dataset: Dataset, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the items of `users` by where they first appear in the source, or in the matrix if that is not known."""
    matrix, sequence = dataset.interactions, dataset.sequence
    never = np.iinfo(np.int64).max
    first = np.full(matrix.shape[1], never)
    chosen = _entries_of(dataset, users)
    for part in _entries.blocks(matrix.nnz):
        rows = np.arange(part.start, part.stop) if sequence is None else sequence[part]
        np.minimum.at(first, matrix.indices[part][chosen[part]], rows[chosen[part]])
    return np.argsort(first, kind="stable")[: int(np.count_nonzero(first < never))]


def _train_rows(dataset: Dataset, users: NDArray[np.int64], items: NDArray[np.int64]) -> sp.csr_array:
    """Return the rows of training users, in the order given, with the vocabulary as columns."""
    rows = dataset.interactions[users]
    indices, indptr = rows.indices, rows.indptr
    del rows  # its numbers: 140 MB at 35 M interactions, made anew below
    _entries.rename(indices, items, dataset.interactions.shape[1])
    return _entries.binary(indices, indptr, len(items), ordered=bool(np.all(np.diff(items) > 0)))


_SPLITTERS: Mapping[type[ProtocolOptions], Callable[[Dataset, Any], Parts]] = MappingProxyType(
    {FoldIn: _fold_in, HoldOneOut: _hold_one_out, Fixed: _fixed, Ratings: split_ratings}
)
