import numpy as np
import pytest

from recscale.models._clustering import (
    Clustering,
    Entities,
    cluster_sizes,
    grown,
    is_prime_or_one,
    leavers,
    projections,
    reassigned,
    refilled,
    smallest_integers,
)


def test_gradient_pca_is_the_leading_singular_direction():
    gradients = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)

    along = projections(gradients)

    centred = gradients - gradients.mean(0)
    left, strength, _ = np.linalg.svd(centred)
    np.testing.assert_allclose(np.abs(along), np.abs(left[:, 0] * strength[0]), rtol=1e-4)
    np.testing.assert_allclose(projections(np.tile(gradients, (1, 5))), along * 5**0.5, rtol=1e-4)  # wide or tall


def test_gradient_pca_parts_two_planted_types_at_zero():
    rng = np.random.default_rng(1)
    types = rng.random(60) < 0.4
    gradients = rng.normal(0, 0.3, (60, 5)) + np.where(types[:, None], 2.0, -1.0) * [1, 0, -1, 0, 0.5]

    leave = leavers(Entities(np.ones(60), gradients.astype(np.float32)), "zero")

    assert (leave == types).all() or (leave == ~types).all()


@pytest.mark.parametrize(("threshold", "expected"), [("zero", 1), ("median", 3), ("interactions", 4)])
def test_thresholds_part_where_they_say(threshold, expected):
    places = np.array([[-20.0], [1], [2], [4], [5], [8]], np.float32)
    counts = np.array([1, 1, 1, 5, 1, 7])

    assert leavers(Entities(counts, places), threshold).sum() == expected


@pytest.mark.parametrize("threshold", ["zero", "median", "interactions"])
def test_equal_gradients_are_not_parted(threshold):
    gradients = np.full((7, 3), 0.1, np.float32)

    assert not leavers(Entities(np.ones(7), gradients), threshold).any()


def test_splits_are_of_the_cluster_with_most_interactions_and_pass_over_what_cannot_be_parted():
    gradients = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    gradients[3:6] = 1  # cluster 1 cannot be parted
    assignment = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    counts = np.array([1, 1, 1, 90, 90, 90, 40, 40])

    once, parents = grown(assignment, Entities(counts, gradients), 4, Clustering())
    whole, all_parents = grown(assignment, Entities(counts, gradients), 99, Clustering())

    assert parents == [2]
    assert once[6] != once[7] and (once[:6] == assignment[:6]).all()
    assert len(all_parents) == 3 and whole.max() == 5  # three and two entities give three more, the others none
    assert cluster_sizes(whole, 6).tolist()[1] == 3


@pytest.mark.parametrize(("criterion", "parent"), [("interactions", 0), ("entities", 1), ("gradient", 2)])
def test_the_criterion_names_the_cluster(criterion, parent):
    assignment = np.array([0, 0, 1, 1, 1, 2, 2])
    gradients = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    gradients[5:] += 10

    _, parents = grown(
        assignment, Entities(np.array([9, 9, 1, 1, 1, 1, 1]), gradients), 4, Clustering(criterion=criterion)
    )

    assert parents == [parent]


def test_entities_go_to_their_best_cluster_but_leave_none_empty():
    assignment, best = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 1, 0, 0])

    moved, n_moved = reassigned(assignment, best, 0.0, np.random.default_rng(0))

    assert moved.tolist() == [1, 1, 1, 0, 2]
    assert n_moved == 3


def test_damping_is_the_share_that_stays():
    assignment, best = np.arange(20_000) % 2, 1 - np.arange(20_000) % 2

    _, n_moved = reassigned(assignment, best, Clustering.damping, np.random.default_rng(0))

    assert n_moved / 20_000 == pytest.approx(1 - 0.3085, abs=0.01)


def test_empty_clusters_are_filled_from_the_largest():
    assignment = np.array([0] * 9 + [3] * 2)

    filled, copied = refilled(assignment, 5, np.random.default_rng(0))

    assert cluster_sizes(filled, 5).min() > 0
    assert copied.tolist() == [0, 0, 0, 3, 0]
    assert (filled[9:] == 3).all()


def test_more_clusters_than_entities_stay_empty():
    filled, copied = refilled(np.array([0, 0]), 4, np.random.default_rng(0))

    assert sorted(filled) == [0, 1]
    assert copied.tolist() == [0, 0, 2, 3]


def test_the_schedule_is_that_of_the_public_code():
    schedule = Clustering()

    steps = [10 * epoch for epoch in range(200) if schedule.reassigns(epoch)]

    assert steps == [40, 80, 120, 200, 280, 440, 520, 680, 760]
    assert [epoch for epoch in range(200) if schedule.splits(epoch)] == list(range(80))
    assert [schedule.target(0, n, 1) for n in (1, 49, 50)] == [2, 50, 50]
    assert [number for number in range(1, 20) if is_prime_or_one(number)] == [1, 2, 3, 5, 7, 11, 13, 17, 19]


def test_geometric_growth_ends_at_all_clusters():
    schedule = Clustering(clusters=64, growth="geometric", growth_epochs=6)

    assert [schedule.target(epoch, 0, 1) for epoch in range(6)] == [2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (70_000, np.uint32)])
def test_assignments_take_the_fewest_bytes(largest, dtype):
    assert smallest_integers(np.array([0, largest])).dtype == dtype
