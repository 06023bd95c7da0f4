import numpy as np
import pytest
import scipy.sparse as sp

from recscale.errors import DataError
from recscale.models.popularity import Popularity


def test_an_item_scores_by_how_many_training_users_have_it():
    train = sp.csr_array(np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.float32))

    scores = Popularity().fit(train).score(sp.csr_array((2, 4), dtype=np.float32))

    np.testing.assert_array_equal(scores, [[3, 1, 1, 0], [3, 1, 1, 0]])


def test_repeated_interactions_count_one_user():
    repeated = sp.coo_array((np.ones(3), ([0, 0, 1], [1, 1, 0])), shape=(2, 2)).tocsr()

    scores = Popularity().fit(repeated).score(sp.csr_array((1, 2), dtype=np.float32))

    np.testing.assert_array_equal(scores, [[1, 1]])


def test_scores_may_be_changed_by_the_caller():
    model = Popularity().fit(sp.csr_array(np.eye(3, dtype=np.float32)))

    model.score(sp.csr_array((1, 3), dtype=np.float32))[0, 0] = -np.inf

    np.testing.assert_array_equal(model.counts_, [1, 1, 1])


def test_a_history_over_another_catalogue_is_refused():
    model = Popularity().fit(sp.csr_array(np.eye(3, dtype=np.float32)))

    with pytest.raises(DataError, match="5 items, the model was fitted on 3"):
        model.score(sp.csr_array((1, 5), dtype=np.float32))
