"""Evaluation in batches: its results depend on the scores alone, and its errors name what is wrong."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import HeldOut
from recscale.errors import DataError, ModelError, UnknownName, UsageError
from recscale.evaluation.evaluate import evaluate
from recscale.evaluation.metrics import metric
from recscale.evaluation.ranking import rank

N_USERS, N_ITEMS = 150, 300
METRICS = ("recall@20", "ndcg@100", "mrr", "prediction_coverage", "catalogue_coverage@20", "gini@20")


class Linear:
    """A model whose scores are the history times a fixed matrix."""

    def __init__(self, weights, convert=lambda scores: scores):
        self.weights, self.convert = weights, convert

    def score(self, history):
        return self.convert(np.ascontiguousarray(history @ self.weights, dtype=np.float32))


@pytest.fixture(name="held_out")
def _held_out():
    rng = np.random.default_rng(0)
    draw = rng.random((N_USERS, N_ITEMS))
    draw[np.arange(N_USERS), rng.integers(0, N_ITEMS, N_USERS)] = 0
    target, history = draw < 0.02, (draw >= 0.02) & (draw < 0.1)
    return HeldOut(sp.csr_array(history.astype(np.float32)), sp.csr_array(target.astype(np.float32)))


@pytest.fixture(name="model")
def _model():
    return Linear(np.random.default_rng(1).standard_normal((N_ITEMS, N_ITEMS)).astype(np.float32))


def test_metrics_are_those_of_one_ranking_of_all_users(model, held_out):
    ranking = rank(model.score(held_out.history), held_out.history, held_out.target, k=100)

    result = evaluate(model.score, held_out, METRICS)

    for name in METRICS[:4]:
        expected = metric(name).compute(ranking)
        np.testing.assert_allclose(result.per_user[name], expected, rtol=1e-6)
        assert result.means[name] == pytest.approx(expected.mean(), rel=1e-6)
        assert result.standard_errors[name] == pytest.approx(expected.std() / N_USERS**0.5, rel=1e-5)
        assert result.per_user[name].dtype == np.float32
    counts = np.bincount(ranking.items[:, :20].ravel(), minlength=N_ITEMS)
    assert result.catalogue == {name: metric(name).compute(counts) for name in METRICS[4:]}
    assert list(result.metrics) == list(METRICS)
    assert result.n_users == N_USERS


@pytest.mark.parametrize("rows", [1, 7, 64, N_USERS, 10 * N_USERS])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("convert", [lambda scores: scores, torch.from_numpy])
def test_results_do_not_depend_on_batches_threads_or_the_kind_of_array(held_out, rows, n_threads, convert):
    # small integers: exact whatever the batch, and full of ties
    weights = np.random.default_rng(1).integers(-3, 4, (N_ITEMS, N_ITEMS)).astype(np.float32)
    expected = evaluate(Linear(weights).score, held_out, METRICS)

    result = evaluate(
        Linear(weights, convert).score, held_out, METRICS, buffer_bytes=rows * N_ITEMS * 4, n_threads=n_threads
    )

    for name, values in expected.per_user.items():
        np.testing.assert_array_equal(result.per_user[name], values)
    assert result.metrics == expected.metrics
    assert result.tied_target_share == expected.tied_target_share > 0


def test_a_batch_never_exceeds_the_buffer_unless_one_user_does(model, held_out):
    rows = []

    def score(history):
        rows.append(history.shape[0])
        return model.score(history)

    evaluate(score, held_out, ["mrr"], buffer_bytes=40 * N_ITEMS * 4 + 3)
    evaluate(score, held_out, ["mrr"], buffer_bytes=1)

    assert rows == [40, 40, 40, 30] + [1] * N_USERS


def test_memory_beyond_the_scores_does_not_grow_with_the_number_of_users(held_out):
    scores = np.random.default_rng(0).random((10, N_ITEMS * 50), dtype=np.float32)
    many = HeldOut(
        *(
            sp.csr_array(sp.hstack([m] + [sp.csr_array(m.shape)] * 49), dtype=np.float32)
            for m in (held_out.history, held_out.target)
        )
    )
    evaluate(lambda history: scores[: history.shape[0]], many, ["ndcg@10"], buffer_bytes=scores.nbytes)

    tracemalloc.start()
    evaluate(lambda history: scores[: history.shape[0]], many, ["ndcg@10"], buffer_bytes=scores.nbytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < scores.nbytes


def test_a_batch_of_a_large_catalogue_still_has_sixty_four_users():
    n_users, n_items = 150, 200_000
    held_out = HeldOut(
        sp.csr_array((np.ones(n_users, np.float32), (range(n_users), range(n_users))), (n_users, n_items)),
        sp.csr_array((np.ones(n_users, np.float32), (range(n_users), range(1, n_users + 1))), (n_users, n_items)),
    )
    seen = []

    def score(history):
        seen.append(history.shape[0])
        return np.zeros(history.shape, np.float32)

    evaluate(score, held_out, ["mrr"])

    assert seen == [64, 64, 22]


def test_progress_counts_users_up_to_all_of_them(model, held_out):
    seen = []

    evaluate(
        model.score,
        held_out,
        ["mrr"],
        buffer_bytes=60 * N_ITEMS * 4,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(60, N_USERS), (120, N_USERS), (150, N_USERS)]


def test_a_constant_model_ties_every_target_and_says_that_ties_matter(held_out):
    result = evaluate(lambda history: np.zeros(history.shape, np.float32), held_out, ["mrr"])

    assert result.tied_target_share == 1
    assert result.ties_matter
    assert result.mrr_optimistic == 1
    assert result.mrr_pessimistic < result.means["mrr"] < result.mrr_optimistic
    assert set(result.means) == {"mrr"}


def test_distinct_scores_tie_nothing(model, held_out):
    result = evaluate(model.score, held_out, ["mrr"])

    assert result.tied_target_share == 0
    assert not result.ties_matter
    assert result.mrr_optimistic == result.mrr_pessimistic == result.means["mrr"]


def test_a_cutoff_beyond_the_catalogue_covers_all_of_it(model, held_out):
    result = evaluate(model.score, held_out, ["recall@5000", "catalogue_coverage@5000"])

    assert result.means["recall@5000"] == 1
    assert result.catalogue["catalogue_coverage@5000"] == 1


def test_time_is_split_into_scoring_and_ranking(model, held_out):
    result = evaluate(model.score, held_out, ["mrr"])

    assert result.score_seconds > 0
    assert result.rank_seconds > 0


def test_scores_of_the_wrong_shape_are_refused_with_the_name_of_the_model(held_out):
    model = Linear(np.zeros((N_ITEMS, N_ITEMS - 1)))

    with pytest.raises(ModelError, match=r"^Linear\.score: scores have the shape \(150, 299\).*not \(150, 300\)"):
        evaluate(model.score, held_out, ["mrr"])


def test_scores_of_the_wrong_type_are_refused_with_the_name_of_the_model(held_out):
    model = Linear(np.zeros((N_ITEMS, N_ITEMS)), convert=lambda scores: scores.astype(np.float64))

    with pytest.raises(ModelError, match=r"^Linear\.score: .*float64, not .*float32"):
        evaluate(model.score, held_out, ["mrr"])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_scores_that_are_nan_are_refused(held_out, n_threads):
    model = Linear(np.full((N_ITEMS, N_ITEMS), np.nan))

    with pytest.raises(ModelError, match="rows of scores hold NaN or infinite numbers"):
        evaluate(model.score, held_out, ["mrr"], n_threads=n_threads)


def test_an_unknown_metric_is_refused_before_anything_is_scored(held_out):
    with pytest.raises(UnknownName, match="recall@k"):
        evaluate(lambda history: pytest.fail("scored"), held_out, ["recal@20"])
    with pytest.raises(UsageError, match="cut-off"):
        evaluate(lambda history: pytest.fail("scored"), held_out, ["recall"])


def test_users_without_a_target_are_refused(model, held_out):
    target = held_out.target.copy()
    target.data[: target.indptr[1]] = 0
    target.eliminate_zeros()

    with pytest.raises(DataError, match="1 of 150 held-out users have no target"):
        evaluate(model.score, HeldOut(held_out.history, target), ["mrr"])


def test_no_users_or_other_users_are_refused(model, held_out):
    with pytest.raises(DataError, match="no held-out users"):
        evaluate(model.score, HeldOut(held_out.history[:0], held_out.target[:0]), ["mrr"])
    with pytest.raises(DataError, match=r"\(150, 300\).*\(10, 300\)"):
        evaluate(model.score, HeldOut(held_out.history, held_out.target[:10]), ["mrr"])


def test_a_model_may_return_its_own_memory_without_it_being_changed(held_out):
    own = np.random.default_rng(0).random((N_USERS, N_ITEMS), dtype=np.float32)
    before = own.copy()

    evaluate(lambda history: own, held_out, METRICS)

    np.testing.assert_array_equal(own, before)
