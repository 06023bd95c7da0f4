from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recscale.contract import FitContext
from recscale.models._frozen_items import _ranked_hinge
from recscale.models.ucml import UCML


def test_the_loss_is_that_of_the_literal_form(both_losses):
    def literal(x, ys, bs):
        near, *far = (((x - y) ** 2).sum() for y in ys)
        return np.mean([max(0.0, 1.5 + near - distance) / 2 for distance in far])

    loss, expected = both_losses(UCML(factors=4, margin=1.5), literal)

    assert loss == pytest.approx(expected, rel=1e-6)


def test_the_loss_with_rank_weights_is_that_of_the_nearest_negative_by_its_rank(both_losses):
    def literal(x, ys, bs):
        near, *far = (((x - y) ** 2).sum() for y in ys)
        hinges = np.maximum(0, 9 + near - np.array(far)) / 2  # some below 0
        return np.log1p(25 * np.mean(hinges > 0)) * hinges.max()

    model = UCML(factors=4, margin=9.0, rank_weights=True)
    model.n_items_ = 25
    loss, expected = both_losses(model, literal)

    assert loss == pytest.approx(expected, rel=1e-6)


def test_an_unseen_user_is_trained_on_the_same_loss_in_the_ball(check_inference):
    model = UCML(factors=4, epochs=30, fold_in_regularization=0.02, learning_rate=0.02, fold_in_steps=40)

    def score(state, user):
        return state["items"] @ user - 0.5 * state["items"].square().sum(1)

    check_inference(model, lambda own, far: (0.25 - own[:, None] + far[None, :]).relu().mean(), score, radius=1.0)


def test_an_unseen_user_of_cml_is_trained_against_the_nearest_item_by_its_rank(check_inference, random_rows):
    model = UCML(factors=4, epochs=30, learning_rate=0.02, fold_in_steps=40, rank_weights=True)
    n_items = random_rows().shape[1]

    def score(state, user):
        return state["items"] @ user - 0.5 * state["items"].square().sum(1)

    def loss(own, far):
        hinges = (0.25 - own[:, None] + far[None, :]).relu()
        return ((n_items * (hinges > 0).double().mean(1)).log1p() * hinges.amax(1)).mean()

    check_inference(model, loss, score, radius=1.0)


def test_the_vectors_stay_in_the_unit_ball(random_rows):
    history = random_rows(n_users=6, seed=1)
    model = UCML(factors=4, margin=4.0, epochs=60, learning_rate=0.1, fold_in_rate=0.5)
    model.fit(random_rows(), FitContext(n_threads=1))

    lengths = np.concatenate(
        [np.linalg.norm(part, axis=1) for part in (model.item_vectors(), model.user_vectors(history))]
    )

    assert lengths.max() == pytest.approx(1, abs=1e-5)
    assert (lengths > 0.999).sum() > 5


def test_the_order_of_the_scores_is_that_of_the_distances(random_rows):
    history = random_rows(n_users=6, seed=1)
    model = UCML(factors=4, epochs=30, learning_rate=0.05).fit(random_rows(), FitContext(n_threads=1))

    users, items = torch.as_tensor(model.user_vectors(history)), torch.as_tensor(model.item_vectors())
    scores = torch.as_tensor(model.score(history))

    np.testing.assert_allclose(
        scores - scores[:, :1],
        (torch.cdist(users, items[:1]) ** 2 - torch.cdist(users, items) ** 2) / 2,
        atol=1e-5,
    )


def test_each_liked_item_of_cml_meets_the_nearest_of_as_many_negatives_as_in_training():
    rng = np.random.default_rng(0)
    positive, negative = (rng.normal(size=n).astype(np.float32) for n in (7, 13))
    frozen = SimpleNamespace(weight=0.25, n_nearest=4, items=np.empty((1000, 2)))
    pull, push = np.empty(7, np.float32), np.empty(13, np.float32)

    negative[5] = -40.0  # an item of the history

    _ranked_hinge.py_func(positive, negative, frozen, 12, (pull, push))

    wanted, others = np.zeros((2, 13)), np.flatnonzero(np.arange(13) != 5)
    for p, own in enumerate(positive):
        for group in (others[others % 3 == first] for first in range(3)):
            weight = 12 / 3 * np.log1p(1000 * np.mean(negative[group] > own - 0.25))
            wanted[0, group[negative[group].argmax()]] += weight
            wanted[1, p] += weight
    np.testing.assert_allclose(push, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(pull, wanted[1, :7], rtol=1e-5)
