from __future__ import annotations

import pytest

from recscale.errors import DataError

HEADER = '"User-ID";"ISBN";"Book-Rating"\r\n'


def test_latin_1_isbns_with_quotes_and_semicolons_are_kept_whole(mirror, zipped, triples):
    lines = '"276725";"034545104X";"0"\r\n"276726";"a&amp;b";"5"\r\n"276726";"Ä\\"7";"10"\r\n'
    mirror.put("book-crossing", "BX-CSV-Dump.zip", zipped({"BX-Book-Ratings.csv": (HEADER + lines).encode("latin-1")}))

    data = mirror.load("book-crossing", verify=False)

    expected = {(276725, "034545104X"): 0.0, (276726, "a&amp;b"): 5.0, (276726, 'Ä\\"7'): 10.0}
    assert triples(data, "ratings") == expected
    assert triples(data)[276725, "034545104X"] == 1.0  # rating 0 is an interaction


@pytest.mark.parametrize("line", ['"276725";"034545104X"', '"x";"034545104X";"0"', '"276725";"";"0"', "276725;1;0"])
def test_a_bad_line_is_named_by_its_number(mirror, line):
    mirror.put("book-crossing", "BX-Book-Ratings.csv", HEADER + '"1";"2";"3"\r\n' + line + "\r\n")

    with pytest.raises(DataError, match="line 3: found"):
        mirror.load("book-crossing", verify=False)


def test_a_subset_and_an_empty_file_are_refused(mirror):
    mirror.put("book-crossing", "BX-Book-Ratings.csv", HEADER + '"1";"2";"3"\r\n')

    with pytest.raises(DataError, match="but 1,149,780 rows were published"):
        mirror.load("book-crossing")

    mirror.put("book-crossing", "BX-Book-Ratings.csv", HEADER)
    with pytest.raises(DataError, match="holds no interactions"):
        mirror.load("book-crossing")
