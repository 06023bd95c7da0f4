"""The published split, the names of protocols and their options, and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset
from recscale.errors import DataError, UnknownName, UsageError
from recscale.evaluation.protocols import (
    PROTOCOLS,
    Fixed,
    FoldIn,
    HoldOneOut,
    protocol_text,
    resolve_protocol,
)
from recscale.evaluation.splitting import split


def make_dataset(n_users=80, n_items=50, seed=0, **changes):
    """A random data set with rare items, short users and a published split."""
    rng = np.random.default_rng(seed)
    chance = np.outer(rng.random(n_users) + 0.02, rng.random(n_items) ** 3 + 0.005)
    full = (rng.random((n_users, n_items)) < chance).astype(np.float32)
    full[np.arange(n_users), rng.integers(0, n_items, n_users)] = 1
    matrix = sp.csr_array(full)
    parts = rng.choice([0, 0, 0, 1, 2], matrix.nnz).astype(np.int8)
    fields = {
        "name": "random",
        "interactions": matrix,
        "user_ids": rng.permutation(n_users) * 7 + 11,
        "item_ids": np.array([f"i{i}" for i in range(n_items)]),
        "fingerprint": "as-read",
        "timestamps": rng.integers(0, 4, matrix.nnz),
        "sequence": rng.permutation(matrix.nnz).astype(np.int64) * 3,
        "parts": parts,
    }
    return Dataset(**(fields | changes))


# fixed --------------------------------------------------------------------------------------------------------------


def test_fixed_takes_the_published_parts():
    dataset = make_dataset()
    full = np.zeros((3, *dataset.interactions.shape), dtype=np.float32)
    rows, columns = dataset.interactions.nonzero()
    full[dataset.parts, rows, columns] = 1
    train, test, valid = full

    result = split(dataset, Fixed())

    tested, checked = np.flatnonzero(test.sum(1)), np.flatnonzero(valid.sum(1))
    assert np.array_equal(result.train.toarray(), train[train.sum(1) > 0])
    assert np.array_equal(result.users, tested)
    assert np.array_equal(result.test.history.toarray(), train[tested])
    assert np.array_equal(result.test.target.toarray(), test[tested])
    assert np.array_equal(result.valid.history.toarray(), train[checked])
    assert np.array_equal(result.valid.target.toarray(), valid[checked])
    assert np.array_equal(result.items, np.arange(50))
    assert result.dropped_users == 80 - len(tested) > 0


def test_fixed_can_mask_validation_items_of_test_users():
    dataset = make_dataset()
    plain, masked = split(dataset, Fixed()), split(dataset, Fixed(mask_validation=True))
    full = np.zeros(dataset.interactions.shape, dtype=np.float32)
    rows, columns = dataset.interactions.nonzero()
    full[rows[dataset.parts == 2], columns[dataset.parts == 2]] = 1

    extra = masked.test.history.toarray() - plain.test.history.toarray()

    assert np.array_equal(extra, full[plain.users])
    assert np.array_equal(masked.train.toarray(), plain.train.toarray())
    assert np.array_equal(masked.valid.history.toarray(), plain.valid.history.toarray())
    assert masked.fingerprint != plain.fingerprint


def test_fixed_without_a_validation_part_has_no_validation_users():
    dataset = make_dataset()

    result = split(replace(dataset, parts=np.minimum(dataset.parts, 1)), Fixed())

    assert result.valid.n_users == 0
    assert result.valid.history.shape == result.valid.target.shape == (0, 50)


def test_fixed_scores_a_test_user_without_training_rows_from_an_empty_history():
    full = sp.csr_array(np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=np.float32))
    dataset = Dataset("cold", full, np.arange(3), np.arange(3), "x", parts=np.array([0, 1, 1, 0, 0], dtype=np.int8))

    result = split(dataset, Fixed())

    assert result.train.toarray().tolist() == [[1, 0, 0], [1, 0, 1]]
    assert result.users.tolist() == [0, 1]
    assert result.test.history.toarray().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert result.test.target.toarray().tolist() == [[0, 1, 0], [0, 0, 1]]
    assert result.dropped_users == 1


# names, options and bad input ---------------------------------------------------------------------------------------


def test_protocols_are_resolved_by_name_with_options_from_text():
    options = resolve_protocol("fold-in", {"n_heldout": "600", "test_share": "0.25"})

    assert options == FoldIn(n_heldout=600, test_share=0.25)
    assert resolve_protocol("hold-one-out") == HoldOneOut()
    assert set(PROTOCOLS) == {"fold-in", "hold-one-out", "fixed", "ratings"}


def test_the_text_of_a_protocol_names_what_differs_from_the_default():
    assert protocol_text(FoldIn()) == "fold-in"
    assert protocol_text(FoldIn(n_heldout=600, split_seed=1)) == "fold-in[n_heldout=600,split_seed=1]"
    assert protocol_text(Fixed(mask_validation=True)) == "fixed[mask_validation=True]"


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("foldin", {}, UnknownName, "did you mean 'fold-in'"),
        ("fold-in", {"heldout": 3}, UnknownName, "did you mean 'n_heldout'"),
        ("fold-in", {"n_heldout": -1}, UsageError, "n_heldout=-1"),
        ("fold-in", {"n_heldout": 0}, UsageError, "n_heldout=0"),
        ("fold-in", {"test_share": 1.0}, UsageError, "test_share=1.0"),
        ("fold-in", {"min_items": "0"}, UsageError, "min_items"),
        ("fold-in", {"split_seed": -5}, UsageError, "split_seed=-5"),
        ("hold-one-out", {"target": "oldest"}, UsageError, "target='oldest'"),
        ("hold-one-out", {"n_heldout": "ten"}, UsageError, "n_heldout='ten'"),
        ("fixed", {"mask_validation": "perhaps"}, UsageError, "mask_validation='perhaps'"),
    ],
)
def test_options_that_make_no_sense_get_one_line(name, options, kind, message):
    with pytest.raises(kind) as caught:
        resolve_protocol(name, options)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_made_by_hand_are_checked():
    with pytest.raises(UsageError, match="n_heldout=-2"):
        FoldIn(n_heldout=-2)


@pytest.mark.parametrize("options", [FoldIn(n_heldout=40), HoldOneOut(n_heldout=41)], ids=protocol_text)
def test_holding_out_more_users_than_there_are_gets_one_line(options):
    with pytest.raises(UsageError, match=r"'random' has 80 after its filter; expected at most 39") as caught:
        split(make_dataset(), options)

    assert "\n" not in str(caught.value)


def test_the_most_users_that_the_message_allows_can_be_held_out():
    assert split(make_dataset(), HoldOneOut(n_heldout=39)).train.shape[0] == 2


@pytest.mark.parametrize("protocol", ["fold-in", "hold-one-out"])
def test_two_users_are_too_few(protocol):
    dataset = Dataset("tiny", sp.csr_array(np.ones((2, 6), dtype=np.float32)), np.arange(2), np.arange(6), "x")

    with pytest.raises(UsageError, match="'tiny' has 2"):
        split(dataset, resolve_protocol(protocol))


@pytest.mark.parametrize("protocol", ["fold-in", "hold-one-out"])
def test_users_of_one_item_leave_no_target_and_that_is_said(protocol):
    dataset = Dataset("single", sp.csr_array(np.ones((50, 1), dtype=np.float32)), np.arange(50), np.arange(1), "x")

    with pytest.raises(DataError, match="no test user of 'single' has an item to be found"):
        split(dataset, resolve_protocol(protocol))


def test_recent_without_times_gets_one_line():
    with pytest.raises(UsageError, match="target='recent' needs times, and 'random' has none"):
        split(make_dataset(timestamps=None), HoldOneOut(target="recent"))


def test_fixed_without_a_published_split_gets_one_line():
    with pytest.raises(UsageError, match="fixed: 'random' has no published split; use fold-in or hold-one-out"):
        split(make_dataset(parts=None), Fixed())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([0, 0, 3], "has part 3; expected 0 train"),
        ([1, 1, 2], "no training rows"),
        ([0, 0, 2], "no test user"),
    ],
)
def test_a_published_split_with_the_wrong_parts_gets_one_line(parts, message):
    matrix = sp.csr_array(np.ones((1, 3), dtype=np.float32))
    dataset = Dataset("odd", matrix, np.arange(1), np.arange(3), "x", parts=np.array(parts, dtype=np.int8))

    with pytest.raises(DataError, match=message) as caught:
        split(dataset, Fixed())

    assert "\n" not in str(caught.value)


def test_user_ids_of_several_types_cannot_be_sorted_and_that_is_said():
    ids = np.array(["a", 1, "b", 2] * 20, dtype=object)

    with pytest.raises(DataError, match="of several types"):
        split(make_dataset(user_ids=ids), FoldIn())
