import time

import numpy as np
import pytest
import torch

from recscale.contract import FitContext
from recscale.errors import DeadlineExceeded, NumericalError
from recscale.models._inverse import factor, factor_on_device, invert, invert_on_device

# sizes and blocks: one entry, smaller than a block, a block that divides the size, blocks that do not, many tiles
SHAPES = [(1, 8), (5, 8), (64, 16), (37, 8), (37, 36), (300, 128), (401, 48)]


def positive_definite(n, dtype=np.float32, smallest=1.0, seed=0):
    """Return a symmetric matrix with eigenvalues from `smallest` to 100, and its inverse in float64."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.geomspace(smallest, 100.0, n)
    matrix = (basis * values) @ basis.T
    return matrix.astype(dtype), (basis / values) @ basis.T


@pytest.mark.parametrize(("n", "block"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_inverse_agrees_with_the_eigenvalues(n, block, dtype, tolerance, n_threads):
    matrix, expected = positive_definite(n, dtype)

    invert(matrix, FitContext(n_threads=n_threads), block=block)

    np.testing.assert_allclose(matrix, expected, atol=tolerance)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_the_lower_triangle_is_not_read():
    matrix, expected = positive_definite(100)
    matrix[np.tril_indices(100, -1)] = np.nan

    invert(matrix, FitContext(), block=32)

    np.testing.assert_allclose(matrix, expected, atol=2e-5)


@pytest.mark.parametrize("row", [0, 40, 99])
def test_a_matrix_that_is_not_positive_definite_is_told_with_its_row(row):
    matrix = np.eye(100, dtype=np.float32)
    matrix[row, row] = -1

    with pytest.raises(NumericalError, match=rf"not positive definite in float32 \(found at row {row}\)"):
        invert(matrix, FitContext(), block=32)


def test_a_matrix_too_close_to_singular_for_float32_is_an_error_and_float64_inverts_it():
    context = FitContext()
    narrow, _ = positive_definite(200, smallest=1e-4)
    wide, expected = positive_definite(200, np.float64, smallest=1e-4)

    with pytest.raises(NumericalError):
        invert(narrow, context, block=64)
    residual = invert(wide, context, block=64)

    assert residual < 1e-8
    np.testing.assert_allclose(wide, expected, rtol=1e-5, atol=1e-5)


def test_the_residual_is_the_error_that_was_made():
    logged = {}
    matrix, _ = positive_definite(200, smallest=0.01)
    exact = matrix.astype(np.float64)

    residual = invert(matrix, FitContext(log=lambda name, step, value: logged.update({name: value})), block=64)

    true_error = np.linalg.norm(matrix.astype(np.float64) @ exact - np.eye(200)) / np.sqrt(200)
    assert residual == pytest.approx(true_error, rel=0.5)
    assert logged["inverse_residual"] == residual


def test_nan_is_an_error():
    matrix = np.eye(50, dtype=np.float32)
    matrix[3, 20] = np.nan

    with pytest.raises(NumericalError):
        invert(matrix, FitContext(), block=16)


def test_a_deadline_stops_between_blocks():
    matrix, _ = positive_definite(64)

    with pytest.raises(DeadlineExceeded, match="step 16 of 64"):
        invert(matrix, FitContext(deadline=time.monotonic() - 1), block=16)


@pytest.mark.parametrize("matrix", [np.eye(6, dtype=np.float32)[:, :4], np.eye(8, dtype=np.float32)[::2, ::2]])
def test_a_matrix_that_cannot_be_inverted_in_place_is_refused(matrix):
    with pytest.raises(ValueError, match="square C-ordered"):
        invert(matrix, FitContext())


@pytest.mark.parametrize(("n", "block"), SHAPES)
def test_the_inverse_on_a_device_agrees_with_the_eigenvalues(n, block):
    matrix, expected = positive_definite(n)
    tensor = torch.from_numpy(matrix)

    residual = invert_on_device(tensor, FitContext(), block=block)

    np.testing.assert_allclose(tensor.numpy(), expected, atol=2e-5)
    assert residual < 1e-4


def test_a_device_says_the_same_of_a_matrix_that_is_not_positive_definite():
    matrix = np.eye(100, dtype=np.float32)
    matrix[40, 40] = -1

    with pytest.raises(NumericalError, match=r"not positive definite in float32 \(found at row 40\)"):
        invert_on_device(torch.from_numpy(matrix), FitContext(), block=32)


@pytest.mark.parametrize(("n", "block"), SHAPES)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_factor_agrees_with_numpy_and_the_lower_triangle_stays(n, block, n_threads):
    matrix, _ = positive_definite(n)
    expected = np.linalg.cholesky(matrix.astype(np.float64))
    lower = np.tril(matrix, -1)

    factor(matrix, FitContext(n_threads=n_threads), block=block)

    np.testing.assert_allclose(np.triu(matrix), expected.T, atol=2e-5)
    np.testing.assert_array_equal(np.tril(matrix, -1), lower)


@pytest.mark.parametrize(("n", "block"), SHAPES)
def test_the_factor_on_a_device_agrees_with_numpy(n, block):
    matrix, _ = positive_definite(n)
    expected = np.linalg.cholesky(matrix.astype(np.float64))
    tensor = torch.from_numpy(matrix)

    factor_on_device(tensor, FitContext(), block=block)

    np.testing.assert_allclose(np.triu(tensor.numpy()), expected.T, atol=2e-5)


@pytest.mark.parametrize("row", [0, 40, 99])
def test_the_factor_of_a_matrix_that_is_not_positive_definite_is_an_error(row):
    matrix = np.eye(100, dtype=np.float32)
    matrix[row, row] = -1

    with pytest.raises(NumericalError, match=rf"not positive definite in float32 \(found at row {row}\)"):
        factor_on_device(torch.from_numpy(matrix.copy()), FitContext(), block=32)
    with pytest.raises(NumericalError, match=rf"not positive definite in float32 \(found at row {row}\)"):
        factor(matrix, FitContext(), block=32)
