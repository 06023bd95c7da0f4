import numpy as np
import pytest

from recscale.testing.board import placement, planted_board, rating_board, unexplained


def test_a_board_repeats_with_its_seed_and_changes_with_another():
    one, same, other = planted_board(3), planted_board(3), planted_board(4)

    np.testing.assert_array_equal(one.train.toarray(), same.train.toarray())
    assert (one.train != other.train).nnz > 0


def test_a_board_has_the_hard_cases():
    board = planted_board()

    assert not board.train[:, [80]].nnz
    assert list(np.diff(board.train.indptr)[-2:]) == [1, 0]
    assert list(np.diff(board.history.indptr)[:2]) == [0, 1]
    assert list(np.diff(board.target.indptr)) == [0, 0] + [2] * 94


def test_targets_are_never_in_the_history():
    board = planted_board()

    assert board.history.multiply(board.target).nnz == 0


def test_an_oracle_is_placed_first_and_a_constant_in_the_middle():
    board = planted_board()

    assert placement(2 * board.target.toarray(), board) == pytest.approx(1 - 0.5 / 73, abs=2e-3)
    assert placement(np.zeros(board.target.shape, np.float32), board) == 0.5


def test_a_random_ranking_stays_below_what_is_asked_of_a_model():
    board = planted_board()
    rng = np.random.default_rng(0)

    shares = [placement(rng.random(board.target.shape), board) for _ in range(40)]

    assert max(shares) < 0.57
    assert np.mean(shares) == pytest.approx(0.5, abs=0.015)


def test_a_board_of_ratings_repeats_with_its_seed_and_has_the_hard_cases():
    board, same, other = rating_board(3), rating_board(3), rating_board(4)

    np.testing.assert_array_equal(board.train.data, same.train.data)
    assert board.train.nnz != other.train.nnz
    assert board.train.shape == (240, 81) and board.history.shape == board.target.shape == (96, 81)
    assert 80 not in board.train.indices
    assert list(np.diff(board.train.indptr)[-2:]) == [1, 0]
    assert list(np.diff(board.history.indptr)[:2]) == [0, 1]
    assert list(np.diff(board.target.indptr)[:2]) == [0, 0]
    for matrix in (board.train, board.history, board.target):
        assert matrix.has_canonical_format and set(matrix.data) == {0, 1, 2, 3, 4, 5}


def test_ratings_to_predict_are_never_in_the_history():
    board = rating_board()
    pairs = [
        set(zip(np.repeat(np.arange(96), np.diff(matrix.indptr)).tolist(), matrix.indices.tolist(), strict=True))
        for matrix in (board.history, board.target)
    ]

    assert not pairs[0] & pairs[1]


def test_exact_predictions_leave_nothing_unexplained_and_the_mean_all():
    board = rating_board()
    mean = np.full(board.target.shape, board.train.data.mean())

    assert unexplained(board.target.toarray(), board) == 0
    assert unexplained(mean, board) == pytest.approx(1)
    assert unexplained(mean + 1, board) > 1.2
