"""Precision over the items that a user rated: by hand, and against loops over the lists."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.contract import HeldOut
from recscale.errors import UsageError
from recscale.evaluation.evaluate import evaluate
from recscale.evaluation.ranking import listed_entries, rank
from recscale.records.statistics import ByUser


def places(rows, n_items):
    return sp.csr_array(np.array([[float(item in row) for item in range(n_items)] for row in rows], np.float32))


def falling(history):
    """Scores by which item 0 comes first, then 1, and so on."""
    return np.tile(-np.arange(history.shape[1], dtype=np.float32), (history.shape[0], 1))


def test_hits_are_counted_over_the_rated_items_of_the_list_alone():
    # lists of four: user 0 sees 1 2 3 4 (0 is known), the others 0 1 2 3
    history, target = places([{0}, set(), set()], 8), places([{2, 7}, {0, 1, 5}, {6}], 8)
    disliked = places([{4, 6}, {2}, {7}], 8)

    result = evaluate(falling, HeldOut(history, target, disliked), ["rated_precision@4", "precision@4"])

    # user 0: 2 liked, 4 disliked; user 1: 0 and 1 liked, 2 disliked; user 2 has rated nothing of the list: left out
    assert result.means["rated_precision@4"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result.means["precision@4"] == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    np.testing.assert_allclose(result.per_user["rated_precision@4"], [1 / 2 * 1.5, 2 / 3 * 1.5, 0], rtol=1e-6)
    assert result.weights["rated_precision@4"].tolist() == [1, 1, 0] and list(result.weights) == ["rated_precision@4"]
    assert result.standard_errors["rated_precision@4"] == pytest.approx(1 / 12 * 1.5 * (2 / 3) ** 0.5 / 3**0.5)


def test_where_no_list_holds_a_rated_item_the_precision_is_0_and_a_number():
    held_out = HeldOut(places([set()], 8), places([{6}], 8), places([{7}], 8))

    result = evaluate(falling, held_out, ["rated_precision@3"])

    assert result.means == result.standard_errors == {"rated_precision@3": 0.0}
    assert result.per_user["rated_precision@3"].tolist() == [0.0]


def test_the_effects_of_users_have_the_mean_and_the_standard_error_of_the_metric():
    rng = np.random.default_rng(4)
    kind = rng.choice(4, (80, 60), p=[0.8, 0.1, 0.05, 0.05])  # nothing, history, target, disliked
    kind[:, 0] = 2
    held_out = HeldOut(*(sp.csr_array((kind == part).astype(np.float32)) for part in (1, 2, 3)))
    scores = rng.standard_normal((60, 60)).astype(np.float32)
    name = "rated_precision@9"

    result = evaluate(lambda history: history @ scores, held_out, [name])

    found = ByUser.of(result.per_user[name], result.weights[name])
    effects = found.effects()
    assert 0 < np.count_nonzero(result.weights[name]) < 80
    assert effects.mean() == pytest.approx(result.means[name]) == found.mean()
    assert effects.std() / 80**0.5 == pytest.approx(result.standard_errors[name])
    assert effects[result.weights[name] == 0] == pytest.approx(result.means[name])


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("rows", [1, 7, 50])
def test_it_is_what_a_loop_over_the_lists_finds(rows, convert):
    rng = np.random.default_rng(0)
    kind = rng.choice(4, (50, 60), p=[0.5, 0.2, 0.15, 0.15])  # nothing, history, target, disliked
    kind[:, 0] = 2
    held_out = HeldOut(*(sp.csr_array((kind == part).astype(np.float32)) for part in (1, 2, 3)))
    scores = rng.standard_normal((60, 60)).astype(np.float32)
    shares = []
    for user, listed in enumerate(rank(held_out.history @ scores, held_out.history, held_out.target, k=10).items):
        rated = [item for item in listed if kind[user, item] in (2, 3)]
        if rated:
            shares.append(sum(kind[user, item] == 2 for item in rated) / len(rated))

    result = evaluate(
        lambda history: convert(history @ scores), held_out, ["rated_precision@10"], buffer_bytes=240 * rows
    )

    assert result.means["rated_precision@10"] == pytest.approx(np.mean(shares), rel=1e-6)
    assert 0.4 < np.mean(shares) < 0.6


def test_a_place_without_an_item_is_no_entry():
    items = np.array([[0, 3, -1], [2, -1, -1]], dtype=np.int32)

    found = listed_entries(items, places([{3}, {1, 2}], 4))

    assert found.tolist() == [[False, True, False], [True, False, False]]


def test_without_disliked_items_it_is_refused():
    held_out = HeldOut(places([set()], 8), places([{6}], 8))

    with pytest.raises(UsageError, match=r"needs HeldOut.disliked; use the protocol fold-in\[liked=4\]"):
        evaluate(falling, held_out, ["rated_precision@3"])
