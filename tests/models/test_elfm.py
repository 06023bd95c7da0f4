import time

import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from recscale.abilities import CoClustered, Incremental  # noqa: E402
from recscale.contract import FitContext, HeldOut  # noqa: E402
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError  # noqa: E402
from recscale.evaluation.coclusters import recovery  # noqa: E402
from recscale.models import _sampled_loss  # noqa: E402
from recscale.models._training import Batch  # noqa: E402
from recscale.models.elfm import ELFM, _Trainer  # noqa: E402
from recscale.testing.board import ITEMS_PER_BLOCK, N_BLOCKS, N_ITEMS, placement, planted_board  # noqa: E402

SMALL = {"n_clusters": 12, "factors": 8, "epochs": 30, "batch_size": 64, "n_negatives": 40}
ALONE = FitContext(n_threads=1)


def random_train(n_users=60, n_items=25, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.25).astype(np.float32))


def affinities_as_printed(history, parameters):
    """Return a_cu (N,) of one user by equations 2 and 5, term by term, in float64."""
    items, heads, clusters, mixing = (np.asarray(part, np.float64) for part in parameters)
    own = np.flatnonzero(history)
    found = np.zeros(len(heads))
    for c in range(len(heads)):
        if own.size:
            exponents = np.array([heads[c] @ items[i] / np.sqrt(items.shape[1]) for i in own])
            weights = np.exp(exponents) / np.exp(exponents).sum()
            aggregate = mixing @ sum(w * items[i] for w, i in zip(weights, own, strict=True))  # g_cu, equation 2
            found[c] = max(aggregate @ clusters[c], 0)
    return found


def scores_as_printed(history, parameters):
    """Return s_ui (I,) of one user by equation 6."""
    items, _, clusters, _ = (np.asarray(part, np.float64) for part in parameters)
    user = affinities_as_printed(history, parameters)
    return np.array([sum(min(user[c], max(item @ e, 0)) for c, e in enumerate(clusters)) for item in items])


def test_scores_are_those_of_the_equations_as_printed():
    train = random_train()
    model = ELFM(**SMALL).fit(train, ALONE)
    parameters = [value.numpy() for value in model.state().values()]
    histories = random_train(6, seed=1).toarray()
    histories[0] = 0

    expected = [scores_as_printed(history, parameters) for history in histories]

    np.testing.assert_allclose(model.score(sp.csr_array(histories)), expected, atol=2e-5)
    np.testing.assert_allclose(
        model.user_affinity(sp.csr_array(histories)),
        [affinities_as_printed(history, parameters) for history in histories],
        atol=1e-5,
    )
    assert isinstance(model, CoClustered) and isinstance(model, Incremental)


@pytest.mark.parametrize("options", [{}, {"loss": "ratio"}, {"alpha_as": "scale"}, {"l1": 0.01}, {"alpha": 0.0}])
def test_the_loss_and_its_gradients_are_those_of_equation_7_as_printed(options):
    model = ELFM(**SMALL, **{"l1": 1e-3, **options})
    rows = _sampled_loss.trainable(random_train())
    trainer = _Trainer(model, rows, ALONE)
    batch = Batch(np.arange(20), slice(0, 20), 0, 0, np.random.default_rng(3))
    task = _sampled_loss.draw_task(rows[batch.rows], model.n_negatives, np.random.default_rng(3))

    loss = trainer.loss(batch)
    loss.backward()

    tables = [value.detach().double().requires_grad_() for value in trainer.parameters]
    items, heads, clusters, mixing = tables
    item_affinity = (items @ clusters.T).relu()
    total = torch.zeros((), dtype=torch.float64)
    known, own = task.known.toarray(), rows[batch.rows].toarray()
    for user in range(20):
        history = items[np.flatnonzero(known[user])]
        weights = torch.softmax(history @ heads.T / np.sqrt(model.factors), 0)  # (n, N)
        aggregate = (weights.T @ history) @ mixing.T  # (N, d)
        affinity = (aggregate * clusters).sum(1).relu()
        candidates = [int(task.hidden[user]), *(int(i) for i in task.pool if not own[user, i])]
        scores = torch.minimum(affinity, item_affinity[candidates]).sum(1)
        if model.loss == "softmax":
            logs = scores.log_softmax(0)
        else:
            logs = ((scores + 1e-8) / (scores.sum() + 1e-8 * len(scores))).log()
        if model.alpha_as == "scale":
            cross_entropy = -model.alpha * logs[0]
        else:
            cross_entropy = -(1 - model.alpha) * logs[0] - model.alpha * logs.mean()
        total = total + cross_entropy + model.l1 * (affinity.sum() + item_affinity[candidates[0]].sum())
    total = total / 20 + model.l1 * item_affinity[task.pool].sum()  # the pool is the same for all users
    total.backward()

    np.testing.assert_allclose(float(loss.detach()), float(total.detach()), rtol=1e-5)
    for ours, printed in zip(trainer.parameters, tables, strict=True):
        np.testing.assert_allclose(ours.grad.numpy(), printed.grad.numpy(), atol=3e-6)


def test_parameters_are_counted_as_in_the_paper_whatever_the_number_of_users():
    for n_users in (40, 90):
        size = ELFM(**SMALL).fit(random_train(n_users), ALONE).size()

        assert size.n_parameters == (2 * 12 + 25) * 8 + 8**2
        assert size.n_bytes == 4 * size.n_parameters


def test_a_user_is_updated_item_by_item_as_if_scored_anew():
    model = ELFM(**SMALL).fit(random_train(), ALONE)
    history = sp.csr_array((np.ones(3, np.float32), np.array([2, 7, 11]), np.array([0, 3])), (1, 25))
    more = sp.csr_array((np.ones(4, np.float32), np.array([2, 7, 9, 11]), np.array([0, 4])), (1, 25))

    state = model.user_state(history)
    np.testing.assert_allclose(model.score_state(state), model.score(history), atol=1e-5)
    state = model.add(state, np.array([9, 7]))
    np.testing.assert_allclose(model.score_state(state), model.score(more), atol=1e-5)
    state = model.remove(state, np.array([9]))
    np.testing.assert_allclose(model.score_state(state), model.score(history), atol=1e-5)
    with pytest.raises(UsageError, match="item 5 cannot be removed"):
        model.remove(state, np.array([5]))
    for item in (-1, 25):
        with pytest.raises(UsageError, match=f"there is no item {item}: the model has 25"):
            model.add(state, np.array([item]))
    assert not np.any(model.score_state(model.remove(state, np.array([2, 7, 11]))))


def test_what_was_planted_is_found_by_ranking_and_by_co_clusters():
    board = planted_board(0)
    model = ELFM(n_clusters=32, factors=16, epochs=80, batch_size=64, l1=1e-4).fit(board.train, ALONE)

    assert placement(model.score(board.history), board) > 0.8
    rng = np.random.default_rng(0)
    truth = planted_items()
    found = recovery(model.item_affinity(), truth, rule="strong")
    shuffled = recovery(rng.permutation(model.item_affinity()), truth, rule="strong")
    assert found.f1 > shuffled.f1 + 0.1


def planted_items():
    """Return which items belong to which block of the board, (I, blocks); the last item is in none."""
    return (np.arange(N_ITEMS)[:, None] // ITEMS_PER_BLOCK == np.arange(N_BLOCKS)[None, :]).astype(np.float32)


def test_training_ends_early_on_the_mrr_of_the_validation_users_and_keeps_the_best_epoch():
    board, seen = planted_board(0), {}

    def log(name, step, value):
        seen.setdefault(name, []).append((step, value))

    held_out = HeldOut(board.history, board.target)
    ELFM(n_clusters=16, factors=8, batch_size=64, epochs=200, patience=3).fit(
        board.train, FitContext(n_threads=1, validation=held_out, log=log)
    )

    values = [value for _, value in seen["validation mrr"]]
    assert len(values) < 200 and int(np.argmax(values)) == len(values) - 4
    assert {"loss", "dead co-clusters", "positive item affinities", "positive user affinities"} <= set(seen)
    assert all(0 < value < 1 for _, value in seen["positive item affinities"])


def test_the_learning_rate_falls_to_a_tenth_after_every_step(monkeypatch):
    rates = []

    def spy(learner, plan, context):
        rates.extend(learner.rate(epoch) for epoch in (0, 49.9, 50, 99, 100, 149))

    monkeypatch.setattr("recscale.models._sampled_loss.train_module", spy)
    ELFM(**SMALL).fit(random_train(), ALONE)

    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_same_bits_come_from_one_thread_and_from_two():
    train = random_train()
    one, two = (ELFM(**SMALL).fit(train, FitContext(n_threads=n)).score(train) for n in (1, 2))

    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded):
        ELFM(**SMALL).fit(random_train(), FitContext(deadline=time.monotonic() - 1))


def test_a_loss_that_is_not_finite_says_so():
    with pytest.raises(NumericalError, match="the loss"):
        ELFM(**{**SMALL, "learning_rate": 1e30}).fit(random_train(), ALONE)


def test_a_history_over_other_items_is_an_error():
    model = ELFM(**SMALL).fit(random_train(), ALONE)
    with pytest.raises(DataError):
        model.score(sp.csr_array((2, 26), dtype=np.float32))


@pytest.mark.parametrize(
    "bad", [{"n_clusters": 0}, {"factors": 0}, {"l1": -1e-6}, {"alpha": 1.5}, {"alpha": -0.1}, {"loss": "bpr"}]
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        ELFM(**bad)
