import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from recscale.contract import FitContext  # noqa: E402
from recscale.errors import UsageError  # noqa: E402
from recscale.models._sampled_loss import draw_task, trainable  # noqa: E402
from recscale.models._training import Batch  # noqa: E402
from recscale.models.mean_pool import MeanPool, _Trainer, pooled  # noqa: E402
from recscale.testing.board import placement, planted_board  # noqa: E402

SMALL = {"factors": 8, "epochs": 20, "batch_size": 64, "n_negatives": 40}
ALONE = FitContext(n_threads=1)


def random_train(n_users=60, n_items=25, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.25).astype(np.float32))


def user_by_hand(history, tables):
    """Return W sum_j w_j e_j (d,) of one user, in float64."""
    items, mixing, *head = (np.asarray(table, np.float64) for table in tables)
    own = np.flatnonzero(history)
    if not own.size:
        return np.zeros(items.shape[1])
    exponents = items[own] @ head[0][0] / np.sqrt(items.shape[1]) if head else np.zeros(own.size)
    weights = np.exp(exponents) / np.exp(exponents).sum()
    return mixing @ (weights @ items[own])


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_scores_are_dot_products_with_the_pooled_history(pooling):
    model = MeanPool(**SMALL, pooling=pooling).fit(random_train(), ALONE)
    histories = random_train(6, seed=1).toarray()
    histories[0] = 0
    tables = [table.numpy() for table in model.state().values()]

    expected = [tables[0] @ user_by_hand(history, tables) for history in histories]

    np.testing.assert_allclose(model.score(sp.csr_array(histories)), expected, atol=1e-5)
    assert model.size().n_parameters == 25 * 8 + 8 * 8 + (8 if pooling == "attention" else 0)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_the_loss_is_the_cross_entropy_of_the_hidden_item_among_those_that_are_not_the_users(pooling):
    model = MeanPool(**SMALL, pooling=pooling, l2=0.01, alpha=0.2)
    rows = trainable(random_train())
    trainer = _Trainer(model, rows, ALONE)
    task = draw_task(rows[np.arange(20)], 40, np.random.default_rng(3))

    loss = float(trainer.loss(Batch(np.arange(20), slice(0, 20), 0, 0, np.random.default_rng(3))).detach())

    tables = [table.detach().numpy() for table in trainer.module]
    known, own = task.known.toarray(), rows[np.arange(20)].toarray()
    total = 0.0
    for user in range(20):
        candidates = [task.hidden[user], *(i for i in task.pool if not own[user, i])]
        scores = tables[0][candidates] @ user_by_hand(known[user], tables)
        logs = scores - np.log(np.exp(scores).sum())
        total += (-0.8 * logs[0] - 0.2 * logs.mean() + 0.01 * (tables[0][task.hidden[user]] ** 2).sum()) / 20
    total += 0.01 * (tables[0][task.pool] ** 2).sum(1).mean()
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_attention_stands_large_embeddings():
    items = torch.tensor([[60.0, 0.0], [-60.0, 0.0], [0.0, 1.0]])
    rows = sp.csr_array(np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], np.float32))

    users = pooled(rows, [items, torch.eye(2), torch.tensor([[1.0, 0.0]])])

    np.testing.assert_allclose(users.numpy(), [[60, 0], [0, 1], [0, 0]], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_what_was_planted_is_found(pooling):
    board = planted_board(0)
    model = MeanPool(factors=16, epochs=60, batch_size=64, pooling=pooling).fit(board.train, ALONE)

    assert placement(model.score(board.history), board) > 0.8


@pytest.mark.parametrize("bad", [{"factors": 0}, {"pooling": "max"}, {"alpha": 1.1}, {"l2": -1.0}, {"n_negatives": 0}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        MeanPool(**bad)
