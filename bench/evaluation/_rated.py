"""The splits that read ratings: `ratings`, and `fold-in` where low ratings are no interactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Dataset, Filter, HeldOut
from recscale.errors import DataError, UsageError
from recscale.evaluation import _entries
from recscale.evaluation._parts import TEST, TRAIN, VALID, Parts, published
from recscale.evaluation.filtering import apply_filter
from recscale.evaluation.protocols import FoldIn, Ratings


def split_ratings(dataset: Dataset, options: Ratings) -> Parts:
    """Part the ratings at random; users and items stay whole, and so does what nobody is left to have rated.

    Values are those of the data, and a rating of 0 is a stored entry like any other. The history of a test user is the
    user's training row, which is empty where chance took all ratings.
    """
    ratings = _ratings_of(dataset, "the protocol ratings")
    matrix = dataset.interactions
    n_test, n_valid = (round(share * matrix.nnz) for share in (options.test_share, options.valid_share))
    order = np.random.default_rng(options.split_seed).permutation(matrix.nnz)
    parts = np.full(matrix.nnz, TRAIN, dtype=np.int8)
    parts[order[:n_test]] = TEST
    parts[order[n_test : n_test + n_valid]] = VALID
    train, test_ratings, valid_ratings = (_chosen(matrix, ratings, parts == part) for part in (TRAIN, TEST, VALID))
    if not train.nnz:
        raise DataError(f"ratings: {matrix.nnz} ratings of {dataset.name!r} leave none to train on")
    test, users = published(train, test_ratings)
    valid, valid_users = published(train, valid_ratings)
    everything = np.arange(matrix.shape[1])
    return Parts(options, train, valid, test, everything, users, valid_users, matrix.shape[0] - len(users))


def split_liked(dataset: Dataset, options: FoldIn, split: Callable[[Dataset, FoldIn], Parts]) -> Parts:
    """Split the ratings of at least `options.liked` as if there were no others, and add others of held-out users.

    Users and items without a rating so high are gone, as after the filter `min_rating`. Of the lower ratings each is
    kept with the probability `test_share`, as large a share as is to be found of the others: the 94 test users of
    ml-100k gave 4,986 ratings of 4 or 5 and 4,660 lower ones, of which 963 and 869 are judged; not 963 and 4,660.
    """
    least = options.liked or 0.0
    ratings = _ratings_of(dataset, f"liked={least:g}")
    low = ratings < least
    if not low.any():
        raise UsageError(
            f"fold-in: no rating of {dataset.name!r} is below liked={least:g}, so nothing is disliked; take a higher"
            " value, or filter=none if a filter has dropped them"
        )
    kept = apply_filter(dataset, Filter(min_rating=least))
    drawn = low & (np.random.default_rng(options.split_seed).random(len(low)) < options.test_share)
    users, items = (
        np.flatnonzero(count(dataset.interactions, ~low)) for count in (_entries.count_users, _entries.count_items)
    )
    parts = split(kept, options)
    columns = items[parts.items]

    def with_disliked(held_out: HeldOut, rows: NDArray[np.int64]) -> HeldOut:
        return replace(held_out, disliked=_found(dataset.interactions, drawn, rows, columns))

    return replace(
        parts,
        valid=with_disliked(parts.valid, users[parts.valid_users]),
        test=with_disliked(parts.test, users[parts.users]),
        items=columns,
        users=users[parts.users],
        valid_users=users[parts.valid_users],
    )


def _ratings_of(dataset: Dataset, asked: str) -> NDArray[np.float32]:
    """Return the ratings of a data set. Raises UsageError if it has none, DataError if some are no numbers."""
    if dataset.ratings is None:
        raise UsageError(f"{asked} needs ratings, and {dataset.name!r} has none; take a data set that has")
    n_odd = int(np.count_nonzero(~np.isfinite(dataset.ratings)))
    if n_odd:
        raise DataError(f"{n_odd} of {len(dataset.ratings)} ratings of {dataset.name!r} are NaN or infinite")
    return dataset.ratings


def _chosen(matrix: sp.csr_array, ratings: NDArray[np.float32], keep: NDArray[np.bool_]) -> sp.csr_array:
    """Return the ratings in `keep` as a matrix of all users and items."""
    result = _entries.select(matrix, keep, np.arange(matrix.shape[0]), np.arange(matrix.shape[1]))
    result.data = ratings[keep].astype(np.float32)
    return result


def _found(
    matrix: sp.csr_array, keep: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> sp.csr_array:
    """Return those of the entries in `keep` that lie in `rows` and `columns`, in this order: (rows, columns)."""
    place, position = _entries.of_rows(matrix, rows)
    column = _entries.lookup(columns, matrix.shape[1])[matrix.indices[position]]
    wanted = keep[position] & (column >= 0)
    return _entries.from_pairs(place[wanted], column[wanted], (len(rows), len(columns)))
