from __future__ import annotations

import pytest

from recscale.errors import DataError

RATINGS = "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n3,2,4.0,1112484676\n3,29,0.5,1112484819\n"


def test_the_csv_in_the_zip_is_read_with_quoted_titles(mirror, zipped, triples):
    titles = 'movieId,title,genres\n2,Jumanji (1995),Adventure\n29,"City of Lost Children, The (1995)",Fantasy\n'
    mirror.put("ml-20m", "ml-20m.zip", zipped({"ml-20m/ratings.csv": RATINGS, "ml-20m/movies.csv": titles}))

    data = mirror.load("ml-20m", verify=False)

    assert triples(data, "ratings") == {(1, 2): 3.5, (3, 2): 4.0, (3, 29): 0.5}
    assert triples(data, "timestamps")[3, 29] == 1112484819
    assert data.item_titles.tolist() == ["Jumanji (1995)", "City of Lost Children, The (1995)"]


def test_a_subset_is_refused(mirror):
    mirror.put("ml-20m", "ratings.csv", RATINGS)

    with pytest.raises(DataError, match="ml-20m holds 2 users, 2 items, 3 rows, but"):
        mirror.load("ml-20m")
