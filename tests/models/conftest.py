"""What the tests of models share."""

import gc

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext
from recscale.models._entries import other_items
from recscale.models._entry_trainer import Drawn


@pytest.fixture(scope="module")
def frozen_garbage():
    """Spare what the tests before have made: SANSA's package collects garbage dozens of times a fit, a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def one_torch_thread():
    """Take one thread for what a test does with torch itself: tables this small are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def random_rows():
    """Make rows of which the second is empty and the third has everything."""

    def make(n_users=40, n_items=25, seed=0):
        rows = (np.random.default_rng(seed).random((n_users, n_items)) < 0.2).astype(np.float32)
        rows[1] = 0
        rows[2] = 1
        return sp.csr_array(rows)

    return make


@pytest.fixture(scope="session")
def both_losses():
    """Return an `EntryTrained` model's loss on random tables, and the mean of `literal(x, ys, bs)` over the entries.

    x (D,) is the entry's user, ys (1 + n, D) and bs (1 + n,) are its own item and those drawn; `literal` may ask for
    the model's other tables by name.
    """

    def both(model, literal):
        generator = torch.manual_seed(0)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        tables = {"user": draw(6, model.width()), "item": draw(25, model.width()), "bias": draw(25, 1)}
        tables |= {name: draw(*value.shape) for name, value in model.extra().items()}
        users, items = torch.tensor([0, 3, 3]), torch.tensor([[1, 2, 9], [4, 0, 1], [8, 7, 7]])
        drawn = Drawn(tables["user"][users], tables["item"][items], tables["bias"][items][:, :, 0])
        other = {name: value.numpy() for name, value in tables.items() if name not in ("user", "item", "bias")}
        entries = zip(*(part.numpy() for part in (drawn.users, drawn.items, drawn.biases)), strict=True)
        return model.losses(model.scores_of(tables, drawn)).mean().item(), np.mean(
            [literal(*e, **other) for e in entries]
        )

    return both


@pytest.fixture(scope="session")
def check_inference(random_rows):
    """Assert that an unseen user is trained on `loss(own, far)`, of the scores of the two kinds of items."""

    def by_hand(model, history, loss, score, radius):
        state = {name: torch.as_tensor(array).double() for name, array in model.state().items()}
        liked = torch.as_tensor(history.indices.astype(np.int64))
        drawn = other_items(len(state["items"]), model.fold_in_steps, int(state["draws"][0]))
        user = state["start"].clone().requires_grad_()
        adam = torch.optim.Adam([user], lr=model.fold_in_rate)
        for step in range(model.fold_in_steps):
            adam.param_groups[0]["lr"] = model.fold_in_rate * (1 - step / model.fold_in_steps)
            adam.zero_grad()
            scores = score(state, user)
            others = torch.as_tensor(np.setdiff1d(drawn[step], history.indices).astype(np.int64))
            (loss(scores[liked], scores[others]) + model.fold_in_regularization / 2 * (user**2).sum()).backward()
            adam.step()
            user.data /= max(1.0, user.data.norm() / radius)
        return score(state, user.detach())

    def check(model, loss, score=lambda state, user: state["items"] @ user + state["biases"], radius=np.inf):
        history = random_rows(n_users=4, seed=1)
        fitted = model.fit(random_rows(), FitContext(n_threads=1))
        scores = fitted.score(history)
        for row in (0, 3):
            expected = by_hand(fitted, history[[row]], loss, score, radius)
            np.testing.assert_allclose(scores[row], expected, rtol=1e-3, atol=1e-3)

    return check
