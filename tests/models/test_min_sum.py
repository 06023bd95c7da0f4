import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recscale.errors import UsageError
from recscale.models import _min_sum
from recscale.models._compiled import numba_threads
from recscale.models._min_sum import Catalogue, min_sum, route_of
from recscale.models._min_sum_gpu import PLAIN

SHAPES = [(1, 1, 1), (3, 5, 7), (4, 2, 8), (67, 131, 33), (9, 70, 1030), (300, 3, 20)]


def affinities(n_rows, n_clusters, *, seed, grid=None, dtype=torch.float32):
    """Rectified normal numbers, half of them zeros; on a grid there are equal positive numbers too."""
    numbers = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_rows, n_clusters))).relu()
    return (numbers if grid is None else (numbers * grid).round() / grid).to(dtype)


def literal(left, right, weights):
    """Equation 6, pair by pair in float64, and the gradients of its L1 form written out."""
    left, right, weights = (tensor.double().cpu().numpy() for tensor in (left, right, weights))
    scores, by_left, by_right = np.zeros(weights.shape), np.zeros(left.shape), np.zeros(right.shape)
    for u, a in enumerate(left):
        for s, c in enumerate(right):
            scores[u, s] = np.minimum(a, c).sum()
            by_left[u] += weights[u, s] * (1 + np.sign(c - a)) / 2
            by_right[s] += weights[u, s] * (1 + np.sign(a - c)) / 2
    return scores, by_left, by_right


def computed(left, right, weights):
    left, right = left.clone().requires_grad_(), right.clone().requires_grad_()
    scores = min_sum(left, right)
    scores.backward(weights.to(scores.dtype))
    return tuple(tensor.detach().double().cpu().numpy() for tensor in (scores, left.grad, right.grad))


def assert_all_close(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("grid", [None, 4], ids=["few ties", "many ties"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_literal_form(shape, grid):
    n_users, n_items, n_clusters = shape
    left, right = affinities(n_users, n_clusters, seed=1, grid=grid), affinities(n_items, n_clusters, seed=2, grid=grid)
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(n_users, n_items)))

    assert route_of(left, right).name == "numba"
    assert_all_close(computed(left, right, weights), literal(left, right, weights))


def test_too_many_ties_to_look_them_up_change_nothing(monkeypatch):
    left, right = affinities(20, 40, seed=1, grid=4), affinities(30, 40, seed=2, grid=4)
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(20, 30)))

    monkeypatch.setattr(_min_sum, "_find_ties", lambda left, right, ties, counts: counts.fill(_min_sum.TIES + 1))

    assert_all_close(computed(left, right, weights), literal(left, right, weights))


def test_a_column_of_equal_numbers_is_no_endless_search():
    left, right = torch.full((400, 40), 0.5), torch.full((500, 40), 0.5)
    weights = torch.ones(400, 500)

    scores, by_left, by_right = computed(left, right, weights)

    assert (scores == 20).all()
    assert (by_left == 250).all()
    assert (by_right == 200).all()


def test_many_equal_numbers_on_one_side_are_found_by_the_one_on_the_other():
    left, right = affinities(3, 20, seed=1), torch.full((500, 20), 0.5)
    left[1, 7] = 0.5
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 500)))

    assert_all_close(computed(left, right, weights), literal(left, right, weights))


def test_float64_passes_gradcheck():
    left = (affinities(4, 6, seed=1, dtype=torch.float64) + torch.rand(4, 6, dtype=torch.float64)).requires_grad_()
    right = (affinities(5, 6, seed=2, dtype=torch.float64) + torch.rand(5, 6, dtype=torch.float64)).requires_grad_()

    assert torch.autograd.gradcheck(min_sum, (left, right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_plain_route_gives_the_same(monkeypatch, dtype):
    monkeypatch.setattr("recscale.models._min_sum_gpu.PIECE", 50)  # several pieces
    left, right = affinities(7, 23, seed=1, grid=8, dtype=dtype), affinities(5, 23, seed=2, grid=8, dtype=dtype)
    weights = torch.from_numpy(np.random.default_rng(3).integers(-2, 3, size=(7, 5)))

    scores = PLAIN.scores(left, right)
    found = (scores, *PLAIN.gradients(left, right, weights.to(scores.dtype)))

    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found[1].dtype == dtype
    assert_all_close([part.double().numpy() for part in found], literal(left, right, weights), tolerance=1e-6)


def test_a_number_hangs_neither_on_the_threads_nor_on_the_rows_beside_it():
    left, right = affinities(70, 50, seed=1), affinities(90, 50, seed=2)
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(70, 90)))

    with numba_threads(1):
        one = computed(left, right, weights)
    with numba_threads(2):
        two = computed(left, right, weights)
    part = computed(left[5:12], right, weights[5:12])

    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(part[0], one[0][5:12])
    np.testing.assert_array_equal(part[1], one[1][5:12])


def test_nan_goes_through():
    left, right = affinities(5, 9, seed=1), affinities(6, 9, seed=2)
    left[2, 3] = right[4, 1] = torch.nan

    lost = min_sum(left, right).isnan()

    assert lost[2].all()
    assert lost[:, 4].all()
    assert lost.sum() == 6 + 5 - 1


def test_nothing_is_summed_over_nothing():
    left = torch.zeros(3, 0, requires_grad=True)
    scores = min_sum(left, torch.zeros(2, 0))
    scores.sum().backward()

    assert torch.equal(scores, torch.zeros(3, 2))
    assert left.grad.shape == (3, 0)
    assert min_sum(torch.zeros(0, 4), torch.zeros(2, 4)).shape == (0, 2)


@pytest.mark.parametrize("other", [torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.float64), torch.zeros(4)], ids=str)
def test_tensors_that_do_not_fit_are_an_error(other):
    with pytest.raises(UsageError, match="min-sum takes"):
        min_sum(torch.zeros(3, 4), other)


@pytest.mark.parametrize("n_items", [1, 300, 700])
@pytest.mark.parametrize("n_clusters", [3, 600])
def test_a_catalogue_is_scored_alike_for_sparse_and_dense_users(n_items, n_clusters):
    items = affinities(n_items, n_clusters, seed=1)
    share = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    users = (affinities(12, n_clusters, seed=2) + 0.1) * (torch.rand(12, n_clusters, dtype=torch.float64) < share)
    users = users.float()

    scores = Catalogue(items).scores(users)

    expected = literal(users, items, torch.zeros(12, n_items))[0]
    assert_all_close([scores.double().numpy()], [expected])
    assert (scores[0] == 0).all()  # nobody's user
    for user in range(12):
        assert torch.equal(Catalogue(items).scores(users[user : user + 1])[0], scores[user])


def test_scores_are_written_where_they_are_wanted():
    items, users, out = affinities(30, 8, seed=1), affinities(4, 8, seed=2), torch.full((4, 30), torch.nan)

    assert Catalogue(items).scores(users, out) is out
    assert torch.equal(out, Catalogue(items).scores(users))
    assert Catalogue(items.double()).scores(users.double()).dtype == torch.float64


INTERPRETED = """
import torch
from recscale.models._min_sum_gpu import PLAIN, triton_route
generator = torch.Generator().manual_seed(0)
for shape, dtype in (((70, 131, 19), torch.float32), ((5, 3, 40), torch.bfloat16), ((1, 1, 1), torch.float32)):
    n_users, n_items, n_clusters = shape
    left = ((torch.randn(n_users, n_clusters, generator=generator) * 4).round().relu() / 4).to(dtype)
    right = ((torch.randn(n_items, n_clusters, generator=generator) * 4).round().relu() / 4).to(dtype)
    weights = torch.randint(-3, 4, (n_users, n_items), generator=generator).float()
    for route in (triton_route(), PLAIN):
        parts = route.scores(left, right), *route.gradients(left, right, weights)
        before, found = (found if route is PLAIN else parts), parts
    for one, other in zip(before, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
left[0, 0] = torch.nan
assert triton_route().scores(left, right).isnan().all()
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernels_give_the_same_when_interpreted():
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": ":".join(sys.path), "PATH": str(Path(sys.executable).parent)}

    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("grid", [None, 4], ids=["few ties", "many ties"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gpu_gives_the_literal_form_and_the_same_bits_again(shape, grid, dtype):
    n_users, n_items, n_clusters = shape
    left = affinities(n_users, n_clusters, seed=1, grid=grid, dtype=dtype).cuda()
    right = affinities(n_items, n_clusters, seed=2, grid=grid, dtype=dtype).cuda()
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(n_users, n_items))).cuda()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5  # gradients are returned in the type of the affinities

    found, again = computed(left, right, weights), computed(left, right, weights)

    assert_all_close(found, literal(left, right, weights), tolerance)
    for first, second in zip(found, again, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_catalogue_on_a_gpu_scores_as_on_the_cpu():
    items, users = affinities(500, 64, seed=1), affinities(20, 64, seed=2)

    scores = Catalogue(items.cuda()).scores(users.cuda())

    assert_all_close([scores.cpu().numpy()], [Catalogue(items).scores(users).numpy()])
