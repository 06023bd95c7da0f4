import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models.cel import CEL, SPEC
from recscale.models.popularity import Popularity
from recscale.testing.board import placement, planted_board

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ALONE = FitContext(n_threads=1)
FAST = {"factors": 6, "clusters": 7, "epochs": 4}


def random_rows(n_users=30, n_items=20, seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def test_planted_item_clusters_are_recovered():
    rng = np.random.default_rng(0)
    types, likes = np.arange(48) % 4, np.arange(160) % 4
    train = rng.random((160, 48)) < np.where(likes[:, None] == types, 0.5, 0.02)

    model = CEL(factors=32, clusters=4, epochs=20, optimiser="sgd", learning_rate=0.003, spread=2.0)
    model.fit(sp.csr_array(train.astype(np.float32)), ALONE)

    clusters = model.state()["item_clusters"]
    assert len({(cluster, kind) for cluster, kind in zip(clusters.tolist(), types.tolist(), strict=True)}) == 4
    assert len(np.unique(clusters)) == 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cluster": "users"},
        {"cluster": "both", "fold_in": "cluster"},
        {"nonnegative": True},
        {"personal_epochs": 3},
        {"optimiser": "sgd", "learning_rate": 1e-3, "epochs": 30},
        {"bias": False},
    ],
    ids=str,
)
def test_what_was_planted_is_ranked_above_what_is_popular(options):
    board = planted_board()

    scores = CEL(**{"factors": 6, "clusters": 8, "epochs": 12} | options).fit(board.train, ALONE).score(board.history)

    popular = placement(Popularity().fit(board.train, ALONE).score(board.history), board)
    assert placement(scores, board) > max(0.75, popular + 0.12)


def score_by_hand(model, history, users=None):
    """Score from the state and the normal equations as they are printed, in float64."""
    state = model.state()
    vectors = model.item_vectors().astype(np.float64)
    bias = state["item_bias"].astype(np.float64) if model.bias else np.zeros(len(vectors))
    alpha0, scores = model.unobserved_weight, []
    for row in history.toarray():
        own = vectors[row > 0]
        strength = model.regularization * (len(own) + alpha0 * len(vectors))
        system = alpha0 * vectors.T @ vectors + own.T @ own + strength * np.eye(vectors.shape[1])
        right = own.T @ (1 - bias[row > 0]) - alpha0 * vectors.T @ bias
        scores.append(vectors @ np.linalg.solve(system, right) + bias)
    return np.array(scores)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"cluster": "users"}, {"clusters": None}], ids=str)
def test_unseen_users_are_the_solution_of_the_normal_equations(options):
    history = random_rows(8, seed=1)
    model = CEL(**FAST | options).fit(random_rows(), ALONE)

    scores = model.score(history)

    expected = score_by_hand(model, history)
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())


def test_nonnegative_users_are_the_nonnegative_least_squares():
    from scipy.optimize import nnls

    history = random_rows(6, seed=1)
    model = CEL(**FAST | {"nonnegative": True}).fit(random_rows(), ALONE)
    vectors, bias = model.item_vectors().astype(np.float64), model.state()["item_bias"].astype(np.float64)

    users = model.user_vectors(history)

    assert vectors.min() == 0 and users.min() == 0
    for row, user in zip(history.toarray(), users, strict=True):
        strength = model.regularization * (row.sum() + model.unobserved_weight * 20)
        root = model.unobserved_weight**0.5
        system = np.vstack([vectors[row > 0], root * vectors, strength**0.5 * np.eye(6)])
        wanted = np.concatenate([1 - bias[row > 0], -root * bias, np.zeros(6)])
        np.testing.assert_allclose(user, nnls(system, wanted)[0], atol=1e-4)


def test_a_user_can_take_the_cluster_of_users_with_the_least_loss():
    history = random_rows(8, seed=1)
    model = CEL(**FAST | {"cluster": "both", "fold_in": "cluster"}).fit(random_rows(), ALONE)
    vectors, bias = model.item_vectors(), model.state()["item_bias"]

    users = model.user_vectors(history)

    for row, user in zip(history.toarray(), users, strict=True):
        scores = model.state()["user_table"] @ vectors.T + bias
        losses = ((1 - scores) ** 2)[:, row > 0].sum(1) + model.unobserved_weight * (scores**2).sum(1)
        np.testing.assert_array_equal(user, model.state()["user_table"][losses.argmin()])


def test_items_of_a_cluster_tie_but_for_their_bias():
    history = random_rows(4, seed=1)
    model = CEL(**FAST).fit(random_rows(), ALONE)
    clusters, bias = model.state()["item_clusters"], model.state()["item_bias"]

    pure = model.score(history) - bias

    assert len(np.unique(clusters)) == 7
    for cluster in range(7):
        assert np.ptp(pure[:, clusters == cluster], axis=1).max() < 1e-6
    assert np.ptp(bias) > 0.01


def test_personal_vectors_stay_near_their_centres_as_they_are_told():
    spreads = []
    for attachment in (1e4, 0.0):
        options = {"clusters": 4, "personal_epochs": 2, "attachment": attachment, "learning_rate": 1e-3}
        vectors = CEL(**FAST | options).fit(random_rows(), ALONE).item_vectors()
        apart = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
        spreads.append(np.sort(apart, axis=1)[:, 1].mean())

    assert vectors.shape == (20, 6)
    assert spreads[0] < 0.2 * spreads[1]


def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def killer(name, step, value):
        if name == "progress" and step == 37:
            raise Killed

    for options in ({}, {"cluster": "both"}, {"personal_epochs": 2}):
        model = CEL(**FAST | {"epochs": 6} | options)
        expected = model.fit(random_rows(), ALONE).score(random_rows())
        kept = Checkpoint(tmp_path / f"{len(options)}{'cluster' in options}.pt")
        with pytest.raises(Killed):
            model.fit(random_rows(), FitContext(n_threads=1, log=killer, checkpoint=kept))
        assert kept.path.exists()

        again = model.fit(random_rows(), FitContext(n_threads=1, checkpoint=kept)).score(random_rows())

        np.testing.assert_array_equal(again, expected)


def test_only_epochs_after_the_growth_are_judged_by_validation_users():
    history, target = random_rows(8, seed=1), random_rows(8, seed=2, density=0.1)
    target = sp.csr_array(target - target.multiply(history))
    target.eliminate_zeros()
    seen = []
    log = lambda name, step, value: seen.append(step) if name == "validation ndcg" else None  # noqa: E731

    model = CEL(**FAST | {"epochs": 6}).fit(
        random_rows(), FitContext(n_threads=1, validation=HeldOut(history, target), log=log)
    )

    assert seen == [5, 6]
    assert len(model.state()["item_table"]) == 7


def test_sizes_count_the_table_the_clusters_and_the_bias():
    train = random_rows()
    clustered, plain = CEL(**FAST).fit(train, ALONE), CEL(**FAST | {"clusters": None}).fit(train, ALONE)

    assert (clustered.size().n_parameters, clustered.size().n_bytes) == (7 * 6 + 20, 4 * (7 * 6 + 20) + 20)
    assert plain.size().n_bytes == 4 * (20 * 6 + 20)
    for model in (clustered, plain):
        needs = SPEC.estimate(model, Shape.of(train))
        assert needs.peak_bytes > needs.model_bytes == model.size().n_bytes


def test_a_user_scores_the_same_alone_and_in_a_batch():
    rows = random_rows()
    model = CEL(**FAST).fit(rows, ALONE)

    alone = np.vstack([model.score(rows[[user]]) for user in range(30)])

    np.testing.assert_allclose(alone, model.score(rows), rtol=1e-5, atol=1e-6)


def test_values_count_as_ones():
    rows = random_rows()
    valued = rows.copy()
    valued.data *= 5

    np.testing.assert_array_equal(
        CEL(**FAST).fit(rows, ALONE).score(rows), CEL(**FAST).fit(valued, ALONE).score(valued)
    )


def test_a_model_from_disk_scores_the_same_bits(tmp_path):
    rows = random_rows()
    model = CEL(**FAST).fit(rows, ALONE)
    model.save(tmp_path / "cel.npz")

    again = CEL.load(tmp_path / "cel.npz")

    np.testing.assert_array_equal(again.score(rows), model.score(rows))
    assert again.state()["item_clusters"].dtype == np.uint8


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        CEL().fit(random_rows(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="21 items"):
        CEL(**FAST | {"epochs": 1}).fit(random_rows(), ALONE).score(sp.csr_array((1, 21), dtype=np.float32))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"factors": 0}, "factors"),
        ({"clusters": 0}, "clusters"),
        ({"cluster": "pairs"}, "cluster"),
        ({"regularization": 0}, "regularization"),
        ({"damping": 1.5}, "damping"),
        ({"fold_in": "cluster"}, "needs clusters of users"),
        ({"personal_epochs": 2, "cluster": "users"}, "clusters of items"),
        ({"personal_epochs": 16}, "leaves no epoch"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        CEL(**options).fit(random_rows(), ALONE)
