"""Clusters of vectors against loops over distances, and on places whose clusters are known."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext, HeldOut
from recscale.datasets.planted import PlantedCoClusters
from recscale.errors import DataError, UsageError
from recscale.evaluation import _membership
from recscale.evaluation.clustering import Clustering, ClusterOptions, cluster_vectors, judge_factored
from recscale.evaluation.coclusters import Evidence, JudgeOptions, judge, recovery
from recscale.models.wrmf import WRMF


def places(n, seed=0, width=3):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def blobs(n_each, seed=0):
    """Return points around four far corners, those of one corner behind those of another."""
    corners = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9]], np.float32)
    return np.repeat(corners, n_each, axis=0) + 0.3 * places(4 * n_each, seed)


class Placed:
    """A model whose users lie at the mean of their items, and who remembers whom it was asked for."""

    def __init__(self, items):
        self.items, self.asked = items, []

    def item_vectors(self):
        return self.items

    def user_vectors(self, history):
        self.asked.append(history)
        sizes = np.maximum(np.diff(history.indptr), 1)[:, None]
        return (history @ self.items / sizes).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Users of four tastes and 120 items in four corners."""
    rng = np.random.default_rng(5)
    likes = np.where(np.arange(600)[:, None] % 4 == np.arange(120)[None, :] // 30, 0.3, 0.01)
    rows = sp.csr_array((rng.random(likes.shape) < likes).astype(np.float32))
    rest, later = rows[400:].copy(), rows[400:].copy()
    kept = rng.random(later.nnz) < 0.7
    rest.data[~kept], later.data[kept] = 0, 0
    rest.eliminate_zeros()
    later.eliminate_zeros()
    return Placed(blobs(30)), rows[:400], HeldOut(rest, later)


def test_affinities_are_those_of_distances_taken_one_by_one(monkeypatch):
    monkeypatch.setattr(_membership, "BLOCK_BYTES", 400)
    clustering = Clustering(places(6), 1.7, 0.0)
    vectors = places(23, 1)

    found = clustering.affinity(vectors)

    expected = [[1 / (1 + math.dist(v, m) / 1.7) for m in clustering.centers] for v in vectors]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_vector_at_a_centre_has_affinity_1_and_one_far_away_still_a_little():
    clustering = Clustering(places(6), 1.0, 0.0)

    found = clustering.affinity(np.concatenate([clustering.centers[2:3], [[1e6, 0, 0]]]))

    assert found[0, 2] == 1
    assert 0 < found[1].max() < 1e-5


def test_clustered_entities_have_the_inertia_and_radius_of_their_nearest_centres():
    users, items = places(90), places(50, 1)

    clustering = cluster_vectors(users, items, 7)

    nearest = [min(math.dist(v, m) for m in clustering.centers) for v in [*users, *items]]
    assert clustering.n_clusters == 7
    assert clustering.inertia == pytest.approx(sum(d * d for d in nearest), rel=1e-4)
    assert clustering.radius == pytest.approx(math.sqrt(np.mean(np.square(nearest))), rel=1e-4)


def test_users_and_items_of_one_corner_fall_into_one_cluster():
    users, items = blobs(40), blobs(15, seed=1)

    clustering = cluster_vectors(users, items, 4)

    assert recovery(clustering.affinity(users), np.kron(np.eye(4), np.ones((40, 1))), "top1").f1 == 1
    assert recovery(clustering.affinity(items), np.kron(np.eye(4), np.ones((15, 1))), "top1").f1 == 1
    np.testing.assert_array_equal(
        clustering.affinity(users)[::40].argmax(axis=1), clustering.affinity(items)[::15].argmax(axis=1)
    )


def test_the_length_of_the_vectors_does_not_matter():
    users, items = places(90), places(50, 1)

    one, other = cluster_vectors(users, items, 5), cluster_vectors(4 * users, 4 * items, 5)

    np.testing.assert_allclose(one.affinity(users), other.affinity(4 * users), rtol=1e-4)


def test_of_three_runs_that_of_least_inertia_is_kept(monkeypatch):
    states = []

    class Run:
        def __init__(self, n_clusters, n_init, random_state):
            assert (n_clusters, n_init) == (2, 1)
            states.append(random_state)
            self.inertia_ = [7.0, 4.0, 5.0][len(states) - 1]
            self.cluster_centers_ = np.full((2, 3), self.inertia_)

        def fit(self, vectors):
            assert vectors.shape == (16, 3)
            return self

    monkeypatch.setattr("sklearn.cluster.MiniBatchKMeans", Run)
    clustering = cluster_vectors(places(10), places(6), 2)

    assert len(set(states)) == 3
    assert clustering.inertia == 4.0
    assert np.all(clustering.centers == 4.0)
    assert clustering.radius == pytest.approx(0.5)


def test_a_seed_gives_the_same_centres_on_one_thread_and_on_two():
    from threadpoolctl import threadpool_limits

    users, items = places(1500), places(700, 1)
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(cluster_vectors(users, items, 9, seed=3).centers)

    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], cluster_vectors(users, items, 9, seed=4).centers)


def test_entities_that_all_lie_on_centres_have_a_radius_all_the_same():
    clustering = cluster_vectors(np.zeros((5, 2)), np.zeros((4, 2)), 1)

    assert clustering.radius == 1
    np.testing.assert_array_equal(clustering.affinity(np.zeros((3, 2))), np.ones((3, 1)))


def test_the_report_is_that_of_centres_of_training_users_and_items(world):
    model, train, held_out = world
    model.asked.clear()
    options = ClusterOptions(n_clusters=4, min_users=5, min_items=5)

    report = judge_factored(model, train, held_out, 2, options)

    clustering = cluster_vectors(model.user_vectors(train), model.items, 4, 2)
    items, users = (clustering.affinity(v) for v in (model.items, model.user_vectors(held_out.history)))
    members = clustering.affinity(model.user_vectors(train))
    evidence = Evidence(held_out.history + held_out.target, train.sum(axis=0), held_out.target, members)
    expected = judge(items, users, evidence, 2, JudgeOptions(rule="top1", min_users=5, min_items=5))
    assert [part.shape[0] for part in model.asked[:2]] == [400, 200]
    assert report.as_record() == expected.as_record()
    assert report.n_coclusters == report.n_judged == 4
    assert report.lift.value > 2


def test_a_cluster_has_a_hundred_users_and_items_on_average_at_least(world):
    model, train, held_out = world

    assert judge_factored(model, train, held_out).n_coclusters == (400 + 120) // 100
    tiny = HeldOut(train[:4], held_out.target[:4])
    assert judge_factored(Placed(places(120)), train[:90], tiny, options=ClusterOptions(n_clusters=7)).n_coclusters == 2


def test_planted_co_clusters_are_found_among_the_vectors_of_wrmf():
    dataset = PlantedCoClusters(n_users=1200, n_items=300, n_interactions=24_000, n_clusters=8, memberships=1).load()
    train, rest = dataset.interactions[:800], dataset.interactions[800:].tolil()
    history = rest.copy()
    history[:, ::3] = 0
    history = sp.csr_array(history)
    model = WRMF(factors=16).fit(train, FitContext(n_threads=1))
    assert isinstance(model, Factored)

    clustering = cluster_vectors(model.user_vectors(train), model.item_vectors(), 16)
    held_out = HeldOut(history, sp.csr_array(rest) - history)
    report = judge_factored(model, train, held_out, options=ClusterOptions(n_clusters=16, min_items=10, min_users=10))

    items = recovery(clustering.affinity(model.item_vectors()), dataset.truth["item_membership"], "top1")
    later = recovery(clustering.affinity(model.user_vectors(history)), dataset.truth["user_membership"][800:], "top1")
    assert items.f1 > items.baseline + 0.15
    assert later.f1 > later.baseline + 0.15
    assert report.lift.low > 1.5


@pytest.mark.parametrize("n_clusters", [0, -1, 17])
def test_a_number_of_clusters_that_vectors_cannot_have_is_refused(n_clusters):
    with pytest.raises(UsageError, match=f"n_clusters={n_clusters} does not fit: expected 1 to 16"):
        cluster_vectors(places(10), places(6), n_clusters)


@pytest.mark.parametrize(
    ("users", "items", "words"),
    [
        (places(10, width=2), places(6), "users have the shape .10, 2.; expected .users, 3."),
        (places(10), places(6)[0], "items have the shape .3,.; expected .items, factors."),
        (places(10), np.full((6, 3), np.nan), "items hold NaN"),
        (np.full((10, 3), 1e300), places(6), "users hold NaN or infinite"),
        ([["a"]], places(6), "users are no array of numbers"),
    ],
)
def test_vectors_that_cannot_be_clustered_are_an_error(users, items, words):
    with pytest.raises(DataError, match=words):
        cluster_vectors(users, items, 2)


def test_only_vectors_of_the_same_space_can_be_assigned():
    clustering = cluster_vectors(places(10), places(6), 2)

    with pytest.raises(DataError, match=r"expected \(entities, 3\)"):
        clustering.affinity(places(4, width=2))
    with pytest.raises(DataError, match="hold NaN"):
        clustering.affinity([[0, np.inf, 0]])


def test_the_rule_by_which_all_belong_to_all_is_refused(world):
    with pytest.raises(UsageError, match="by distance all belong to all"):
        judge_factored(*world, options=ClusterOptions(rule="positive"))
    with pytest.raises(UsageError, match="n_clusters"):
        ClusterOptions(n_clusters=0)
