from __future__ import annotations

import pytest

from recscale.errors import DataError


def test_each_line_is_a_basket_counted_from_zero(mirror, triples):
    mirror.put("retail", "retail.dat", "30 31 32 \n33 34 \n\n30 34 \n")

    data = mirror.load("retail", verify=False)

    assert set(triples(data)) == {(0, 30), (0, 31), (0, 32), (1, 33), (1, 34), (3, 30), (3, 34)}


def test_a_part_of_the_baskets_is_refused(mirror):
    mirror.put("retail", "retail.dat", "30 31 32 \n33 34 \n")

    with pytest.raises(DataError, match="retail holds 2 users, 5 items, 5 rows, but 88,162 users"):
        mirror.load("retail")
