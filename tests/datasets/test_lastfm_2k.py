from __future__ import annotations

import pytest

from recscale.errors import DataError

PLAYS = "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n3\t51\t1\n"


def test_play_counts_are_ratings_and_artists_have_names(mirror, zipped, triples):
    artists = "id\tname\turl\tpictureURL\n51\tDuran Duran\thttp://a\thttp://b\n52\tMorcheeba\thttp://c\thttp://d\n"
    mirror.put("lastfm-2k", "hetrec2011-lastfm-2k.zip", zipped({"user_artists.dat": PLAYS, "artists.dat": artists}))

    data = mirror.load("lastfm-2k", verify=False)

    assert triples(data, "ratings") == {(2, 51): 13883.0, (2, 52): 11690.0, (3, 51): 1.0}
    assert data.item_titles.tolist() == ["Duran Duran", "Morcheeba"]
    assert data.timestamps is None


def test_the_unpacked_file_is_read_without_names(mirror, triples):
    mirror.put("lastfm-2k", "user_artists.dat", PLAYS.replace("\n", "\r\n"))

    data = mirror.load("lastfm-2k", verify=False)

    assert triples(data, "ratings")[2, 52] == 11690.0
    assert data.item_titles is None


def test_a_subset_is_refused(mirror):
    mirror.put("lastfm-2k", "user_artists.dat", PLAYS)

    with pytest.raises(DataError, match="2 users, 2 items, 3 rows, but 1,892 users"):
        mirror.load("lastfm-2k")
