"""The ranking, held against a full sort by (score falling, tie order rising) on boards of every kind."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.errors import DataError, ModelError, UsageError
from recscale.evaluation.ranking import TieOrder, rank, rank_tensor, tie_order

N_USERS = 6


def _numba(scores, history, target, **options):
    return rank(scores, history, target, **options)


def _torch(scores, history, target, **options):
    return rank_tensor(torch.from_numpy(scores.copy()), history, target, **options)


ROUTES = pytest.mark.parametrize("route", [_numba, _torch])

BOARDS = {
    "distinct": lambda rng, shape: rng.standard_normal(shape),
    "all equal": lambda rng, shape: np.full(shape, 0.25),
    "all zero": lambda rng, shape: np.zeros(shape),
    "zeros of both signs": lambda rng, shape: np.where(rng.random(shape) < 0.5, -0.0, 0.0),
    "small integers": lambda rng, shape: rng.integers(-2, 3, shape),
    "few non-zero": lambda rng, shape: np.where(rng.random(shape) < 0.02, rng.standard_normal(shape), 0),
    "negative and huge": lambda rng, shape: -np.abs(rng.standard_normal(shape)) * 1e30,
    "the extremes of float32": lambda rng, shape: rng.choice(np.finfo(np.float32).max * np.array([-1, 0, 1]), shape),
    "denormal": lambda rng, shape: rng.integers(0, 9, shape) * 1.4e-45,
    "falling by item": lambda rng, shape: np.sort(rng.standard_normal(shape), axis=1)[:, ::-1],
    "winners in one block": lambda rng, shape: rng.random(shape) + 9 * (np.arange(shape[1]) % 97 < 3),
}


def _scores(board, n_items, seed=0):
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(BOARDS[board](rng, (N_USERS, n_items)), dtype=np.float32)


def _users(n_items, history_share, seed=0):
    """Return a history and at least one target a user, disjoint."""
    rng = np.random.default_rng(seed + 1)
    draw = rng.random((N_USERS, n_items))
    draw[np.arange(N_USERS), rng.integers(0, n_items, N_USERS)] = 0
    target = draw < 0.03
    history = ~target & (draw < 0.03 + history_share)
    return sp.csr_array(history.astype(np.float32)), sp.csr_array(target.astype(np.float32))


def _by_full_sort(scores, history, target, k):
    """Return the items and the ranks that a plain sort of each row gives."""
    order = tie_order(scores.shape[1])
    items, firsts = np.full((len(scores), k), -1), []
    for b, row in enumerate(scores.astype(np.float64)):
        known, wanted = history[[b]].indices, target[[b]].indices
        ranked = np.lexsort((order.rank, -row))
        ranked = ranked[~np.isin(ranked, known)]
        items[b, : min(k, len(ranked))] = ranked[:k]
        place = np.flatnonzero(np.isin(ranked, wanted))[0]
        best = row[ranked[place]]
        others = np.delete(row, np.concatenate([known, wanted]))
        n_better = int((row[ranked] > best).sum())
        firsts.append((place + 1, n_better + 1, n_better + 1 + int((others == best).sum())))
    return items, np.array(firsts)


@ROUTES
@pytest.mark.parametrize("history_share", [0.05, 0.9])
@pytest.mark.parametrize("k", [1, 10, 150])
@pytest.mark.parametrize("n_items", [7, 300, 2500])
@pytest.mark.parametrize("board", BOARDS)
def test_ranking_is_that_of_a_full_sort(route, board, n_items, k, history_share):
    scores = _scores(board, n_items)
    history, target = _users(n_items, history_share)

    ranking = route(scores, history, target, k=k)

    items, firsts = _by_full_sort(scores, history, target, k)
    np.testing.assert_array_equal(ranking.items, items)
    np.testing.assert_array_equal(ranking.first_rank, firsts[:, 0])
    np.testing.assert_array_equal(ranking.first_rank_optimistic, firsts[:, 1])
    np.testing.assert_array_equal(ranking.first_rank_pessimistic, firsts[:, 2])
    hits = [np.isin(items[b], target[[b]].indices) for b in range(N_USERS)]
    np.testing.assert_array_equal(ranking.hits, hits)
    np.testing.assert_array_equal(ranking.n_nonzero, np.count_nonzero(scores, axis=1))
    np.testing.assert_array_equal(ranking.n_targets, np.diff(target.indptr))
    assert ranking.n_items == n_items


@pytest.mark.parametrize("board", BOARDS)
def test_both_routes_give_the_same_arrays_of_the_same_types(board):
    scores = _scores(board, 1200)
    history, target = _users(1200, 0.1)

    one, other = (dataclasses.asdict(route(scores, history, target, k=40)) for route in (_numba, _torch))

    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name, strict=name != "n_items")


@ROUTES
@pytest.mark.parametrize("k", [1100, 5000])
@pytest.mark.parametrize("board", ["distinct", "small integers"])
def test_long_lists_are_ranked_too(route, board, k):
    scores = _scores(board, 4000)
    history, target = _users(4000, 0.1)

    ranking = route(scores, history, target, k=k)

    np.testing.assert_array_equal(ranking.items, _by_full_sort(scores, history, target, k)[0])


@ROUTES
def test_the_history_is_never_recommended_even_if_nothing_else_is_left(route):
    scores = np.array([[9, 8, 7, 1]], dtype=np.float32)
    history = sp.csr_array(np.array([[1, 1, 1, 0]], dtype=np.float32))
    target = sp.csr_array(np.array([[0, 0, 0, 1]], dtype=np.float32))

    ranking = route(scores, history, target, k=3)

    assert ranking.items.tolist() == [[3, -1, -1]]
    assert ranking.hits.tolist() == [[True, False, False]]
    assert ranking.first_rank.tolist() == [1]


@ROUTES
def test_two_tied_targets_do_not_count_as_a_tie_against_each_other(route):
    scores = np.array([[5, 2, 2, 1]], dtype=np.float32)
    history = sp.csr_array((1, 4), dtype=np.float32)
    target = sp.csr_array(np.array([[0, 1, 1, 0]], dtype=np.float32))

    ranking = route(scores, history, target, k=2)

    assert (ranking.first_rank[0], ranking.first_rank_optimistic[0], ranking.first_rank_pessimistic[0]) == (2, 2, 2)


@ROUTES
def test_ties_follow_the_order_that_is_given(route):
    order = TieOrder(rank=np.array([2, 0, 1], dtype=np.int32), items=np.array([1, 2, 0], dtype=np.int32))
    history = sp.csr_array((1, 3), dtype=np.float32)
    target = sp.csr_array(np.array([[1, 0, 0]], dtype=np.float32))

    ranking = route(np.zeros((1, 3), dtype=np.float32), history, target, k=3, item_order=order)

    assert ranking.items.tolist() == [[1, 2, 0]]
    assert ranking.first_rank.tolist() == [3]


def test_the_tie_order_is_a_fixed_permutation_that_is_not_the_order_of_items():
    order = tie_order(1000)

    assert sorted(order.items) == list(range(1000))
    np.testing.assert_array_equal(order.rank[order.items], np.arange(1000))
    assert order.items[:5].tolist() == [262, 705, 192, 525, 64]
    assert abs(np.corrcoef(order.rank, np.arange(1000))[0, 1]) < 0.1


@ROUTES
def test_scores_are_left_as_they_were(route):
    scores = _scores("distinct", 300)
    before = scores.copy()
    history, target = _users(300, 0.3)

    route(scores, history, target, k=10)

    np.testing.assert_array_equal(scores, before)


def test_a_tensor_on_the_cpu_is_left_as_it_was_and_ranked_as_the_array_is():
    scores = _scores("distinct", 300)
    tensor = torch.from_numpy(scores.copy())
    history, target = _users(300, 0.3)

    ranking = rank(tensor, history, target, k=10)

    np.testing.assert_array_equal(ranking.items, rank(scores, history, target, k=10).items)
    np.testing.assert_array_equal(tensor.numpy(), scores)


def test_scores_that_share_one_row_of_memory_or_lie_in_columns_are_ranked():
    row = _scores("distinct", 300)[0]
    history, target = _users(300, 0.3)
    shared = np.broadcast_to(row, (N_USERS, 300))

    expected = rank(np.ascontiguousarray(shared), history, target, k=10).items

    np.testing.assert_array_equal(rank(shared, history, target, k=10).items, expected)
    np.testing.assert_array_equal(rank(np.asfortranarray(shared), history, target, k=10).items, expected)
    tensor = torch.from_numpy(row.copy()).expand(N_USERS, 300)
    np.testing.assert_array_equal(rank(tensor, history, target, k=10).items, expected)
    np.testing.assert_array_equal(rank_tensor(tensor, history, target, k=10).items, expected)


def test_read_only_matrices_are_ranked():
    scores = _scores("distinct", 300)
    history, target = _users(300, 0.3)
    expected = rank(scores, history, target, k=10).items
    for array in (scores, history.indices, history.indptr, target.indices, target.indptr):
        array.flags.writeable = False

    np.testing.assert_array_equal(rank(scores, history, target, k=10).items, expected)


@ROUTES
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("in_history", [False, True])
def test_scores_that_are_not_finite_are_refused_with_the_number_of_rows(route, bad, in_history):
    scores = _scores("distinct", 300)
    history, target = _users(300, 0.3)
    for b in (1, 4):
        known = np.zeros(300, dtype=bool)
        known[history[[b]].indices] = True
        scores[b, np.flatnonzero(known == in_history)[-1]] = bad

    with pytest.raises(ModelError, match=r"^2 of 6 rows of scores hold NaN or infinite numbers"):
        route(scores, history, target, k=10)


@ROUTES
def test_a_target_that_is_part_of_the_history_is_refused(route):
    history, _ = _users(300, 0.3)

    with pytest.raises(DataError, match="part of their history"):
        route(_scores("distinct", 300), history, history, k=10)


@ROUTES
def test_a_user_without_a_target_is_refused(route):
    history, target = _users(300, 0.3)
    target = sp.csr_array(sp.vstack([target[:5], sp.csr_array((1, 300), dtype=np.float32)]))

    with pytest.raises(DataError, match="1 of 6 users have no target"):
        route(_scores("distinct", 300), history, target, k=10)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((N_USERS, 299), np.float32), r"\(6, 299\).*\(6, 300\)"),
        (np.zeros((N_USERS, 300)), "float64.*float32"),
        (torch.zeros((N_USERS, 300), dtype=torch.float16), "float16.*float32"),
        (sp.csr_array((N_USERS, 300), dtype=np.float32), "csr_array"),
        ([[0.0] * 300] * N_USERS, "list"),
    ],
)
def test_scores_of_the_wrong_shape_or_type_are_refused_by_name(scores, message):
    history, target = _users(300, 0.3)

    with pytest.raises(ModelError, match=message):
        rank(scores, history, target, k=10)


@ROUTES
def test_an_empty_list_is_refused(route):
    history, target = _users(300, 0.3)

    with pytest.raises(UsageError, match="k=0"):
        route(_scores("distinct", 300), history, target, k=0)
