import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models._bags import Bags
from recscale.models._elsa import NormalisedLoss
from recscale.models._training import session
from recscale.models.elsa import ELSA, SPEC
from recscale.models.sparse_elsa import SparseELSA
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


def random_rows(n_users=80, n_items=30, seed=0, valued=False):
    rng = np.random.default_rng(seed)
    rows = (rng.random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[1] = 0
    return sp.csr_array(rows * rng.random(rows.shape, dtype=np.float32) if valued else rows)


def literal_loss(weights, rows):
    """Write the loss as it is printed, with the dense output: the mean of |x/|x| - y/|y||^2."""
    unit = torch.nn.functional.normalize(weights, dim=1)
    output = rows @ unit @ unit.T - rows
    difference = torch.nn.functional.normalize(output, dim=1) - torch.nn.functional.normalize(rows, dim=1)
    return difference.square().sum(1).mean()


@pytest.mark.parametrize("n_factors", [4, 50])  # with 50 the dense route takes fewer multiplications, with 4 the other
@pytest.mark.parametrize("valued", [False, True])
def test_loss_and_gradient_are_those_of_the_literal_form(n_factors, valued):
    rows = random_rows(valued=valued)
    dense = torch.from_numpy(rows.toarray()).double()
    weights = torch.randn(30, n_factors, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    expected = literal_loss(weights, dense)
    expected.backward()
    step = NormalisedLoss(weights.detach().float().requires_grad_())

    loss = step(Bags.of(rows, "cpu"), 1 / 80)

    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    scale = weights.grad.abs().max()
    np.testing.assert_allclose(step.weight.grad / scale, weights.grad / scale, atol=3e-6)


def test_a_user_of_one_item_pulls_nowhere():
    rows = sp.csr_array(np.eye(1, 30, dtype=np.float32))
    step = NormalisedLoss(torch.randn(30, 8, generator=torch.manual_seed(0)).requires_grad_())

    loss = step(Bags.of(rows, "cpu"), 1.0)

    assert loss.item() == pytest.approx(2, abs=1e-5)
    assert step.weight.grad.abs().max() < 1e-4


@pytest.mark.parametrize("model", [ELSA(factors=5, epochs=3), SparseELSA(k=3, dimensions=12, epochs=3)])
def test_scores_are_the_history_times_the_item_matrix(model):
    history = random_rows(n_users=20, seed=1, valued=True)

    scores = model.fit(random_rows(), ALONE).score(history)

    embeddings = model.state()["embeddings"]
    dense = np.asarray(embeddings.toarray() if sp.issparse(embeddings) else embeddings, np.float64)
    weights = dense @ dense.T - np.eye(30)
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-6)
    np.testing.assert_allclose(scores, history.toarray() @ weights, atol=1e-5)


def test_the_fit_reaches_the_minimum_that_a_plain_descent_finds():
    train = random_rows()
    rows = torch.from_numpy(train.toarray()).double()[np.diff(train.indptr) > 0]
    lowest = []
    for seed in range(2):
        weights = torch.randn(30, 6, dtype=torch.float64, generator=torch.manual_seed(seed), requires_grad=True)
        descent = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure(weights=weights, descent=descent):
            descent.zero_grad()
            loss = literal_loss(weights, rows)
            loss.backward()
            return loss

        with session(ALONE):
            descent.step(closure)
        lowest.append(literal_loss(weights, rows).item())

    model = ELSA(factors=6, epochs=300, learning_rate=0.02).fit(train, ALONE)

    reached = literal_loss(model.state()["embeddings"].double(), rows).item()
    assert reached < max(lowest) * 1.01


def test_recommendations_stay_within_a_planted_block():
    rng = np.random.default_rng(0)
    block = np.kron(np.eye(2), np.ones((300, 10))).astype(bool)
    train = sp.csr_array((block & (rng.random(block.shape) < 0.5)).astype(np.float32))
    history = sp.csr_array(np.kron(np.eye(2), np.arange(10) < 4).astype(np.float32))

    scores = ELSA(factors=4, epochs=40).fit(train, ALONE).score(history)

    scores[history.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :6]
    assert set(best[0]) == set(range(4, 10))
    assert set(best[1]) == set(range(14, 20))


def test_the_planted_board_is_ranked_far_better_than_at_random():
    board = planted_board(0)

    scores = ELSA(factors=8, epochs=40).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.8


def test_validation_users_keep_the_best_epoch():
    board = planted_board(0)
    seen = {}
    context = FitContext(
        n_threads=1,
        validation=HeldOut(board.history, board.target),
        log=lambda *entry: seen.setdefault(entry[0], []).append(entry[2]),
    )

    ELSA(factors=32, epochs=60, patience=4).fit(board.train, context)

    values = seen["validation ndcg"]
    assert len(values) == int(np.argmax(values)) + 1 + 4 < 60
    assert len(seen["loss"]) == len(values)


@pytest.mark.parametrize("model", [ELSA(factors=5, epochs=3), SparseELSA(k=3, dimensions=12, epochs=3)])
def test_two_threads_give_what_one_gives(model):
    history = random_rows(n_users=9, seed=1)

    one = model.fit(random_rows(), FitContext(n_threads=1)).score(history)
    two = model.fit(random_rows(), FitContext(n_threads=2)).score(history)

    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_size_and_estimate_agree():
    train = random_rows()
    model = ELSA(factors=5, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == 150
    assert estimate.model_bytes == model.size().n_bytes == 600
    assert estimate.peak_bytes > 600


def test_a_learning_rate_that_overflows_is_an_error():
    with pytest.raises(NumericalError, match="lower the learning rate"):
        ELSA(factors=4, learning_rate=1e38, epochs=40).fit(random_rows(), ALONE)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of 30"):
        ELSA().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="31 items"):
        ELSA(factors=2, epochs=1).fit(random_rows(), ALONE).score(sp.csr_array((1, 31), dtype=np.float32))


@pytest.mark.parametrize("options", [{"factors": 0}, {"learning_rate": 0}, {"epochs": 0}, {"batch_size": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        ELSA(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    for model in (ELSA(factors=8), SparseELSA(k=4, dimensions=16)):
        scores = model.fit(board.train, FitContext(device="cuda")).score(board.history)
        assert placement(scores if isinstance(scores, np.ndarray) else scores.cpu().numpy(), board) > 0.8
