from __future__ import annotations

import gzip
import io
import lzma

import numpy as np
import pytest
import scipy.sparse as sp

from recscale import registry
from recscale.errors import DataError, UnknownName, UsageError

CSV = "user,item,rating,timestamp\nann,tea,4,100\nbob,tea,2.5,200\nann,jam,1,300\n"
RATINGS = {("ann", "tea"): 4.0, ("bob", "tea"): 2.5, ("ann", "jam"): 1.0}
WHO_WHAT_HOW = {"user": "who", "item": "what", "rating": "how"}


@pytest.fixture
def own(tmp_path):
    def load(name: str, content: str | bytes, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return registry.dataset_spec("file").source(path=str(path), **options).load()

    return load


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("plays.csv", CSV, {}),
        ("plays.csv", "\ufeff" + CSV, {}),
        ("plays.csv", CSV.replace("\n", "\r\n"), {}),
        ("plays.csv.gz", gzip.compress(CSV.encode(), mtime=0), {}),
        ("plays.csv.xz", lzma.compress(CSV.encode()), {}),
        ("plays.tsv", CSV.replace(",", "\t"), {}),
        ("plays.inter", CSV.replace(",", "\t"), {}),
        ("plays.txt", CSV.replace(",", ";"), {"separator": ";"}),
        ("plays.dat", CSV.replace(",", "\t"), {"separator": "\\t"}),
        ("plays.csv", CSV.encode("utf-16"), {"encoding": "utf-16"}),
        ("plays.csv", CSV.replace("user,item,rating", "User_ID:token,item_id:token,Score"), {}),
        (
            "plays.csv",
            CSV.replace("user,item,rating", "who,what,how"),
            {"user": "who", "item": "what", "rating": "how"},
        ),
        ("plays.csv", CSV.split("\n", 1)[1], {"header": False, "rating": "2", "timestamp": "3"}),
        ("plays.csv", CSV.replace("tea", '"tea"'), {}),
    ],
)
def test_separated_text_is_read_however_it_is_written(own, triples, name, content, options):
    data = own(name, content, **options)

    assert triples(data, "ratings") == RATINGS
    assert triples(data, "timestamps") == {("ann", "tea"): 100, ("bob", "tea"): 200, ("ann", "jam"): 300}
    assert data.name == "plays"


def test_parquet_is_read(own, triples, table):
    content = table(user=["ann", "bob", "ann"], item=["tea", "tea", "jam"], rating=[4.0, 2.5, 1.0], other=[1, 2, 3])

    data = own("plays.parquet", content)

    assert triples(data, "ratings") == RATINGS
    assert data.timestamps is None


def test_npz_of_columns_and_of_a_sparse_matrix_are_read(own, triples, tmp_path):
    columns = npz(user=np.array([3, 1]), item=np.array([7, 8]), rating=np.array([0.5, 2.0]))
    sp.save_npz(tmp_path / "matrix.npz", sp.csc_array(np.array([[0, 0.5], [2, 0]])))

    from_columns = own("columns.npz", columns)
    from_matrix = own("copy.npz", (tmp_path / "matrix.npz").read_bytes())

    assert triples(from_columns, "ratings") == {(3, 7): 0.5, (1, 8): 2.0}
    assert triples(from_matrix, "ratings") == {(0, 1): 0.5, (1, 0): 2.0}


def test_ids_of_digits_are_numbers_and_mixed_ids_are_text(own):
    data = own("plays.csv", "user,item\n10,007\n9,7\n10,x\n")

    assert data.user_ids.tolist() == [9, 10]
    assert data.item_ids.tolist() == ["007", "7", "x"]


def test_dates_become_seconds_since_1970(own, triples):
    data = own("plays.csv", "user,item,timestamp\n1,2,2024-01-01T00:00:01Z\n1,3,2023-12-31\n")

    assert triples(data, "timestamps") == {(1, 2): 1704067201, (1, 3): 1703980800}


def test_the_most_recent_of_repeated_rows_counts(own, triples):
    data = own("plays.csv", "user,item,rating,timestamp\n1,2,5,200\n1,2,1,100\n")

    assert triples(data, "ratings") == {(1, 2): 5.0}


def test_a_yaml_entry_names_a_file_beside_it_with_the_same_options(own, triples, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "plays.txt").write_text("ann;4;tea\nbob;2.5;tea\nann;1;jam\n")
    entry = "path: data/plays.txt\nname: my-plays\nseparator: ';'\nheader: false\nuser: 0\nitem: 2\nrating: '1'\n"

    data = own("entry.yaml", entry)

    assert triples(data, "ratings") == RATINGS
    assert data.name == "my-plays"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("path: x.csv\nratng: score\n", UnknownName, "did you mean 'rating'"),
        ("path: x.csv\nheader: perhaps\n", UsageError, "header='perhaps' does not fit"),
        ("separator: ','\n", DataError, "path among them; known keys: path, name, user"),
        ("- a\n- b\n", DataError, "must hold keys and values"),
        ("path: [\n", DataError, "is not valid YAML"),
        ("path: other.yaml\n", DataError, "names another YAML file"),
        ("path: missing.csv\n", DataError, r"missing\.csv does not exist"),
        (b"path: \xff\n", DataError, "is not valid YAML"),
    ],
)
def test_a_bad_yaml_entry_is_one_line(own, text, error, message):
    with pytest.raises(error, match=message) as caught:
        own("entry.yaml", text)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("plays.csv", "", {}, "is empty"),
        ("plays.csv", "user,item\n", {}, "no interactions|cannot be read"),
        ("plays.csv.gz", gzip.compress(CSV.encode() * 99, mtime=0)[:60], {}, "damaged, cut short"),
        ("plays.csv.gz", CSV, {}, "damaged, cut short"),
        ("plays.csv", "user,item\n1,2\n3\n", {}, "cannot be read"),
        ("plays.csv", "user,item\n1,2,3\n", {}, "cannot be read"),
        ("plays.csv", "a,b\n1,2\n", {}, "no column named like user; its columns are a, b"),
        ("plays.csv", "user,b\n1,2\n", {}, "no column named like item"),
        ("plays.csv", CSV, {"rating": "stars"}, "no column 'stars' for rating; its columns are user, item, rating"),
        ("plays.csv", CSV, {"user": "item"}, "user and item are the same column 'item'"),
        ("plays.csv", "user,item,rating\n1,2,many\n", {}, "cannot be read"),
        ("plays.csv", "user,item,rating\n1,2,nan\n", {}, "row 1 has rating nan"),
        ("plays.csv", "user,item,rating\n1,2,1e300\n", {}, "row 1 has rating inf"),
        ("plays.npz", npz(user=np.arange(1), item=np.arange(1), rating=[1e300]), {}, "row 1 has rating inf"),
        ("plays.csv", "user,item,rating\n1,2,\n", {}, "row 1 has rating nan"),
        ("plays.csv", "user,item,timestamp\n1,2,5\n1,3,\n", {}, "row 2 has timestamp nan"),
        ("plays.csv", "user,item,timestamp\n1,2,soon\n", {}, "'soon' are neither numbers nor dates"),
        ("plays.csv", "user,item\n1,2\nnan,3\n", {}, "user 'nan' in row 2 is no id"),
        ("plays.csv", "user,item\n1,2\n,3\n", {}, "1 of 2 rows have no user, the first is row 2"),
        ("plays.csv", "user,item\n1,2\n4,-3\n", {}, "item -3 is negative"),
        ("plays.csv", "user,item\n1,2\n99999999999999999999,3\n", {}, "user 99999999999999999999 is too large"),
        ("plays.csv", "user,item\nJosé,2\n".encode("latin-1"), {}, "not text in the encoding expected"),
        ("plays.csv", "user,item\nJosé,2\n", {"encoding": "ascii"}, "not text in the encoding expected"),
        ("plays.txt", CSV, {}, "give the option separator"),
        ("plays.xlsx", CSV, {}, r"unknown kind of file \.xlsx"),
        ("plays", CSV, {}, "unknown kind of file without suffix"),
        ("plays.parquet", CSV, {}, "damaged, cut short"),
        ("plays.npz", CSV, {}, "no npz file"),
        ("plays.npz", npz(user=np.array([{}], dtype=object), item=np.arange(1)), {}, "no npz file of plain arrays"),
        ("plays.npz", npz(user=np.arange(3), item=np.arange(2)), {}, "of one length"),
        ("plays.npz", npz(user=np.arange(3), what=np.arange(3)), {}, "no column named like item"),
    ],
)
def test_a_bad_file_is_one_clear_line(own, name, content, options, message):
    with pytest.raises(DataError, match=message) as caught:
        own(name, content, **options)

    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_file_is_refused(own, table):
    whole = table(user=list(range(1_000)), item=list(range(1_000)))

    with pytest.raises(DataError, match="damaged, cut short"):
        own("plays.parquet", whole[: len(whole) // 2])


@pytest.mark.parametrize("indices", [[-1, 0], [0, 9]])
def test_a_sparse_matrix_with_indices_out_of_range_is_refused(own, indices):
    arrays = {"data": np.ones(2), "indices": np.array(indices), "indptr": np.array([0, 1, 2])}

    with pytest.raises(DataError, match="no valid csr or csc matrix"):
        own("plays.npz", npz(format=np.array(b"csr"), shape=np.array([2, 2]), **arrays))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"separator": "::"}, "must be one letter"), ({"encoding": "utf-99"}, "no encoding named 'utf-99'")],
)
def test_an_option_out_of_range_is_refused(own, options, message):
    with pytest.raises(UsageError, match=message):
        own("plays.csv", CSV, **options)


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist"):
        registry.dataset_spec("file").source(path="nowhere.csv").load()
