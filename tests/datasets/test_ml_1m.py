from __future__ import annotations

import json

import pytest

from recscale.errors import DataError, UsageError

PARTS = {"train_data.json": [[1, 2], [2]], "test_data.json": [[3], []], "validation_data.json": [[], [1]]}


def test_the_split_is_read_with_its_three_parts(mirror, triples):
    for name, lists in PARTS.items():
        mirror.put("ml-1m", name, json.dumps(lists))

    data = mirror.load("ml-1m", verify=False)

    assert triples(data, "parts") == {(0, 1): 0, (0, 2): 0, (1, 2): 0, (0, 3): 1, (1, 1): 2}
    assert data.timestamps is None


def test_a_table_with_three_parts_counts_validation_before_test(mirror, table, triples):
    mirror.put("ml-1m", "interactions.parquet", table(user=[0, 0, 0], item=[1, 2, 3], split=[0, 1, 2]))

    data = mirror.load("ml-1m", verify=False)

    assert triples(data, "parts") == {(0, 1): 0, (0, 2): 2, (0, 3): 1}


def test_the_ratings_are_read_from_colons_even_where_a_table_of_the_split_lies_beside(mirror, table, triples, zipped):
    mirror.put("ml-1m", "interactions.parquet", table(user=[0], item=[1], split=[0]))
    members = {"ml-1m/ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n"}
    members["ml-1m/movies.dat"] = "661::James (1996)::Animation\n1193::Cuckoo: a Nest (1975)::Drama\n"
    mirror.put("ml-1m", "ml-1m.zip", zipped(members))

    data = mirror.load("ml-1m", variant="ratings", verify=False)

    assert triples(data, "ratings") == {(1, 1193): 5.0, (2, 661): 3.0}
    assert triples(data, "timestamps") == {(1, 1193): 978300760, (2, 661): 978302109}
    assert data.item_titles.tolist() == ["James (1996)", "Cuckoo: a Nest (1975)"]
    assert data.parts is None


def test_a_pair_in_two_parts_is_refused(mirror):
    for name, lists in (PARTS | {"test_data.json": [[2], []]}).items():
        mirror.put("ml-1m", name, json.dumps(lists))

    with pytest.raises(DataError, match="user 0 and item 2 are in train and test"):
        mirror.load("ml-1m", verify=False)


@pytest.mark.parametrize("text", ["[[1, 2], [", '{"a": 1}', '[["x"]]', "[]"])
def test_a_damaged_part_is_refused(mirror, text):
    for name, lists in PARTS.items():
        mirror.put("ml-1m", name, json.dumps(lists))
    mirror.put("ml-1m", "train_data.json", text)

    with pytest.raises(DataError, match=r"train_data\.json"):
        mirror.load("ml-1m", verify=False)


def test_an_unknown_variant_is_refused(mirror):
    with pytest.raises(UsageError, match="variant='all'"):
        mirror.load("ml-1m", variant="all")
