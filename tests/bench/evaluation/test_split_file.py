"""Splits on disk: the same again, whole or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset
from recscale.errors import DataError, StoreError
from recscale.evaluation.protocols import Fixed, FoldIn, HoldOneOut, Ratings
from recscale.evaluation.split_file import load_split, save_split
from recscale.evaluation.splitting import split


def make_dataset():
    rng = np.random.default_rng(3)
    matrix = sp.csr_array((rng.random((60, 30)) < 0.4).astype(np.float32))
    parts = (np.arange(matrix.nnz) % 4 == 0).astype(np.int8)
    return Dataset("random", matrix, np.arange(60), np.arange(30), "x", parts=parts)


def parts_of(result):
    held = [matrix for part in (result.valid, result.test) for matrix in (part.history, part.target)]
    return [result.train, *held]


@pytest.mark.parametrize("options", [FoldIn(), HoldOneOut(), Fixed()], ids=lambda options: options.name)
def test_a_split_comes_back_as_it_was(options, tmp_path):
    expected = split(make_dataset(), options)

    size = save_split(expected, tmp_path / "deep" / "split.npz")
    result = load_split(tmp_path / "deep" / "split.npz", verify=True)

    assert size == (tmp_path / "deep" / "split.npz").stat().st_size
    for got, wanted in zip(parts_of(result), parts_of(expected), strict=True):
        assert got.shape == wanted.shape
        assert got.data.dtype == np.float32
        assert got.indices.dtype == wanted.indices.dtype
        assert np.array_equal(got.toarray(), wanted.toarray())
    assert np.array_equal(result.items, expected.items)
    assert np.array_equal(result.users, expected.users)
    assert (result.protocol, result.fingerprint, result.dropped_users) == (
        expected.protocol,
        expected.fingerprint,
        expected.dropped_users,
    )


def test_numbers_other_than_one_come_back_too(tmp_path):
    weighted = split(make_dataset(), FoldIn())
    weighted.train.data[:] = np.linspace(0.5, 2, weighted.train.nnz, dtype=np.float32)

    save_split(weighted, tmp_path / "split.npz")

    assert np.array_equal(load_split(tmp_path / "split.npz").train.toarray(), weighted.train.toarray())


def test_ratings_come_back_and_zeros_among_them_are_not_lost(tmp_path):
    dataset = make_dataset()
    ratings = (np.arange(dataset.interactions.nnz) % 6 / 2).astype(np.float32)  # 0 to 2.5
    expected = split(replace(dataset, ratings=ratings), Ratings(valid_share=0.2))

    save_split(expected, tmp_path / "split.npz")
    result = load_split(tmp_path / "split.npz", verify=True)

    for got, wanted in zip(parts_of(result), parts_of(expected), strict=True):
        assert np.array_equal(got.data, wanted.data) and np.array_equal(got.indices, wanted.indices)
        assert (got.data == 0).any()


def test_disliked_items_come_back_and_without_them_there_are_none(tmp_path):
    dataset = make_dataset()
    rated = replace(dataset, ratings=(np.arange(dataset.interactions.nnz) % 5).astype(np.float32))
    expected = split(rated, FoldIn(liked=2))

    save_split(expected, tmp_path / "split.npz")
    save_split(split(dataset, FoldIn()), tmp_path / "plain.npz")
    result = load_split(tmp_path / "split.npz", verify=True)

    for got, wanted in ((result.test, expected.test), (result.valid, expected.valid)):
        assert wanted.disliked.nnz and np.array_equal(got.disliked.toarray(), wanted.disliked.toarray())
    assert load_split(tmp_path / "plain.npz", verify=True).test.disliked is None


def test_a_file_that_stands_there_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "split.npz"
    path.write_text("something else")

    save_split(split(make_dataset(), FoldIn()), path)

    assert load_split(path).protocol == "fold-in"
    assert [file.name for file in tmp_path.iterdir()] == ["split.npz"]


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "split.npz"
    old = split(make_dataset(), FoldIn())
    save_split(old, path)

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        save_split(split(make_dataset(), HoldOneOut()), path)
    monkeypatch.undo()

    assert "\n" not in str(caught.value)
    assert load_split(path, verify=True).fingerprint == old.fingerprint
    assert [file.name for file in tmp_path.iterdir()] == ["split.npz"]


def test_a_folder_that_is_a_file_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot write the split"):
        save_split(split(make_dataset(), FoldIn()), tmp_path / "file" / "split.npz")


def test_a_missing_file_gets_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no split at .*; prepare the data first"):
        load_split(tmp_path / "none.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_gets_one_line(tmp_path, share):
    path = tmp_path / "split.npz"
    save_split(split(make_dataset(), FoldIn()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(DataError, match="cannot be read") as caught:
        load_split(path)

    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "split.npz"
    result = split(make_dataset(), FoldIn())
    save_split(result, path)
    whole = bytearray(path.read_bytes())
    where = whole.find(result.train.indices.tobytes())
    whole[where] ^= 1
    path.write_bytes(bytes(whole))

    with pytest.raises(DataError, match="cannot be read"):
        load_split(path)


def test_a_file_that_is_no_split_gets_one_line(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.save(tmp_path / "other.npy", np.arange(3))

    for name in ("other.npz", "other.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            load_split(tmp_path / name)


def test_pickled_content_is_never_loaded(tmp_path):
    np.savez(tmp_path / "bad.npz", header=np.array([{"format": 1}], dtype=object))

    with pytest.raises(DataError, match="cannot be read"):
        load_split(tmp_path / "bad.npz")


def test_verification_finds_arrays_that_are_not_those_of_the_fingerprint(tmp_path):
    path = tmp_path / "split.npz"
    result = split(make_dataset(), FoldIn())
    save_split(replace(result, users=result.users[::-1].copy()), path)

    assert load_split(path).fingerprint == result.fingerprint
    with pytest.raises(DataError, match="does not match its fingerprint"):
        load_split(path, verify=True)


def test_a_file_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("recscale.evaluation.split_file.FORMAT", 99)
    save_split(split(make_dataset(), FoldIn()), tmp_path / "split.npz")
    monkeypatch.undo()

    with pytest.raises(DataError, match="is of format 99, expected 1"):
        load_split(tmp_path / "split.npz")
