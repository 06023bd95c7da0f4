import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models._autoencoder import Likelihood, initial
from recscale.models._bags import Bags
from recscale.models._training import session
from recscale.models.mult_dae import SPEC, MultDAE
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def random_rows(n_users=40, n_items=25, seed=0):
    rows = (np.random.default_rng(seed).random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[1] = 0
    return sp.csr_array(rows)


def literal_logits(layers, shown):
    return torch.tanh(shown @ layers["encoder"] + layers["encoder_bias"]) @ layers["output"].T + layers["output_bias"]


def literal_loss(layers, rows, regularization, dropout):
    """Write the loss with the dense output and the squared weights of section 2.3 under autograd."""
    x = torch.from_numpy(rows.toarray()).double()
    shown = torch.nn.functional.normalize(x, dim=1)
    shown[x > 0] *= torch.nn.functional.dropout(torch.ones(rows.nnz), dropout)
    likelihood = (x * torch.log_softmax(literal_logits(layers, shown), 1)).sum(1).mean()
    return regularization * (layers["encoder"].square().sum() + layers["output"].square().sum()) - likelihood


def test_the_loss_is_that_of_the_literal_form():
    rows, model = random_rows(), MultDAE(factors=4, regularization=0.3)
    layers = torch.nn.ParameterDict(initial(model.shapes(25), "cpu"))
    torch.manual_seed(3)
    expected = literal_loss({name: value.detach().double() for name, value in layers.items()}, rows, 0.3, 0.5)
    torch.manual_seed(3)

    loss = Likelihood(model, layers)(Bags.of(rows, "cpu"), (0, 1))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_fit_takes_the_steps_of_adam_on_the_literal_loss():
    train = random_rows()
    train = train[np.diff(train.indptr) > 0]  # an empty row is no user
    options = {"regularization": 0.1, "dropout": 0.0, "learning_rate": 0.01}
    with session(ALONE):
        drawn = initial(MultDAE(factors=4).shapes(25), "cpu")
    layers = {name: value.double().requires_grad_() for name, value in drawn.items()}
    adam = torch.optim.Adam(layers.values(), lr=0.01)
    for _ in range(20):
        adam.zero_grad()
        literal_loss(layers, train, 0.1, 0.0).backward()
        adam.step()

    model = MultDAE(factors=4, epochs=20, **options).fit(train, ALONE)

    for name, value in model.state().items():
        np.testing.assert_allclose(value, layers[name].detach(), atol=1e-3, err_msg=name)


def test_scores_are_those_of_the_whole_history():
    history = random_rows(n_users=9, seed=1)
    model = MultDAE(factors=4, epochs=4).fit(random_rows(), ALONE)

    scores = model.score(history)

    shown = torch.nn.functional.normalize(torch.from_numpy(history.toarray()), dim=1)
    np.testing.assert_allclose(scores, literal_logits(model.state(), shown), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.score(history * 3), scores, rtol=1e-4, atol=1e-6)


def test_what_is_hidden_from_the_encoder_changes_the_training():
    train = random_rows()

    hidden, shown = (MultDAE(factors=4, epochs=4, dropout=rate).fit(train, ALONE).score(train) for rate in (0.5, 0.0))

    assert not np.allclose(hidden, shown, atol=1e-3)


def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    train = random_rows()

    def killer(name, step, value):
        if name == "progress" and step == 8:
            raise Killed

    def fit(**context):
        return MultDAE(factors=4, epochs=6, batch_size=20).fit(train, FitContext(n_threads=1, **context))

    whole = fit().score(train)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(train), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 7  # three epochs of two steps were kept


def test_an_empty_history_gets_finite_scores():
    scores = MultDAE(factors=4, epochs=3).fit(random_rows(), ALONE).score(sp.csr_array((2, 25), dtype=np.float32))

    assert np.isfinite(scores).all()


def test_the_planted_board_is_ranked_far_better_than_by_popularity():
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = MultDAE(factors=16).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


def test_size_and_estimate_agree():
    train = random_rows()
    model = MultDAE(factors=4, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == (25 * 4 + 4) + (25 * 4 + 25)
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultDAE().fit(-random_rows(), ALONE), "hold -1, expected 0 or more"),
        (lambda: MultDAE().fit(random_rows() * np.nan, ALONE), "NaN"),
        (lambda: MultDAE(epochs=1).fit(random_rows(), ALONE).score(random_rows(n_items=26)), "26 items"),
    ],
)
def test_bad_input_is_an_error(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        MultDAE().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"factors": 0}, {"regularization": -1}, {"epochs": 0}, {"patience": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        MultDAE(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = MultDAE(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
