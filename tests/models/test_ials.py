import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models import _ials
from recscale.models._ials import Penalty
from recscale.models.ials import IALS, SPEC
from recscale.models.popularity import Popularity
from recscale.testing.board import placement, planted_board

PENALTY = Penalty(0.2, 0.03, 1.0)
ALONE = FitContext(n_threads=1)


def random_train(n_users=40, n_items=25, seed=0, density=0.25):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def factors(n, n_factors, seed=0, turned=True):
    """Return random factors (n, D), on their principal axes or not."""
    rows = np.random.default_rng(seed).normal(0.2, 0.5, (n, n_factors)).astype(np.float32)
    if turned:
        _ials.turn(rows, None, 1)
    return rows


def strengths(links, penalty):
    """Return lambda (n + alpha0 N)^nu of each row of a dense matrix, by hand."""
    alpha0, regularization, nu = penalty
    return np.array([regularization * (row.sum() + alpha0 * row.size) ** nu for row in links])


def objective(links, rows, others, penalty):
    """Return the loss over all pairs of the dense matrix `links`, term by term, in float64."""
    rows, others = np.asarray(rows, np.float64), np.asarray(others, np.float64)
    products = rows @ others.T
    observed = (links * (1 - products) ** 2).sum()
    penalties = (
        (strengths(links, penalty) * (rows**2).sum(1)).sum(),
        (strengths(links.T, penalty) * (others**2).sum(1)).sum(),
    )
    return observed + penalty.unobserved_weight * (products**2).sum() + sum(penalties)


def closed_form(links, others, penalty):
    """Return the best rows (R, D) by the normal equations as they are printed, in float64."""
    others = np.asarray(others, np.float64)
    found = []
    for row, strength in zip(links, strengths(links, penalty), strict=True):
        own = others[row > 0]
        system = penalty.unobserved_weight * others.T @ others + own.T @ own + strength * np.eye(others.shape[1])
        found.append(np.linalg.solve(system, own.sum(0)))
    return np.array(found)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_factors", [1, 5, 8, 19, 40])
def test_a_half_step_is_the_minimum_of_the_loss(n_factors, exponent):
    train, items, penalty = random_train(), factors(25, n_factors), Penalty(0.2, 0.03, exponent)
    users = np.full((40, n_factors), 7, np.float32)

    part = _ials.solve(train, items, penalty, users)

    dense = train.toarray()
    best = closed_form(dense, items, penalty)
    np.testing.assert_allclose(users, best, rtol=1e-3, atol=1e-5 * np.abs(best).max())
    least = objective(dense, best, items, penalty)
    assert objective(dense, users, items, penalty) == pytest.approx(least, rel=1e-6)
    assert part + penalty.cost(train.T.tocsr(), items) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("n_factors", [256, 300])
def test_systems_wider_than_a_tile_are_solved_whichever_form_is_smaller(n_factors):
    lengths = (255, 257, 290, 299, 301, 330)
    dense = np.zeros((len(lengths), 400), np.float32)
    for row, length in zip(dense, lengths, strict=True):
        row[np.random.default_rng(length).permutation(400)[:length]] = 1
    items, users = factors(400, n_factors), np.empty((len(lengths), n_factors), np.float32)

    _ials.solve(sp.csr_array(dense), items, PENALTY, users)

    best = closed_form(dense, items, PENALTY)
    np.testing.assert_allclose(users, best, atol=2e-6 * np.abs(best).max())


@pytest.mark.parametrize("n_steps", [0, 2])
def test_the_loss_falls_at_every_half_step(n_steps):
    train = random_train()
    users, items, values = np.zeros((40, 6), np.float32), factors(25, 6), []
    sides = [(train, items, users), (train.T.tocsr(), users, items)] * 6
    for links, frozen, moving in sides:
        _ials.turn(frozen, moving, 1)
        _ials.solve(links, frozen, PENALTY, moving, n_steps)
        values.append(objective(train.toarray(), users, items, PENALTY))

    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.9 * values[0]


def test_conjugate_gradients_come_to_the_exact_solution_as_their_steps_grow():
    train, items = random_train(), factors(25, 12)
    best, distances = closed_form(train.toarray(), items, PENALTY), []
    for n_steps in (1, 2, 4, 8, 30):
        users = factors(40, 12, seed=1, turned=False)
        part = _ials.solve(train, items, PENALTY, users, n_steps)
        distances.append(np.abs(users - best).max())

        reached = objective(train.toarray(), users, items, PENALTY)
        assert part + PENALTY.cost(train.T.tocsr(), items) == pytest.approx(reached, rel=1e-5)

    assert np.all(np.diff(distances) < 0)
    assert distances[-1] < 1e-5 * np.abs(best).max()


def test_conjugate_gradients_stay_where_there_is_nothing_left_to_gain():
    train, items, users = random_train(), factors(25, 6), np.zeros((40, 6), np.float32)
    _ials.solve(train, items, PENALTY, users)
    exact = users.copy()

    _ials.solve(train, items, PENALTY, users, 3)

    np.testing.assert_allclose(users, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("block_rows", [7, 4096])
def test_principal_axes_change_no_product_and_leave_columns_orthogonal(block_rows, monkeypatch):
    monkeypatch.setattr(_ials, "BLOCK_ROWS", block_rows)
    items, users = factors(25, 6, turned=False), factors(40, 6, seed=1, turned=False)
    before = users.astype(np.float64) @ items.T

    _ials.turn(items, users, 2)

    gram = items.astype(np.float64).T @ items
    np.testing.assert_allclose(users @ items.T, before, atol=1e-5)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5 * gram.max()


def test_a_system_that_float32_cannot_solve_is_an_error_and_not_a_number():
    items = np.eye(5, 3, dtype=np.float32)
    items[3:] = items[0]
    twice = sp.csr_array(np.array([[0, 0, 0, 1, 1]], np.float32))

    with pytest.raises(NumericalError, match=r"row 0 is not positive definite in float32 \(1 such rows\)"):
        _ials.solve(twice, items, Penalty(1e-9, 1e-12, 1.0), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_training_user_is_folded_in_where_the_last_half_step_put_it(solver):
    train = random_train()
    model = IALS(factors=6, unobserved_weight=0.2, regularization=0.03, epochs=4, solver=solver).fit(train, ALONE)
    items = model.item_vectors()
    users = np.zeros((40, 6), np.float32)
    _ials.solve(train, items, PENALTY, users)

    folded = model.user_vectors(train)

    np.testing.assert_array_equal(folded, users)
    np.testing.assert_allclose(folded, closed_form(train.toarray(), items, PENALTY), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_the_loss_that_is_logged_falls_to_that_of_the_model(solver):
    train, losses = random_train(), []
    context = FitContext(n_threads=1, log=lambda name, step, value: losses.append(value) if name == "loss" else None)

    model = IALS(factors=4, unobserved_weight=0.2, regularization=0.03, epochs=60, solver=solver).fit(train, context)

    assert len(losses) == 60 and np.all(np.diff(losses) <= 1e-5 * losses[0])
    least = objective(train.toarray(), model.user_vectors(train), model.item_vectors(), PENALTY)
    assert losses[-1] == pytest.approx(least, rel=2e-3)


def implicit_als(n_factors, regularization, alpha, iterations=1):
    from implicit.cpu.als import AlternatingLeastSquares

    options = {"use_cg": False, "num_threads": 1, "iterations": iterations}
    return AlternatingLeastSquares(factors=n_factors, regularization=regularization, alpha=alpha, **options)


def test_with_exponent_0_users_are_folded_in_as_implicit_does_up_to_one_factor():
    train, alpha0, regularization = random_train(), 0.25, 0.4
    model = IALS(
        factors=6, unobserved_weight=alpha0, regularization=regularization, exponent=0, epochs=5, solver="cholesky"
    ).fit(train, ALONE)
    peer = implicit_als(6, regularization / alpha0, 1 + 1 / alpha0)  # c - 1 = 1 / alpha0
    peer.item_factors = model.item_vectors()

    users = peer.recalculate_user(np.arange(40), sp.csr_matrix(train))

    np.testing.assert_allclose(users, (1 + alpha0) * model.user_vectors(train), rtol=1e-3, atol=1e-5)


def test_with_exponent_0_implicit_trains_the_same_model_up_to_one_factor():
    train, alpha0, regularization = random_train(), 0.25, 0.4
    options = {"unobserved_weight": alpha0, "regularization": regularization, "exponent": 0, "epochs": 4}
    model = IALS(factors=6, solver="cholesky", **options).fit(train, ALONE)
    peer = implicit_als(6, regularization * (1 + 1 / alpha0), 1 + 1 / alpha0, iterations=4)
    start = ALONE.rng().standard_normal((25, 6), np.float32) * np.float32(0.1 / 6**0.5)
    peer.item_factors = start * np.float32((1 + alpha0) ** 0.5)

    peer.fit(sp.csr_matrix(train), show_progress=False)

    theirs = peer.recalculate_user(np.arange(40), sp.csr_matrix(train)) @ peer.item_factors.T
    np.testing.assert_allclose(theirs, (1 + alpha0) * model.score(train), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_the_number_of_threads_changes_no_bit(solver, monkeypatch):
    monkeypatch.setattr(_ials, "BLOCK_ROWS", 7)
    train = random_train()

    one, two = (IALS(factors=6, solver=solver).fit(train, FitContext(n_threads=n)).item_vectors() for n in (1, 2))

    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_what_was_planted_is_ranked_above_what_is_popular(solver):
    board = planted_board()

    scores = IALS(factors=4, solver=solver).fit(board.train, ALONE).score(board.history)

    popular = placement(Popularity().fit(board.train, ALONE).score(board.history), board)
    assert placement(scores, board) > max(0.8, popular + 0.2)


def test_scores_are_the_products_of_the_vectors_of_users_and_items():
    history = random_train(6, seed=1)
    model = IALS(factors=3).fit(random_train(), ALONE)

    users, items = model.user_vectors(history), model.item_vectors()

    assert isinstance(model, Factored)
    assert (users.shape, items.shape, users.dtype, items.dtype) == ((6, 3), (25, 3), np.float32, np.float32)
    np.testing.assert_allclose(model.score(history), users.astype(np.float64) @ items.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_an_empty_history_and_an_item_that_nobody_has_score_nothing(solver):
    train = random_train().tolil()
    train[:, 3] = 0
    train[5] = 0
    model = IALS(factors=3, solver=solver).fit(sp.csr_array(train), ALONE)

    scores = model.score(sp.csr_array(([1.0], ([1], [7])), shape=(2, 25)))

    assert not scores[0].any() and not scores[:, 3].any()
    assert scores[1].any()


@pytest.mark.parametrize("train", [np.zeros((6, 4)), np.ones((6, 4)), np.zeros((0, 4))])
def test_scores_are_finite_without_any_interaction_and_with_all_of_them(train):
    model = IALS(factors=9).fit(sp.csr_array(train), ALONE)

    scores = model.score(sp.csr_array(np.tri(5, 4, -1, dtype=np.float32)))  # histories of no item to all four

    assert np.isfinite(scores).all()
    assert scores[-1].any() == train.any()


def test_how_often_somebody_had_an_item_does_not_matter():
    train = random_train()
    often = sp.csr_array((train.data * 7, train.indices, train.indptr), shape=train.shape)

    np.testing.assert_array_equal(
        IALS(factors=3).fit(train, ALONE).score(train), IALS(factors=3).fit(often, ALONE).score(often)
    )


def test_a_model_from_disk_scores_the_same_bits(tmp_path):
    history, model = random_train(6, seed=1), IALS(factors=3).fit(random_train(), ALONE)
    model.save(tmp_path / "ials.npz")

    again = IALS.load(tmp_path / "ials.npz")

    np.testing.assert_array_equal(again.score(history), model.score(history))
    assert again.parameters() == model.parameters()


def test_only_item_factors_count():
    train = random_train()
    model = IALS(factors=3).fit(train, ALONE)

    size, needs = model.size(), [SPEC.estimate(IALS(solver=solver), Shape.of(train)) for solver in ("cholesky", "cg")]

    assert (size.n_parameters, size.n_bytes) == (3 * 25, 4 * 3 * 25)
    assert all(need.peak_bytes > need.model_bytes == 4 * 64 * 25 for need in needs)
    assert 0 < needs[1].fit_seconds < needs[0].fit_seconds


def test_progress_is_reported_after_each_half_epoch():
    seen = []
    context = FitContext(
        n_threads=1, log=lambda name, step, value: seen.append((step, value)) if name == "progress" else None
    )

    IALS(factors=3, epochs=3).fit(random_train(), context)

    assert seen == [(step, 6) for step in range(1, 7)]


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of 32"):
        IALS(factors=3, epochs=16).fit(random_train(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_numbers_that_are_not_finite_and_a_history_over_other_items_are_errors():
    broken = random_train()
    broken.data[0] = np.nan
    model = IALS(factors=3).fit(random_train(), ALONE)

    with pytest.raises(DataError, match="NaN"):
        IALS(factors=3).fit(broken, ALONE)
    with pytest.raises(DataError, match="NaN"):
        model.score(broken)
    with pytest.raises(DataError, match="26 items"):
        model.score(sp.csr_array((2, 26), dtype=np.float32))


@pytest.mark.parametrize(
    "bad",
    [
        {"factors": 0},
        {"regularization": 0},
        {"unobserved_weight": 0},
        {"epochs": 0},
        {"exponent": -0.1},
        {"solver": "lu"},
        {"cg_steps": 0},
        {"stddev": 0},
    ],
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        IALS(**bad)
