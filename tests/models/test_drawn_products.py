"""What is read in place is what torch gives after looking the vectors up: scores, gradients, and the items drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recscale.contract import FitContext
from recscale.models._compiled import numba_threads
from recscale.models._drawn_products import Room, products_and_squares, unseen_items
from recscale.models._entry_trainer import EntryTrainer
from recscale.models._unseen import Unseen, _OnDevice
from recscale.models.gmf import GMF
from recscale.models.mf_bpr import MFBPR
from recscale.models.neumf import NeuMF
from recscale.models.ucml import UCML

N_ITEMS, WIDTH = 11, 5


@pytest.fixture
def drawn():
    """Vectors of items and users, and items drawn for each user, some of them often and some never."""
    rng = torch.Generator().manual_seed(0)
    table, users = (torch.randn(n, WIDTH, generator=rng).requires_grad_() for n in (N_ITEMS, 40))
    return table, users, torch.randint(0, 8, (40, 3), generator=rng)


def plain(table, users, items):
    vectors = table[items]
    return (vectors * users[:, None]).sum(2), vectors.square().sum(2)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_products_and_gradients_are_those_of_torch(drawn, n_threads):
    weights = torch.randn(2, *drawn[2].shape, generator=torch.Generator().manual_seed(1))
    expected = plain(*drawn)
    wanted = torch.autograd.grad((torch.stack(expected) * weights).sum(), drawn[:2])

    with numba_threads(n_threads):
        found = products_and_squares(*drawn)
        got = torch.autograd.grad((torch.stack(found) * weights).sum(), drawn[:2])

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(got, wanted)
    assert not got[0][8:].any()


def test_what_is_not_asked_for_has_no_gradient(drawn):
    table, users, items = drawn
    (of_users,) = torch.autograd.grad(products_and_squares(table, users, items)[1].sum(), users)

    assert not of_users.any()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_gradients_do_not_depend_on_the_number_of_threads(drawn, n_threads):
    with numba_threads(n_threads):
        (got,) = torch.autograd.grad(products_and_squares(*drawn)[0].square().sum(), drawn[0])
    with numba_threads(1):
        (alone,) = torch.autograd.grad(products_and_squares(*drawn)[0].square().sum(), drawn[0])

    assert torch.equal(got, alone)


@pytest.mark.parametrize("options", [{}, {"regularization": 0.5}, {"negatives": 4}])
@pytest.mark.parametrize("model", [MFBPR, GMF, UCML])
def test_a_loss_and_its_gradients_are_those_of_vectors_that_are_looked_up(model, options, random_rows):
    rows, found = random_rows(), []
    for in_place in (True, False):
        one = model(factors=4, **options)
        one.n_items_ = rows.shape[1]
        trainer = EntryTrainer(one, rows, FitContext(n_threads=1))
        assert trainer.reads_in_place
        trainer.reads_in_place = in_place
        loss = trainer.loss(SimpleNamespace(rows=np.arange(30), rng=np.random.default_rng(0)))
        loss.backward()
        gradients = {name: table.grad for name, table in trainer.module.named_parameters()}
        found.append((loss.detach(), gradients))

    torch.testing.assert_close(*found)
    assert all(table.any() for table in found[0][1].values() if table is not None)


@pytest.mark.parametrize(("model", "options"), [(NeuMF, {}), (GMF, {"clusters": 3})])
def test_what_needs_the_vectors_themselves_looks_them_up(model, options, random_rows):
    trainer = EntryTrainer(model(factors=4, **options), random_rows(), FitContext(n_threads=1))

    assert not trainer.reads_in_place


def test_each_number_is_the_unseen_item_of_that_rank():
    starts, own = np.array([0, 3, 3, 4]), np.array([0, 2, 5, 6])  # users with the items 0 2 5, none, 6 of seven
    before = (own - np.array([0, 1, 2, 0])).astype(np.int32)
    room = Room(7 - np.diff(starts), starts, before)

    got = []
    for user, n_unseen in enumerate(room.sizes):
        drawn = (np.arange(n_unseen)[None] + 0.5) / n_unseen
        got.append(unseen_items(drawn, np.array([user]), room)[0].tolist())

    assert got == [[1, 3, 4, 6], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]]
    largest = unseen_items(np.full((3, 1), np.nextafter(1, 0)), np.arange(3), room)[:, 0]
    assert largest.tolist() == [6, 6, 5]


def test_one_search_among_all_users_draws_the_same(random_rows):
    rows = random_rows(n_users=9, n_items=7)
    unseen, users = Unseen(rows, "cpu"), torch.tensor([0, 1, 5, 8]).repeat(50)
    drawn = np.random.default_rng(0).random((200, 3))

    alone = unseen.draw(users, 3, SimpleNamespace(random=lambda shape: drawn))
    at_once = _OnDevice(unseen, 7, "cpu").items_at(users, torch.as_tensor(drawn))

    assert torch.equal(alone, at_once)
