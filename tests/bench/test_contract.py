"""What a model is handed, and what it is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

import recscale
from recscale.contract import HeldOut, canonical
from recscale.errors import DataError, NotFitted, UsageError


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ("text", "this str is no matrix"),
        (None, "this NoneType is no matrix"),
        ([1, 2], "two dimensions"),
        (np.ones(3), "two dimensions"),
        (np.array([["a", "b"]]), "this ndarray is no matrix"),
        (np.ones((2, 2), complex), "complex"),
        (np.ones((3, 0)), "at least one item"),
        (np.array([[1, np.nan]]), "NaN or infinite"),
        (np.array([[1, np.inf]]), "NaN or infinite"),
    ],
)
def test_what_is_no_matrix_of_interactions_is_a_data_error_in_one_line(matrix, reason):
    with pytest.raises(DataError, match=reason) as caught:
        canonical(matrix)
    assert "\n" not in str(caught.value)


def test_a_matrix_is_made_canonical_and_the_one_given_is_not_changed():
    given = sp.csr_matrix((np.array([1.0, 2.0, 0.0, 4.0]), np.array([2, 0, 1, 2]), np.array([0, 4, 4])), shape=(2, 3))
    before = given.toarray()

    result = canonical(given)

    assert (type(result), result.dtype, result.nnz) == (sp.csr_array, np.float32, 2)
    assert result.has_canonical_format
    np.testing.assert_array_equal(result.toarray(), [[2, 0, 5], [0, 0, 0]])
    np.testing.assert_array_equal(given.toarray(), before)
    assert given.nnz == 4
    assert canonical(result) is result or np.shares_memory(canonical(result).data, result.data)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), "inf", 1e39, "1e39"])
def test_an_option_that_float32_cannot_hold_is_refused(value):
    with pytest.raises(UsageError, match=r"l2=.*does not fit"):
        recscale.model("chol", l2=value)
    with pytest.raises(UsageError, match=r"l2=.*does not fit"):
        recscale.model("slim", l2=value)


@pytest.mark.parametrize("name", ["popularity", "ease", "chol", "sansa", "elsa", "gf_cf", "item_knn"])
def test_a_model_that_is_not_fitted_says_so(name):
    model = recscale.model(name)

    with pytest.raises(NotFitted, match="is not fitted: call fit, or load_state, first"):
        model.score(sp.csr_array((2, 5), dtype=np.float32))
    with pytest.raises(NotFitted):
        model.size()
    assert not hasattr(model, "weights_")
    with pytest.raises(AttributeError, match="no attribute 'wieghts'"):
        model.wieghts  # noqa: B018


def test_zeros_are_kept_where_they_are_ratings_and_nothing_else_changes():
    unsorted = sp.csr_array((np.array([3.0, 0.0, 1.0]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))

    kept, dropped = canonical(unsorted, keep_zeros=True), canonical(unsorted)

    assert kept.indices.tolist() == [0, 2, 1] and kept.data.tolist() == [0, 3, 1] and kept.dtype == np.float32
    assert dropped.nnz == 2
    assert canonical(kept, keep_zeros=True) is not unsorted and unsorted.indices.tolist() == [2, 0, 1]


def test_some_held_out_users_come_with_all_that_is_known_of_them():
    rows = sp.csr_array(np.eye(4, 6, dtype=np.float32))
    held_out = HeldOut(rows, 2 * rows, 3 * rows)

    part = held_out.some(slice(1, 3))

    for matrix, factor in ((part.history, 1), (part.target, 2), (part.disliked, 3)):
        np.testing.assert_array_equal(matrix.toarray(), factor * np.eye(4, 6)[1:3])
    assert HeldOut(rows, rows).some(slice(0, 1)).disliked is None
