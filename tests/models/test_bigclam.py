import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import CoClustered, Factored
from recscale.contract import FitContext, Shape
from recscale.datasets.planted import PlantedCoClusters
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.evaluation.coclusters import recovery
from recscale.models import _bigclam
from recscale.models.bigclam import SPEC, BigClam
from recscale.testing.board import placement, planted_board

SMALL = {"n_clusters": 5, "epochs": 15}
ALONE = FitContext(n_threads=1)


def random_train(n_users=40, n_items=25, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.25).astype(np.float32))


def random_factors(n, n_clusters=4, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.random((n, n_clusters)) * (rng.random((n, n_clusters)) < 0.6)
    return sp.csr_array(values.astype(np.float32))


def likelihood(links, rows, others, theta):
    """Return the logarithm of the likelihood of all pairs, each taken for itself, in float64."""
    total = 0.0
    for linked, row in zip(links.toarray() > 0, np.asarray(rows, np.float64), strict=True):
        for pair, other in zip(linked, np.asarray(others, np.float64), strict=True):
            absent = np.exp(-theta - row @ other)
            total += np.log(1 - absent) if pair else np.log(absent)
    return total


def logged(model, train, context=ALONE):
    """Return the logarithms of the likelihood that a fit reports."""
    values = []
    context = FitContext(
        seed=context.seed,
        n_threads=context.n_threads,
        log=lambda name, step, value: values.append(value) if name == "log-likelihood" else None,
    )
    return model.fit(train, context), np.array(values)


@pytest.mark.parametrize("n_links", [1, 7, 8, 9, 25])
def test_the_likelihood_of_a_row_is_that_of_all_pairs_up_to_the_background(n_links):
    others, row, theta = random_factors(25), np.random.default_rng(1).random(4), 0.02
    links = np.random.default_rng(2).permutation(25)[:n_links].astype(np.int32)
    pattern = sp.csr_array((np.ones(n_links), (np.zeros(n_links, int), links)), shape=(1, 25))

    found = _bigclam._evaluate(links, _bigclam.freeze(others, theta, 1), row, np.empty(n_links))

    assert found - theta * (25 - n_links) == pytest.approx(likelihood(pattern, [row], others.toarray(), theta))


def test_the_gradient_is_that_of_finite_differences_of_the_likelihood_of_all_pairs():
    others, row, theta, gradient = random_factors(25), np.random.default_rng(1).random(4), 0.02, np.empty(4)
    frozen, pattern = _bigclam.freeze(others, theta, 1), random_train(1)
    links, chances = pattern.indices, np.empty(pattern.nnz)
    _bigclam._evaluate(links, frozen, row, chances)
    _bigclam._gradient(links, frozen, chances, gradient)

    for cluster in range(4):
        step = 1e-5 * np.eye(4)[cluster]
        ends = [likelihood(pattern, [row + sign * step], others.toarray(), theta) for sign in (1, -1)]
        assert gradient[cluster] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_a_pass_reports_the_likelihood_of_where_it_arrives_and_never_falls():
    links, users, items, theta = random_train(), random_factors(40), random_factors(25, seed=1), 0.02
    steps = np.ones(40)
    values = [likelihood(links, users.toarray(), items.toarray(), theta)]
    for n_steps in (1, 1, 3, 10):
        users, of_rows = _bigclam.climb(links, _bigclam.freeze(items, theta, n_steps), users, steps)
        values.append(likelihood(links, users.toarray(), items.toarray(), theta))

        assert of_rows.sum() - theta * (40 * 25 - links.nnz) == pytest.approx(values[-1], rel=1e-6)
        assert users.data.min() > 0

    assert np.all(np.diff(values) > 0)


def test_rows_start_where_their_links_count_for_co_clusters_in_proportion():
    links, items = random_train(6), random_factors(25).toarray()
    items[3] = 0

    found = _bigclam.spread(links, sp.csr_array(items)).toarray()

    for row, linked in zip(found, links.toarray(), strict=True):
        counts = sum((items[i] / items[i].sum() for i in np.flatnonzero(linked) if items[i].any()), np.zeros(4))
        np.testing.assert_allclose(row, counts / items.sum(axis=0), rtol=1e-5)


def test_co_clusters_start_from_histories_of_different_users():
    train = random_train()
    with_history = {tuple(row) for row in train.toarray() > 0 if row.any()}

    start = _bigclam.seeds(train, len(with_history), np.random.default_rng(0))

    assert {tuple(column) for column in (start.toarray() > 0).T} == with_history
    assert start.data.min() >= 0.5 and start.data.max() < 1.5


@pytest.mark.parametrize("background", [0.001, 0.1, 1.0])
def test_rounds_of_a_fit_never_lower_the_likelihood(background):
    _, values = logged(BigClam(n_clusters=6, background=background, tolerance=0, epochs=40), random_train())

    assert len(values) > 10
    assert np.all(np.diff(values) >= -1e-6 * abs(values[-1]))
    assert values[-1] > values[0] + 20


def test_a_fit_ends_when_the_likelihood_hardly_rises():
    tolerance = 0.003

    _, values = logged(BigClam(n_clusters=6, tolerance=tolerance), random_train())

    rises = np.diff(values) / np.abs(values[1:])
    assert 2 < len(values) < 100
    assert rises[-1] <= tolerance < rises[:-1].min()


def test_an_unseen_user_is_folded_in_where_a_general_solver_ends():
    from scipy.optimize import minimize

    model = BigClam(n_clusters=5, epochs=20, fold_in_steps=2000).fit(random_train(), ALONE)
    items, theta = model.item_affinity().astype(np.float64), model.state()["background"][0]
    history = random_train(6, seed=1)

    found = model.user_affinity(history)

    for row, linked in enumerate(history.toarray() > 0):
        pattern = sp.csr_array(linked[None].astype(np.float32))
        bounds = [(0, None)] * 5
        best = minimize(lambda user, p=pattern: -likelihood(p, [user], items, theta), np.full(5, 0.3), bounds=bounds)
        assert likelihood(pattern, found[[row]], items, theta) == pytest.approx(-best.fun, abs=1e-3)
        np.testing.assert_allclose(items @ found[row], items @ best.x, atol=0.02)


def test_scores_are_the_affinities_of_users_times_those_of_items():
    history = random_train(6, seed=1)
    model = BigClam(**SMALL).fit(random_train(), ALONE)

    scores = model.score(history)

    assert isinstance(model, CoClustered) and not isinstance(model, Factored)
    assert scores.dtype == model.item_affinity().dtype == model.user_affinity(history).dtype == np.float32
    np.testing.assert_allclose(scores, model.user_affinity(history) @ model.item_affinity().T, rtol=1e-5)
    np.testing.assert_array_equal(model.item_affinity(), model.state()["item_factors"].toarray())


def test_planted_co_clusters_of_items_and_of_unseen_users_are_recovered():
    dataset = PlantedCoClusters(n_users=1200, n_items=300, n_interactions=24_000, n_clusters=8).load()

    model = BigClam(n_clusters=8).fit(dataset.interactions[:800], ALONE)

    items = recovery(model.item_affinity(), dataset.truth["item_membership"], "top5")
    users = recovery(model.user_affinity(dataset.interactions[800:]), dataset.truth["user_membership"][800:], "top1")
    strict = recovery(model.item_affinity(), dataset.truth["item_membership"])
    assert items.f1 > items.baseline + 0.25
    assert users.f1 > users.baseline + 0.25
    assert strict.f1 > strict.baseline + 0.2


def test_recommendations_stay_within_a_planted_block():
    board = planted_board()

    scores = BigClam(n_clusters=4).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.8


def test_the_number_of_threads_and_of_rows_at_a_time_change_nothing(monkeypatch):
    train = random_train()
    one, two = (BigClam(**SMALL).fit(train, FitContext(n_threads=n)).item_affinity() for n in (1, 2))

    monkeypatch.setattr(_bigclam, "BLOCK_ENTRIES", 5 * 7)
    in_blocks = BigClam(**SMALL).fit(train, ALONE).item_affinity()

    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, in_blocks)


def test_how_often_somebody_had_an_item_does_not_matter():
    train = random_train()
    often = sp.csr_array((train.data * 7, train.indices, train.indptr), shape=train.shape)

    np.testing.assert_array_equal(
        BigClam(**SMALL).fit(train, ALONE).score(train), BigClam(**SMALL).fit(often, ALONE).score(often)
    )


def test_an_empty_history_and_an_item_that_nobody_has_score_nothing():
    train = random_train().tolil()
    train[:, 3] = 0
    model = BigClam(**SMALL).fit(sp.csr_array(train), ALONE)
    history = sp.csr_array(([1.0], ([1], [7])), shape=(2, 25))

    scores = model.score(history)

    assert not scores[0].any() and not scores[:, 3].any()
    assert scores[1].any()


@pytest.mark.parametrize("train", [np.zeros((6, 4)), np.ones((6, 4)), np.zeros((0, 4))])
def test_scores_are_finite_without_any_interaction_and_with_all_of_them(train):
    model = BigClam(n_clusters=9, background=1).fit(sp.csr_array(train), ALONE)

    scores = model.score(sp.csr_array(np.tri(5, 4, -1, dtype=np.float32)))  # histories of no item to all four

    assert np.isfinite(scores).all()
    assert scores[-1].any() == train.any()


def test_only_the_factors_of_items_that_are_not_0_and_the_background_count():
    train = random_train()
    model = BigClam(**SMALL).fit(train, ALONE)

    factors, estimate = model.state()["item_factors"], SPEC.estimate(model, Shape.of(train))

    assert 0 < factors.nnz < 25 * 5
    assert model.size().n_parameters == factors.nnz + 1
    assert estimate.peak_bytes > estimate.model_bytes


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of 30"):
        BigClam(**SMALL).fit(random_train(), FitContext(deadline=time.monotonic() - 1))


def test_a_history_over_other_items_is_an_error():
    model = BigClam(**SMALL).fit(random_train(), ALONE)
    with pytest.raises(DataError):
        model.score(sp.csr_array((2, 26), dtype=np.float32))


@pytest.mark.parametrize(
    "bad", [{"n_clusters": 0}, {"background": 0}, {"background": 1.1}, {"epochs": 0}, {"tolerance": -1}]
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        BigClam(**bad)
