import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models._cel_lite import Rules, Stream, _log2, _near
from recscale.models._clustering import cluster_sizes
from recscale.models._training import Batch
from recscale.models.cel_lite import SPEC, CELLite
from recscale.models.popularity import Popularity
from recscale.testing.board import placement, planted_board

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ALONE = FitContext(n_threads=1)
FAST = {"factors": 5, "clusters": 6, "epochs": 4, "batch_size": 8}


def random_rows(n_users=30, n_items=20, seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def stream(train, n_clusters=4, **options):
    """A stream with random clusters and biases, before its first batch."""
    defaults = {"factors": 3, "clusters": 9, "unobserved_weight": 0.2, "regularization": 0.05}
    rules = {"split_after": 1e9, "buffer": 64, "candidates": 2, "average": True}
    made = Stream(train, Rules(**defaults | rules | options), ALONE)
    made.optimiser = torch.optim.Adagrad(made.module.parameters(), lr=0.1)
    rng = np.random.default_rng(3)
    with torch.no_grad():
        made.module.weight[:n_clusters] = torch.from_numpy(rng.normal(size=(n_clusters, 3)))
        made.module.assignment.copy_(torch.arange(train.shape[1]) % n_clusters)
        made.module.n_clusters.fill_(n_clusters)
        made.module.bias.copy_(torch.from_numpy(rng.normal(0, 0.2, train.shape[1])))
    return made


def batch_of(rows):
    return Batch(np.asarray(rows), slice(0, len(rows)), 0, 0, np.random.default_rng(0))


def literal_loss(train, rows, tables, rules):
    """Return the loss of some users, their vectors at the minimum, term by term from tables that may want gradients."""
    vectors, bias = tables
    alpha0, weight = rules.unobserved_weight, rules.regularization
    total = 0
    for row in rows:
        own = torch.as_tensor(train[[row]].toarray()[0]).double()
        strength = weight * (own.sum() + alpha0 * len(own))
        system = alpha0 * vectors.T @ vectors + (vectors.T * own) @ vectors + strength * torch.eye(vectors.shape[1])
        user = torch.linalg.solve(system, vectors.T @ (own * (1 - bias)) - alpha0 * vectors.T @ bias)
        scores = vectors @ user + bias
        total = total + (own * (1 - scores) ** 2).sum() + alpha0 * (scores**2).sum() + strength * (user**2).sum()
    counts = torch.as_tensor(np.bincount(train.indices, minlength=train.shape[1]))
    strengths = weight * (counts + alpha0 * train.shape[0]) * len(rows) / train.shape[0]
    return total + (strengths * (vectors**2).sum(1)).sum()


def test_a_step_goes_down_the_literal_loss_of_its_users():
    train = random_rows()
    made, rows = stream(train), [3, 11, 5, 28]
    table = made.items.table().double().clone().requires_grad_()
    bias = made.module.bias.detach().double().clone().requires_grad_()
    expected = literal_loss(train, rows, (table[made.module.assignment], bias), made.rules)
    expected.backward()  # the users move with the tables here; at their minimum that makes no difference

    loss = made.loss(batch_of(rows))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(made.module.weight.grad[:4], table.grad / 5, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(made.module.bias.grad, bias.grad, rtol=1e-3, atol=1e-3)


def test_with_room_for_all_users_gradients_and_losses_of_items_are_those_over_all_data():
    train = random_rows()
    made = stream(train)
    made.loss(batch_of(range(30)))
    made.after_step()
    users = torch.from_numpy(made.array("users")).double()
    bias, dense = torch.from_numpy(made.array("bias")).double(), torch.as_tensor(train.toarray()).double()

    def literal(item, vector):
        scores, own = users @ vector + bias[item], dense[:, item]
        squares = (own * (1 - scores) ** 2).sum() + 0.2 * (scores**2).sum()
        return squares + 0.05 * (own.sum() + 0.2 * 30) * (vector**2).sum()

    items = np.array([2, 9, 17])
    gradients = made.gradients(items)
    losses = made._losses(items, np.repeat(made.items.table().numpy()[None], 3, axis=0))

    table, clusters = made.items.table().double(), made.items.assignment()
    for place, item in enumerate(items):
        vector = table[clusters[item]].clone().requires_grad_()
        literal(item, vector).backward()
        np.testing.assert_allclose(gradients[place], vector.grad, rtol=1e-3, atol=1e-3)
        values = np.array([literal(item, row).item() for row in table])
        np.testing.assert_allclose(losses[place] - losses[place, 0], values - values[0], rtol=1e-3, atol=1e-3)


def test_items_remember_their_last_users_and_are_due_at_powers_of_two():
    train = sp.csr_array(np.array([[1, 0], [1, 0], [1, 1], [1, 0], [1, 0]], np.float32))
    made, due = stream(train, n_clusters=2, clusters=2, buffer=3), []

    for rows in ([0], [1], [2], [3, 4]):
        due.append(made._remember(np.array(rows), train[rows]).tolist())

    assert due == [[0], [0], [1], [0]]
    assert sorted(made.array("recent")[0]) == [2, 3, 4]
    assert made.array("recent")[1].tolist() == [2, -1, -1]
    assert made.array("taken").tolist() == [5, 1]


def test_an_item_is_tried_in_its_cluster_the_sibling_and_the_nearest_others():
    table = np.array([[0.0], [1], [10], [2.5], [30]], np.float32)
    sibling = np.array([4, 1, 2, 3, 0])

    choice = _near(table, np.array([0, 3, 0]), sibling, 2)

    assert [sorted(row) for row in choice.tolist()] == [[0, 1, 3, 4], [0, 1, 3, 3], [0, 1, 3, 4]]
    assert choice[:, :2].tolist() == [[0, 4], [3, 3], [0, 4]]
    assert _near(table[:1], np.array([0]), np.arange(1), 2).tolist() == [[0, 0, 0]]


def test_the_power_of_two_is_the_largest_in_a_number():
    assert _log2(np.array([0, 1, 2, 3, 4, 7, 8])).tolist() == [-1, 0, 1, 1, 2, 2, 3]


def test_a_split_copies_the_vector_and_what_the_optimiser_knows_and_leaves_a_partition():
    train = random_rows()
    made = stream(train, n_clusters=1, split_after=10, candidates=0)
    made.loss(batch_of(range(30)))
    made.optimiser.step()
    vector = made.items.table()[0].clone()

    made.after_step()

    assert made.items.n_clusters == 2
    sums = made.optimiser.state[made.module.weight]["sum"]
    for rows in (made.items.table(), sums):
        torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=0)
    torch.testing.assert_close(made.items.table()[0], vector, rtol=0, atol=0)
    sizes = cluster_sizes(made.items.assignment(), 2)
    assert sizes.min() > 0 and sizes.sum() == 20
    assert made.array("sibling")[:2].tolist() == [1, 0]


def test_what_was_planted_is_ranked_above_what_is_popular():
    board = planted_board()

    scores = CELLite(factors=6, clusters=8).fit(board.train, ALONE).score(board.history)

    popular = placement(Popularity().fit(board.train, ALONE).score(board.history), board)
    assert placement(scores, board) > max(0.8, popular + 0.2)


def test_all_clusters_come_and_are_counted():
    train = random_rows()
    model = CELLite(**FAST | {"epochs": 8}).fit(train, ALONE)

    needs = SPEC.estimate(model, Shape.of(train))

    assert len(np.unique(model.state()["item_clusters"])) == 6
    assert (model.size().n_parameters, model.size().n_bytes) == (6 * 5 + 20, 4 * (6 * 5 + 20) + 20)
    assert needs.peak_bytes > needs.model_bytes == model.size().n_bytes


def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def killer(name, step, value):
        if name == "progress" and step == 14:
            raise Killed

    model = CELLite(**FAST | {"epochs": 6})
    expected = model.fit(random_rows(), ALONE).score(random_rows())
    kept = Checkpoint(tmp_path / "lite.pt")
    with pytest.raises(Killed):
        model.fit(random_rows(), FitContext(n_threads=1, log=killer, checkpoint=kept))
    assert kept.path.exists()

    again = model.fit(random_rows(), FitContext(n_threads=1, checkpoint=kept)).score(random_rows())

    np.testing.assert_array_equal(again, expected)


def test_a_user_scores_the_same_alone_and_in_a_batch():
    rows = random_rows()
    model = CELLite(**FAST).fit(rows, ALONE)

    alone = np.vstack([model.score(rows[[user]]) for user in range(30)])

    np.testing.assert_allclose(alone, model.score(rows), rtol=1e-5, atol=1e-6)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        CELLite().fit(random_rows(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    with pytest.raises(DataError, match="21 items"):
        CELLite(**FAST | {"epochs": 1}).fit(random_rows(), ALONE).score(sp.csr_array((1, 21), dtype=np.float32))


@pytest.mark.parametrize("options", [{"clusters": 0}, {"buffer": 0}, {"split_after": 0}, {"learning_rate": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        CELLite(**options)
