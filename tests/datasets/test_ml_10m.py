from __future__ import annotations


def test_half_stars_are_read_from_colons_with_titles_in_utf_8(mirror, zipped, triples):
    members = {"ml-10M100K/ratings.dat": "1::122::5::838985046\n1::185::4.5::838983525\n"}
    members["ml-10M100K/movies.dat"] = "122::Boomerang (1992)::Comedy\n185::Net, Thé (1995)::Action\n"
    mirror.put("ml-10m", "ml-10m.zip", zipped(members))

    data = mirror.load("ml-10m", verify=False)

    assert triples(data, "ratings") == {(1, 122): 5.0, (1, 185): 4.5}
    assert triples(data, "timestamps") == {(1, 122): 838985046, (1, 185): 838983525}
    assert data.item_titles.tolist() == ["Boomerang (1992)", "Net, Thé (1995)"]


def test_the_unpacked_file_is_read_too(mirror, triples):
    mirror.put("ml-10m", "ratings.dat", "1::122::5::838985046\r\n")

    data = mirror.load("ml-10m", verify=False)

    assert triples(data, "ratings") == {(1, 122): 5.0}
