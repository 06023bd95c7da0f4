from __future__ import annotations

import pytest

from recscale.errors import DataError

FIRST, SECOND = "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n", "2:\n822109,4,1999-12-31\n"
EXPECTED = {(1488844, 1): 3.0, (822109, 1): 5.0, (822109, 2): 4.0}


def test_combined_files_are_read_movie_by_movie_with_days(mirror, triples):
    for number, text in enumerate((FIRST + SECOND, "3:\n", "4:\n7,1,2000-01-01\n", "5:\n7,2,2000-01-02\n"), start=1):
        mirror.put("netflix", f"combined_data_{number}.txt", text)

    data = mirror.load("netflix", verify=False)

    assert triples(data, "ratings") == EXPECTED | {(7, 4): 1.0, (7, 5): 2.0}
    assert triples(data, "timestamps")[822109, 2] == 946598400  # 1999-12-31, midnight UTC


def test_one_file_a_movie_is_read_from_a_folder(mirror, triples):
    mirror.put("netflix", "training_set/mv_0000001.txt", FIRST)
    mirror.put("netflix", "training_set/mv_0000002.txt", SECOND.replace("\n", "\r\n"))

    data = mirror.load("netflix", verify=False)

    assert triples(data, "ratings") == EXPECTED


def test_the_tar_within_the_published_archive_is_read(mirror, tarred, triples):
    movies = {"training_set/mv_0000001.txt": FIRST.encode(), "training_set/mv_0000002.txt": SECOND.encode()}
    outer = {"download/README": b"hello", "download/training_set.tar": tarred(movies, compressed=False)}
    mirror.put("netflix", "nf_prize_dataset.tar.gz", tarred(outer))

    data = mirror.load("netflix", verify=False)

    assert triples(data, "ratings") == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1488844,3,2005-09-06\n", "does not begin with a line `movie:`"),
        ("1:\n1488844,3\n", "cannot be read"),
        ("1:\n1488844,3,someday\n", "cannot be read"),
        ("1:\n1488844,,2005-09-06\n", "without a user, a rating or a date"),
        ("1:\n", "holds no interactions"),
    ],
)
def test_a_bad_file_is_named_in_one_line(mirror, text, message):
    mirror.put("netflix", "training_set/mv_0000001.txt", text)

    with pytest.raises(DataError, match=message) as caught:
        mirror.load("netflix", verify=False)

    assert "\n" not in str(caught.value)


def test_a_subset_is_refused(mirror):
    mirror.put("netflix", "training_set/mv_0000001.txt", FIRST)

    with pytest.raises(DataError, match="2 users, 1 items, 2 rows, but 480,189 users, 17,770 items, 100,480,507"):
        mirror.load("netflix")
