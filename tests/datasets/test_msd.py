from __future__ import annotations

import pytest

from recscale.errors import DataError

TRIPLETS = "b80344d0\tSOAKIMP1\t1\nb80344d0\tSOAPDEY1\t5\n85c1f87f\tSOAPDEY1\t2\n"


def test_play_counts_of_songs_are_read_from_the_zip(mirror, zipped, triples):
    mirror.put("msd", "train_triplets.txt.zip", zipped({"train_triplets.txt": TRIPLETS}))

    data = mirror.load("msd", verify=False)

    expected = {("b80344d0", "SOAKIMP1"): 1.0, ("b80344d0", "SOAPDEY1"): 5.0, ("85c1f87f", "SOAPDEY1"): 2.0}
    assert triples(data, "ratings") == expected


def test_the_unpacked_file_is_read_too_and_a_subset_refused(mirror):
    mirror.put("msd", "train_triplets.txt", TRIPLETS)

    with pytest.raises(DataError, match="msd holds 2 users, 2 items, 3 rows, but 1,019,318 users"):
        mirror.load("msd")
