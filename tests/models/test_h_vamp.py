import math
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models._autoencoder import Likelihood
from recscale.models._bags import Bags
from recscale.models._variational import mixed_evenly
from recscale.models.h_vamp import SPEC, HVamp
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two
SMALL = {"factors": 3, "hidden": 7, "batch_size": 20, "n_pseudo_inputs": 5}
BOTH = pytest.mark.parametrize("gated", [True, False])


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def random_rows(n_users=40, n_items=25, seed=0, valued=False):
    rng = np.random.default_rng(seed)
    rows = (rng.random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[1] = 0
    return sp.csr_array(rows * rng.integers(1, 4, rows.shape) if valued else rows, dtype=np.float32)


class Literal:
    """The network as it is printed, on dense rows."""

    def __init__(self, layers, gated):
        self.layers, self.gated = layers, gated

    def dense(self, x, name):
        return x @ self.layers[name] + self.layers[f"{name}_bias"]

    def f(self, x, name):
        y = self.dense(x, name)
        return y[:, :7] * torch.sigmoid(y[:, 7:]) if self.gated else torch.tanh(y)

    def normal(self, x, name):
        y = self.dense(x, name)
        return torch.distributions.Normal(y[:, :3], torch.exp(torch.clip(y[:, 3:], -12, 4) / 2))

    def upper(self, x):
        return self.normal(self.f(self.f(x, "upper_encoder"), "upper_hidden"), "upper")

    def lower(self, x, z2):
        both = torch.cat([self.f(x, "lower_encoder"), self.f(z2, "lower_from_upper")], 1)
        return self.normal(self.f(both, "lower_hidden"), "lower")

    def prior(self, z2):
        return self.normal(self.f(self.f(z2, "prior_from_upper"), "prior_hidden"), "prior")

    def logits(self, z2, z1):
        hidden = self.f(
            torch.cat([self.f(z1, "output_from_lower"), self.f(z2, "output_from_upper")], 1), "output_hidden"
        )
        return hidden @ self.layers["output"].T + self.layers["output_bias"]


def literal_loss(literal, rows, beta, seed):
    """Write the loss, drawing as training does: what each encoder is shown, the noise of z2 and z1, what of u."""
    x = torch.from_numpy(rows.toarray()).double()
    torch.manual_seed(seed)
    shown = [torch.nn.functional.normalize(x, dim=1) for _ in range(2)]
    for part in shown:
        part[x > 0] *= torch.nn.functional.dropout(torch.ones(rows.nnz), 0.5)
    of_z2 = literal.upper(shown[0])
    z2 = of_z2.mean + torch.randn(rows.shape[0], 3).double() * of_z2.stddev
    of_z1 = literal.lower(shown[1], z2)
    z1 = of_z1.mean + torch.randn(rows.shape[0], 3).double() * of_z1.stddev
    u = torch.clip(literal.layers["pseudo_inputs"], 0, 1) * torch.nn.functional.dropout(torch.ones(5, 25), 0.5)
    parts = literal.upper(u)
    mixture = sum(
        torch.exp(torch.distributions.Normal(mean, spread).log_prob(z2).sum(1))
        for mean, spread in zip(parts.mean, parts.stddev, strict=True)
    )
    apart = (of_z1.log_prob(z1) - literal.prior(z2).log_prob(z1) + of_z2.log_prob(z2)).sum(1) - torch.log(mixture / 5)
    likelihood = (x * torch.log_softmax(literal.logits(z2, z1), 1)).sum(1)
    return (beta * apart - likelihood).mean()


@BOTH
def test_loss_and_gradients_are_those_of_the_literal_form(gated):
    rows = random_rows(valued=True)
    model = HVamp(**SMALL, gated=gated, beta_cap=0.8, annealing_epochs=50, epochs=100)
    torch.manual_seed(0)
    layers = model.module(rows.shape, "cpu")
    layers["pseudo_inputs"].data[0, :3] = torch.tensor([-0.5, 1.5, 0.5])
    double = {name: value.detach().double().requires_grad_() for name, value in layers.items()}
    expected = literal_loss(Literal(double, gated), rows, 0.8 * 30 / 100, seed=5)
    expected.backward()
    torch.manual_seed(5)

    loss = Likelihood(model, layers)(Bags.of(rows, "cpu"), (30, 200))  # 15 of 100 epochs

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in layers.items():
        scale = double[name].grad.abs().max()
        np.testing.assert_allclose(value.grad / scale, double[name].grad / scale, atol=1e-5, err_msg=name)
    assert layers["pseudo_inputs"].grad[0, :2].tolist() == [0, 0]  # cut off at 0 and 1


def test_the_vamp_prior_is_the_even_mixture_even_where_its_parts_are_narrow():
    generator = torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 50, 4, generator=generator) * torch.tensor([[[3.0]], [[2.0]]])
    log_variance[:25] = -12
    near = mean[:9] + 0.002 * torch.randn(9, 4, generator=generator)
    z = torch.cat([near, 3 * torch.randn(9, 4, generator=generator)])

    value = mixed_evenly(z, (mean, log_variance))

    parts = torch.distributions.Normal(mean.double(), torch.exp(log_variance.double() / 2))
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(50).double()), torch.distributions.Independent(parts, 1)
    )
    np.testing.assert_allclose(value, mixture.log_prob(z.double()), rtol=1e-5)


def test_the_vamp_prior_is_a_density():
    mean, log_variance = torch.tensor([[-2.0], [0.0], [3.0]]), torch.tensor([[-1.0], [0.5], [-4.0]])
    z = torch.linspace(-12, 12, 24_001)[:, None]

    mass = torch.exp(mixed_evenly(z, (mean, log_variance))).double() * 0.001

    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    assert mass[z[:, 0] > 2.5].sum().item() == pytest.approx(
        (1 + 0.5 * math.erfc(2.5 / math.exp(0.25) / 2**0.5)) / 3, abs=1e-3
    )


@pytest.mark.parametrize(("annealing_epochs", "expected"), [(10, [0, 0.3, 0.3]), (0, [0.3] * 3), (40, [0, 0.15, 0.3])])
def test_beta_rises_with_the_epochs_and_stays(annealing_epochs, expected):
    model = HVamp(beta_cap=0.3, annealing_epochs=annealing_epochs, epochs=40)

    values = [model.beta(step, 120) for step in (0, 60, 120)]

    np.testing.assert_allclose(values, expected)


def test_the_start_is_that_of_rectifiers_and_of_histories_of_little():
    torch.manual_seed(0)

    layers = HVamp(factors=30, n_pseudo_inputs=1000).module((500, 200), "cpu")

    assert layers["upper_encoder"].std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert layers["output"].std().item() == pytest.approx((2 / 90) ** 0.5, rel=0.02)
    assert layers["pseudo_inputs"].shape == (500, 200)  # no more than users
    assert layers["pseudo_inputs"].mean().item() == pytest.approx(0.05, rel=0.01)
    assert layers["pseudo_inputs"].std().item() == pytest.approx(0.01, rel=0.02)


@BOTH
def test_scores_are_decoded_from_the_means_of_all_of_the_history(gated):
    history = random_rows(n_users=9, seed=1)
    model = HVamp(**SMALL, gated=gated, epochs=4, learning_rate=0.01).fit(random_rows(), ALONE)

    scores = model.score(history)

    layers = dict(model.state())
    for name in ("upper", "lower"):  # with zeros for log sigma^2, of which no score knows
        layers[name] = torch.cat([layers[name], torch.zeros(7, 3)], 1)
        layers[f"{name}_bias"] = torch.cat([layers[f"{name}_bias"], torch.zeros(3)])
    literal = Literal(layers, gated)
    shown = torch.nn.functional.normalize(torch.from_numpy(history.toarray()), dim=1)
    z2 = literal.upper(shown).mean
    np.testing.assert_allclose(scores, literal.logits(z2, literal.lower(shown, z2).mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score(history * 3), scores, rtol=1e-4, atol=1e-5)


@BOTH
def test_without_divergence_a_tiny_matrix_is_learned_by_heart(gated):
    train = sp.csr_array((np.random.default_rng(0).random((12, 15)) < 0.3).astype(np.float32))
    options = {"beta_cap": 0.0, "dropout": 0.0, "learning_rate": 0.01, "epochs": 80, "n_pseudo_inputs": 3}

    scores = HVamp(factors=12, gated=gated, **options).fit(train, ALONE).score(train)

    for row, known in zip(scores, train.toarray() > 0, strict=True):
        assert row[known].min() > row[~known].max()


@pytest.mark.parametrize("validated", [False, True])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path, validated):
    board = planted_board(0)
    given = {"n_threads": 1, "validation": HeldOut(board.history, board.target) if validated else None}

    def killer(name, step, value):
        if name == "progress" and step == 10:
            raise Killed

    def fit(**context):
        model = HVamp(factors=4, epochs=6, batch_size=100, n_pseudo_inputs=7, annealing_epochs=4)
        return model.fit(board.train, FitContext(**given, **context))

    whole = fit().score(board.history)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(board.history), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 10  # three epochs of three steps were kept


@BOTH
def test_the_planted_board_is_ranked_far_better_than_by_popularity(gated):
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))
    options = {"factors": 16, "n_pseudo_inputs": 20, "epochs": 25, "learning_rate": 0.005}

    scores = HVamp(**options, gated=gated).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


@BOTH
def test_size_and_estimate_agree_and_leave_out_what_scores_do_not_read(gated):
    train, w = random_rows(), 14 if gated else 7
    model = HVamp(**SMALL, gated=gated, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))
    with_more = SPEC.estimate(HVamp(**SMALL | {"n_pseudo_inputs": 15}, gated=gated), Shape.of(train))

    encoders = 2 * (25 * w + w) + (7 * w + w) + (3 * w + w) + (14 * w + w) + 2 * (7 * 3 + 3)
    decoder = 2 * (3 * w + w) + (14 * w + w) + (25 * 7 + 25)
    assert model.size().n_parameters == encoders + decoder
    assert estimate.model_bytes == with_more.model_bytes == model.size().n_bytes
    assert with_more.peak_bytes - estimate.peak_bytes >= 20 * 10 * 25  # weight, gradient, moments and best of each
    assert estimate.peak_bytes > 6 * estimate.model_bytes
    assert HVamp().shapes(25)["upper"] == (300, 200)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HVamp().fit(-random_rows(), ALONE), DataError, "hold -1, expected 0 or more"),
        (lambda: HVamp().fit(random_rows() * np.nan, ALONE), DataError, "NaN"),
        (lambda: HVamp(**SMALL, epochs=1).fit(random_rows(), ALONE).score(random_rows(n_items=26)), DataError, "26 it"),
        (
            lambda: HVamp(**SMALL, learning_rate=1e38).fit(random_rows(), ALONE),
            NumericalError,
            "lower the learning rate",
        ),
        (
            lambda: HVamp(**SMALL).fit(random_rows(), FitContext(deadline=time.monotonic() - 1)),
            DeadlineExceeded,
            "step 1 of",
        ),
    ],
)
def test_what_cannot_be_trained_is_an_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "options", [{"factors": 0}, {"n_pseudo_inputs": 0}, {"beta_cap": -1}, {"annealing_epochs": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        HVamp(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = HVamp(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
