"""Protocols: held against the published procedure, against slow formulas, and against bad input."""

# ruff: noqa: NPY002 - the published procedure draws from numpy's global generator

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset
from recscale.evaluation import _entries
from recscale.evaluation.protocols import Fixed, FoldIn, HoldOneOut, protocol_text
from recscale.evaluation.splitting import split, split_fingerprint


def make_dataset(n_users=80, n_items=50, seed=0, **changes):
    """A random data set with rare items, short users, equal times and rows in no order of the ids."""
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


def as_sets(matrix, columns):
    """Each row as a set of data set columns."""
    return [set(columns[matrix.indices[a:b]].tolist()) for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)]


def matrices(result):
    return {
        "train": result.train,
        "valid.history": result.valid.history,
        "valid.target": result.valid.target,
        "test.history": result.test.history,
        "test.target": result.test.target,
    }


def same(a, b):
    return all(np.array_equal(matrices(a)[name].toarray(), matrices(b)[name].toarray()) for name in matrices(a))


# the procedure of Liang et al. 2018, written over a table of events -------------------------------------------------


def published_procedure(dataset, n_heldout, share=0.2, seed=98765):
    """Train users, vocabulary and the four held-out tables, by ids, from a table in the order of the source."""
    rows, columns = dataset.interactions.nonzero()
    table = pd.DataFrame({"user": dataset.user_ids[rows], "item": columns, "at": dataset.sequence}).sort_values("at")
    unique_users = np.array(sorted(table["user"].unique()))
    np.random.seed(seed)
    unique_users = unique_users[np.random.permutation(unique_users.size)]
    n_users = unique_users.size
    train_users = unique_users[: n_users - n_heldout * 2]
    valid_users = unique_users[n_users - n_heldout * 2 : n_users - n_heldout]
    test_users = unique_users[n_users - n_heldout :]
    train = table[table["user"].isin(train_users)]
    vocabulary = pd.unique(train["item"])

    def held(users):
        plays = table[table["user"].isin(users) & table["item"].isin(vocabulary)]
        np.random.seed(seed)
        known, wanted = [], []
        for _, group in plays.groupby("user"):
            n_items = len(group)
            if n_items >= 5:
                out = np.zeros(n_items, dtype=bool)
                out[np.random.choice(n_items, size=int(share * n_items), replace=False).astype("int64")] = True
                known.append(group[~out])
                wanted.append(group[out])
            else:
                known.append(group)
        return pd.concat(known), pd.concat(wanted)

    def matrix(events, users):
        place = {user: row for row, user in enumerate(users)}
        at = {item: column for column, item in enumerate(vocabulary)}
        full = np.zeros((len(users), len(vocabulary)), dtype=np.float32)
        for user, item in zip(events["user"], events["item"], strict=True):
            full[place[user], at[item]] = 1
        return full

    def both(users):
        known, wanted = held(users)
        with_target = [user for user in users if user in set(wanted["user"])]
        known = known[known["user"].isin(with_target)]
        return matrix(known, with_target), matrix(wanted, with_target), with_target

    return matrix(train, train_users), vocabulary, both(valid_users), both(test_users)


@pytest.mark.parametrize("seed", range(4))
def test_fold_in_gives_the_arrays_of_the_published_procedure(seed):
    dataset = make_dataset(n_users=120, seed=seed)
    train, vocabulary, valid, test = published_procedure(dataset, 30)

    result = split(dataset, FoldIn(n_heldout=30))

    assert np.array_equal(result.items, vocabulary)
    assert np.array_equal(result.train.toarray(), train)
    assert np.array_equal(result.valid.history.toarray(), valid[0])
    assert np.array_equal(result.valid.target.toarray(), valid[1])
    assert np.array_equal(result.test.history.toarray(), test[0])
    assert np.array_equal(result.test.target.toarray(), test[1])
    assert dataset.user_ids[result.users].tolist() == test[2]
    assert result.dropped_users == 30 - len(test[2]) > 0


def test_fold_in_with_another_share_and_seed_gives_the_arrays_of_the_published_procedure():
    dataset = make_dataset(n_users=60, seed=9)
    train, vocabulary, _, test = published_procedure(dataset, 12, share=0.5, seed=3)

    result = split(dataset, FoldIn(n_heldout=12, test_share=0.5, split_seed=3))

    assert np.array_equal(result.items, vocabulary)
    assert np.array_equal(result.train.toarray(), train)
    assert np.array_equal(result.test.target.toarray(), test[1])


def test_fold_in_without_a_sequence_takes_the_order_of_the_matrix():
    dataset = make_dataset()
    in_order = replace(dataset, sequence=np.arange(dataset.interactions.nnz))

    assert same(split(replace(dataset, sequence=None), FoldIn()), split(in_order, FoldIn()))


def test_fold_in_sorts_text_ids_as_text():
    dataset = make_dataset(n_users=60)
    text = replace(dataset, user_ids=np.array([f"{u:05d}" for u in dataset.user_ids], dtype=object))

    assert same(split(text, FoldIn()), split(dataset, FoldIn()))


def test_a_user_with_fewer_than_min_items_has_no_target_and_is_counted():
    result = split(make_dataset(), FoldIn(n_heldout=20, min_items=8))

    lengths = np.diff(result.test.history.indptr) + np.diff(result.test.target.indptr)
    assert lengths.min() >= 8
    assert result.dropped_users == 20 - result.test.n_users > 0


# what holds for every protocol that holds out users -----------------------------------------------------------------

STRONG = [FoldIn(), FoldIn(n_heldout=30), HoldOneOut(), HoldOneOut(target="random"), HoldOneOut(n_heldout=30)]


@pytest.mark.parametrize("options", STRONG, ids=protocol_text)
def test_history_and_target_are_disjoint_and_make_up_the_row(options):
    dataset = make_dataset()
    result = split(dataset, options)
    rows = as_sets(dataset.interactions, np.arange(dataset.interactions.shape[1]))

    history, target = (as_sets(m, result.items) for m in (result.test.history, result.test.target))

    assert result.test.n_users == len(result.users) > 0
    for user, known, wanted in zip(result.users, history, target, strict=True):
        assert known.isdisjoint(wanted)
        assert known | wanted == rows[user] & set(result.items.tolist())
        assert known and wanted


@pytest.mark.parametrize("options", STRONG, ids=protocol_text)
def test_training_validation_and_test_users_are_different_users(options):
    dataset = make_dataset()
    # every user gets an item of its own, so that a row tells whose it is
    marked = sp.csr_array(sp.hstack([dataset.interactions, sp.eye_array(80, dtype=np.float32)]))
    tagged = replace(dataset, interactions=marked, timestamps=None, sequence=None, parts=None)

    result = split(tagged, options)

    own = result.items[np.asarray(result.train.sum(0)).ravel() == 1]
    train_users = set((own[own >= 50] - 50).tolist())
    n_heldout = result.test.n_users + result.dropped_users
    assert len(train_users) == result.train.shape[0] == 80 - 2 * n_heldout
    assert train_users.isdisjoint(result.users.tolist())
    assert result.valid.n_users <= n_heldout


@pytest.mark.parametrize("options", STRONG, ids=protocol_text)
def test_the_vocabulary_is_what_training_users_have(options):
    dataset = make_dataset()

    result = split(dataset, options)

    assert np.asarray(result.train.sum(0)).min() >= 1
    assert len(result.items) == result.train.shape[1] < dataset.interactions.shape[1]
    assert all(matrix.shape[1] == len(result.items) for matrix in matrices(result).values())


@pytest.mark.parametrize("options", [*STRONG, Fixed()], ids=protocol_text)
def test_a_split_is_repeatable_and_does_not_touch_the_global_generator(options):
    dataset = make_dataset()
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)

    first, second = split(dataset, options), split(dataset, options)

    assert np.random.random() == expected
    assert same(first, second)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("options", STRONG, ids=protocol_text)
def test_another_split_seed_gives_another_split(options):
    dataset = make_dataset()

    first, second = split(dataset, options), split(dataset, replace(options, split_seed=1))

    assert first.fingerprint != second.fingerprint
    assert sorted(first.users) != sorted(second.users)


@pytest.mark.parametrize("options", [*STRONG, Fixed(), Fixed(mask_validation=True)], ids=protocol_text)
@pytest.mark.parametrize("block", [5, 1 << 22])
def test_every_matrix_is_canonical_and_blocks_change_nothing(options, block, monkeypatch):
    dataset = make_dataset()
    expected = split(dataset, options)
    monkeypatch.setattr(_entries, "BLOCK", block)

    result = split(dataset, options)

    assert same(result, expected)
    for matrix in matrices(result).values():
        fresh = sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        assert isinstance(matrix, sp.csr_array) and matrix.dtype == np.float32
        assert fresh.has_sorted_indices and fresh.has_canonical_format
        assert np.all(matrix.data == 1)


@pytest.mark.parametrize("options", STRONG, ids=protocol_text)
def test_the_order_of_the_rows_of_a_file_does_not_matter(options):
    dataset = make_dataset()
    order = np.random.default_rng(5).permutation(80)
    indptr = dataset.interactions.indptr
    entries = np.concatenate([np.arange(indptr[row], indptr[row + 1]) for row in order])
    shuffled = replace(
        dataset,
        interactions=sp.csr_array(dataset.interactions[order]),
        user_ids=dataset.user_ids[order],
        timestamps=dataset.timestamps[entries],
        sequence=dataset.sequence[entries],
    )

    first, second = split(dataset, options), split(shuffled, options)

    assert dataset.user_ids[first.users].tolist() == shuffled.user_ids[second.users].tolist()
    assert np.array_equal(first.test.target.toarray(), second.test.target.toarray())


def test_the_fingerprint_covers_the_protocol_and_the_dropped_users():
    dataset = make_dataset()

    by_default, by_number = split(dataset, FoldIn()), split(dataset, FoldIn(n_heldout=8))
    more_dropped = replace(by_default, dropped_users=by_default.dropped_users + 1)

    assert same(by_default, by_number)
    assert by_default.fingerprint != by_number.fingerprint
    assert split_fingerprint(by_default) == by_default.fingerprint != split_fingerprint(more_dropped)


# hold-one-out -------------------------------------------------------------------------------------------------------


def test_the_most_recent_item_is_the_latest_by_time_then_by_row_of_the_source():
    dataset = make_dataset()
    rows, columns = dataset.interactions.nonzero()

    result = split(dataset, HoldOneOut(n_heldout=25))

    for user, target in zip(result.users, as_sets(result.test.target, result.items), strict=True):
        mine = [
            (int(dataset.timestamps[k]), int(dataset.sequence[k]), int(columns[k]))
            for k in np.flatnonzero(rows == user)
            if columns[k] in result.items
        ]
        assert target == {max(mine)[2]}


def test_times_that_tie_without_a_sequence_are_broken_by_the_later_column():
    dataset = make_dataset()
    constant = replace(dataset, timestamps=np.zeros(dataset.interactions.nnz, dtype=np.int64), sequence=None)

    result = split(constant, HoldOneOut())

    history, target = result.test.history, result.test.target
    assert all(
        max(known) < min(wanted) for known, wanted in zip(history.tolil().rows, target.tolil().rows, strict=True)
    )


def test_a_random_item_is_any_item_of_the_user():
    full = sp.csr_array(np.ones((4000, 4), dtype=np.float32))
    dataset = Dataset("full", full, np.arange(4000), np.arange(4), "x")

    result = split(dataset, HoldOneOut(n_heldout=1500))

    counts = np.bincount(result.test.target.indices, minlength=4)
    assert counts.sum() == 1500
    assert np.all(np.abs(counts - 375) < 5 * np.sqrt(1500 * 0.25 * 0.75))


def test_auto_means_recent_where_times_are_known_and_random_elsewhere():
    dataset = make_dataset()
    timeless = replace(dataset, timestamps=None)

    recent, random = split(dataset, HoldOneOut()), split(timeless, HoldOneOut())

    assert recent.protocol == "hold-one-out[target=recent]"
    assert random.protocol == "hold-one-out[target=random]"
    assert recent.fingerprint == split(dataset, HoldOneOut(target="recent")).fingerprint
    assert random.fingerprint == split(dataset, HoldOneOut(target="random")).fingerprint


def test_a_heldout_user_with_one_known_item_is_dropped_and_counted_and_one_with_two_stays():
    full = np.ones((20, 3), dtype=np.float32)
    full[::2, 1:] = 0
    full[1::4, 2] = 0
    dataset = Dataset("short", sp.csr_array(full), np.arange(20), np.arange(3), "x")

    result = split(dataset, HoldOneOut(n_heldout=8))

    lengths = full.sum(1)[result.users]
    assert set(lengths.tolist()) == {2, 3}
    assert np.array_equal(np.diff(result.test.history.indptr), lengths - 1)
    assert result.dropped_users == 8 - len(result.users) > 0


def test_an_item_that_no_training_user_has_is_no_target():
    full = np.zeros((30, 33), dtype=np.float32)
    full[:, :3] = 1
    full[np.arange(30), 3 + np.arange(30)] = 1  # an item of one user alone, and the most recent
    matrix = sp.csr_array(full)
    dataset = Dataset("own", matrix, np.arange(30), np.arange(33), "x", timestamps=matrix.indices.astype(np.int64))

    result = split(dataset, HoldOneOut(n_heldout=5))

    assert result.items[result.test.target.indices].tolist() == [2] * 5
    assert not set(result.users + 3) & set(result.items)


@pytest.mark.parametrize(("options", "most"), [(FoldIn(), 10_000), (HoldOneOut(), 40_000)])
def test_by_default_a_tenth_of_the_users_is_held_out_but_never_more_than_a_bound(options, most):
    def count(n_users):
        matrix = sp.csr_array(np.ones((n_users, 5), dtype=np.float32))
        return split(Dataset("full", matrix, np.arange(n_users), np.arange(5), "x"), options).test.n_users

    assert count(1234) == 123
    assert count(most * 10 + 500) == most
