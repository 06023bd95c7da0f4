import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.errors import UsageError
from recscale.models import _sampled_softmax
from recscale.models._paired_min import paired_min_sum
from recscale.models._sampled_loss import Target, Task, draw_task, trainable
from recscale.models._sampled_softmax import sampled_softmax

N_ITEMS = 30


def rows(n_users=12, seed=0):
    rng = np.random.default_rng(seed)
    dense = (rng.random((n_users, N_ITEMS)) < 0.3).astype(np.float32)
    dense[:, :2] = 1
    return sp.csr_array(dense)


def test_one_item_of_each_row_is_hidden_and_the_rest_is_known():
    matrix = rows()
    for seed in range(20):
        task = draw_task(matrix, 8, np.random.default_rng(seed))
        known = task.known.toarray()

        assert known[np.arange(12), task.hidden].sum() == 0
        known[np.arange(12), task.hidden] = 1
        np.testing.assert_array_equal(known, matrix.toarray())


def test_every_item_of_a_row_is_hidden_about_as_often():
    matrix = sp.csr_array(np.array([[1, 0, 1, 0, 1, 1]], np.float32))
    rng = np.random.default_rng(0)

    counts = np.bincount([draw_task(matrix, 2, rng).hidden[0] for _ in range(2000)], minlength=6)

    assert counts[[1, 3]].sum() == 0
    assert (np.abs(counts[[0, 2, 4, 5]] - 500) < 5 * np.sqrt(500 * 0.75)).all()


def test_the_pool_has_no_item_twice_and_what_a_user_has_in_it_is_listed():
    matrix = rows()
    for n_negatives, n_expected in ((8, 8), (30, 30), (1000, 30)):
        task = draw_task(matrix, n_negatives, np.random.default_rng(1))

        assert np.unique(task.pool).size == task.pool.size == n_expected
        listed = np.zeros((12, n_expected), bool)
        listed[task.taken] = True
        np.testing.assert_array_equal(listed, matrix.toarray()[:, task.pool] > 0)


def test_rows_of_one_item_are_left_out_and_none_at_all_is_an_error():
    matrix = sp.csr_array(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], np.float32))

    np.testing.assert_array_equal(trainable(matrix).toarray(), [[1, 1, 0], [0, 1, 1]])
    with pytest.raises(UsageError, match="no user has two items"):
        trainable(matrix[[0, 2]])


def losses_by_hand(hidden, pool, own, target):
    """Return the loss of each user, candidate by candidate."""
    found = []
    for user in range(hidden.size):
        scores = [hidden[user], *(pool[user, s] for s in range(pool.shape[1]) if (user, s) not in own)]
        if target.loss == "softmax":
            weights = np.exp(scores) / np.exp(scores).sum()
        else:
            weights = (np.array(scores) + 1e-8) / (np.sum(scores) + 1e-8 * len(scores))
        wanted = np.zeros(len(scores))
        wanted[0] = target.alpha if target.alpha_as == "scale" else 1 - target.alpha
        if target.alpha_as == "label_smoothing":
            wanted += target.alpha / len(scores)
        found.append(-(wanted * np.log(weights)).sum())
    return np.array(found)


@pytest.mark.parametrize("loss", ["softmax", "ratio"])
@pytest.mark.parametrize("alpha_as", ["label_smoothing", "scale"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_the_loss_is_the_cross_entropy_over_the_candidates_that_are_not_a_users_own(loss, alpha_as, alpha):
    rng = np.random.default_rng(0)
    hidden, pool = rng.random(5), rng.random((5, 7))
    own = {(0, 3), (0, 4), (2, 0), (4, 6)}
    target = Target(loss, alpha, alpha_as)
    taken = tuple(np.array(part) for part in zip(*sorted(own), strict=True))
    task = Task(sp.csr_array((5, 9)), np.zeros(5, np.int64), np.arange(7), taken)

    given = [torch.tensor(part, requires_grad=True) for part in (hidden, pool)]
    result = target(*given, task)
    result.backward()

    np.testing.assert_allclose(float(result.detach()), losses_by_hand(hidden, pool, own, target).mean(), rtol=1e-9)
    assert not given[1].grad[taken[0], taken[1]].any()  # nothing is learned from what is masked
    assert torch.isfinite(given[0].grad).all() and torch.isfinite(given[1].grad).all()


def plain_softmax_loss(hidden, pool, taken, smoothing):
    """Return the same by log_softmax, which autograd differentiates."""
    scores = torch.cat([hidden[:, None], pool], dim=1)
    allowed = torch.ones_like(scores, dtype=torch.bool)
    allowed[taken[0], taken[1] + 1] = False
    logs = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    spread = torch.where(allowed, logs, 0).sum(1) / allowed.sum(1)
    return -((1 - smoothing) * logs[:, 0] + smoothing * spread).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_and_its_gradients_are_those_of_log_softmax_under_autograd(monkeypatch, dtype, spread, smoothing):
    monkeypatch.setattr(_sampled_softmax, "USERS", 3)  # of 8: three blocks, the last one smaller
    generator = torch.Generator().manual_seed(0)
    hidden, pool = (spread * torch.randn(shape, generator=generator, dtype=dtype) for shape in (8, (8, 11)))
    taken = torch.tensor([0, 0, 2, 5, *[7] * 11]), torch.tensor([1, 9, 10, 0, *range(11)])  # of user 7 all
    found = []
    for function in (sampled_softmax, plain_softmax_loss):
        given = [part.clone().requires_grad_() for part in (hidden, pool)]
        result = function(*given, taken, smoothing)
        (3 * result).backward()
        found.append((result.detach(), *(part.grad for part in given)))
        assert torch.equal(given[1].detach(), pool)  # the scores are left as they were

    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-7)


def test_a_score_that_is_not_finite_makes_the_loss_so():
    taken = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    for value in (torch.nan, torch.inf):
        pool = torch.zeros(2, 3)
        pool[1, 2] = value
        assert not torch.isfinite(sampled_softmax(torch.zeros(2), pool, taken, 0.1))
        assert not torch.isfinite(sampled_softmax(pool[:, 2], torch.zeros(2, 3), taken, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paired_sums_of_minima_and_their_gradients_are_those_of_torch(dtype):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(0, 4, (9, 37), generator=generator).to(dtype) for _ in range(2))  # many are equal
    weights = torch.randn(9, generator=generator, dtype=dtype)
    found = []
    for function in (paired_min_sum, lambda a, b: torch.minimum(a, b).sum(1)):
        given = [part.clone().requires_grad_() for part in (left, right)]
        result = function(*given)
        result.backward(weights)
        found.append((result.detach(), *(part.grad for part in given)))

    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_columns_of_a_larger_matrix_can_be_paired():
    whole = torch.arange(24.0).reshape(4, 6).requires_grad_()

    paired_min_sum(whole[:, :3], whole[:, 3:]).backward(torch.ones(4))

    torch.testing.assert_close(whole.grad, torch.tensor([1.0, 1, 1, 0, 0, 0]).repeat(4, 1))
