import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DeadlineExceeded, NumericalError, UsageError
from recscale.models._pruning import PrunedWeights
from recscale.models._training import Learner, Plan, session, train_module
from recscale.models.elsa import ELSA
from recscale.models.sparse_elsa import SPEC, SparseELSA
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two


def test_each_item_keeps_k_entries_of_length_one():
    board = planted_board(0)

    embeddings = SparseELSA(k=3, dimensions=40, epochs=8).fit(board.train, ALONE).state()["embeddings"]

    assert embeddings.shape == (81, 40)
    np.testing.assert_array_equal(np.diff(embeddings.indptr), 3)
    np.testing.assert_allclose(np.sqrt((embeddings**2).sum(axis=1)), 1, rtol=1e-5)


def test_with_nothing_to_prune_it_is_elsa():
    board = planted_board(0)

    dense = ELSA(factors=12, epochs=5).fit(board.train, ALONE).score(board.history)
    sparse = SparseELSA(k=12, dimensions=12, epochs=5).fit(board.train, ALONE).score(board.history)

    np.testing.assert_allclose(sparse, dense, atol=1e-4)


def kept_by_epoch(**options):
    """Return how many entries a row has in each epoch, as the gauge says."""
    seen = []
    context = FitContext(
        n_threads=1, log=lambda name, step, value: seen.append(value) if name == "entries per item" else None
    )
    SparseELSA(**options).fit(planted_board(0).train, context)
    return seen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 2, "dimensions": 32, "epochs": 7, "pruning_epochs": 4}, [32, 16, 8, 4, 2, 2, 2]),
        ({"k": 4, "dimensions": 16, "epochs": 3, "pruning_epochs": 9}, [16, 8, 4]),
        ({"k": 4, "dimensions": 16, "epochs": 1}, [4]),
    ],
)
def test_entries_decay_exponentially(options, expected):
    assert kept_by_epoch(**options) == expected


def test_only_epochs_with_k_entries_are_kept():
    board = planted_board(0)
    seen = []
    context = FitContext(
        n_threads=1,
        validation=HeldOut(board.history, board.target),
        log=lambda name, step, value: seen.append(step) if name == "validation ndcg" else None,
    )

    model = SparseELSA(k=2, dimensions=32, epochs=10, pruning_epochs=6, patience=None).fit(board.train, context)

    assert seen == [7, 8, 9, 10]
    assert model.state()["embeddings"].nnz == 2 * 81


def test_dimensions_become_the_planted_blocks():
    board = planted_board(0)

    embeddings = (
        SparseELSA(k=1, dimensions=8, epochs=30, pruning_epochs=20).fit(board.train, ALONE).state()["embeddings"]
    )

    segments = embeddings.indices[:80].reshape(4, 20)
    purity = np.mean([np.bincount(block).max() / 20 for block in segments])
    shuffled = np.random.default_rng(0).permutation(embeddings.indices[:80]).reshape(4, 20)
    by_chance = np.mean([np.bincount(block).max() / 20 for block in shuffled])
    assert purity > by_chance + 0.15


def test_the_planted_board_is_ranked_far_better_than_at_random():
    board = planted_board(0)

    scores = SparseELSA(k=4, dimensions=16, epochs=40).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.8


def test_size_and_estimate_agree():
    board = planted_board(0)
    model = SparseELSA(k=3, dimensions=16, epochs=2).fit(board.train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(board.train))

    assert model.size().n_parameters == 243
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 4 * 16 * 81


def test_a_user_scores_the_same_alone_and_in_a_batch():
    board = planted_board(0)
    model = SparseELSA(k=3, dimensions=16, epochs=2).fit(board.train, ALONE)

    together = model.score(board.history)
    alone = np.vstack([model.score(board.history[[user]]) for user in range(board.history.shape[0])])

    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_an_empty_history_scores_zero():
    model = SparseELSA(k=3, dimensions=16, epochs=2).fit(planted_board(0).train, ALONE)

    np.testing.assert_array_equal(model.score(sp.csr_array((2, 81), dtype=np.float32)), np.zeros((2, 81)))


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded):
        SparseELSA().fit(planted_board(0).train, FitContext(deadline=time.monotonic() - 1))


def test_more_entries_than_dimensions_are_an_error():
    with pytest.raises(UsageError, match="k=20 is above dimensions=16; keep at most all of them"):
        SparseELSA(k=20, dimensions=16)  # before a job is planned


@pytest.mark.parametrize("options", [{"k": 0}, {"dimensions": 0}, {"pruning_epochs": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        SparseELSA(**options)


@pytest.mark.parametrize("pruning_epochs", [1, 3])
def test_the_kernels_for_few_entries_train_as_dense_products_do(pruning_epochs):
    board = planted_board(0)
    model = SparseELSA(k=3, dimensions=16, epochs=6, pruning_epochs=pruning_epochs, batch_size=100)

    compact = model.fit(board.train, ALONE).state()["embeddings"]
    compact_scores = model.score(board.history)
    dense = model.fit(board.train, FitContext(n_threads=1, device="cpu:0")).state()["embeddings"]
    dense_scores = model.score(board.history)

    np.testing.assert_array_equal(compact.indices, dense.indices)
    np.testing.assert_allclose(compact.data, dense.data, atol=2e-3)
    np.testing.assert_allclose(compact_scores, dense_scores, atol=2e-2)


def test_a_training_that_was_killed_goes_on_after_its_weights_changed_their_shape(tmp_path):
    train = planted_board(0).train

    def run(epochs, checkpoint=None):
        with session(ALONE):
            weights = PrunedWeights(torch.nn.init.xavier_uniform_(torch.empty(81, 32)), 0.1, ALONE)
        entries = [32, 8, 4, 2, 2]
        learner = Learner(
            weights.module,
            weights.optimiser,
            lambda batch: weights.loss(train[batch.rows]) if batch.epoch < epochs else weights.weight.sum() / 0,
            weights.score,
            before_epoch=lambda epoch: weights.prune(entries[epoch]),
        )
        plan = Plan(train.shape[0], epochs=5, batch_size=100, identity="pruned")
        train_module(learner, plan, replace(ALONE, checkpoint=checkpoint and Checkpoint(checkpoint)))
        return weights.embeddings()

    for killed_after in (1, 2, 4):
        with pytest.raises(NumericalError):
            run(killed_after, tmp_path / f"{killed_after}.pt")
        resumed, whole = run(9, tmp_path / f"{killed_after}.pt"), run(9)
        np.testing.assert_array_equal(resumed.toarray(), whole.toarray())
