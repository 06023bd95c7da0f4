from __future__ import annotations

import pytest

from recscale import registry
from recscale.contract import Statistics
from recscale.errors import DataError, UnknownName, UsageError

RATINGS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t1\t881250950\n"


def test_the_ratings_file_is_read_with_ratings_times_and_ids(mirror, triples):
    mirror.put("ml-100k", "u.data", RATINGS)

    data = mirror.load("ml-100k", verify=False)

    assert triples(data, "ratings") == {(186, 302): 3.0, (196, 242): 3.0, (196, 302): 1.0}
    assert triples(data, "timestamps")[186, 302] == 891717742
    assert triples(data, "sequence") == {(196, 242): 0, (186, 302): 1, (196, 302): 2}
    assert data.interactions.dtype == "float32"
    assert data.interactions.has_canonical_format
    assert data.item_titles is None


def test_the_published_zip_is_read_with_its_latin_1_titles(mirror, zipped):
    titles = "242|Kolya (1996)|24-Jan-1997\n302|Misérables, Les (1995)|01-Jan-1995\n".encode("latin-1")
    mirror.put("ml-100k", "ml-100k.zip", zipped({"ml-100k/u.data": RATINGS, "ml-100k/u.item": titles}))

    data = mirror.load("ml-100k", verify=False)

    assert data.item_titles.tolist() == ["Kolya (1996)", "Misérables, Les (1995)"]


def test_a_subset_is_refused_with_what_was_expected_and_found(mirror):
    mirror.put("ml-100k", "u.data", RATINGS)

    with pytest.raises(DataError, match=r"2 users, 2 items, 3 rows, but 943 users, 1,682 items, 100,000 rows"):
        mirror.load("ml-100k")


def test_a_zip_with_another_hash_is_refused(mirror, zipped):
    mirror.put("ml-100k", "ml-100k.zip", zipped({"ml-100k/u.data": RATINGS}))

    with pytest.raises(DataError, match=r"not the published file: its hash is sha256:\w{64}, expected sha256:50d2"):
        mirror.load("ml-100k")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("196\t242\t3\n", "cannot be read"),
        ("196\t242\tthree\t881250949\n", "cannot be read"),
        ("196\t\t3\t881250949\n", "1 of 1 rows have no item, the first is row 1"),
        ("-5\t242\t3\t881250949\n", "user -5 is negative"),
        ("99999999999999999999\t242\t3\t881250949\n", "cannot be read"),
        ("196\t242\tnan\t881250949\n", "expected a finite number"),
    ],
)
def test_a_bad_line_is_named_in_one_line(mirror, content, message):
    mirror.put("ml-100k", "u.data", content)

    with pytest.raises(DataError, match=message) as caught:
        mirror.load("ml-100k", verify=False)

    assert "\n" not in str(caught.value)


def test_a_truncated_zip_is_refused(mirror, zipped):
    whole = zipped({"ml-100k/u.data": RATINGS * 100})
    mirror.put("ml-100k", "ml-100k.zip", whole[: len(whole) // 2])

    with pytest.raises(DataError, match="damaged, cut short"):
        mirror.load("ml-100k", verify=False)


def test_a_zip_without_the_ratings_says_what_it_holds(mirror, zipped):
    mirror.put("ml-100k", "ml-100k.zip", zipped({"readme.txt": "hello"}))

    with pytest.raises(DataError, match=r"holds no u\.data; it holds readme\.txt"):
        mirror.load("ml-100k", verify=False)


def test_options_are_checked(mirror):
    with pytest.raises(UsageError, match="verify"):
        mirror.load("ml-100k", verify="perhaps")
    with pytest.raises(TypeError):
        mirror.load("ml-100k", verfy=True)
    with pytest.raises(UnknownName, match="did you mean 'ml-100k'"):
        registry.dataset_spec("ml-100")


def test_the_spec_states_the_published_figures():
    assert registry.dataset_spec("ml-100k").statistics["none"] == Statistics(943, 1_682, 100_000)
