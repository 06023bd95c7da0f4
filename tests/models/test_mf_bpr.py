import numpy as np
import pytest
import torch

from recscale.abilities import Factored
from recscale.contract import FitContext, Shape
from recscale.models.mf_bpr import MFBPR, SPEC

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


def test_the_loss_is_that_of_the_literal_form(both_losses):
    def literal(x, ys, bs):
        own, *others = (x @ y + b for y, b in zip(ys, bs, strict=True))
        return np.mean([-np.log(1 / (1 + np.exp(other - own))) for other in others])

    loss, expected = both_losses(MFBPR(factors=4), literal)

    assert loss == pytest.approx(expected, rel=1e-6)


def test_an_unseen_user_is_trained_on_all_pairs_with_the_items_frozen(check_inference):
    model = MFBPR(factors=4, epochs=30, fold_in_regularization=0.02, learning_rate=0.02, fold_in_steps=40)

    check_inference(model, lambda own, far: torch.nn.functional.softplus(far[None, :] - own[:, None]).mean())


def test_scores_are_the_products_of_the_vectors_and_the_biases(random_rows):
    history = random_rows(n_users=6, seed=1)
    model = MFBPR(factors=4, epochs=30, learning_rate=0.05).fit(random_rows(), ALONE)

    users, items = model.user_vectors(history), model.item_vectors()

    assert isinstance(model, Factored) and np.ptp(model.state()["biases"].numpy()) > 0.1
    np.testing.assert_allclose(model.score(history), users @ items.T + model.state()["biases"].numpy(), rtol=1e-4)


def test_size_and_estimate_agree(random_rows):
    train = random_rows()
    model = MFBPR(factors=4, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == 25 * 5 + 4
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes
