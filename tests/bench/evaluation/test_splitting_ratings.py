"""The splits that read ratings: a share of all of them, and interactions that are high ratings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset, Filter
from recscale.errors import DataError, UsageError
from recscale.evaluation.filtering import apply_filter
from recscale.evaluation.protocols import FoldIn, Ratings, protocol_text, resolve_protocol
from recscale.evaluation.splitting import split


def make_dataset(n_users=80, n_items=50, seed=0, **changes):
    """Ratings from 0 to 5, by users and of items in no order of their ids, some with next to none."""
    rng = np.random.default_rng(seed)
    full = rng.random((n_users, n_items)) < np.outer(rng.random(n_users), rng.random(n_items) + 0.2)
    full[np.arange(n_users), rng.integers(0, n_items, n_users)] = True
    matrix = sp.csr_array(full.astype(np.float32))
    fields = {
        "name": "random",
        "interactions": matrix,
        "user_ids": rng.permutation(n_users) * 7 + 11,
        "item_ids": np.array([f"i{i}" for i in range(n_items)]),
        "fingerprint": "as-read",
        "ratings": rng.integers(0, 6, matrix.nnz).astype(np.float32),
    }
    return Dataset(**(fields | changes))


def triples(matrix, users=None):
    """The stored entries, as (user, item, rating)."""
    rows = np.repeat(np.arange(matrix.shape[0]) if users is None else users, np.diff(matrix.indptr))
    return list(zip(rows.tolist(), matrix.indices.tolist(), matrix.data.tolist(), strict=True))


def test_the_parts_are_disjoint_and_together_all_ratings_with_their_values():
    dataset = make_dataset()
    everything = sp.csr_array((dataset.ratings, dataset.interactions.indices, dataset.interactions.indptr))

    result = split(dataset, Ratings(test_share=0.3, valid_share=0.2))

    train, test = triples(result.train), triples(result.test.target, result.users)
    n_valid = int(result.valid.target.nnz)
    assert not set(train) & set(test) and set(train) | set(test) < set(triples(everything))
    left = sorted(set(triples(everything)) - set(train) - set(test))
    valid_users = sorted({user for user, *_ in left})
    assert sorted(triples(result.valid.target, np.array(valid_users))) == left
    assert np.array([len(train), len(test), n_valid]) / everything.nnz == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)
    assert all(any(rating == 0 for *_, rating in part) for part in (train, test, left))


def test_histories_are_the_training_rows_of_those_who_have_a_rating_to_predict():
    result = split(make_dataset(), Ratings())

    assert result.train.shape == (80, 50) and result.test.n_users == len(result.users) < 80
    assert result.dropped_users == 80 - result.test.n_users
    assert np.all(np.diff(result.test.target.indptr) > 0)
    for place, user in enumerate(result.users):
        assert triples(result.test.history[[place]]) == triples(result.train[[user]])
    assert result.valid.n_users == 0 and result.items.tolist() == list(range(50))


def test_chance_is_over_ratings_and_not_over_users():
    counts = [np.diff(split(make_dataset(), Ratings(split_seed=seed)).train.indptr) for seed in range(40)]

    expected = 0.8 * np.diff(make_dataset().interactions.indptr)
    np.testing.assert_allclose(np.mean(counts, axis=0), expected, atol=1.2)
    assert np.std(counts, axis=0).max() > 0.5  # shares of each user's ratings are not fixed


def test_a_seed_gives_one_split_and_another_seed_another():
    one, again, other = (split(make_dataset(), Ratings(split_seed=seed)).fingerprint for seed in (1, 1, 2))

    assert one == again != other


def test_the_values_are_a_part_of_the_fingerprint():
    dataset = make_dataset()

    assert (
        split(dataset, Ratings()).fingerprint
        != split(replace(dataset, ratings=dataset.ratings + 1), Ratings()).fingerprint
    )


@pytest.mark.parametrize("options", [Ratings(), FoldIn(liked=4)])
def test_data_without_ratings_is_refused_by_name(options):
    with pytest.raises(UsageError, match="needs ratings, and 'random' has none"):
        split(make_dataset(ratings=None), options)


def test_ratings_that_are_no_numbers_are_refused():
    dataset = make_dataset()
    dataset.ratings[3] = np.nan

    with pytest.raises(DataError, match=r"1 of \d+ ratings of 'random' are NaN"):
        split(dataset, Ratings())


def test_too_few_ratings_for_the_shares_are_refused():
    tiny = make_dataset(n_users=1, n_items=1)

    with pytest.raises(DataError, match="no test user of 'random'"):
        split(tiny, Ratings())
    with pytest.raises(DataError, match="leave none to train on"):
        split(tiny, Ratings(test_share=0.9))


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UsageError, match=r"test_share=0.5 and valid_share=0.5 leave nothing to train on"):
        resolve_protocol("ratings", {"test_share": "0.5", "valid_share": "0.5"})


def test_liked_splits_what_a_filter_of_low_ratings_leaves_and_keeps_the_others():
    dataset = make_dataset(n_users=120)
    kept = apply_filter(dataset, Filter(min_rating=3))
    expected = split(kept, FoldIn(n_heldout=20))

    result = split(dataset, FoldIn(n_heldout=20, liked=3))

    assert dataset.user_ids[result.users].tolist() == kept.user_ids[expected.users].tolist()
    assert dataset.item_ids[result.items].tolist() == kept.item_ids[expected.items].tolist()
    for got, wanted in (
        (result.train, expected.train),
        (result.test.history, expected.test.history),
        (result.test.target, expected.test.target),
        (result.valid.target, expected.valid.target),
    ):
        np.testing.assert_array_equal(got.toarray(), wanted.toarray())
    ratings = sp.csr_array((dataset.ratings + 1, dataset.interactions.indices, dataset.interactions.indptr)).toarray()
    low = (ratings > 0) & (ratings < 4)
    disliked = result.test.disliked.toarray()
    assert np.all(disliked <= low[result.users][:, result.items])
    assert 0.1 < disliked.sum() / low[result.users][:, result.items].sum() < 0.3
    assert not result.test.disliked.multiply(result.test.history + result.test.target).nnz
    assert protocol_text(FoldIn(liked=3)) == "fold-in[liked=3.0]"


def test_of_disliked_items_as_large_a_share_is_drawn_as_of_liked_ones_and_anew_with_each_seed():
    dataset = make_dataset(n_users=2000)

    one, other = (split(dataset, FoldIn(liked=3, test_share=0.4, split_seed=seed)).test for seed in (1, 2))
    again = split(dataset, FoldIn(liked=3, test_share=0.4, split_seed=1)).test

    n_liked = one.history.nnz + one.target.nnz  # as many as are disliked: ratings are 0 to 5 at random
    assert one.disliked.nnz / n_liked == pytest.approx(0.4, abs=0.04)
    assert one.disliked.nnz != other.disliked.nnz
    np.testing.assert_array_equal(one.disliked.toarray(), again.disliked.toarray())


def test_a_threshold_below_all_ratings_is_refused():
    with pytest.raises(UsageError, match="no rating of 'random' is below liked=0, so nothing is disliked"):
        split(make_dataset(), FoldIn(liked=0))
    with pytest.raises(UsageError, match="no rating of 'random' is below liked=nan"):
        split(make_dataset(), FoldIn(liked=float("nan")))


def test_without_liked_nothing_is_kept_of_what_is_disliked():
    result = split(make_dataset(), FoldIn())

    assert result.test.disliked is None and result.valid.disliked is None
