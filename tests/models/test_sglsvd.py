import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models import _local_factors
from recscale.models._local_factors import Alternation, Factors, Recipe, in_best_clusters, in_own_clusters, space_of
from recscale.models.sglsvd import SGLSVD, SPEC
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)


def random_train(n_users=60, n_items=25, seed=0, density=0.25):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def random_space(n_items=25, ranks=(3, 2, 3), seed=0):
    """Return a global SVD of rank 4 and local ones, all of them random; the first knows some of the items only."""
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.normal(size=(n_items, rank)))[0].astype(np.float32) for rank in (4, *ranks)]
    items = np.sort(rng.permutation(n_items)[: n_items // 2]).astype(np.int32)
    own = np.linalg.qr(rng.normal(size=(items.size, ranks[0])))[0].astype(np.float32)
    return space_of(bases[0], [Factors(items, own), *(Factors(None, basis) for basis in bases[2:])])


def whole(part, n_items):
    vectors = np.zeros((n_items, part.vectors.shape[1]))
    vectors[slice(None) if part.items is None else part.items] = part.vectors
    return vectors


def best_by_hand(rows, space):
    """Return for each dense row the estimate of least squared error, its cluster, its weight and that error."""
    found = []
    for r in rows:
        a = space.common @ (space.common.T @ r)
        tries = []
        for label, part in enumerate(space.local):
            vectors = whole(part, r.size)
            b = vectors @ (vectors.T @ r)
            distance = np.sum((b - a) ** 2)
            g = np.clip(np.sum((b - a) * (b - r)) / distance, 0, 1) if distance > 1e-9 else 1.0
            estimate = g * a + (1 - g) * b
            tries.append((np.sum((r - estimate) ** 2), label, g, estimate))
        found.append(min(tries, key=lambda one: one[:2]))
    errors, labels, weights, estimates = zip(*found, strict=True)
    return np.array(estimates), np.array(labels), np.array(weights), np.array(errors)


def shared_items_board(n_users=180, seed=0):
    """Draw users of three groups that pair the same 24 items each in its own way; a user has four of the pairs."""
    rng = np.random.default_rng(seed)
    pairs = [np.random.default_rng(50 + group).permutation(24).reshape(6, 4) for group in range(3)]
    rows = np.zeros((n_users, 24), np.float32)
    groups = np.arange(n_users) % 3
    for user, group in enumerate(groups):
        rows[user, pairs[group][rng.choice(6, 2, replace=False)].ravel()] = 1
    return sp.csr_array(rows), groups


@pytest.mark.parametrize("seed", range(3))
def test_users_go_where_the_squared_error_over_all_items_is_least(seed):
    space, rows = random_space(seed=seed), random_train(seed=seed)
    dense = rows.toarray()

    placing = in_best_clusters(rows, space)

    _, labels, weights, errors = best_by_hand(dense, space)
    assert np.unique(labels).size == 3
    np.testing.assert_array_equal(placing.labels, labels)
    np.testing.assert_allclose(placing.weights, weights, atol=1e-4)
    np.testing.assert_allclose(placing.errors + np.sum(dense**2, axis=1), errors, atol=1e-4)


def test_moving_never_raises_an_error_and_staying_wins_a_tie():
    space, rows, own = random_space(), random_train(), np.arange(60) % 3
    twice = space_of(space.common, [space.local[1]] * 2)

    moved, stayed = in_best_clusters(rows, space, own), in_own_clusters(rows, space, own)

    assert np.all(moved.errors <= stayed.errors)
    assert np.any(moved.labels != own)
    np.testing.assert_array_equal(in_best_clusters(rows, twice, own % 2).labels, own % 2)
    assert not in_best_clusters(rows, twice).labels.any()


@pytest.mark.parametrize("local_items", ["all", "own"])
def test_scores_are_the_best_estimate_of_dense_matrices(local_items):
    train, history = random_train(), random_train(12, seed=1)
    model = SGLSVD(factors=4, local_factors=3, n_clusters=3, local_items=local_items).fit(train, ALONE)

    scores = model.score(history)

    expected, labels, *_ = best_by_hand(history.toarray(), model.space_)
    np.testing.assert_array_equal(model.place(history).labels, labels)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_factors_are_those_of_the_weighted_rows_of_each_cluster():
    train, labels = random_train(), np.arange(60) % 3
    alternation = Alternation(train, labels, Recipe(4, 2, 5, moves=True), ALONE)
    for _ in range(2):
        space, placing = alternation.factorised(is_first=False), alternation.placing
        alternation.placing = alternation.placed(space)

    dense = train.toarray() * (1 - placing.weights[:, None])
    assert np.any(placing.labels != labels)
    for label, part in enumerate(space.local):
        vectors = np.linalg.svd(dense[placing.labels == label])[2][:2].T
        found = whole(part, 25)
        np.testing.assert_allclose(found @ found.T, vectors @ vectors.T, atol=1e-3)


def test_users_that_start_in_wrong_clusters_find_those_that_were_planted():
    train, groups = shared_items_board()
    rng = np.random.default_rng(0)
    start = np.where(rng.random(groups.size) < 0.5, rng.integers(0, 3, groups.size), groups)

    _, placing = Alternation(train, start, Recipe(1, 5, 20, moves=True), ALONE).run()

    assert np.mean(start == groups) < 0.8
    assert np.mean(placing.labels == groups) > 0.9


def test_with_one_cluster_it_is_the_svd_of_the_global_rank():
    train, history = random_train(), random_train(9, seed=1)
    vectors = np.linalg.svd(train.toarray())[2][:6].T

    for local_factors in (2, 6):
        model = SGLSVD(factors=6, local_factors=local_factors, n_clusters=1, epochs=3).fit(train, ALONE)

        np.testing.assert_allclose(model.score(history), history.toarray() @ vectors @ vectors.T, atol=1e-5)


def test_a_training_user_who_is_folded_in_has_its_cluster_and_weight_again():
    train = planted_board().train
    rows = train[np.flatnonzero(np.diff(train.indptr))]
    model = SGLSVD(factors=4, local_factors=2, n_clusters=3, local_items="own")
    start = np.arange(rows.shape[0]) % 3

    space, trained = Alternation(rows, start, model.recipe(), ALONE).run()

    folded = in_best_clusters(rows, space)
    local = trained.weights < 1  # all clusters are the same to the others
    assert local.mean() > 0.5
    np.testing.assert_array_equal(folded.weights, trained.weights)
    np.testing.assert_array_equal(folded.labels[local], trained.labels[local])


def test_what_was_planted_is_found_on_the_board():
    board = planted_board()

    scores = SGLSVD(factors=4, n_clusters=2, local_factors=1).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.88


def test_only_the_factors_are_kept_and_counted():
    train = planted_board().train
    model = SGLSVD(factors=4, local_factors=3, n_clusters=5).fit(train, ALONE)

    needs = SPEC.estimate(model, Shape.of(train))

    n_local = sum(part.vectors.shape[1] for part in model.space_.local)
    n_numbers = 81 * (4 + n_local) + 4 * n_local
    assert not {"basis", "centres"} & set(model.state())
    assert (model.size().n_parameters, model.size().n_bytes) == (n_numbers, 4 * n_numbers)
    assert 4 * n_numbers <= needs.model_bytes < needs.peak_bytes


def test_a_row_scores_the_same_beside_others_and_alone(monkeypatch):
    train = planted_board().train
    model = SGLSVD(factors=5, local_factors=2, n_clusters=4).fit(train, ALONE)

    together = model.score(train)

    alone = np.concatenate([model.score(train[[user]]) for user in range(0, 240, 17)])
    np.testing.assert_allclose(together[::17], alone, atol=1e-6)
    monkeypatch.setattr(_local_factors, "CHUNK", 17)
    again = SGLSVD(factors=5, local_factors=2, n_clusters=4).fit(train, FitContext(n_threads=2))
    np.testing.assert_array_equal(again.score(train), together)


@pytest.mark.parametrize("train", [np.zeros((6, 4)), np.ones((6, 4)), np.zeros((0, 4))])
def test_scores_are_finite_without_any_interaction_and_with_all_of_them(train):
    model = SGLSVD(factors=9).fit(sp.csr_array(train), ALONE)

    scores = model.score(sp.csr_array(np.tri(5, 4, -1, dtype=np.float32)))  # histories of no item to all four

    assert np.isfinite(scores).all()
    assert scores.any() == train.any()


def test_a_model_from_disk_scores_the_same_bits(tmp_path):
    train = planted_board().train
    model = SGLSVD(factors=4, n_clusters=3).fit(train, ALONE)
    model.save(tmp_path / "sglsvd.npz")

    again = SGLSVD.load(tmp_path / "sglsvd.npz")

    np.testing.assert_array_equal(again.score(train), model.score(train))
    assert again.size() == model.size()


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        SGLSVD(factors=3).fit(random_train(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_a_history_over_other_items_is_an_error():
    model = SGLSVD(factors=3).fit(random_train(), ALONE)

    with pytest.raises(DataError, match="26 items"):
        model.score(sp.csr_array((2, 26), dtype=np.float32))
    assert not isinstance(model, Factored)


@pytest.mark.parametrize("bad", [{"factors": 0}, {"local_factors": 0}, {"n_clusters": 0}, {"epochs": 0}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        SGLSVD(**bad)
