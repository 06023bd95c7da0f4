import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import UsageError
from recscale.models import item_knn
from recscale.models.item_knn import ItemKNN


def random_train(n_users=60, n_items=30, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.15).astype(np.float32))


def weighted_by_hand(train, weighting):
    """Weight each entry by a loop over the dense matrix."""
    n_users, n_items = train.shape
    weighted = np.zeros(train.shape)
    mean_length = train.sum() / n_items
    for user in range(n_users):
        n_own = train[user].sum()
        for item in np.flatnonzero(train[user]):
            if weighting is None:
                weighted[user, item] = 1
            elif weighting == "tf-idf":
                weighted[user, item] = np.log((1 + n_items) / (1 + n_own))
            else:
                length = 1.2 * (1 - 0.75 + 0.75 * train[:, item].sum() / mean_length)
                weighted[user, item] = 2.2 / (1 + length) * np.log(1 + (n_items - n_own + 0.5) / (n_own + 0.5))
    return weighted / np.sqrt((weighted**2).sum() / train.sum())


def similarity_by_hand(train, k, shrinkage, weighting):
    """Build the whole cosine matrix, then cut each column to its k largest, lower index first."""
    weighted = weighted_by_hand(train, weighting)
    gram = weighted.T @ weighted
    norms = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.nan_to_num(gram / (np.outer(norms, norms) + shrinkage))
    np.fill_diagonal(similarity, 0)
    for column in similarity.T:
        order = np.lexsort((np.arange(column.size), -np.round(column, 9)))
        column[order[k:]] = 0
    return similarity


@pytest.mark.parametrize("weighting", [None, "tf-idf", "bm25"])
@pytest.mark.parametrize(("k", "shrinkage"), [(1, 0.0), (5, 3.5), (100, 0.0)])
def test_scores_agree_with_a_dense_similarity_matrix(weighting, k, shrinkage):
    train, history = random_train(), random_train(n_users=9, seed=1)

    scores = ItemKNN(k=k, shrinkage=shrinkage, weighting=weighting).fit(train).score(history)

    expected = history.toarray() @ similarity_by_hand(train.toarray(), k, shrinkage, weighting)
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=1e-6)


def test_blocks_of_items_change_nothing(monkeypatch):
    train, history = random_train(), random_train(n_users=9, seed=1)
    at_once = ItemKNN(k=4).fit(train).score(history)

    monkeypatch.setattr(item_knn, "BLOCK_ITEMS", 7)
    in_blocks = ItemKNN(k=4).fit(train).score(history)

    np.testing.assert_array_equal(in_blocks, at_once)


def test_the_number_of_threads_changes_nothing():
    train, history = random_train(), random_train(n_users=9, seed=1)

    one = ItemKNN(k=4).fit(train, FitContext(n_threads=1)).score(history)
    two = ItemKNN(k=4).fit(train, FitContext(n_threads=2)).score(history)

    np.testing.assert_array_equal(one, two)


def test_no_item_is_its_own_neighbour_and_none_has_more_than_k():
    model = ItemKNN(k=3).fit(random_train())

    similarity = model.similarity_.toarray()

    assert not similarity.diagonal().any()
    assert (similarity > 0).sum(axis=0).max() == 3


def test_items_of_two_separate_blocks_never_meet():
    block = np.ones((4, 3), np.float32)
    train = sp.csr_array(sp.block_diag([block, block]))

    scores = ItemKNN(k=5, shrinkage=0).fit(train).score(sp.csr_array(np.array([[1, 0, 0, 0, 0, 0]], np.float32)))

    np.testing.assert_allclose(scores, [[0, 1, 1, 0, 0, 0]], rtol=1e-6)


def test_a_similarity_takes_eight_bytes():
    model = ItemKNN(k=3).fit(random_train())

    assert model.size().n_bytes == 8 * model.similarity_.nnz + 4 * 31


@pytest.mark.parametrize("options", [{"k": 0}, {"shrinkage": -1.0}, {"weighting": "idf"}])
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        ItemKNN(**options)
