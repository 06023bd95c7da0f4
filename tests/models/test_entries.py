import time
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.abilities import Factored
from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models._entries import Drawn
from recscale.models._unseen import Unseen
from recscale.models.gmf import GMF
from recscale.models.mf_bpr import MFBPR, SPEC
from recscale.models.neumf import NeuMF
from recscale.models.ucml import UCML
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two
MODELS = [MFBPR, GMF, UCML, NeuMF]


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def random_rows(n_users=40, n_items=25, seed=0):
    rows = (np.random.default_rng(seed).random((n_users, n_items)) < 0.2).astype(np.float32)
    rows[1] = 0
    rows[2] = 1  # a user who has everything
    return sp.csr_array(rows)


def random_tables(n_factors=4, seed=0):
    generator = torch.manual_seed(seed)
    tables = [torch.randn(n, n_factors, generator=generator, dtype=torch.float64) for n in (6, 25)]
    return {"user": tables[0], "item": tables[1], "bias": torch.randn(25, 1, generator=generator, dtype=torch.float64)}


def drawn_from(tables, users, items):
    return Drawn(tables["user"][users], tables["item"][items], tables["bias"][items][:, :, 0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def literal_loss(model, tables, users, items):
    """Each model's loss, entry by entry."""
    x, y, b = (tables[name].numpy() for name in ("user", "item", "bias"))
    losses = []
    for user, (own, *others) in zip(users.tolist(), items.tolist(), strict=True):
        if isinstance(model, MFBPR):
            gaps = [x[user] @ (y[own] - y[other]) + b[own, 0] - b[other, 0] for other in others]
            losses.append(np.mean([-np.log(sigmoid(gap)) for gap in gaps]))
        elif isinstance(model, UCML):
            near, *far = (((x[user] - y[item]) ** 2).sum() for item in (own, *others))
            losses.append(np.mean([max(0.0, model.margin + near - distance) / 2 for distance in far]))
        else:
            logits = [literal_logit(model, tables, user, item) for item in (own, *others)]
            losses.append(-np.log(sigmoid(logits[0])) - sum(np.log(1 - sigmoid(logit)) for logit in logits[1:]))
    return np.mean(losses)


def literal_logit(model, tables, user, item):
    """Equations 8 and 9 for GMF and equation 12 for NeuMF of the paper, in the words of numpy."""
    table = {name: value.numpy() for name, value in tables.items()}
    x, y = table["user"][user], table["item"][item]
    if isinstance(model, GMF):
        return (table["weight"] * x * y).sum() + table["bias"][item, 0]
    hidden = np.concatenate([x[4:], y[4:]])
    for layer in range(model.layers):
        hidden = np.maximum(table[f"layer_{layer}"] @ hidden + table[f"layer_{layer}_bias"], 0)
    heads = np.concatenate([table["weight"], table["phi_weight"]])
    return heads @ np.concatenate([x[:4] * y[:4], hidden]) + table["bias"][item, 0]


@pytest.mark.parametrize("model", [MFBPR(), GMF(), UCML(margin=1.5), NeuMF(layers=1), NeuMF(layers=3)], ids=repr)
def test_the_loss_is_that_of_the_literal_form(model):
    model.factors = 4
    tables = random_tables(model.width())
    tables |= {name: torch.randn(value.shape).double() for name, value in model.extra().items()}
    users, items = torch.tensor([0, 3, 3]), torch.tensor([[1, 2, 9], [4, 0, 1], [8, 7, 7]])

    loss = model.loss(model.scores_of(tables, drawn_from(tables, users, items)))

    assert loss.item() == pytest.approx(literal_loss(model, tables, users, items), rel=1e-6)


def test_the_penalty_is_half_lambda_times_the_squares_of_what_was_drawn():
    seen = {}

    def first_loss(regularization):
        model = MFBPR(factors=4, epochs=1, batch_size=1000, regularization=regularization)
        model.fit(random_rows(), FitContext(n_threads=1, log=lambda name, step, value: seen.update({name: value})))
        return seen["loss"]

    penalty = first_loss(2.0) - first_loss(0.0)

    assert penalty == pytest.approx(3 * 0.1**2, rel=0.2)  # three vectors of about this length, and factor 2 / 2


def test_no_item_of_the_row_is_drawn_and_every_other_one_as_often():
    rows = random_rows(n_users=4, n_items=7)
    users = torch.tensor([0, 1, 3]).repeat(2000)

    drawn = Unseen(rows, "cpu").draw(users, 3, np.random.default_rng(0))

    for user in (0, 1, 3):
        counts = np.bincount(drawn[users == user].numpy().ravel(), minlength=7)
        missing = rows[[user]].toarray()[0] == 0
        assert counts[~missing].sum() == 0
        np.testing.assert_allclose(counts[missing], 6000 / missing.sum(), rtol=0.1)


def mean_loss(model, state, user, history):
    """What an unseen user is trained for, as the docstring of `train_users` says."""
    liked = torch.as_tensor(history.indices.astype(np.int64))
    others = torch.as_tensor(np.setdiff1d(state["negatives"].numpy(), history.indices).astype(np.int64))
    own, far = scores_by_hand(model, state, user, liked), scores_by_hand(model, state, user, others)
    softplus = torch.nn.functional.softplus
    if isinstance(model, MFBPR):
        loss = softplus(far[None, :] - own[:, None]).mean()
    elif isinstance(model, UCML):
        loss = (model.margin / 2 - own[:, None] + far[None, :]).relu().mean()
    else:
        loss = softplus(-own).mean() + model.negatives * softplus(far).mean()
    return loss + model.regularization / 2 * (user**2).sum()


def scores_by_hand(model, state, user, items):
    if not isinstance(model, NeuMF):
        return state["items"][items] @ user + state["biases"][items]
    hidden = state["items"][items, 4:] + state["user_layer"] @ user[4:]
    for layer in range(1, model.layers):
        hidden = hidden.relu() @ state[f"layer_{layer}"].T + state[f"layer_{layer}_bias"]
    return state["items"][items, :4] @ user[:4] + hidden.relu() @ state["phi_weight"] + state["biases"][items]


def trained_by_hand(model, history):
    """Adam in float64, its rate falling to zero, and the scores of its last vector."""
    state = {name: torch.as_tensor(array).double() for name, array in model.state().items()}
    user = state["start"].clone().requires_grad_()
    adam = torch.optim.Adam([user], lr=model.fold_in_rate)
    for step in range(model.fold_in_steps):
        adam.param_groups[0]["lr"] = model.fold_in_rate * (1 - step / model.fold_in_steps)
        adam.zero_grad()
        mean_loss(model, state, user, history).backward()
        adam.step()
        if isinstance(model, UCML):
            user.data /= user.data.norm().clamp(min=1)
    return scores_by_hand(model, state, user.detach(), torch.arange(25))


@pytest.mark.parametrize("model", [*MODELS, partial(NeuMF, layers=1), partial(NeuMF, layers=3)])
def test_an_unseen_user_is_trained_on_the_same_loss_with_the_items_frozen(model):
    history = random_rows(n_users=4, seed=1)
    options = {"regularization": 0.02, "learning_rate": 0.02, "fold_in_steps": 40}
    fitted = model(factors=4, epochs=30, **options).fit(random_rows(), ALONE)

    scores = fitted.score(history)

    for row in (0, 3):
        np.testing.assert_allclose(scores[row], trained_by_hand(fitted, history[[row]]), rtol=1e-3, atol=1e-3)


def test_the_vectors_of_ucml_stay_in_the_unit_ball():
    history = random_rows(n_users=6, seed=1)
    model = UCML(factors=4, margin=4.0, epochs=60, learning_rate=0.1, fold_in_rate=0.5).fit(random_rows(), ALONE)

    lengths = np.concatenate(
        [np.linalg.norm(part, axis=1) for part in (model.item_vectors(), model.user_vectors(history))]
    )

    assert lengths.max() == pytest.approx(1, abs=1e-5)
    assert (lengths > 0.999).sum() > 5


@pytest.mark.parametrize("model", MODELS)
def test_an_empty_history_gets_the_mean_user(model):
    fitted = model(factors=4, epochs=2).fit(random_rows(), ALONE)
    kept = fitted.kept_

    scores = fitted.score(sp.csr_array((1, 25), dtype=np.float32))

    np.testing.assert_allclose(scores, fitted.score_users(kept, kept["start"][None]), rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_user_who_has_everything_is_scored(model):
    fitted = model(factors=4, epochs=2).fit(random_rows(), ALONE)

    scores = fitted.score(sp.csr_array(np.ones((1, 25), np.float32)))

    assert np.isfinite(scores).all()


@pytest.mark.parametrize("model", MODELS)
def test_scores_do_not_depend_on_who_is_scored_beside_whom(model):
    history = random_rows(n_users=6, seed=1)
    fitted = model(factors=4, epochs=5, learning_rate=0.05).fit(random_rows(), ALONE)

    alone = np.concatenate([fitted.score(history[[row]]) for row in range(6)])

    np.testing.assert_allclose(alone, fitted.score(history), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_training_that_was_killed_goes_on_to_the_same_bits(model, tmp_path):
    train = random_rows()
    steps = -(-(train.nnz - 25) // 50)  # the user who has everything is left out

    def killer(name, step, value):
        if name == "progress" and step == 3 * steps + 1:
            raise Killed

    def fit(**context):
        return model(factors=4, epochs=5, batch_size=50).fit(train, FitContext(n_threads=1, **context))

    whole = fit().score(train)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(train), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 3 * steps + 1


@pytest.mark.parametrize("model", MODELS)
def test_the_planted_board_is_ranked_far_better_than_by_popularity(model):
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = model(factors=16).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


@pytest.mark.parametrize("model", MODELS)
def test_a_model_scores_the_same_after_the_disk(model, tmp_path):
    history = random_rows(seed=1)
    fitted = model(factors=4, epochs=2).fit(random_rows(), ALONE)

    fitted.save(tmp_path / "model.npz")

    np.testing.assert_array_equal(model.load(tmp_path / "model.npz").score(history), fitted.score(history))


def test_scores_are_the_products_of_the_vectors_and_the_biases():
    history = random_rows(n_users=6, seed=1)
    model = MFBPR(factors=4, epochs=30, learning_rate=0.05).fit(random_rows(), ALONE)

    users, items = model.user_vectors(history), model.item_vectors()

    assert isinstance(model, Factored) and np.ptp(model.state()["biases"].numpy()) > 0.1
    np.testing.assert_allclose(model.score(history), users @ items.T + model.state()["biases"].numpy(), rtol=1e-4)


def test_size_and_estimate_agree():
    train = random_rows()
    model = MFBPR(factors=4, epochs=1).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    assert model.size().n_parameters == 25 * 5 + 4
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes


def test_a_matrix_in_which_everyone_has_everything_teaches_nothing():
    model = MFBPR(factors=4, epochs=2).fit(sp.csr_array(np.ones((5, 6), np.float32)), ALONE)

    assert np.ptp(model.state()["biases"].numpy()) == 0


def test_a_rate_that_is_too_high_is_an_error():
    with pytest.raises(NumericalError, match="lower the learning rate"):
        MFBPR(factors=4, learning_rate=1e30, regularization=1.0).fit(random_rows(), ALONE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MFBPR().fit(random_rows() * np.nan, ALONE), "NaN"),
        (lambda: MFBPR(epochs=1).fit(random_rows(), ALONE).score(random_rows(n_items=26)), "26 items"),
    ],
)
def test_bad_input_is_an_error(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        MFBPR().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"factors": 0}, {"regularization": -1}, {"negatives": 0}, {"fold_in_rate": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        MFBPR(**options)


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_ends_near_where_the_cpu_does(model):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = model(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
