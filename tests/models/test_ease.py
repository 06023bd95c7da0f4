import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models.ease import EASE, SPEC


def random_train(n_users=200, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < np.linspace(0.05, 0.4, n_items)).astype(np.float32))


def weights_by_regression(train, l2, dropout=0.0):
    """Regress every item on all the others, one at a time: no inverse of the whole Gram matrix is taken."""
    x = train.toarray().astype(np.float64)
    gram = x.T @ x
    penalty = l2 + dropout / (1 - dropout) * np.diag(gram)
    weights = np.zeros_like(gram)
    for item in range(len(gram)):
        others = np.delete(np.arange(len(gram)), item)
        system = gram[np.ix_(others, others)] + np.diag(penalty[others])
        weights[others, item] = np.linalg.solve(system, gram[others, item])
    return weights


@pytest.mark.parametrize("dropout", [0.0, 0.33])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # "cpu:0" takes the route of a device with torch's CPU tensors
def test_scores_agree_with_a_regression_of_each_item_on_the_others(dropout, precision, device):
    train, history = random_train(), random_train(n_users=25, seed=1)
    history.data *= np.random.default_rng(2).random(history.nnz, dtype=np.float32)

    model = EASE(l2=20, dropout=dropout, precision=precision).fit(train, FitContext(device=device))
    scores = np.asarray(model.score(history))

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, history.toarray() @ weights_by_regression(train, 20, dropout), atol=2e-6)


def test_an_item_adds_nothing_to_its_own_score():
    model = EASE(l2=5).fit(random_train())

    scores = model.score(sp.csr_array(np.eye(40, dtype=np.float32)))

    np.testing.assert_array_equal(np.diag(scores), np.zeros(40))
    assert np.count_nonzero(scores) > 1000


@pytest.mark.parametrize("n_items", [3, 5, 129, 300])
def test_scores_are_right_for_every_length_of_history_and_width_of_tile(n_items):
    train = random_train(n_users=400, n_items=n_items)
    history = sp.csr_array(np.tril(np.ones((min(n_items, 12), n_items), np.float32)))

    scores = EASE(l2=20).fit(train).score(history)

    inverse = np.linalg.inv((train.T @ train).toarray().astype(np.float64) + 20 * np.eye(n_items))
    weights = np.eye(n_items) - inverse / np.diag(inverse)
    np.testing.assert_allclose(scores, history.toarray() @ weights, atol=5e-6)


def test_recommendations_stay_within_a_planted_block():
    rng = np.random.default_rng(0)
    block = np.kron(np.eye(2), np.ones((1000, 10))).astype(bool)
    train = sp.csr_array((block & (rng.random(block.shape) < 0.5)).astype(np.float32))
    history = sp.csr_array(np.kron(np.eye(2), np.arange(10) < 4).astype(np.float32))

    scores = EASE(l2=10).fit(train).score(history)

    scores[history.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :6]
    assert set(best[0]) == set(range(4, 10))
    assert set(best[1]) == set(range(14, 20))


@pytest.mark.parametrize("k", [1, 7, 38])
def test_global_pruning_keeps_the_largest_weights_of_all(k):
    train = random_train()
    weights = weights_by_regression(train, 20)

    kept = EASE(l2=20, k=k).fit(train).state()["weights"].toarray()

    smallest = np.sort(np.abs(weights), axis=None)[-k * 40]
    np.testing.assert_allclose(kept, np.where(np.abs(weights) >= smallest, weights, 0), atol=1e-6)
    assert np.count_nonzero(kept) == k * 40


@pytest.mark.parametrize("k", [1, 7, 38])
def test_pruning_by_column_keeps_the_largest_weights_of_each(k):
    train = random_train()
    weights = weights_by_regression(train, 20)

    kept = EASE(l2=20, k=k, pruning="column").fit(train).state()["weights"].toarray()

    smallest = np.sort(np.abs(weights), axis=0)[-k]
    np.testing.assert_allclose(kept, np.where(np.abs(weights) >= smallest, weights, 0), atol=1e-6)
    np.testing.assert_array_equal(np.count_nonzero(kept, axis=0), k)


def all_pairs_once(n_items):
    """Return one user for each pair of items: all weights are equal but for rounding."""
    pairs = np.array(np.triu_indices(n_items, 1)).T
    train = np.zeros((len(pairs), n_items), np.float32)
    np.put_along_axis(train, pairs, 1, axis=1)
    return sp.csr_array(train)


@pytest.mark.parametrize("pruning", ["global", "column"])
def test_ties_leave_exactly_the_number_of_weights_that_was_asked_for(pruning):
    model = EASE(l2=1, k=3, pruning=pruning).fit(all_pairs_once(12))

    weights = model.state()["weights"]

    assert weights.nnz == 36
    assert np.unique(weights.data.round(6)).size == 1


@pytest.mark.parametrize("pruning", ["global", "column"])
def test_zeros_are_not_stored_where_fewer_weights_exist(pruning):
    train = sp.csr_array(np.kron(np.eye(5), np.ones((3, 2))).astype(np.float32))

    weights = EASE(l2=1, k=4, pruning=pruning).fit(train).state()["weights"]

    assert weights.nnz == 10
    assert np.all(weights.data)


@pytest.mark.parametrize("pruning", ["global", "column"])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_pruned_scores_are_the_history_times_the_kept_weights(pruning, device):
    history = random_train(n_users=9, seed=1)
    model = EASE(l2=20, k=5, pruning=pruning).fit(random_train(), FitContext(device=device))

    scores = np.asarray(model.score(history))

    np.testing.assert_allclose(scores, history.toarray() @ model.state()["weights"].toarray(), atol=1e-6)


def test_a_knob_that_prunes_nothing_keeps_the_dense_matrix():
    train = random_train()

    whole, most = EASE(l2=20).fit(train), EASE(l2=20, k=39).fit(train)

    np.testing.assert_array_equal(whole.state()["precision_matrix"], most.state()["precision_matrix"])


@pytest.mark.parametrize("options", [{}, {"k": 6}, {"k": 6, "pruning": "column"}, {"precision": "float64"}])
def test_a_model_from_disk_scores_the_same_bits(tmp_path, options):
    history = random_train(n_users=9, seed=1)
    model = EASE(l2=20, **options).fit(random_train())

    model.save(tmp_path / "ease.npz")
    loaded = EASE.load(tmp_path / "ease.npz")

    np.testing.assert_array_equal(loaded.score(history), model.score(history))


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_user_scores_the_same_bits_alone_and_in_a_batch(device):
    history = random_train(n_users=9, seed=1)
    model = EASE(l2=20).fit(random_train(), FitContext(device=device))

    together = np.asarray(model.score(history))
    alone = np.vstack([np.asarray(model.score(history[[user]])) for user in range(9)])

    np.testing.assert_array_equal(together, alone)


def test_an_empty_history_scores_zero():
    scores = EASE(l2=20).fit(random_train()).score(sp.csr_array((2, 40), dtype=np.float32))

    np.testing.assert_array_equal(scores, np.zeros((2, 40)))


@pytest.mark.parametrize(("k", "n_parameters", "n_bytes"), [(None, 1600, 6400), (5, 200, 200 * 8 + 41 * 4)])
def test_the_size_counts_what_scoring_reads_and_is_foreseen(k, n_parameters, n_bytes):
    train = random_train()
    model = EASE(l2=20, k=k).fit(train)

    size, estimate = model.size(), SPEC.estimate(model, Shape.of(train))

    assert (size.n_parameters, size.n_bytes) == (n_parameters, n_bytes)
    assert estimate.model_bytes == n_bytes
    assert estimate.peak_bytes > max(n_bytes, 6400)


def test_the_estimated_peak_is_one_matrix_in_float32_and_two_in_float64():
    shape = Shape(n_users=100_000, n_items=40_000, n_interactions=1_000_000, n_pairs=10_000_000)

    narrow, wide, pruned = (SPEC.estimate(EASE(**o), shape) for o in ({}, {"precision": "float64"}, {"k": 100}))

    assert narrow.peak_bytes / (4 * 40_000**2) == pytest.approx(1.0, abs=0.02)
    assert wide.peak_bytes / (4 * 40_000**2) == pytest.approx(2.0, abs=0.02)
    assert pruned.peak_bytes - narrow.peak_bytes == pruned.model_bytes


def test_the_training_data_is_not_changed():
    train = random_train()
    before = train.copy()

    EASE(l2=20, k=5).fit(train).score(train)

    assert (train != before).nnz == 0


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_penalty_too_small_for_float32_is_an_error_that_names_the_remedy(device):
    context = FitContext(device=device)

    with pytest.raises(NumericalError, match=r"l2=1e-06 is too small for it: use precision=float64 or a larger l2$"):
        EASE(l2=1e-6).fit(random_train(n_users=30), context)  # fewer users than items: X'X alone is singular


def test_float64_inverts_what_float32_cannot():
    train = random_train(n_users=30)

    with pytest.raises(NumericalError):
        EASE(l2=1e-5).fit(train)
    scores = EASE(l2=1e-5, precision="float64").fit(train).score(train)

    np.testing.assert_allclose(scores, train.toarray() @ weights_by_regression(train, 1e-5), atol=1e-4)


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded):
        EASE().fit(random_train(), FitContext(deadline=time.monotonic() - 1))


def test_another_vocabulary_is_an_error():
    model = EASE().fit(random_train())

    with pytest.raises(DataError, match="41 items"):
        model.score(sp.csr_array((1, 41), dtype=np.float32))


@pytest.mark.parametrize("options", [{"l2": 0}, {"dropout": 1.0}, {"k": 0}, {"pruning": "row"}, {"precision": "half"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        EASE(**options)


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    train, history = random_train(), random_train(n_users=9, seed=1)

    for options in ({}, {"k": 6}, {"precision": "float64"}):
        on_gpu = EASE(l2=20, **options).fit(train, FitContext(device="cuda")).score(history)
        on_cpu = EASE(l2=20, **options).fit(train).score(history)
        assert on_gpu.is_cuda
        np.testing.assert_allclose(on_gpu.cpu().numpy(), on_cpu, atol=1e-5)
