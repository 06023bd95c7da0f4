"""Errors of predicted ratings: held against loops over the ratings, whatever the batch and the kind of array."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import HeldOut
from recscale.errors import DataError, ModelError, UsageError
from recscale.evaluation.evaluate import evaluate

N_USERS, N_ITEMS = 40, 30
ERRORS = ("mse", "rmse", "mae")


def rated(chosen, ratings):
    """A matrix that stores the chosen ratings, zeros too."""
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(1))])
    return sp.csr_array((ratings[chosen], np.nonzero(chosen)[1], indptr), shape=chosen.shape)


@pytest.fixture(name="held_out")
def _held_out():
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 6, (N_USERS, N_ITEMS)).astype(np.float32)
    draw = rng.random((N_USERS, N_ITEMS)) * rng.uniform(0.5, 2, (N_USERS, 1))  # some rate more than others
    draw[:, 0] = 0
    return HeldOut(rated((draw >= 0.2) & (draw < 0.5), ratings), rated(draw < 0.2, ratings))


def predict(history):
    """Ratings that depend on the user's own."""
    sums = np.asarray(history.sum(axis=1)).reshape(-1, 1)
    return (sums / N_ITEMS + np.sin(np.arange(N_ITEMS))).astype(np.float32)


def by_hand(held_out):
    """Each user's errors, rating by rating."""
    predicted = predict(held_out.history).astype(np.float64)
    found = []
    for user in range(held_out.n_users):
        entries = slice(held_out.target.indptr[user], held_out.target.indptr[user + 1])
        pairs = zip(held_out.target.indices[entries], held_out.target.data[entries], strict=True)
        found.append(np.array([predicted[user, item] - given for item, given in pairs]))
    return found


def test_errors_are_means_over_all_ratings_and_zeros_are_ratings(held_out):
    errors = np.concatenate(by_hand(held_out))

    result = evaluate(predict, held_out, ERRORS)

    assert (held_out.target.data == 0).any() and len(errors) == len(held_out.target.data)
    assert result.means["mse"] == pytest.approx(np.mean(errors**2), rel=1e-6)
    assert result.means["rmse"] == pytest.approx(np.mean(errors**2) ** 0.5, rel=1e-6)
    assert result.means["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-6)
    assert list(result.metrics) == list(ERRORS)


def test_the_plain_mean_of_the_numbers_of_users_is_the_mean_over_ratings(held_out):
    errors = by_hand(held_out)
    mean_count = np.mean([len(own) for own in errors])

    result = evaluate(predict, held_out, ERRORS)

    assert set(result.per_user) == {"mse", "mae"}
    np.testing.assert_allclose(result.per_user["mse"], [np.sum(own**2) / mean_count for own in errors], rtol=1e-5)
    assert result.per_user["mse"].mean() == pytest.approx(result.means["mse"], rel=1e-5)
    counts = [len(own) for own in errors]
    assert {name: found.tolist() for name, found in result.weights.items()} == {"mse": counts, "mae": counts}
    assert len({len(own) for own in errors}) > 3  # or the mean over users would be the same


def test_the_standard_error_is_what_drawing_users_again_gives(held_out):
    errors, rng = by_hand(held_out), np.random.default_rng(1)
    drawn = []
    for _ in range(4000):
        sample = np.concatenate([errors[user] for user in rng.integers(0, N_USERS, N_USERS)])
        drawn.append([np.mean(sample**2), np.mean(sample**2) ** 0.5, np.mean(np.abs(sample))])

    result = evaluate(predict, held_out, ERRORS)

    found = [result.standard_errors[name] for name in ERRORS]
    np.testing.assert_allclose(found, np.std(drawn, axis=0), rtol=0.08)


@pytest.mark.parametrize("rows", [1, 7, N_USERS])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_errors_do_not_depend_on_batches_or_the_kind_of_array(held_out, rows, convert):
    expected = evaluate(predict, held_out, ERRORS)

    result = evaluate(lambda history: convert(predict(history)), held_out, ERRORS, buffer_bytes=4 * N_ITEMS * rows)

    assert result.metrics == pytest.approx(expected.metrics, rel=1e-12)
    np.testing.assert_array_equal(result.per_user["mae"], expected.per_user["mae"])


def test_there_are_no_ties_where_nothing_is_ranked(held_out):
    result = evaluate(predict, held_out, ["rmse"])

    assert (result.tied_target_share, result.mrr_optimistic, result.mrr_pessimistic) == (None, None, None)
    assert not result.ties_matter and result.catalogue == {}
    assert list(result.metrics) == ["rmse"] and result.per_user == {}


def test_perfect_predictions_have_no_error(held_out):
    exact = held_out.target.toarray()

    result = evaluate(lambda history: exact, held_out, ERRORS, buffer_bytes=4 * exact.size)

    assert result.metrics == dict.fromkeys(ERRORS, 0.0) == result.standard_errors


def test_predictions_that_are_no_numbers_are_refused_where_they_are_asked_for(held_out):
    def odd(history, item):
        scores = predict(history)
        scores[:, item] = np.nan
        return scores

    with pytest.raises(ModelError, match=r"of \d+ predicted ratings are NaN or infinite"):
        evaluate(lambda history: odd(history, 0), held_out, ["mse"])


def test_a_user_without_a_rating_to_predict_is_refused(held_out):
    target = held_out.target.copy()
    target.indptr[1:] -= target.indptr[1]
    target = sp.csr_array((target.data[: target.indptr[-1]], target.indices[: target.indptr[-1]], target.indptr))
    target.resize(held_out.history.shape)

    with pytest.raises(DataError, match="1 of 40 held-out users have no target"):
        evaluate(predict, HeldOut(held_out.history, target), ["mse"])


def test_errors_and_rankings_at_once_are_refused(held_out):
    with pytest.raises(UsageError, match=r"mse is of predicted ratings and ndcg@10 of ranked items"):
        evaluate(predict, held_out, ["ndcg@10", "mse"])
