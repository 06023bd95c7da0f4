from __future__ import annotations

import pytest

from recscale.errors import DataError

HEADER = "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment\n"
FIRST = HEADER + "0,1506825423271737,1506825423000,2,157541,1506826828020,4\n"
SECOND = HEADER + "0,1,1506825423000,2,157541,1506826999999,4\n1,2,1506825426000,2,235840,1506827017951,4\n"


def test_clicks_of_all_hours_are_read_and_the_last_click_on_an_article_counts(mirror, zipped, triples):
    members = {"clicks/clicks_hour_001.csv": SECOND, "clicks/clicks_hour_000.csv": FIRST, "clicks/readme.txt": "x"}
    mirror.put("globo", "clicks.zip", zipped(members))

    data = mirror.load("globo", verify=False)

    assert triples(data, "timestamps") == {(0, 157541): 1506826999999, (1, 235840): 1506827017951}
    assert triples(data, "sequence") == {(0, 157541): 1, (1, 235840): 2}


def test_an_unpacked_folder_is_read_too(mirror, triples):
    mirror.put("globo", "clicks/clicks_hour_000.csv", FIRST)

    data = mirror.load("globo", verify=False)

    assert triples(data, "timestamps") == {(0, 157541): 1506826828020}


def test_a_missing_column_is_an_error_that_names_the_file(mirror):
    mirror.put("globo", "clicks/clicks_hour_000.csv", FIRST.replace("click_article_id", "article"))

    with pytest.raises(DataError, match=r"clicks_hour_000\.csv"):
        mirror.load("globo", verify=False)


def test_what_cannot_be_downloaded_says_where_to_fetch_it_and_where_to_put_it(mirror):
    with pytest.raises(DataError, match=r"fetch clicks\.zip from https://www\.kaggle.* and put it at .*clicks\.zip"):
        mirror.load("globo")


def test_a_folder_without_clicks_is_refused(mirror):
    mirror.put("globo", "clicks/readme.txt", "hello")

    with pytest.raises(DataError, match="holds no clicks_hour"):
        mirror.load("globo")
