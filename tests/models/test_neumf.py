import numpy as np
import pytest
import torch

from recscale.contract import FitContext, Shape
from recscale.models import neumf
from recscale.models.neumf import SPEC, NeuMF

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


def literal_logit(n_layers, x, y, b, table):
    """Equation 12 of the paper."""
    hidden = np.concatenate([x[4:], y[4:]])
    for layer in range(n_layers):
        hidden = np.maximum(table[f"layer_{layer}"] @ hidden + table[f"layer_{layer}_bias"], 0)
    heads = np.concatenate([table["weight"], table["phi_weight"]])
    return heads @ np.concatenate([x[:4] * y[:4], hidden]) + b


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_loss_is_that_of_the_literal_form(both_losses, n_layers):
    def literal(x, ys, bs, **table):
        own, *others = (1 / (1 + np.exp(-literal_logit(n_layers, x, y, b, table))) for y, b in zip(ys, bs, strict=True))
        return -np.log(own) - sum(np.log(1 - other) for other in others)

    loss, expected = both_losses(NeuMF(factors=4, layers=n_layers), literal)

    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_an_unseen_user_is_trained_on_the_same_loss_with_the_items_frozen(check_inference, n_layers):
    def score(state, user):
        hidden = state["items"][:, 4:] + state["user_layer"] @ user[4:]
        for layer in range(1, n_layers):
            hidden = hidden.relu() @ state[f"layer_{layer}"].T + state[f"layer_{layer}_bias"]
        return state["items"][:, :4] @ user[:4] + hidden.relu() @ state["phi_weight"] + state["biases"]

    def loss(own, far):
        softplus = torch.nn.functional.softplus
        return softplus(-own).mean() + 4 * softplus(far).mean()

    options = {"fold_in_regularization": 0.02, "learning_rate": 0.02, "fold_in_steps": 40, "layers": n_layers}
    check_inference(NeuMF(factors=4, epochs=30, **options), loss, score)


@pytest.mark.parametrize("piece", [1, 40, 400])
def test_scores_do_not_depend_on_the_pieces_they_are_computed_in(monkeypatch, random_rows, piece):
    history = random_rows(n_users=6, seed=1)
    model = NeuMF(factors=4, epochs=5, learning_rate=0.05).fit(random_rows(), ALONE)
    whole = model.score(history)

    monkeypatch.setattr(neumf, "PIECE", piece)

    np.testing.assert_allclose(model.score(history), whole, rtol=1e-5)


def test_size_and_estimate_agree(random_rows):
    train = random_rows()
    model = NeuMF(factors=4, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    kept = 25 * (8 + 1) + 4 * 4 + 2 * 4 + 2 + 2 + 8  # items, the user's layer, the second layer, its head, the start
    assert model.size().n_parameters == kept
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes
