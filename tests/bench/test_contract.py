"""What a model is handed, and what it is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

import recscale
from recscale.contract import canonical
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
