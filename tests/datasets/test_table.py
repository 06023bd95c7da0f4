from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recscale.datasets._table import Coded, Rows, encode, text_array, titles_of, to_dataset
from recscale.errors import DataError


def rows(users, items, **columns) -> Rows:
    types = {"timestamps": np.int64, "ratings": np.float32, "parts": np.int8}
    arrays = {name: np.array(values, dtype=types[name]) for name, values in columns.items()}
    return Rows(encode(np.array(users), "user"), encode(np.array(items), "item"), **arrays)


def test_ids_are_sorted_and_unique_and_codes_are_their_places():
    coded = encode(np.array([30, 10, 30, 20]), "user")

    assert coded.ids.tolist() == [10, 20, 30]
    assert coded.codes.tolist() == [2, 0, 2, 1]
    assert coded.codes.dtype == np.int32


def test_text_ids_are_sorted_by_code_point_and_unused_dictionary_values_vanish():
    column = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.int32()), pa.array(["b", "unused", "B"]))

    coded = encode(column, "user")

    assert coded.ids.tolist() == ["B", "b"]
    assert coded.codes.tolist() == [0, 1, 0]


def test_ids_of_several_chunks_share_one_dictionary():
    column = pa.chunked_array([pa.array(["x", "y"]).dictionary_encode(), pa.array(["z", "x"]).dictionary_encode()])

    coded = encode(column, "item")

    assert coded.ids[coded.codes].tolist() == ["x", "y", "z", "x"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, np.nan]), "user nan in row 2 is no id"),
        (np.array([1.0, np.inf]), "user inf in row 2 is no id"),
        (np.array([1.5]), r"user 1\.5 in row 1 is no id"),
        (np.array([1e300]), "is no id; expected whole numbers below 2"),
        (np.array([3, -1]), "user -1 is negative"),
        (np.array([2**64 - 1], dtype=np.uint64), "user 18446744073709551615 is too large"),
        (np.array([True]), "user ids must be integers or text, not bool"),
        (np.array(["a", ""]), "1 of 2 rows have no user, the first is row 2"),
        (pa.array([1, None, 2, None]), "2 of 4 rows have no user, the first is row 2"),
        (np.array([], dtype=np.int64), "holds no interactions"),
        (np.array([{}], dtype=object), "must be integers or text"),
    ],
)
def test_what_cannot_be_an_id_is_refused_in_one_line(values, message):
    with pytest.raises(DataError, match=message) as caught:
        encode(values, "user")

    assert "\n" not in str(caught.value)


def test_whole_floats_are_read_as_integers():
    assert encode(np.array([7.0, 3.0]), "user").ids.tolist() == [3, 7]


def test_a_data_set_has_binary_float32_rows_with_sorted_indices():
    data = to_dataset("d", rows([2, 1, 2, 1], [9, 9, 3, 5], ratings=[1, 2, 3, 4]))

    assert data.interactions.toarray().tolist() == [[0, 1, 1], [1, 0, 1]]
    assert data.interactions.dtype == np.float32
    assert data.interactions.indices.tolist() == [1, 2, 0, 2]
    assert data.ratings.tolist() == [4, 2, 3, 1]
    assert data.sequence is None


def test_of_a_repeated_pair_the_most_recent_row_is_kept_whatever_its_place():
    data = to_dataset("d", rows([1, 1, 1], [5, 5, 6], timestamps=[20, 10, 30], ratings=[3, 4, 5]))

    assert data.timestamps.tolist() == [20, 30]
    assert data.ratings.tolist() == [3, 5]
    assert data.sequence.tolist() == [0, 2]


def test_of_a_repeated_pair_the_last_row_is_kept_where_times_are_equal_or_missing():
    timed = to_dataset("d", rows([1, 1, 1], [5, 5, 5], timestamps=[7, 7, 6], ratings=[1, 2, 3]))
    untimed = to_dataset("d", rows([1, 1, 1], [5, 5, 5], ratings=[1, 2, 3]))

    assert timed.ratings.tolist() == [2]
    assert untimed.ratings.tolist() == [3]


def test_many_random_rows_give_what_a_dictionary_gives():
    rng = np.random.default_rng(0)
    users, items, times = rng.integers(0, 40, 3_000), rng.integers(0, 30, 3_000), rng.integers(0, 50, 3_000)
    expected: dict[tuple[int, int], tuple[int, int]] = {}
    for row, (user, item, time) in enumerate(zip(users.tolist(), items.tolist(), times.tolist(), strict=True)):
        expected[user, item] = max(expected.get((user, item), (-1, -1)), (time, row))

    data = to_dataset("d", rows(users, items, timestamps=times))

    coo = data.interactions.tocoo()
    pairs = zip(data.user_ids[coo.row].tolist(), data.item_ids[coo.col].tolist(), strict=True)
    kept = zip(data.timestamps.tolist(), data.sequence.tolist(), strict=True)
    assert dict(zip(pairs, kept, strict=True)) == expected


def test_a_pair_in_two_parts_is_refused_and_one_repeated_within_a_part_is_merged():
    merged = to_dataset("d", rows([1, 1], [5, 5], parts=[1, 1]))

    assert merged.parts.tolist() == [1]
    with pytest.raises(DataError, match="user 1 and item 5 are in train and validation"):
        to_dataset("d", rows([1, 1], [5, 5], parts=[0, 2]))


def test_the_fingerprint_is_that_of_the_data_not_of_the_order_of_rows():
    first = to_dataset("d", rows([1, 2], [5, 6], ratings=[3, 4])).fingerprint
    turned = to_dataset("other name", rows([2, 1], [6, 5], ratings=[4, 3])).fingerprint

    assert first == turned


@pytest.mark.parametrize(
    "other",
    [
        rows([1, 2], [5, 7], ratings=[3, 4]),
        rows([1, 2], [6, 5], ratings=[3, 4]),
        rows([1, 2], [5, 6], ratings=[3, 5]),
        rows([1, 2], [5, 6]),
        rows([1, 2], [5, 6], ratings=[3, 4], parts=[0, 0]),
        rows([1, 2], [5, 6], ratings=[3, 4], timestamps=[0, 0]),
        rows(["1", "2"], [5, 6], ratings=[3, 4]),
        Rows(Coded(np.array([0, 1], np.int32), np.array([1, 2, 3])), encode([5, 6], "item"), np.array([3, 4], "f4")),
    ],
)
def test_other_data_have_another_fingerprint(other):
    first = to_dataset("d", rows([1, 2], [5, 6], ratings=[3, 4]))

    assert to_dataset("d", other).fingerprint != first.fingerprint


def test_long_text_is_kept_whole_without_widening_all_entries():
    array = text_array(["a", "b" * 500])

    assert array.dtype == object
    assert array.tolist() == ["a", "b" * 500]


def test_an_item_without_title_has_its_id_as_title():
    assert titles_of(np.array([1, 2]), {2: "two"}).tolist() == ["1", "two"]
