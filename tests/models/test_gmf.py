import numpy as np
import pytest
import torch

from recscale.contract import FitContext
from recscale.models.gmf import GMF


def test_the_loss_is_that_of_the_literal_form(both_losses):
    def literal(x, ys, bs, weight):
        own, *others = (1 / (1 + np.exp(-(weight * x * y).sum() - b)) for y, b in zip(ys, bs, strict=True))
        return -np.log(own) - sum(np.log(1 - other) for other in others)

    loss, expected = both_losses(GMF(factors=4), literal)

    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("negatives", [1, 4])
def test_an_unseen_user_is_trained_on_the_same_loss_with_the_items_frozen(check_inference, negatives):
    def loss(own, far):
        softplus = torch.nn.functional.softplus
        return softplus(-own).mean() + negatives * softplus(far).mean()

    options = {"fold_in_regularization": 0.02, "learning_rate": 0.02, "fold_in_steps": 40, "negatives": negatives}
    check_inference(GMF(factors=4, epochs=30, **options), loss)


def test_what_is_kept_of_the_items_scores_as_training_did(random_rows):
    model = GMF(factors=4, epochs=30, learning_rate=0.05).fit(random_rows(), FitContext(n_threads=1))
    generator = torch.manual_seed(0)
    tables = {"user": torch.randn(3, 4, generator=generator), "item": torch.randn(25, 4, generator=generator)}
    tables |= {"bias": torch.randn(25, 1, generator=generator), "weight": torch.randn(4, generator=generator)}

    kept = model.kept(tables)

    expected = (tables["user"] * tables["weight"]) @ tables["item"].T + tables["bias"].T
    torch.testing.assert_close(model.score_users(kept, tables["user"]), expected)
