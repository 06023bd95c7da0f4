"""Makes a Dataset from raw rows: ids encoded, repeated pairs merged, arrays aligned, fingerprint taken.

Rules: ids are sorted, and users and items get their places in that order. Where a (user, item) pair occurs more
than once, the most recent row is kept, the later row of the source among equals; without times, the last row. The
rating, time and place in the source are those of the kept row. A pair that lies in two parts of a published split
is an error, since no rule could keep both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import Array, Dataset
from recscale.errors import DataError

PARTS = {0: "train", 1: "test", 2: "validation"}
_MAX_CODES = 2**31 - 1
_DENSE_SPAN = 2**24  # ids that lie this close are encoded by a table of 80 MB
_WIDEST_FIXED_TEXT = 128  # one artist name of 300 letters would make an array of 290,000 names take 350 MB


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of ids: `ids` are sorted and unique, `codes` (rows,) are places in `ids`."""

    codes: NDArray[np.int32]
    ids: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Rows:
    """Raw interactions, one entry a row of the source in every array that is given."""

    users: Coded
    items: Coded
    ratings: NDArray[np.float32] | None = None
    timestamps: NDArray[np.int64] | None = None
    parts: NDArray[np.int8] | None = None  # 0 train, 1 test, 2 validation

    def __len__(self) -> int:
        return int(self.users.codes.size)


@dataclass(frozen=True, eq=False)
class Extras:
    """What a Dataset holds beside its interactions."""

    timestamps: NDArray[np.int64] | None = None
    sequence: NDArray[np.int64] | None = None
    ratings: NDArray[np.float32] | None = None
    parts: NDArray[np.int8] | None = None
    item_titles: NDArray[Any] | None = None
    truth: Mapping[str, Array] | None = None
    sources: tuple[Path, ...] = ()


def encode(values: Any, what: str) -> Coded:
    """Return the ids of a column of integers or text, and the place of each row's id among them.

    `values` is a numpy array or a pyarrow (chunked, dictionary) array; `what` names it in errors.
    Raises DataError for missing, fractional, negative or too large ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _checked_ids(_as_chunked(values), what)
    if len(column) == 0:
        raise DataError("the data holds no interactions")
    if len(column) > _MAX_CODES:
        raise DataError(f"{len(column):,} rows are too many; at most {_MAX_CODES:,} can be read")
    if pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        if bounds["max"] - bounds["min"] < max(_DENSE_SPAN, 4 * len(column)):
            return _encode_dense(column, bounds["min"], bounds["max"])
    if not pa.types.is_dictionary(column.type):
        column = column.combine_chunks().dictionary_encode()  # by chunks, 3.8 M ids would be hashed in each again
    encoded = column.unify_dictionaries().combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    used, codes = _without_unused(encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False))
    order = pc.sort_indices(used).to_numpy()
    place = np.empty(order.size, dtype=np.int32)
    place[order] = np.arange(order.size, dtype=np.int32)
    ids = used.take(pa.array(order))
    if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        return Coded(place[codes], text_array(ids.to_pylist()))
    return Coded(place[codes], ids.to_numpy(zero_copy_only=False).astype(np.int64))


def _encode_dense(column: Any, least: int, most: int) -> Coded:
    """Encode integers by a table of all values between the bounds: one pass to mark, one to look up, chunk by chunk."""
    seen = np.zeros(most - least + 1, dtype=bool)
    for chunk in column.chunks:
        seen[chunk.to_numpy() - least] = True
    place = np.cumsum(seen, dtype=np.int32)
    place -= 1
    codes = np.empty(len(column), dtype=np.int32)
    start = 0
    for chunk in column.chunks:
        codes[start : start + len(chunk)] = place[chunk.to_numpy() - least]
        start += len(chunk)
    return Coded(codes, np.flatnonzero(seen).astype(np.int64) + least)


def text_array(values: Sequence[str]) -> NDArray[Any]:
    """Return `values` as fixed-width text, or as Python strings where one is longer than 128 letters."""
    widest = max((len(value) for value in values), default=1)
    return np.array(values, dtype=object if widest > _WIDEST_FIXED_TEXT else f"U{max(widest, 1)}")


def titles_of(ids: NDArray[Any], titles: Mapping[Any, str]) -> NDArray[Any]:
    """Return the title of each id, the id itself where it has none."""
    return text_array([titles.get(value, str(value)) for value in ids.tolist()])


def to_dataset(
    name: str, rows: Rows, *, titles: Mapping[Any, str] | None = None, sources: tuple[Path, ...] = ()
) -> Dataset:
    """Return the Dataset of `rows`, repeated pairs merged by the rules above. Raises DataError."""
    n_users, n_items = rows.users.ids.size, rows.items.ids.size
    order = _user_item_order(rows)
    order = _merge_repeats(order, rows)
    indices = rows.items.codes[order]
    indptr = np.zeros(n_users + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows.users.codes[order], minlength=n_users), out=indptr[1:])
    extras = Extras(
        timestamps=None if rows.timestamps is None else rows.timestamps[order],
        sequence=None if rows.timestamps is None else order.astype(np.int64),
        ratings=None if rows.ratings is None else rows.ratings[order],
        parts=None if rows.parts is None else rows.parts[order],
        item_titles=None if titles is None else titles_of(rows.items.ids, titles),
        sources=sources,
    )
    interactions = binary_matrix(indptr, indices, n_items)
    return assemble(name, interactions, rows.users.ids, rows.items.ids, extras)


def binary_matrix(indptr: NDArray[Any], indices: NDArray[np.int32], n_items: int) -> sp.csr_array:
    """Return a (U, I) float32 matrix of ones; the indices must be sorted and unique within each row."""
    ones = np.ones(indices.size, dtype=np.float32)
    matrix = sp.csr_array((ones, indices, indptr), shape=(indptr.size - 1, n_items))
    matrix.has_sorted_indices = True  # known here; asking scipy to find out reads 35 M entries once more
    matrix.has_canonical_format = True
    return matrix


def assemble(
    name: str, interactions: sp.csr_array, user_ids: NDArray[Any], item_ids: NDArray[Any], extras: Extras
) -> Dataset:
    """Return a Dataset with the fingerprint of its arrays."""
    return Dataset(
        name=name,
        interactions=interactions,
        user_ids=user_ids,
        item_ids=item_ids,
        fingerprint=_fingerprint(interactions, user_ids, item_ids, extras),
        timestamps=extras.timestamps,
        sequence=extras.sequence,
        ratings=extras.ratings,
        parts=extras.parts,
        item_titles=extras.item_titles,
        truth=extras.truth,
        sources=extras.sources,
    )


def _as_chunked(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values
    try:
        return pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"ids must be integers or text: {str(error).splitlines()[0]}") from None


def _checked_ids(column: Any, what: str) -> Any:
    """Return `column` as integers or text. Raises DataError for ids that are missing or cannot be ids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(
            f"{column.null_count:,} of {len(column):,} rows have no {what}, the first is row {row + 1}; "
            f"remove or fill them"
        )
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        if any(pc.any(pc.equal(chunk.dictionary, "")).as_py() for chunk in column.chunks):
            _refuse_empty_text(column, what)
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(kind)
    if pa.types.is_floating(kind):
        column = _whole_numbers(column, what)
    elif not pa.types.is_integer(kind):
        raise DataError(f"{what} ids must be integers or text, not {kind}")
    if len(column):
        _refuse_out_of_range(column, what)
    return column


def _refuse_empty_text(column: Any, what: str) -> None:
    import pyarrow.compute as pc

    empty = np.flatnonzero(pc.equal(column.cast(column.type.value_type), "").to_numpy())
    if empty.size:
        raise DataError(
            f"{empty.size:,} of {len(column):,} rows have no {what}, the first is row {empty[0] + 1}; "
            f"remove or fill them"
        )


def _whole_numbers(column: Any, what: str) -> Any:
    """Return floating-point ids as int64; 2**53 is the largest below which every integer has its own float."""
    import pyarrow as pa

    values = column.to_numpy()
    wrong = np.flatnonzero(~((np.abs(values) < 2.0**53) & (np.floor(values) == values)))  # NaN is neither
    if wrong.size:
        raise DataError(
            f"{what} {values[wrong[0]]} in row {wrong[0] + 1} is no id; expected whole numbers below 2**53 or text"
        )
    return pa.chunked_array([pa.array(values.astype(np.int64))])


def _refuse_out_of_range(column: Any, what: str) -> None:
    import pyarrow.compute as pc

    bounds = pc.min_max(column).as_py()
    if bounds["min"] < 0:
        raise DataError(f"{what} {bounds['min']} is negative; ids must be 0 or more, or text")
    if bounds["max"] >= 2**63:
        raise DataError(f"{what} {bounds['max']} is too large; ids must be below 2**63, or text")


def _without_unused(values: Any, codes: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
    """Return a dictionary without the values that no row has, and the codes that fit it."""
    import pyarrow as pa

    used = np.zeros(len(values), dtype=bool)
    used[codes] = True
    if used.all():
        return values, codes
    place = np.cumsum(used, dtype=np.int32) - 1
    return values.filter(pa.array(used)), place[codes]


def _stable_order(codes: NDArray[np.int32], n_values: int) -> NDArray[np.int32]:
    """Return the rows in the order of their codes, equal codes in the order of the rows.

    A counting sort by way of scipy's transposition: 0.3 s for 10 M rows where a stable argsort takes 1.0 s.
    """
    n_rows = codes.size
    pointers = np.arange(n_rows + 1, dtype=np.int32)
    matrix = sp.csr_array((np.empty(n_rows, dtype=np.int8), codes, pointers), shape=(n_rows, n_values))
    order: NDArray[np.int32] = matrix.tocsc().indices
    return order


def _user_item_order(rows: Rows) -> NDArray[np.int32]:
    by_item = _stable_order(rows.items.codes, rows.items.ids.size)
    by_user = _stable_order(rows.users.codes[by_item], rows.users.ids.size)
    order: NDArray[np.int32] = by_item[by_user]
    return order


def _merge_repeats(order: NDArray[np.int32], rows: Rows) -> NDArray[np.int32]:
    """Return `order` with one row for each pair. Raises DataError if a pair lies in two parts."""
    users, items = rows.users.codes[order], rows.items.codes[order]
    as_before = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    if not as_before.any():
        return order
    repeated = np.zeros(order.size, dtype=bool)
    repeated[1:] = as_before
    repeated[:-1] |= as_before
    group = np.cumsum(np.concatenate(([True], ~as_before)), dtype=np.int32)[repeated]
    rows_of = order[repeated]
    _refuse_two_parts(group, rows_of, rows)
    times = np.zeros(rows_of.size, dtype=np.int64) if rows.timestamps is None else rows.timestamps[rows_of]
    latest_last = np.lexsort((rows_of, times, group))
    is_latest = np.append(group[latest_last][1:] != group[latest_last][:-1], True)
    keep = ~repeated
    keep[np.flatnonzero(repeated)[latest_last[is_latest]]] = True
    return order[keep]


def _refuse_two_parts(group: NDArray[np.int32], rows_of: NDArray[np.int32], rows: Rows) -> None:
    if rows.parts is None:
        return
    parts = rows.parts[rows_of]
    clash = np.flatnonzero((group[1:] == group[:-1]) & (parts[1:] != parts[:-1]))
    if clash.size:
        first = clash[0]
        user = rows.users.ids[rows.users.codes[rows_of[first]]]
        item = rows.items.ids[rows.items.codes[rows_of[first]]]
        both = " and ".join(PARTS.get(int(parts[i]), str(parts[i])) for i in (first, first + 1))
        raise DataError(f"user {user} and item {item} are in {both}; the parts of a split must not overlap")


def _fingerprint(interactions: sp.csr_array, user_ids: NDArray[Any], item_ids: NDArray[Any], extras: Extras) -> str:
    """Return the SHA-256 of all arrays that say what the data are, the same on every machine."""
    digest = hashlib.sha256()
    digest.update(f"shape {interactions.shape}".encode())
    arrays = {
        "indptr": interactions.indptr.astype("<i8"),
        "indices": interactions.indices.astype("<i4", copy=False),
        "timestamps": extras.timestamps,
        "sequence": extras.sequence,
        "ratings": extras.ratings,
        "parts": extras.parts,
    }
    for name, array in arrays.items():
        if array is not None:
            digest.update(f"{name} {array.dtype.str} {array.size}".encode())
            digest.update(np.ascontiguousarray(array).data)
    for name, ids in (("users", user_ids), ("items", item_ids)):
        digest.update(f"{name} {ids.size}".encode())
        is_number = ids.dtype.kind in "iu"
        digest.update(ids.astype("<i8").data if is_number else "\0".join(ids.tolist()).encode())
    return digest.hexdigest()
