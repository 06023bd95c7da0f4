import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models._autoencoder import Likelihood, initial
from recscale.models._bags import Bags
from recscale.models.mult_vae import SPEC, MultVAE, divergence
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


def literal_logits(layers, shown, noise):
    """Write the network as it is printed, on dense rows; `noise` is None where z is mu."""
    first = torch.tanh(shown @ layers["encoder"] + layers["encoder_bias"])
    mean, log_variance = torch.split(first @ layers["latent"] + layers["latent_bias"], 3, dim=1)
    latent = mean if noise is None else mean + noise * torch.sqrt(torch.exp(log_variance))
    decoded = torch.tanh(latent @ layers["decoder"] + layers["decoder_bias"])
    return decoded @ layers["output"].T + layers["output_bias"], mean, log_variance


def layers_of(model):
    """The trained layers as the literal form takes them, with zeros for log sigma^2, of which no score knows."""
    layers = dict(model.state())
    layers["latent"] = torch.cat([layers["latent"], torch.zeros(7, 3)], 1)
    layers["latent_bias"] = torch.cat([layers["latent_bias"], torch.zeros(3)])
    return layers


def literal_loss(layers, rows, beta, seed):
    """Write the loss with the dense output, drawing as training does: what is shown of each entry, then the noise."""
    x = torch.from_numpy(rows.toarray()).double()
    torch.manual_seed(seed)
    shown = torch.nn.functional.normalize(x, dim=1)
    shown[x > 0] *= torch.nn.functional.dropout(torch.ones(rows.nnz), 0.5)
    noise = torch.randn(rows.shape[0], 3).double()
    logits, mean, log_variance = literal_logits(layers, shown, noise)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    apart = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    return -(x * torch.log_softmax(logits, 1)).sum(1).mean() + beta * apart.sum(1).mean()


@pytest.mark.parametrize("n_logits", [2**26, 25 * 16])  # of all users at once, and of 16 at a time
def test_loss_and_gradients_are_those_of_the_literal_form(monkeypatch, n_logits):
    monkeypatch.setattr("recscale.models._multinomial.LOGITS", n_logits)
    monkeypatch.setattr("recscale.models._multinomial.LEAST_USERS", 1)
    monkeypatch.setattr("recscale.models._multinomial.PIECE", 25 * 5)
    rows = random_rows(valued=True)
    model = MultVAE(**SMALL, beta_cap=0.8, annealing_steps=100)
    layers = torch.nn.ParameterDict(initial(model.shapes(25), "cpu"))
    literal = {name: value.detach().double().requires_grad_() for name, value in layers.items()}
    expected = literal_loss(literal, rows, 0.8 * 30 / 100, seed=5)
    expected.backward()
    likelihood = Likelihood(model, layers)
    likelihood(Bags.of(random_rows(seed=1), "cpu"), (0, 1))  # which leaves its gradients in the buffers
    layers.zero_grad()
    torch.manual_seed(5)

    loss = likelihood(Bags.of(rows, "cpu"), (30, 1000))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in layers.items():
        scale = literal[name].grad.abs().max()
        np.testing.assert_allclose(value.grad / scale, literal[name].grad / scale, atol=3e-6, err_msg=name)


def test_without_hidden_layers_the_network_is_linear():
    rows, history = random_rows(valued=True), random_rows(n_users=9, seed=1)
    model = MultVAE(**SMALL | {"hidden": 0}, beta_cap=0.8, annealing_steps=0, dropout=0.0, epochs=3)
    layers = torch.nn.ParameterDict(initial(model.shapes(25), "cpu"))
    literal = {name: value.detach().double().requires_grad_() for name, value in layers.items()}
    x = torch.from_numpy(rows.toarray()).double()
    coded = torch.nn.functional.normalize(x, dim=1) @ literal["encoder"] + literal["encoder_bias"]
    posterior = torch.distributions.Normal(coded[:, :3], torch.exp(coded[:, 3:] / 2))
    torch.manual_seed(5)
    z = posterior.mean + torch.randn(40, 3).double() * posterior.stddev
    apart = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    logits = z @ literal["output"].T + literal["output_bias"]
    expected = 0.8 * apart - (x * torch.log_softmax(logits, 1)).sum(1).mean()
    expected.backward()
    torch.manual_seed(5)

    loss = Likelihood(model, layers)(Bags.of(rows, "cpu"), (0, 1))
    fitted = model.fit(rows, ALONE)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in layers.items():
        scale = literal[name].grad.abs().max()
        np.testing.assert_allclose(value.grad / scale, literal[name].grad / scale, atol=3e-6, err_msg=name)
    kept = {name: value.numpy() for name, value in fitted.state().items()}
    unit = torch.nn.functional.normalize(torch.from_numpy(history.toarray()), dim=1).numpy()
    means = unit @ kept["encoder"] + kept["encoder_bias"]
    np.testing.assert_allclose(fitted.score(history), means @ kept["output"].T + kept["output_bias"], atol=1e-5)
    assert fitted.size().n_bytes == SPEC.estimate(model, Shape.of(rows)).model_bytes
    assert fitted.size().n_parameters == (25 * 3 + 3) + (25 * 3 + 25)


def test_the_divergence_is_that_of_the_distributions():
    generator = torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 9, 4, generator=generator)

    value = divergence(mean, log_variance)

    posterior = torch.distributions.MultivariateNormal(mean, torch.diag_embed(log_variance.exp()))
    prior = torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4))
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("annealing_steps", "expected"),
    [(20, [0, 0.1, 0.2, 0.2]), (0, [0.2, 0.2, 0.2, 0.2]), (None, [0, 0.2 * 10 / 85, 0.2 * 40 / 85, 0.2])],
)
def test_beta_rises_by_the_step_and_stays(annealing_steps, expected):
    model = MultVAE(beta_cap=0.2, annealing_steps=annealing_steps)

    values = [model.beta(step, 100) for step in (0, 10, 40, 99)]

    np.testing.assert_allclose(values, expected)


def test_the_start_is_uniform_by_xavier_with_small_biases():
    layers = initial({"encoder": (300, 50), "output": (300, 50)}, "cpu")

    for name in ("encoder", "output"):
        bound = (6 / 350) ** 0.5
        assert 0.95 * bound < layers[name].abs().max() <= bound
        assert layers[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0 < layers[f"{name}_bias"].abs().max() <= 0.002
    assert len(layers["encoder_bias"]) == 50
    assert len(layers["output_bias"]) == 300


def test_scores_are_decoded_from_the_mean_of_all_of_the_history():
    history = random_rows(n_users=9, seed=1)
    model = MultVAE(**SMALL, epochs=4).fit(random_rows(), ALONE)

    scores = model.score(history)

    shown = torch.nn.functional.normalize(torch.from_numpy(history.toarray()), dim=1)
    np.testing.assert_allclose(scores, literal_logits(layers_of(model), shown, None)[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.score(history * 3), scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(model.score(history), scores)


def test_without_divergence_a_tiny_matrix_is_learned_by_heart():
    train = sp.csr_array((np.random.default_rng(0).random((12, 15)) < 0.3).astype(np.float32))
    options = {"beta_cap": 0.0, "dropout": 0.0, "learning_rate": 0.01, "epochs": 150}

    scores = MultVAE(factors=12, **options).fit(train, ALONE).score(train)

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
        return MultVAE(factors=4, epochs=6, batch_size=100).fit(board.train, FitContext(**given, **context))

    whole = fit().score(board.history)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(board.history), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 10  # three epochs of three steps were kept


def test_validation_users_keep_the_best_epoch():
    board, seen = planted_board(0), {}
    validation = HeldOut(board.history, board.target)
    context = FitContext(
        n_threads=1,
        validation=validation,
        log=lambda name, step, value: seen.setdefault(name, []).append(value),
    )

    MultVAE(factors=16, epochs=100, learning_rate=0.02, patience=4, beta_cap=0.0).fit(board.train, context)

    values = seen["validation ndcg"]
    assert len(values) == int(np.argmax(values)) + 1 + 4 < 100


def test_an_empty_history_gets_what_the_biases_alone_give():
    model = MultVAE(**SMALL, epochs=3).fit(random_rows(), ALONE)

    scores = model.score(sp.csr_array((2, 25), dtype=np.float32))

    expected = literal_logits(layers_of(model), torch.zeros(2, 25), None)[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_planted_board_is_ranked_far_better_than_by_popularity():
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = MultVAE(factors=16).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


def test_size_and_estimate_agree():
    train = random_rows()
    model = MultVAE(**SMALL, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == (25 * 7 + 7) + (7 * 3 + 3) + (3 * 7 + 7) + (25 * 7 + 25)
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes
    assert dict(MultVAE(hidden=None).shapes(25))["latent"] == (600, 400)


def test_negative_numbers_are_no_counts():
    with pytest.raises(DataError, match="hold -1, expected 0 or more"):
        MultVAE().fit(-random_rows(), ALONE)


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="26 items"):
        MultVAE(**SMALL, epochs=1).fit(random_rows(), ALONE).score(sp.csr_array((1, 26), dtype=np.float32))


def test_a_learning_rate_that_overflows_is_an_error():
    with pytest.raises(NumericalError, match="lower the learning rate"):
        MultVAE(**SMALL, learning_rate=1e38, epochs=40).fit(random_rows(), ALONE)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        MultVAE(**SMALL).fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"factors": 0}, {"dropout": 1}, {"beta_cap": -1}, {"annealing_steps": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        MultVAE(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = MultVAE(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
