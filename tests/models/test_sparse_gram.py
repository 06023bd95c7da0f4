import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded
from recscale.models._sparse_gram import Keep, cosine, interactions, plain, rescaled, sparse_gram, united


def random_train(n_users=307, n_items=60, *, binary=True, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.random((n_users, n_items))
    kept = values < np.linspace(0.02, 0.4, n_items)
    kept[:, 5] = False  # an item that nobody has
    return sp.csr_array((kept if binary else kept * (0.5 + rng.random(kept.shape))).astype(np.float32))


def dense_gram(train):
    dense = train.toarray().astype(np.float64)
    return dense.T @ dense


def literal(train, name):
    """Return the matrix of a measure by its definition."""
    gram, dense = dense_gram(train), train.toarray().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "cosine":
            scale = np.diag(gram) ** -0.5
        elif name == "plain":
            scale = np.ones(len(gram))
        else:
            mean = dense.mean(axis=0)
            gram -= len(dense) * np.outer(mean, mean)
            scale = (len(dense) * dense.var(axis=0)) ** (-0.75 / 2)
    scale[~np.isfinite(scale)] = 0
    return gram * np.outer(scale, scale)


MEASURES = {
    "cosine": cosine,
    "rescaled": lambda train: rescaled(train, 0.75),
    "plain": lambda train: plain(train.shape[1]),
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_with_room_for_all_it_is_the_gram_matrix(name, binary):
    train = random_train(binary=binary)

    result = sparse_gram(interactions(train), MEASURES[name](train), Keep(59), FitContext(n_threads=2))

    assert result.dtype == np.float32
    assert result.has_canonical_format
    np.testing.assert_allclose(result.toarray(), dense_gram(train), rtol=2e-6)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(("k", "threshold"), [(1, 0.0), (7, 0.03), (59, 0.1)])
def test_each_row_keeps_its_best_neighbours_above_the_threshold_and_itself(name, binary, k, threshold):
    train = random_train(binary=binary)
    magnitudes = np.abs(literal(train, name))
    np.fill_diagonal(magnitudes, 0)

    result = sparse_gram(interactions(train), MEASURES[name](train), Keep(k, threshold), FitContext())

    for item in range(60):
        best = [int(j) for j in np.argsort(-magnitudes[item].round(9), kind="stable")[:k]]
        wanted = sorted([j for j in best if magnitudes[item, j] > threshold] + [item])
        assert result[[item]].indices.tolist() == wanted
    rows, columns = np.repeat(np.arange(60), np.diff(result.indptr)), result.indices
    np.testing.assert_allclose(result.data, dense_gram(train)[rows, columns], rtol=2e-6)


def test_a_pair_that_nobody_has_is_kept_where_its_absence_says_enough():
    dense = np.zeros((100, 3), np.float32)
    dense[:50, 0], dense[50:, 1], dense[:3, 2] = 1, 1, 1  # items 0 and 1 exclude each other: correlation -1
    train = sp.csr_array(dense)

    result = sparse_gram(interactions(train), rescaled(train, 1.0), Keep(2, 0.5), FitContext())

    np.testing.assert_array_equal(result.indptr, [0, 2, 4, 5])
    np.testing.assert_array_equal(result.indices, [0, 1, 0, 1, 2])
    np.testing.assert_array_equal(result.data, [50, 0, 0, 50, 3])


def test_an_item_that_all_or_no_users_have_is_nobodys_neighbour_after_centring():
    dense = random_train(binary=False).toarray()
    dense[:, 7] = 1.7
    train = sp.csr_array(dense)

    result = sparse_gram(interactions(train), rescaled(train, 0.75), Keep(59), FitContext())

    assert result[[5]].indices.tolist() == [5]
    assert result[[7]].indices.tolist() == [7]
    assert not np.isin([5, 7], np.delete(result.indices, [result.indptr[5], result.indptr[7]])).any()


def test_the_union_has_an_entry_and_its_mirror_image():
    train = random_train()
    kept = sparse_gram(interactions(train), cosine(train), Keep(6), FitContext())

    both = sparse_gram(interactions(train), cosine(train), Keep(6, union=True), FitContext())

    pattern = kept.toarray() != 0
    np.testing.assert_array_equal(both.toarray(), np.where(pattern | pattern.T, dense_gram(train), 0))
    assert both.has_sorted_indices


def test_a_united_matrix_has_the_mean_of_two_entries_and_the_one_where_there_is_one():
    matrix = sp.csr_array(([4.0, 2.0, 6.0, 0.0], ([0, 0, 1, 2], [0, 1, 0, 1])), shape=(3, 3), dtype=np.float32)

    result = united(matrix)

    np.testing.assert_array_equal(result.toarray(), [[4, 4, 0], [4, 0, 0], [0, 0, 0]])
    assert result.nnz == 5


@pytest.mark.parametrize("binary", [True, False])
def test_the_number_of_threads_changes_no_bit(binary):
    train = random_train(binary=binary)

    one, two = (
        sparse_gram(interactions(train), rescaled(train, 0.5), Keep(9, union=True), FitContext(n_threads=n))
        for n in (1, 2)
    )

    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("shape", [(0, 4), (3, 1)])
def test_data_without_pairs_gives_the_diagonal_alone(shape):
    train = sp.csr_array(np.ones(shape, np.float32))

    result = sparse_gram(interactions(train), cosine(train), Keep(5), FitContext())

    np.testing.assert_array_equal(result.toarray(), shape[0] * np.eye(shape[1]))
    assert result.nnz == shape[1]


def test_progress_is_told_and_a_deadline_stops_the_sums():
    seen, train = [], random_train()
    data, measure = interactions(train), cosine(train)

    sparse_gram(data, measure, Keep(5), FitContext(log=lambda name, step, value: seen.append((name, step, value))))

    assert len(seen) > 5
    assert seen[-1] == ("progress", 60, 60)
    with pytest.raises(DeadlineExceeded):
        sparse_gram(data, measure, Keep(5), FitContext(deadline=time.monotonic() - 1))
