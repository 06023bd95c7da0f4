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
from recscale.models._variational import drawn, log_density
from recscale.models.recvae import SPEC, RecVAE, composite
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two
SMALL = {"factors": 3, "hidden": 7, "batch_size": 20}


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def random_rows(n_users=40, n_items=25, seed=0, valued=False):
    rng = np.random.default_rng(seed)
    rows = (rng.random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[1] = 0
    return sp.csr_array(rows * rng.integers(1, 4, rows.shape) if valued else rows, dtype=np.float32)


def literal_encoder(layers, shown, before=""):
    """Write the encoder as it is printed, layer by layer, on dense rows; return mu and log sigma^2."""

    def dense(x, name):
        return x @ layers[f"{before}{name}"] + layers[f"{before}{name}_bias"]

    def norm(x, number):
        x = x * torch.sigmoid(x)  # swish
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        scaled = (x - mean) / torch.sqrt(variance + 0.1)
        return layers[f"{before}gain_{number}"] * scaled + layers[f"{before}shift_{number}"]

    h1 = norm(dense(shown, "encoder"), 1)
    h2 = norm(dense(h1, "hidden_2") + h1, 2)
    h3 = norm(dense(h2, "hidden_3") + h1 + h2, 3)
    h4 = norm(dense(h3, "hidden_4") + h1 + h2 + h3, 4)
    h5 = norm(dense(h4, "hidden_5") + h1 + h2 + h3 + h4, 5)
    return dense(h5, "mean"), dense(h5, "log_variance") if f"{before}log_variance" in layers else None


def density(z, mean, log_variance):
    return torch.exp(torch.distributions.Normal(mean, torch.exp(log_variance / 2)).log_prob(z))


def literal_loss(layers, rows, gamma, seed, dropout):
    """Write the loss with dense rows, drawing as training does: what is shown of each entry, then the noise."""
    x = torch.from_numpy(rows.toarray()).double()
    torch.manual_seed(seed)
    unit = torch.nn.functional.normalize(x, dim=1)
    shown = unit.clone()
    shown[x > 0] *= torch.nn.functional.dropout(torch.ones(rows.nnz), dropout)
    mean, log_variance = literal_encoder(layers, shown)
    z = mean + torch.randn(rows.shape[0], 3).double() * torch.exp(log_variance / 2)
    with torch.no_grad():
        old_mean, old_log_variance = literal_encoder(layers, unit, "previous_")
    zero = torch.zeros(())
    prior = 3 / 20 * density(z, zero, zero) + 3 / 4 * density(z, old_mean, old_log_variance)
    prior = prior + 1 / 10 * density(z, zero, zero + 10)
    apart = torch.log(density(z, mean, log_variance)) - torch.log(prior)
    likelihood = (x * torch.log_softmax(z @ layers["output"].T + layers["output_bias"], 1)).sum(1)
    return (gamma * x.sum(1) * apart.sum(1) - likelihood).mean()


@pytest.mark.parametrize(("epoch", "dropout"), [(2, 0.5), (3, 0.0)])  # the last of the encoder, the decoder's one
def test_loss_and_gradients_of_either_turn_are_those_of_the_literal_form(epoch, dropout):
    rows, model = random_rows(valued=True), RecVAE(**SMALL, gamma=0.3)
    torch.manual_seed(0)
    layers = model.module((40, 25), "cpu")
    layers["gain_2"].data += torch.rand(7)  # as no layer has them at the start
    layers["shift_4"].data += torch.rand(7)
    model.before_epoch(layers, epoch)
    literal = {name: value.detach().double().requires_grad_() for name, value in layers.items()}
    expected = literal_loss(literal, rows, 0.3, 5, dropout)
    expected.backward()
    torch.manual_seed(5)

    loss = Likelihood(model, layers)(Bags.of(rows, "cpu"), (0, 1))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = {name for name, value in layers.items() if value.grad is not None}
    decoder = {"output", "output_bias"}
    encoder = {name for name in layers if not name.startswith("previous_")} - decoder
    assert trained == (decoder if epoch == 3 else encoder)
    for name in trained:
        scale = literal[name].grad.abs().max()
        np.testing.assert_allclose(layers[name].grad / scale, literal[name].grad / scale, atol=1e-5, err_msg=name)


def test_the_composite_prior_is_a_density_whose_parts_have_their_shares():
    old = torch.tensor([[-3.0]]), torch.tensor([[-1.0]])
    z = torch.linspace(-800, 800, 1_600_001)[:, None]

    mass = torch.exp(composite(z, old)).double() * 0.001

    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    # 0.05 of N(0, 1) and 0.484 of N(0, e^10) lie above 1.645 and 5.994, none of the others
    assert mass[z > 5.994].sum().item() == pytest.approx(0.1 * 0.4839, abs=1e-4)
    assert mass[z > 1.645].sum().item() == pytest.approx(0.15 * 0.05 + 0.1 * 0.4956, abs=1e-4)


def test_the_divergence_of_one_draw_is_right_on_average():
    generator = torch.manual_seed(0)
    posterior = torch.randn(2, 1, 4, generator=generator)
    old = torch.randn(2, 1, 4, generator=generator)
    z = posterior[0] + torch.randn(200_000, 4, generator=generator) * torch.exp(posterior[1] / 2)

    drawn_apart = (log_density(z, tuple(posterior)) - composite(z, tuple(old))).mean(0)

    grid = torch.linspace(-30, 30, 60_001)[:, None].double()
    weights = density(grid, posterior[0].double(), posterior[1].double()) * 0.001
    exact = (weights * (torch.log(weights / 0.001 + 1e-300) - composite(grid, tuple(old.double())))).sum(0)
    np.testing.assert_allclose(drawn_apart, exact, atol=0.01)


def test_turns_change_hands_and_the_old_encoder_is_that_of_the_last_change():
    model = RecVAE(**SMALL, encoder_epochs=2, decoder_epochs=2)
    layers, seen = model.module((40, 25), "cpu"), []

    for epoch in range(6):
        model.before_epoch(layers, epoch)
        trained = "".join(letter for letter, name in (("e", "encoder"), ("d", "output")) if layers[name].requires_grad)
        with torch.no_grad():
            layers["encoder"] += 1.0 if layers["encoder"].requires_grad else 0.0
        seen.append((trained, (layers["encoder"] - layers["previous_encoder"]).mean().round(decimals=1).item()))

    assert [trained for trained, _ in seen] == ["e", "e", "d", "d", "e", "e"]
    assert [gap for _, gap in seen][2:] == [0.0, 0.0, 1.0, 2.0]
    assert not any(layers[name].requires_grad for name in layers if name.startswith("previous_"))


def test_the_start_is_that_of_linear_layers_twice():
    torch.manual_seed(0)

    layers = RecVAE(factors=30).module((40, 200), "cpu")

    for name, n_in in (("encoder", 200), ("hidden_3", 90), ("output", 30), ("output_bias", 30)):
        assert 0.9 * n_in**-0.5 < layers[name].abs().max() <= n_in**-0.5
    assert not torch.equal(layers["previous_encoder"], layers["encoder"])
    assert drawn({"w": (10_000, 5)}, "cpu", gaussian=True)["w"].std().item() == pytest.approx(0.02**0.5 / 10, rel=0.05)


def test_scores_are_decoded_from_the_mean_of_all_of_the_history():
    history = random_rows(n_users=9, seed=1)
    model = RecVAE(**SMALL, epochs=9).fit(random_rows(), ALONE)

    scores = model.score(history)

    layers = model.state()
    shown = torch.nn.functional.normalize(torch.from_numpy(history.toarray()), dim=1)
    expected = literal_encoder(layers, shown)[0] @ layers["output"].T + layers["output_bias"]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score(history * 3), scores, rtol=1e-4, atol=1e-5)


def test_without_divergence_a_tiny_matrix_is_learned_by_heart():
    train = sp.csr_array((np.random.default_rng(0).random((12, 15)) < 0.3).astype(np.float32))

    scores = RecVAE(factors=12, gamma=0.0, dropout=0.0, learning_rate=0.01, epochs=120).fit(train, ALONE).score(train)

    for row, known in zip(scores, train.toarray() > 0, strict=True):
        assert row[known].min() > row[~known].max()


def test_a_large_divergence_leaves_the_history_unread():
    train = random_rows()
    spread = [
        np.std(
            RecVAE(**SMALL, gamma=gamma, learning_rate=0.02, epochs=60).fit(train, ALONE).score(train), axis=0
        ).mean()
        for gamma in (0.0, 100.0)
    ]

    assert spread[1] < 0.2 * spread[0]


@pytest.mark.parametrize("validated", [False, True])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path, validated):
    board = planted_board(0)
    given = {"n_threads": 1, "validation": HeldOut(board.history, board.target) if validated else None}

    def killer(name, step, value):
        if name == "progress" and step == killer.at:
            raise Killed

    def fit(**context):
        return RecVAE(factors=4, epochs=9, batch_size=100).fit(board.train, FitContext(**given, **context))

    whole = fit().score(board.history)
    for at in (11, 16):  # in the decoder's turn, and in the second one of the encoder, after three steps an epoch
        killer.at = at
        with pytest.raises(Killed):
            fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(board.history), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 16


def test_the_planted_board_is_ranked_far_better_than_by_popularity():
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = RecVAE(factors=16, epochs=40, learning_rate=0.005).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


def test_size_and_estimate_agree():
    train = random_rows()
    model = RecVAE(**SMALL, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    layers = (25 * 7 + 7) + 4 * (7 * 7 + 7) + 5 * 2 * 7 + (7 * 3 + 3) + (25 * 3 + 25)
    assert model.size().n_parameters == layers
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes
    assert RecVAE().shapes(25)["mean"] == (300, 100)


def test_the_training_users_are_those_with_items():
    train = random_rows()
    kept = train[np.diff(train.indptr) > 0]

    scores = [RecVAE(**SMALL, epochs=5).fit(rows, ALONE).score(train) for rows in (train, kept)]

    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RecVAE().fit(-random_rows(), ALONE), DataError, "hold -1, expected 0 or more"),
        (lambda: RecVAE().fit(random_rows() * np.nan, ALONE), DataError, "NaN"),
        (lambda: RecVAE(**SMALL, epochs=1).fit(random_rows(), ALONE).score(random_rows(n_items=26)), DataError, "26 i"),
        (
            lambda: RecVAE(**SMALL, learning_rate=1e38).fit(random_rows(), ALONE),
            NumericalError,
            "lower the learning rate",
        ),
        (
            lambda: RecVAE(**SMALL).fit(random_rows(), FitContext(deadline=time.monotonic() - 1)),
            DeadlineExceeded,
            "step 1 of",
        ),
    ],
)
def test_what_cannot_be_trained_is_an_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "options", [{"factors": 0}, {"dropout": 1}, {"gamma": -1}, {"encoder_epochs": 0}, {"decoder_epochs": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        RecVAE(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = RecVAE(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
