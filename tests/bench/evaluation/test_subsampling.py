"""Subsamples: nested, the same every time, and of the size that was asked for."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Dataset
from recscale.errors import DataError, UsageError
from recscale.evaluation.subsampling import Subsample, take_subsample

SHARES = (0.1, 0.25, 0.5, 0.8, 1.0)


@pytest.fixture
def dataset():
    rng = np.random.default_rng(3)
    matrix = sp.csr_array((rng.random((200, 120)) < 0.1).astype(np.float32))
    rows, columns = matrix.nonzero()
    return Dataset(
        name="random",
        interactions=matrix,
        user_ids=np.arange(200) + 1_000,
        item_ids=np.array([f"i{i}" for i in range(120)]),
        fingerprint="as-read",
        ratings=(1 + (rows * 7 + columns) % 5).astype(np.float32),
        truth={"user_affinity": rng.random((200, 2))},
    )


def entries(dataset):
    """Return the interactions as (user id, item id, rating)."""
    rows, columns = dataset.interactions.nonzero()
    ids = zip(dataset.user_ids[rows].tolist(), dataset.item_ids[columns].tolist(), dataset.ratings, strict=True)
    return set(ids)


@pytest.mark.parametrize("way", ["users", "items", "interactions"])
def test_a_smaller_subsample_is_a_part_of_every_larger_one(dataset, way):
    parts = [entries(take_subsample(dataset, Subsample(**{way: share}))) for share in SHARES]

    assert all(small < large for small, large in pairwise(parts))
    assert parts[-1] == entries(dataset)


@pytest.mark.parametrize("way", ["users", "items", "interactions"])
def test_a_subsample_is_the_same_every_time_and_has_a_fingerprint_of_its_own(dataset, way):
    found = [take_subsample(dataset, Subsample(**{way: share})).fingerprint for share in (*SHARES, *SHARES)]

    assert found[: len(SHARES)] == found[len(SHARES) :]
    assert len(set(found)) == len(SHARES)


def test_the_share_is_of_what_it_is_called(dataset):
    by_users = take_subsample(dataset, Subsample(users=0.25))
    by_items = take_subsample(dataset, Subsample(items=0.25))
    by_interactions = take_subsample(dataset, Subsample(interactions=0.25))

    assert by_users.interactions.shape[0] == 50
    assert by_items.interactions.shape[1] == 30
    assert by_interactions.interactions.nnz == round(0.25 * dataset.interactions.nnz)


def test_users_keep_all_their_items_and_items_all_their_users(dataset):
    whole = entries(dataset)
    users = {u for u, _, _ in entries(take_subsample(dataset, Subsample(users=0.3)))}
    items = {i for _, i, _ in entries(take_subsample(dataset, Subsample(items=0.3)))}

    assert entries(take_subsample(dataset, Subsample(users=0.3))) == {e for e in whole if e[0] in users}
    assert entries(take_subsample(dataset, Subsample(items=0.3))) == {e for e in whole if e[1] in items}


def test_users_and_items_without_an_interaction_left_drop_out(dataset):
    part = take_subsample(dataset, Subsample(interactions=0.05))

    assert np.all(np.diff(part.interactions.indptr) > 0)
    assert np.all(part.interactions.sum(axis=0) > 0)
    assert part.truth["user_affinity"].shape[0] == part.interactions.shape[0] < 200


def test_two_shares_at_once_keep_what_both_keep(dataset):
    both = entries(take_subsample(dataset, Subsample(users=0.5, items=0.5)))

    one, other = (entries(take_subsample(dataset, Subsample(**{way: 0.5}))) for way in ("users", "items"))
    assert both == one & other


def test_the_whole_is_the_data_set_itself(dataset):
    assert take_subsample(dataset, Subsample()) is dataset


def test_a_subsample_of_nothing_is_an_error_that_says_so():
    lonely = Dataset(
        name="lonely",
        interactions=sp.csr_array(np.eye(40, dtype=np.float32)),
        user_ids=np.arange(40),
        item_ids=np.arange(40),
        fingerprint="as-read",
    )

    with pytest.raises(DataError, match=r"users=0\.05, items=0\.05 of 'lonely' has no interactions; take larger"):
        take_subsample(lonely, Subsample(users=0.05, items=0.05))


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "half"])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(UsageError, match="users"):
        Subsample(users=share)
