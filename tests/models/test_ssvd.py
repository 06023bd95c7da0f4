import numpy as np
import pytest
import scipy.sparse as sp

from recscale.errors import DataError, FitWarning, UsageError
from recscale.models.chol import CHOL
from recscale.models.ease import EASE
from recscale.models.ssvd import SSVD


def random_train(n_users=300, n_items=90, seed=0):
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(np.geomspace(0.02, 0.5, n_items))
    return sp.csr_array((rng.random((n_users, n_items)) < popularity).astype(np.float32))


def masked(scores, history):
    return np.where(history.toarray() > 0, 0, scores)


def test_without_pruning_it_ranks_as_ease_does():
    train, history = random_train(), random_train(40, seed=1)

    scores = SSVD(l2=20.0, k=None).fit(train).score(history)

    ease = EASE(l2=20.0).fit(train).score(history)
    np.testing.assert_allclose(masked(scores, history), masked(ease, history), atol=1e-4)  # float32 eigenvectors


def test_pruned_scores_agree_with_numpy():
    train, history = random_train(), random_train(40, seed=1)
    precision = np.linalg.inv((train.T @ train).toarray().astype(np.float64) + 20 * np.eye(90))
    diagonal = np.diag(precision).copy()
    values, vectors = np.linalg.eigh(2 * np.diag(diagonal) - precision)
    embeddings = vectors[:, ::-1] * np.sqrt(values[::-1])
    for row in embeddings:
        row[np.argsort(-np.abs(row))[30:]] = 0

    scores = SSVD(l2=20.0, k=30).fit(train).score(history)

    np.testing.assert_allclose(scores, history @ embeddings @ embeddings.T / diagonal, atol=1e-4, rtol=1e-3)


def test_it_loses_more_by_pruning_than_chol():
    train, history = random_train(), random_train(40, seed=1)
    exact = masked(EASE(l2=20.0).fit(train).score(history), history)

    errors = [np.abs(masked(m(l2=20.0, k=45).fit(train).score(history), history) - exact).mean() for m in (SSVD, CHOL)]

    assert errors[0] > 3 * errors[1]


def test_a_k_that_prunes_nothing_is_said():
    with pytest.warns(FitWarning, match="prunes nothing"):
        SSVD(k=90).fit(random_train())


@pytest.mark.parametrize("bad", [{"l2": 0}, {"k": 0}, {"beta": 1.0}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        SSVD(**bad)


def test_a_history_over_other_items_is_refused():
    model = SSVD(k=5).fit(random_train())

    with pytest.raises(DataError, match="91 items"):
        model.score(sp.csr_array((2, 91), dtype=np.float32))
