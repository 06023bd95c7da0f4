from __future__ import annotations

import pytest

from recscale import registry
from recscale.errors import DataError


def test_both_parts_are_read_line_by_line(mirror, triples):
    mirror.put("amazon-cds", "train.txt", "0 10 11 12\n1 10\n")
    mirror.put("amazon-cds", "test.txt", "0 13\n1 11 12\n2\n")

    data = mirror.load("amazon-cds", verify=False)

    train = {(0, 10): 0, (0, 11): 0, (0, 12): 0, (1, 10): 0}
    assert triples(data, "parts") == train | {(0, 13): 1, (1, 11): 1, (1, 12): 1}
    assert registry.dataset_spec("amazon-cds").has_fixed_split


def test_a_table_is_read_where_one_of_the_parts_is_missing(mirror, table, triples):
    mirror.put("amazon-cds", "test.txt", "0 13\n")
    mirror.put("amazon-cds", "interactions.parquet", table(user=[0, 0], item=[5, 6], split=[0, 1]))

    data = mirror.load("amazon-cds", verify=False)

    assert triples(data, "parts") == {(0, 5): 0, (0, 6): 1}


def test_a_subset_is_refused(mirror, table):
    mirror.put("amazon-cds", "interactions.parquet", table(user=[0, 0], item=[5, 6], split=[0, 1]))

    with pytest.raises(DataError, match="amazon-cds holds 1 users, 2 items, 2 rows, but"):
        mirror.load("amazon-cds")
