import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import UsageError
from recscale.models.user_knn import UserKNN


def random_rows(n_users, seed, n_items=40):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.2).astype(np.float32))


def weight_by_hand(kind, mine, theirs):
    overlap = len(mine & theirs)
    return {
        "overlap": overlap,
        "jaccard": overlap / len(mine | theirs),
        "cosine": overlap / np.sqrt(len(mine) * len(theirs)),
    }[kind]


def scores_by_hand(train, history, similarities, n_neighbors, kind):
    """Equation 9 with sets and loops; `similarities` (B, U) say who is near."""
    scores = np.zeros(history.shape)
    for row, near in enumerate(similarities):
        mine = set(np.flatnonzero(history[row]))
        for user in sorted(range(len(near)), key=lambda u: (-near[u], u))[:n_neighbors]:
            theirs = set(np.flatnonzero(train[user]))
            for item in theirs:
                scores[row, item] += weight_by_hand(kind, mine, theirs)
    return scores


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["overlap", "jaccard", "cosine"])
def test_neighbours_by_cosine_agree_with_sets_and_loops(kind):
    train, history = random_rows(50, 0), random_rows(8, 1)
    model = UserKNN(n_neighbors=7, weight=kind).fit(train)

    scores = model.score(history)

    similarities = np.round(unit(history.toarray()) @ unit(train.toarray()).T, 6)
    expected = scores_by_hand(train.toarray(), history.toarray(), similarities, 7, kind)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["overlap", "jaccard"])
def test_neighbours_by_svd_agree_with_an_exact_decomposition(kind):
    train, history = random_rows(50, 0), random_rows(8, 1)
    rank = 40  # the full rank, at which a randomised decomposition is exact
    model = UserKNN(n_neighbors=7, weight=kind, n_factors=rank).fit(train)

    scores = model.score(history)

    factors = np.linalg.svd(train.toarray(), full_matrices=False)[2].T
    similarities = unit(history @ factors) @ unit(train @ factors).T
    descending = -np.sort(-similarities, axis=1)
    is_clear = descending[:, 6] - descending[:, 7] > 1e-4  # rounding decides between the 7th neighbour and its equal
    assert is_clear.sum() >= 4
    expected = scores_by_hand(train.toarray(), history.toarray(), similarities, 7, kind)
    np.testing.assert_allclose(scores[is_clear], expected[is_clear], rtol=1e-5)


@pytest.mark.parametrize("n_factors", [None, 6])
def test_users_of_two_separate_blocks_never_meet(n_factors):
    block = np.ones((6, 4), np.float32)
    train = sp.csr_array(sp.block_diag([block, block]))
    history = sp.csr_array(np.array([[1, 1, 0, 0, 0, 0, 0, 0]], np.float32))

    scores = UserKNN(n_neighbors=6, weight="overlap", n_factors=n_factors).fit(train).score(history)

    np.testing.assert_array_equal(scores, [[12, 12, 12, 12, 0, 0, 0, 0]])


def test_ratings_are_taken_as_binary():
    train, history = random_rows(50, 0), random_rows(8, 1)

    plain = UserKNN().fit(train).score(history)
    rated = UserKNN().fit(train * 5).score(history * 3)

    np.testing.assert_array_equal(plain, rated)


@pytest.mark.parametrize("n_factors", [None, 6])
def test_scores_do_not_depend_on_who_is_scored_beside_whom(n_factors):
    train, history = random_rows(50, 0), random_rows(8, 1)
    model = UserKNN(n_neighbors=5, n_factors=n_factors).fit(train, FitContext(n_threads=2))

    alone = np.concatenate([model.score(history[[row]]) for row in range(8)])

    np.testing.assert_array_equal(alone, model.score(history))


def test_kept_rows_count_as_parameters_once_and_their_index_in_bytes_alone():
    train = random_rows(50, 0)

    size = UserKNN().fit(train).size()

    rows = 8 * train.nnz + 4 * 51
    assert size.n_parameters == train.nnz
    assert size.n_bytes == rows + 4 * train.nnz + 8 * 41


def test_more_neighbours_than_users_are_all_of_them():
    train, history = random_rows(5, 0), random_rows(2, 1)

    scores = UserKNN(n_neighbors=100, weight="overlap").fit(train).score(history)

    overlaps = history.toarray() @ train.toarray().T
    np.testing.assert_array_equal(scores, overlaps @ train.toarray())


@pytest.mark.parametrize("options", [{"n_neighbors": 0}, {"weight": "dice"}, {"n_factors": 0}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        UserKNN(**options)
