import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.errors import UsageError
from recscale.models import _affinities
from recscale.models._affinities import Buffers, ItemTables, Parameters, item_affinities, user_affinities
from recscale.models._compiled import numba_threads
from recscale.models._min_sum import min_sum

N_ITEMS, N_CLUSTERS, FACTORS = 40, 11, 6
HISTORIES = [[3, 7, 9], [], [12], list(range(0, 40, 3)), [3], [39, 38, 0, 1, 2], [7, 12]]


def parameters(*, norm=1.0, dtype=torch.float32):
    """Random parameters; the embeddings of items and heads are `norm` times as long."""
    rng = np.random.default_rng(1)
    shapes = (N_ITEMS, FACTORS), (N_CLUSTERS, FACTORS), (N_CLUSTERS, FACTORS), (FACTORS, FACTORS)
    scales = norm, norm, 1.0, 0.5
    tables = (torch.from_numpy(rng.normal(size=s) * c).to(dtype) for s, c in zip(shapes, scales, strict=True))
    return Parameters(*(table.requires_grad_() for table in tables))


def matrix(histories, n_items=N_ITEMS):
    indptr = np.concatenate(([0], np.cumsum([len(items) for items in histories])))
    items = np.array([item for items in histories for item in sorted(items)], np.int32)
    return sp.csr_array((np.ones(items.size, np.float32), items, indptr), shape=(len(histories), n_items))


def literal(histories, parameters):
    """Equations 2 and 5 as printed: for each user and head a softmax over the history, then W, then the co-clusters."""
    items, heads, clusters, mixing = parameters
    users = []
    for history in histories:
        found = []
        for head, cluster in zip(heads, clusters, strict=True):
            attention = torch.softmax(
                torch.stack([head @ items[i] / FACTORS**0.5 for i in history] or [items[0, 0]]), 0
            )
            pooled = mixing @ sum((w * items[i] for w, i in zip(attention, history, strict=False)), 0 * items[0])
            found.append(torch.clamp(pooled @ cluster, min=0))
        users.append(torch.stack(found))
    return torch.stack(users)


def double(parameters):
    return Parameters(*(table.detach().double().requires_grad_() for table in parameters))


def gradients(value, parameters, weights):
    return torch.autograd.grad((value * weights.to(value)).sum(), list(parameters))


def assert_same(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        np.testing.assert_allclose(one.detach().double(), other.detach(), rtol=0, atol=tolerance * scale)


WEIGHTS = torch.from_numpy(np.random.default_rng(5).normal(size=(len(HISTORIES), N_CLUSTERS)))


@pytest.mark.parametrize("buffers", [None, Buffers()], ids=["made twice", "kept"])
@pytest.mark.parametrize("norm", [1.0, 3.0, 5.0, 40.0], ids=["small", "with constants", "some alone", "most alone"])
def test_affinities_and_gradients_are_those_of_the_printed_equations(monkeypatch, norm, buffers):
    monkeypatch.setattr(_affinities, "ITEMS", 16)  # several pieces
    tables = parameters(norm=norm)
    precise = double(tables)
    expected = literal(HISTORIES, precise)

    found = user_affinities(matrix(HISTORIES), tables, buffers=buffers)

    wanted = gradients(expected, precise, WEIGHTS)
    scale = max(float(part.abs().max()) for part in wanted)  # where one item has all attention, heads get but rounding
    tolerance = 1e-5 if norm < 40 else 1e-4  # exponents of 6,000 have errors of 6,000 * 6e-8 in float32
    assert_same([found], [expected], tolerance)
    for one, other in zip(gradients(found, tables, WEIGHTS), wanted, strict=True):
        np.testing.assert_allclose(one.double(), other, rtol=0, atol=tolerance * (scale if norm == 40 else 1))
    assert (found[1] == 0).all()


@pytest.mark.parametrize(("norm", "n_alone"), [(1, 0), (3, 0), (5, 4), (40, 5)])
def test_users_beyond_the_range_of_float32_are_treated_alone(monkeypatch, norm, n_alone):
    alone, original = [], _affinities._alone
    monkeypatch.setattr(_affinities, "_alone", lambda *given: alone.append(given[1]) or original(*given))

    user_affinities(matrix(HISTORIES), parameters(norm=norm))

    assert len(alone) == n_alone


def test_scores_from_end_to_end_are_those_of_the_printed_equations():
    tables, pool = parameters(), [1, 5, 30, 7]
    precise = double(tables)
    weights = torch.from_numpy(np.random.default_rng(6).normal(size=(len(HISTORIES), len(pool))))
    by_user = literal(HISTORIES, precise)
    by_item = torch.clamp(torch.einsum("id,cd->ic", precise.items[pool], precise.clusters), min=0)
    expected = torch.minimum(by_user[:, None], by_item[None]).sum(2)

    found = min_sum(user_affinities(matrix(HISTORIES), tables), item_affinities(tables.items[pool], tables.clusters))

    assert_same([found], [expected])
    assert_same(gradients(found, tables, weights), gradients(expected, precise, weights))


def test_float64_passes_gradcheck():
    tables = parameters(dtype=torch.float64)
    rows = matrix(HISTORIES)

    assert torch.autograd.gradcheck(lambda *t: user_affinities(rows, Parameters(*t)), tuple(tables), fast_mode=True)


def test_a_one_item_history_has_the_affinities_of_the_item_after_mixing():
    tables = parameters()

    found = user_affinities(matrix([[12]]), tables)

    expected = (tables.clusters @ (tables.mixing @ tables.items[12])).relu()
    assert_same([found[0]], [expected.double()])


@pytest.mark.parametrize("histories", [[], [[]], [[], []]], ids=str)
def test_no_history_at_all_gives_zeros(histories):
    tables = parameters()

    found = user_affinities(matrix(histories), tables)
    by_table = gradients(found, tables, torch.ones(len(histories), N_CLUSTERS))

    assert torch.equal(found, torch.zeros(len(histories), N_CLUSTERS))
    assert all((part == 0).all() for part in by_table)
    assert torch.equal(ItemTables(tables).user_affinities(matrix(histories)), found)


def test_a_user_hangs_neither_on_the_threads_nor_on_the_users_beside():
    tables = parameters()

    with numba_threads(1):
        one = user_affinities(matrix(HISTORIES), tables)
        by_table = gradients(one, tables, WEIGHTS)
    with numba_threads(2):
        two = user_affinities(matrix(HISTORIES), tables)
        again = gradients(two, tables, WEIGHTS)

    assert torch.equal(one, two)
    assert all(torch.equal(first, second) for first, second in zip(by_table, again, strict=True))
    assert_same(user_affinities(matrix(HISTORIES[3:4]), tables), one[3:4].double(), 1e-6)


def test_batches_that_share_buffers_do_not_disturb_each_other():
    tables, buffers = parameters(), Buffers()
    rows, others = matrix(HISTORIES), matrix(HISTORIES[::-1])
    expected = [gradients(user_affinities(batch, tables), tables, WEIGHTS) for batch in (rows, others)]

    first, second = (user_affinities(batch, tables, buffers=buffers) for batch in (rows, others))
    found = [gradients(value, tables, WEIGHTS) for value in (first, second)]

    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("norm", [1.0, 40.0])
def test_tables_serve_the_affinities_of_the_training(norm):
    tables = parameters(norm=norm)
    ready = ItemTables(tables)
    expected = literal(HISTORIES, double(tables))
    tolerance = 1e-5 if norm == 1 else 1e-4

    assert_same([ready.user_affinities(matrix(HISTORIES))], [expected], tolerance)
    for user, history in enumerate(HISTORIES):
        assert_same([ready.affinity(ready.state(history))], [expected[user]], tolerance)


def test_adding_and_removing_comes_to_the_same_as_starting_anew():
    ready = ItemTables(parameters())
    start = ready.state([3, 7, 9])
    before = start.total.clone(), start.result.clone()

    state = ready.add(start, [20, 31, 20])
    longer = ready.affinity(state)
    state = ready.remove(state, np.array([31, 20]))

    torch.testing.assert_close(longer, ready.affinity(ready.state([31, 3, 20, 9, 7])))
    torch.testing.assert_close((state.total, state.result), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ready.affinity(ready.add(state, [3])), ready.affinity(ready.state([9, 7, 3])))


def test_a_history_that_was_emptied_has_affinities_of_zero_and_can_be_filled_again():
    ready = ItemTables(parameters())

    state = ready.remove(ready.state([3, 7]), [7, 3])

    assert (state.total == 0).all()
    assert (ready.affinity(state) == 0).all()
    assert torch.equal(ready.affinity(ready.add(state, [12])), ready.affinity(ready.state([12])))


@pytest.mark.parametrize("norm", [12.0, 40.0])
def test_removing_what_outweighs_the_rest_does_not_cancel(norm):
    tables = parameters(norm=norm)
    ready, expected = ItemTables(tables), literal([[7, 9]], double(tables))[0]
    heaviest = sorted({int(item) for item in ready.weights.argmax(0)} - {7, 9})

    one_by_one, at_once = ready.state([7, 9, *heaviest]), ready.state([7, 9, *heaviest])
    for item in heaviest:
        one_by_one = ready.remove(one_by_one, [item])
    at_once = ready.remove(at_once, heaviest)

    assert float((ready.state([7, 9]).total / ready.state([7, 9, *heaviest]).total).min()) < 1e-6
    for state in (one_by_one, at_once):
        assert_same([ready.affinity(state)], [expected], 1e-4)


def test_sums_are_made_anew_after_many_removals(monkeypatch):
    monkeypatch.setattr(_affinities, "REMOVALS", 3)
    ready = ItemTables(parameters())
    state = ready.state(range(20))

    counts = []
    for item in range(7):
        state = ready.remove(state, [item])
        counts.append(state.removals)

    assert counts == [1, 2, 0, 1, 2, 0, 1]
    assert torch.equal(ready.remove(ready.remove(state, [7]), [8]).total, ready.state(range(9, 20)).total)


def test_an_item_that_was_never_added_cannot_be_removed():
    ready = ItemTables(parameters())
    state = ready.state([3, 7])
    before = state.total.clone()

    with pytest.raises(UsageError, match="item 5 cannot be removed: it is none of the 2 of the history"):
        ready.remove(state, [3, 5])

    assert state.items == {3, 7}
    assert torch.equal(state.total, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("norm", [1.0, 5.0, 40.0])
def test_a_gpu_gives_the_printed_equations(norm):
    tables = Parameters(*(table.detach().cuda().requires_grad_() for table in parameters(norm=norm)))
    precise = double(Parameters(*(table.cpu() for table in tables)))
    expected = literal(HISTORIES, precise)
    tolerance = 1e-5 if norm < 40 else 1e-4

    found = user_affinities(matrix(HISTORIES), tables)
    by_table = [part.cpu() for part in gradients(found, tables, WEIGHTS.cuda())]

    assert_same([found.cpu()], [expected], tolerance)
    assert_same(by_table, gradients(expected, precise, WEIGHTS), tolerance)
    assert_same([ItemTables(tables).user_affinities(matrix(HISTORIES)).cpu()], [expected], tolerance)
