import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext
from recscale.models._cel import Factorisation, Problem
from recscale.models._clustered_embedding import ClusteredEmbedding, Work
from recscale.models._clustering import Clustering, cluster_sizes

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def random_rows(n_users=30, n_items=20, seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def problem(train, **options):
    users, items = train.shape
    rng = np.random.default_rng(5)
    return Problem(
        **{
            "factors": 3,
            "user_weights": rng.uniform(0.1, 0.5, users),
            "item_weights": rng.uniform(0.1, 0.5, items),
            "unobserved_weight": 0.2,
            "spread": 1.0,
        }
        | options
    )


def factorisation(train, seed=0, **options):
    model = Factorisation(train, problem(train, **options), FitContext(seed=seed, n_threads=1))
    model.optimised("sgd", 0.01)
    if options.get("bias"):
        with torch.no_grad():
            model.module.bias.copy_(torch.linspace(-0.3, 0.4, train.shape[1])[:, None])
    return model


def literal_loss(train, users, items, bias, setting):
    """Return the loss over all pairs, term by term, from tables that may want gradients."""
    dense = torch.as_tensor(train.toarray())
    scores = users @ items.T + bias[:, 0]
    observed = ((dense > 0) * (dense - scores) ** 2).sum()
    penalties = [
        (torch.as_tensor(weights.astype(np.float32)) * (vectors**2).sum(1)).sum()
        for weights, vectors in ((setting.user_weights, users), (setting.item_weights, items))
    ]
    return observed + setting.unobserved_weight * (scores**2).sum() + sum(penalties)


def gradient_of_each_item(model):
    model.module.zero_grad()
    with model.items.recording() as recorded:
        model.loss()
    return recorded.numpy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("users", "items"), [(None, 4), (4, None), (3, 4), (None, None)])
def test_gradients_are_those_of_the_literal_loss_over_the_size_of_the_cluster(users, items, bias):
    train = random_rows()
    sides = {name: n and Clustering(clusters=n) for name, n in (("users", users), ("items", items))}
    model = factorisation(train, start=4, bias=bias, **sides)
    tables, vectors = [], []
    for side, n in ((model.users, 30), (model.items, 20)):
        table = side.module.weight.detach().clone().requires_grad_()
        tables.append(table)
        vectors.append(table if len(table) == n else torch.stack([table[i % len(table)] for i in range(n)]))
    offsets = (model.module.bias.detach().clone() if bias else torch.zeros(20, 1)).requires_grad_()
    expected = literal_loss(train, *vectors, offsets, model.problem)
    expected.backward()

    loss = model.loss()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for side, table, n in ((model.users, tables[0], 30), (model.items, tables[1], 20)):
        sizes = torch.tensor([len(range(row, n, len(table))) for row in range(len(table))])
        torch.testing.assert_close(side.module.weight.grad, table.grad / sizes[:, None], rtol=1e-4, atol=1e-4)
    if bias:
        torch.testing.assert_close(model.module.bias.grad, offsets.grad, rtol=1e-4, atol=1e-4)


def test_without_averaging_the_gradient_is_that_of_the_literal_loss():
    averaged, plain = (
        factorisation(random_rows(), start=4, items=Clustering(clusters=4, average=average))
        for average in (True, False)
    )
    for model in (averaged, plain):
        model.loss()

    ratio = plain.items.module.weight.grad / averaged.items.module.weight.grad

    torch.testing.assert_close(ratio, torch.full((4, 3), 5.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_with_a_cluster_for_each_item_it_is_the_plain_factorisation(kind):
    train, whole = random_rows(), Clustering(clusters=20, reassign_every=0, growth_epochs=0)
    plain, shared = factorisation(train), factorisation(train, start=20, items=whole)
    with torch.no_grad():
        shared.items.module.weight.copy_(plain.items())

    for model in (plain, shared):
        optimiser = model.optimised(kind, 0.01)
        for epoch in range(8):
            model.before_epoch(epoch)
            optimiser.zero_grad()
            model.loss()
            optimiser.step()

    assert shared.items.n_clusters == 20
    torch.testing.assert_close(shared.items(), plain.items(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shared.users(), plain.users(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", ["users", "items"])
def test_a_split_leaves_the_loss_unchanged_exactly(side):
    train = random_rows()
    model = factorisation(train, bias=True, **{side: Clustering(clusters=12, growth="geometric", growth_epochs=2)})
    before, vectors = model.loss().item(), getattr(model, side)().detach().clone()

    numbers = []
    for epoch in range(2):
        model.before_epoch(epoch)
        numbers.append(getattr(model, side).n_clusters)

    assert numbers == [4, 12]
    torch.testing.assert_close(getattr(model, side)(), vectors, rtol=0, atol=0)
    assert model.loss().item() == before


def test_clusters_are_a_partition_at_every_time():
    train, seen = random_rows(), []
    model = factorisation(train, items=Clustering(clusters=9, growth_epochs=30, reassign_every=1, primes=False))
    optimiser = model.optimised("sgd", 0.01)
    for epoch in range(30):
        model.before_epoch(epoch)
        sizes = cluster_sizes(model.items.assignment(), model.items.n_clusters)
        assert sizes.min() > 0 and sizes.sum() == 20
        seen.append(sizes.size)
        optimiser.zero_grad()
        model.loss()
        optimiser.step()

    assert seen[:8] == [2, 3, 4, 5, 6, 7, 8, 9] and seen[-1] == 9


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", ["users", "items"])
def test_losses_of_candidates_are_the_literal_ones_up_to_a_constant(side, bias):
    train = random_rows()
    model = factorisation(train, start=4, bias=bias, **{side: Clustering(clusters=4)})
    users, items = model.users().detach(), model.items().detach()
    offsets = model.module.bias.detach() if bias else torch.zeros(20, 1)
    table = getattr(model, side).table()

    found = getattr(model, side[:-1] + "_losses")(table)

    for number in (0, 7, 13):
        literal = []
        for candidate in table:
            changed = {"users": users.clone(), "items": items.clone()}
            changed[side][number] = candidate
            literal.append(literal_loss(train, changed["users"], changed["items"], offsets, model.problem))
        literal = torch.stack(literal)
        torch.testing.assert_close(found[number] - found[number, 0], literal - literal[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", ["users", "items"])
def test_reassignment_without_damping_never_raises_the_loss(side):
    model = factorisation(random_rows(), start=6, bias=True, **{side: Clustering(clusters=6, damping=0)})
    work = Work(model.loss, getattr(model, side[:-1] + "_losses"), None, 0)
    losses, moves = [model.loss().item()], []
    for turn in range(3):
        moves.append(getattr(model, side).reassign(work, np.random.default_rng(turn)))
        losses.append(model.loss().item())

    assert moves[0] > 5 and moves[-1] == 0  # with vectors at rest the second time finds nothing better
    assert losses[1] < losses[0]
    assert np.all(np.diff(losses) <= 1e-6 * losses[0])


def test_a_split_alone_does_not_make_entities_go_back():
    model = factorisation(random_rows(), items=Clustering(clusters=6, damping=0))
    model.before_epoch(0)
    before = model.items.assignment().copy()

    n_moved = model.items.reassign(Work(model.loss, model.item_losses, None, 0), np.random.default_rng(0))

    assert n_moved == 0
    np.testing.assert_array_equal(model.items.assignment(), before)


def test_blocks_of_candidates_find_the_same_clusters(monkeypatch):
    model = factorisation(random_rows(), start=11, items=Clustering(clusters=11))
    whole = model.items.best(model.item_losses)

    monkeypatch.setattr("recscale.models._clustered_embedding.BLOCK", 20 * 3)
    monkeypatch.setattr("recscale.models._cel.AT_ONCE", 30 * 2)

    np.testing.assert_array_equal(model.items.best(model.item_losses), whole)
    assert len(np.unique(whole)) > 3


def test_gradients_of_entities_are_added_up_over_calls_and_repeats():
    items = ClusteredEmbedding(Clustering(clusters=3), np.ones(5), torch.ones(2, 4))
    numbers = torch.tensor([[0, 3], [3, 1]])

    with items.recording() as recorded:
        for factor in (1.0, 10.0):
            (items(numbers) * torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None] * factor).sum().backward()

    np.testing.assert_allclose(recorded, 11 * np.array([1.0, 4, 0, 5, 0])[:, None] * np.ones(4))


def test_new_clusters_take_over_what_the_optimiser_knows_of_their_parents():
    model = factorisation(random_rows(), start=2, items=Clustering(clusters=5))
    optimiser = model.optimised("adam", 0.01)
    model.loss()
    optimiser.step()
    memory = optimiser.state[model.items.module.weight]["exp_avg"]

    model.items.grow(Work(model.loss, model.item_losses, optimiser, 0), 5)

    rows, vectors = memory.numpy(), model.items.table().numpy()
    assert np.abs(rows[:2]).min() > 0
    for new in (2, 3, 4):
        parent = int(np.abs(vectors[:2] - vectors[new]).sum(1).argmin())
        np.testing.assert_array_equal(rows[new], rows[parent])
        np.testing.assert_array_equal(vectors[new], vectors[parent])
