from __future__ import annotations

import pytest

from recscale.errors import DataError

PLAYS = (
    '00c2\tmb-1\tbetty "blow" torch\t2137\n'
    "00c2\t\tdie Ärzte\t1099\n"
    "00d3\tmb-1\tbetty blowtorch\t12\n"
    "00d3\tmb-0\tu2\t1\n"
)


def test_an_artist_is_its_musicbrainz_id_or_else_its_name(mirror, tarred, triples):
    name = "lastfm-dataset-360K/usersha1-artmbid-artname-plays.tsv"
    members = {"lastfm-dataset-360K/README.txt": b"hello", name: PLAYS.encode()}
    mirror.put("lastfm-360k", "lastfm-dataset-360K.tar.gz", tarred(members))

    data = mirror.load("lastfm-360k", verify=False)

    plays = {("00c2", "mb-1"): 2137.0, ("00c2", "die Ärzte"): 1099.0, ("00d3", "mb-1"): 12.0, ("00d3", "mb-0"): 1.0}
    assert triples(data, "ratings") == plays
    titles = dict(zip(data.item_ids.tolist(), data.item_titles.tolist(), strict=True))
    assert titles == {"mb-1": 'betty "blow" torch', "mb-0": "u2", "die Ärzte": "die Ärzte"}


def test_the_unpacked_file_is_read_too_and_a_subset_refused(mirror):
    mirror.put("lastfm-360k", "usersha1-artmbid-artname-plays.tsv", PLAYS)

    with pytest.raises(DataError, match="lastfm-360k holds 2 users, 3 items, 4 rows, but 359,347 users, 17,559,530"):
        mirror.load("lastfm-360k")


def test_a_truncated_archive_is_refused(mirror, tarred):
    name = "lastfm-dataset-360K/usersha1-artmbid-artname-plays.tsv"
    whole = tarred({name: PLAYS.encode() * 50})
    mirror.put("lastfm-360k", "lastfm-dataset-360K.tar.gz", whole[: len(whole) // 2])

    with pytest.raises(DataError, match="damaged, cut short"):
        mirror.load("lastfm-360k", verify=False)


def test_a_row_without_artist_and_name_is_refused(mirror):
    mirror.put("lastfm-360k", "usersha1-artmbid-artname-plays.tsv", PLAYS + "00d3\t\t\t7\n")

    with pytest.raises(DataError, match="1 of 5 rows have no artist, the first is row 5"):
        mirror.load("lastfm-360k", verify=False)


def test_text_that_is_not_utf_8_is_refused(mirror):
    mirror.put("lastfm-360k", "usersha1-artmbid-artname-plays.tsv", PLAYS.encode("latin-1"))

    with pytest.raises(DataError, match="not text in the encoding expected"):
        mirror.load("lastfm-360k", verify=False)
