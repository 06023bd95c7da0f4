"""Filters: held against a slow formula of sets, and against bad input."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset, Filter
from recscale.errors import DataError, UnknownName, UsageError
from recscale.evaluation import _entries
from recscale.evaluation.filtering import NAMED_FILTERS, apply_filter, resolve_filter


def make_dataset(n_users=60, n_items=40, density=0.15, seed=0, **changes):
    """A random data set with every aligned array filled so that a misplaced entry shows."""
    rng = np.random.default_rng(seed)
    popularity = rng.random(n_items) ** 2 * 2
    matrix = sp.csr_array((rng.random((n_users, n_items)) < density * popularity).astype(np.float32))
    rows, columns = matrix.nonzero()
    stamp = rows * 1000 + columns
    fields = {
        "name": "random",
        "interactions": matrix,
        "user_ids": np.array([f"u{u:03d}" for u in range(n_users)]),
        "item_ids": np.arange(n_items) + 500,
        "fingerprint": "as-read",
        "timestamps": stamp.astype(np.int64),
        "sequence": rng.permutation(matrix.nnz).astype(np.int64),
        "ratings": (stamp % 5 + 1).astype(np.float32),
        "parts": (stamp % 3).astype(np.int8),
        "item_titles": np.array([f"title {i + 500}" for i in range(n_items)]),
        "truth": {"user_affinity": rng.random((n_users, 2)), "item_affinity": rng.random((n_items, 2)), "noise": 0.1},
    }
    return Dataset(**(fields | changes))


def triples(dataset):
    """The interactions as (user id, item id, rating, time), in stored order."""
    rows, columns = dataset.interactions.nonzero()
    return list(
        zip(
            dataset.user_ids[rows].tolist(),
            dataset.item_ids[columns].tolist(),
            dataset.ratings.tolist(),
            dataset.timestamps.tolist(),
            strict=True,
        )
    )


def filtered_slowly(dataset, rule):
    """The same filter over a list of tuples."""
    left = [t for t in triples(dataset) if rule.min_rating is None or t[2] >= rule.min_rating]
    popularity = Counter(t[1] for t in left)
    top = sorted(dataset.item_ids.tolist(), key=lambda item: (-popularity[item], item))[: rule.drop_top_items]
    left = [t for t in left if t[1] not in top]
    steps = [(1, rule.min_item_users), (0, rule.min_user_items)]
    if rule.order == "users-first":
        steps.reverse()
    while True:
        before = len(left)
        for axis, threshold in steps:
            counts = Counter(t[axis] for t in left)
            left = [t for t in left if counts[t[axis]] >= threshold]
        if not rule.repeat or len(left) == before:
            return left


RULES = [
    *NAMED_FILTERS.values(),
    Filter(min_user_items=3, min_item_users=7),
    Filter(min_user_items=3, min_item_users=7, order="users-first"),
    Filter(min_user_items=3, min_item_users=7, repeat=True),
    Filter(min_rating=2, min_user_items=2, min_item_users=2, repeat=True),
    Filter(min_rating=3.5, drop_top_items=5, min_user_items=2),
    Filter(drop_top_items=30),
]


@pytest.mark.parametrize("block", [7, 1 << 22])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_filter_leaves_what_the_slow_formula_leaves(rule, block, monkeypatch):
    monkeypatch.setattr(_entries, "BLOCK", block)
    dataset = make_dataset(n_users=400, density=0.6) if rule.min_item_users > 10 else make_dataset(density=0.35)
    expected = filtered_slowly(dataset, rule)
    if not expected:
        with pytest.raises(DataError, match="leaves nothing"):
            apply_filter(dataset, rule)
        return

    result = apply_filter(dataset, rule)

    assert triples(result) == expected
    assert result.interactions.shape == (len({t[0] for t in expected}), len({t[1] for t in expected}))


def test_the_rules_of_the_comparison_leave_something_and_take_something():
    dataset = make_dataset(density=0.35)

    sizes = {str(rule): len(filtered_slowly(dataset, rule)) for rule in RULES[-6:]}

    assert {name: size for name, size in sizes.items() if not 0 < size < dataset.interactions.nnz} == {}


def test_all_aligned_arrays_are_carried_along():
    dataset = make_dataset()

    result = apply_filter(dataset, Filter(min_user_items=4, min_item_users=4, repeat=True))

    rows, columns = result.interactions.nonzero()
    users = np.array([int(name[1:]) for name in result.user_ids])
    items = result.item_ids - 500
    stamps = users[rows] * 1000 + items[columns]
    assert result.interactions.nnz < dataset.interactions.nnz
    assert np.array_equal(result.timestamps, stamps)
    assert np.array_equal(result.ratings, stamps % 5 + 1)
    assert np.array_equal(result.parts, stamps % 3)
    where = dict(zip(dataset.timestamps.tolist(), dataset.sequence.tolist(), strict=True))
    assert result.sequence.tolist() == [where[stamp] for stamp in stamps.tolist()]
    assert result.item_titles.tolist() == [f"title {i}" for i in result.item_ids]
    assert np.array_equal(result.truth["user_affinity"], dataset.truth["user_affinity"][users])
    assert np.array_equal(result.truth["item_affinity"], dataset.truth["item_affinity"][items])
    assert result.truth["noise"] == 0.1


def test_the_result_is_canonical_float32():
    result = apply_filter(make_dataset(), Filter(min_user_items=3)).interactions

    fresh = sp.csr_array((result.data, result.indices, result.indptr), shape=result.shape)
    assert result.dtype == np.float32
    assert fresh.has_sorted_indices and fresh.has_canonical_format
    assert set(result.data.tolist()) == {1.0}


def test_users_and_items_without_interactions_are_removed_even_by_no_filter():
    matrix = sp.csr_array(np.array([[0, 1, 0], [0, 0, 0], [0, 1, 1]], dtype=np.float32))
    dataset = Dataset("gaps", matrix, np.array([7, 8, 9]), np.array([4, 5, 6]), "x")

    result = apply_filter(dataset, resolve_filter("none"))

    assert result.user_ids.tolist() == [7, 9]
    assert result.item_ids.tolist() == [5, 6]
    assert result.interactions.toarray().tolist() == [[1, 0], [1, 1]]


def test_a_data_set_that_loses_nothing_is_returned_as_it_is():
    dataset = apply_filter(make_dataset(), Filter(min_user_items=2))

    assert apply_filter(dataset, Filter()) is dataset


def test_interactions_go_even_where_every_user_and_item_stays():
    matrix = sp.csr_array(np.ones((2, 2), dtype=np.float32))
    ratings = np.array([1, 5, 5, 5], dtype=np.float32)
    dataset = Dataset("full", matrix, np.arange(2), np.arange(2), "x", ratings=ratings)

    assert apply_filter(dataset, Filter(min_rating=4)).interactions.toarray().tolist() == [[0, 1], [1, 1]]


def test_the_input_is_left_unchanged():
    dataset = make_dataset()
    before = dataset.interactions.copy(), dataset.timestamps.copy(), dataset.ratings.copy()

    apply_filter(dataset, Filter(min_rating=3, min_user_items=3, drop_top_items=2))

    assert (dataset.interactions != before[0]).nnz == 0
    assert np.array_equal(dataset.timestamps, before[1])
    assert np.array_equal(dataset.ratings, before[2])


def test_items_first_and_users_first_differ_and_repeating_makes_them_one():
    dataset = make_dataset(n_users=60, n_items=40, density=0.2)
    rule = Filter(min_user_items=4, min_item_users=4)

    once = [triples(apply_filter(dataset, replace(rule, order=order))) for order in ("items-first", "users-first")]
    repeated = [
        triples(apply_filter(dataset, replace(rule, order=order, repeat=True)))
        for order in ("items-first", "users-first")
    ]

    assert once[0] != once[1]
    assert repeated[0] == repeated[1]


def test_equally_popular_items_are_dropped_in_the_order_of_their_columns():
    matrix = sp.csr_array(np.ones((3, 4), dtype=np.float32))
    dataset = Dataset("full", matrix, np.arange(3), np.arange(4), "x")

    assert apply_filter(dataset, Filter(drop_top_items=2)).item_ids.tolist() == [2, 3]


def test_the_fingerprint_follows_the_arrays_and_not_the_way_there():
    dataset = make_dataset()
    rule = Filter(min_user_items=3, min_item_users=3, repeat=True)
    wide = replace(dataset, interactions=dataset.interactions.copy())
    wide.interactions.indices = wide.interactions.indices.astype(np.int64)
    wide.interactions.indptr = wide.interactions.indptr.astype(np.int64)

    prints = [
        apply_filter(dataset, rule).fingerprint,
        apply_filter(wide, rule).fingerprint,
        apply_filter(replace(dataset, user_ids=dataset.user_ids.astype(object)), rule).fingerprint,
        apply_filter(apply_filter(dataset, Filter(min_user_items=2)), rule).fingerprint,
    ]

    assert len(set(prints)) == 1
    assert len(prints[0]) == 64


@pytest.mark.parametrize(
    "field", ["interactions", "user_ids", "item_ids", "timestamps", "sequence", "ratings", "parts"]
)
def test_the_fingerprint_changes_with_every_array(field):
    dataset = make_dataset()
    rule = Filter(drop_top_items=1)
    changed = dict.fromkeys([field], getattr(dataset, field).copy())
    if field == "interactions":
        changed[field].data[:] = 1
        last = changed[field].indices[-1]
        changed[field].indices[-1] = last + 1 if last + 1 < changed[field].shape[1] else last - 1
    else:
        changed[field][-1:] = "u999" if field == "user_ids" else 9
        changed[field][:1] = "a000" if field == "user_ids" else 9

    assert apply_filter(replace(dataset, **changed), rule).fingerprint != apply_filter(dataset, rule).fingerprint


def test_named_filters_are_those_of_the_papers():
    liang, songs = NAMED_FILTERS["liang-ml"], NAMED_FILTERS["liang-msd"]
    local, web = NAMED_FILTERS["elfm-ml"], NAMED_FILTERS["elfm-web"]

    assert (liang.min_rating, liang.min_user_items, liang.min_item_users, liang.repeat) == (4, 5, 0, False)
    assert (songs.min_rating, songs.min_user_items, songs.min_item_users) == (None, 20, 200)
    assert songs.order == local.order == "items-first"
    assert (local.min_rating, local.min_user_items, local.min_item_users, local.repeat) == (4, 5, 5, False)
    assert (web.drop_top_items, web.min_user_items, web.min_item_users) == (30, 10, 10)
    assert all(NAMED_FILTERS[f"{k}-core"] == Filter(None, k, k, repeat=True) for k in (5, 10, 20))


def test_overrides_replace_fields_of_a_named_filter_and_are_parsed_from_text():
    rule = resolve_filter("5-core", {"min_item_users": "3", "repeat": "false", "min_rating": "2.5"})

    assert rule == Filter(min_rating=2.5, min_user_items=5, min_item_users=3, repeat=False)


def test_an_override_of_none_takes_the_rating_threshold_away():
    assert resolve_filter("liang-ml", {"min_rating": "none"}).min_rating is None


@pytest.mark.parametrize(
    ("name", "overrides", "kind", "message"),
    [
        ("5core", {}, UnknownName, "did you mean '5-core'"),
        ("none", {"min_user_item": 3}, UnknownName, "did you mean 'min_user_items'"),
        ("none", {"min_user_items": -1}, UsageError, "min_user_items=-1 is negative"),
        ("none", {"drop_top_items": "-2"}, UsageError, "drop_top_items=-2 is negative"),
        ("none", {"min_item_users": "many"}, UsageError, "min_item_users='many'"),
        ("none", {"min_rating": "nan"}, UsageError, "min_rating=nan"),
        ("none", {"order": "random"}, UsageError, "order='random'"),
    ],
)
def test_a_filter_that_makes_no_sense_gets_one_line(name, overrides, kind, message):
    with pytest.raises(kind) as caught:
        resolve_filter(name, overrides)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_filter_made_by_hand_is_checked_when_it_is_applied():
    with pytest.raises(UsageError, match="min_item_users=-3 is negative"):
        apply_filter(make_dataset(), Filter(min_item_users=-3))
    with pytest.raises(UsageError, match="order='sideways'"):
        apply_filter(make_dataset(), Filter(order="sideways"))


def test_a_rating_threshold_without_ratings_gets_one_line():
    with pytest.raises(UsageError, match="min_rating=4 needs ratings, and 'random' has none") as caught:
        apply_filter(make_dataset(ratings=None), NAMED_FILTERS["liang-ml"])

    assert "\n" not in str(caught.value)


def test_a_filter_that_leaves_nothing_says_what_each_step_left():
    dataset = make_dataset()
    liked = int((dataset.ratings >= 5).sum())

    with pytest.raises(DataError) as caught:
        apply_filter(dataset, Filter(min_rating=5, min_item_users=1000, min_user_items=3))

    message = str(caught.value)
    assert f"as read: {dataset.interactions.nnz:,} interactions; rating >= 5: {liked:,}" in message
    assert "items with >= 1000 users: 0" in message
    assert "\n" not in message


def test_a_long_way_to_nothing_still_fits_one_line():
    chain = sp.csr_array(np.triu(np.ones((40, 40), dtype=np.float32)) - np.triu(np.ones((40, 40), dtype=np.float32), 2))
    dataset = Dataset("chain", chain, np.arange(40), np.arange(40), "x")

    with pytest.raises(DataError) as caught:
        apply_filter(dataset, Filter(min_user_items=2, min_item_users=2, repeat=True))

    assert "more steps" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_data_set_without_interactions_is_an_error():
    dataset = Dataset("empty", sp.csr_array((3, 2), dtype=np.float32), np.arange(3), np.arange(2), "x")

    with pytest.raises(DataError, match="as read: 0 interactions"):
        apply_filter(dataset, Filter())
