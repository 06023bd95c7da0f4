import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models._bags import Bags
from recscale.models._fism import Tables, paired, squared
from recscale.models.fism import FISM, SPEC
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


def random_rows(n_users=30, n_items=20, seed=0):
    rng = np.random.default_rng(seed)
    rows = (rng.random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[0] = np.eye(1, n_items)  # a user of one item
    rows[rows.sum(axis=1) == 0, 3] = 1
    return sp.csr_array(rows)


def random_tables(n_items=20, n_factors=4, alpha=0.5):
    generator = torch.manual_seed(0)
    tables = [torch.randn(n_items, n_factors + extra, generator=generator).requires_grad_() for extra in (0, 1)]
    return Tables(*tables, alpha)


def literal_score(tables, liked, item, left_out):
    """Equation 4 for one user and item, the history without `left_out`."""
    p, q, alpha = tables
    others = [j for j in liked if j != left_out]
    total = sum((p[j] @ q[item, :-1] for j in others), torch.zeros(()))
    return q[item, -1] + max(len(others), 1) ** -alpha * total


def literal_squares(tables, rows, rho):
    """Equation 5 with each unknown item weighted by how often it is drawn on average."""
    loss = torch.zeros(())
    for row in rows.toarray():
        liked = np.flatnonzero(row)
        weight = rho * len(liked) / (row.size - len(liked))
        for item in range(row.size):
            known = bool(row[item])
            score = literal_score(tables, liked, item, item)
            loss = loss + ((1 - score) ** 2 if known else weight * score**2)
    return loss


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_squared_loss_and_its_gradient_are_those_of_the_literal_form(alpha):
    rows, literal = random_rows(), random_tables(alpha=alpha)
    expected = literal_squares(literal, rows, rho=3)
    expected.backward()
    tables = random_tables(alpha=alpha)

    loss = squared(Bags.of(rows, "cpu"), tables, 3)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for table, other in zip(tables[:2], literal[:2], strict=True):
        np.testing.assert_allclose(table.grad, other.grad, rtol=1e-4, atol=1e-5 * other.grad.abs().max())


def test_the_paired_loss_is_that_of_the_literal_form_on_average(monkeypatch):
    monkeypatch.setattr("recscale.models._fism.PIECE", 500)  # so that it takes several pieces
    rows, tables = random_rows(n_users=8), random_tables()
    n_draws, rng = 400, np.random.default_rng(0)
    expected = 0.0
    for row in rows.toarray():
        liked = np.flatnonzero(row)
        for i in liked:
            for j in np.flatnonzero(row == 0):
                gap = literal_score(tables, liked, i, i) - literal_score(tables, liked, j, i)
                expected = expected + (1 - gap) ** 2 * n_draws / row.size
    gradients = torch.autograd.grad(expected, tables[:2])

    loss = paired(Bags.of(rows, "cpu"), tables, n_draws, rng)

    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    for table, gradient in zip(tables[:2], gradients, strict=True):
        assert np.linalg.norm(table.grad - gradient) < 0.1 * np.linalg.norm(gradient)


@pytest.mark.parametrize("loss", ["rmse", "auc"])
def test_scores_are_those_of_equation_4(loss):
    history = random_rows(n_users=6, seed=1)
    model = FISM(factors=3, loss=loss, alpha=0.7, epochs=3).fit(random_rows(), ALONE)

    scores = model.score(history)

    tables = Tables(*(torch.as_tensor(table) for table in model.state().values()), 0.7)
    for row in range(6):
        liked = history[[row]].indices
        expected = [literal_score(tables, liked, item, None).item() for item in range(20)]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-6)


def test_the_fit_comes_to_rest_where_the_literal_objective_does():
    train = random_rows()
    options = {"negatives": 3, "regularization": 0.5, "bias_regularization": 0.2}

    model = FISM(factors=4, epochs=1000, learning_rate=0.01, **options).fit(train, ALONE)

    tables = [torch.as_tensor(table).clone().requires_grad_() for table in model.state().values()]
    loss = literal_squares(Tables(*tables, 0.5), train, rho=3)
    penalty = (
        0.5 * (tables[0].square().sum() + tables[1][:, :-1].square().sum()) + 0.2 * tables[1][:, -1].square().sum()
    )
    start = random_tables()
    gradients = torch.autograd.grad(loss + penalty, tables)
    at_start = torch.autograd.grad(literal_squares(start, train, rho=3), start[:2])
    for gradient, before in zip(gradients, at_start, strict=True):
        assert np.linalg.norm(gradient) < 2e-3 * np.linalg.norm(before)


@pytest.mark.parametrize("loss", ["rmse", "auc"])
def test_the_planted_board_is_ranked_far_better_than_at_random(loss):
    board = planted_board(0)

    scores = FISM(factors=8, loss=loss, learning_rate=0.05).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.8


def test_an_empty_history_gets_the_biases():
    model = FISM(factors=3, epochs=2).fit(random_rows(), ALONE)

    scores = model.score(sp.csr_array((1, 20), dtype=np.float32))

    np.testing.assert_allclose(scores[0], model.state()["item_factors"][:, -1], rtol=1e-6)


def test_values_count_as_ones():
    rows = random_rows()
    valued = rows.copy()
    valued.data *= 5

    np.testing.assert_array_equal(
        FISM(factors=3, epochs=2).fit(rows, ALONE).score(rows),
        FISM(factors=3, epochs=2).fit(valued, ALONE).score(valued),
    )


def test_size_and_estimate_agree():
    train = random_rows()
    model = FISM(factors=3, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == 20 * 7
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > estimate.model_bytes


def test_a_user_scores_the_same_alone_and_in_a_batch():
    rows = random_rows()
    model = FISM(factors=3, epochs=2).fit(rows, FitContext(n_threads=2))

    alone = np.vstack([model.score(rows[[user]]) for user in range(30)])

    np.testing.assert_allclose(alone, model.score(rows), rtol=1e-5, atol=1e-6)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        FISM().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="21 items"):
        FISM(factors=2, epochs=1).fit(random_rows(), ALONE).score(sp.csr_array((1, 21), dtype=np.float32))


@pytest.mark.parametrize("options", [{"factors": 0}, {"loss": "bpr"}, {"alpha": 2}, {"negatives": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        FISM(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    for loss in ("rmse", "auc"):
        model = FISM(factors=8, loss=loss, learning_rate=0.05).fit(board.train, FitContext(device="cuda"))
        assert placement(model.score(board.history).cpu().numpy(), board) > 0.8
