import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, UsageError
from recscale.models._efficientrec import Encoder, shortlists, split_halves, triplet_loss, voting
from recscale.models.efficientrec import SPEC, EfficientRec
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two
SMALL = {"clusters": 6, "factors": 5, "hidden": 7, "epochs": 2}


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def random_rows(n_users=40, n_items=25, seed=0):
    rows = (np.random.default_rng(seed).random((n_users, n_items)) < 0.25).astype(np.float32)
    rows[1] = 0
    rows[2] = np.eye(1, n_items, 3)  # a user of one item
    return sp.csr_array(rows)


def literal_memberships(tables, liked):
    """The encoder for one user, item by item."""
    table = {name: np.asarray(value.detach(), np.float64) for name, value in tables.items()}
    total = np.zeros(table["first"].shape[0])
    for item in liked:
        once = np.maximum(table["embeddings"][item] @ table["first"], 0)
        total += np.maximum(once @ table["second"], 0) / len(liked)
    hidden = np.clip(total, -1, 1)
    for name in ("third", "fourth"):
        hidden = np.maximum(hidden @ table[name] + table[f"{name}_bias"], 0)
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * table["norm_scale"] + table["norm_shift"]
    return 1 / (1 + np.exp(-(hidden @ table["memberships"] + table["memberships_bias"])))


def random_encoder():
    torch.manual_seed(1)
    tables = Encoder.initial(25, 5, 7, 6)
    return Encoder({name: table + 0.3 * torch.randn(table.shape) for name, table in tables.items()})


def test_the_encoder_is_the_literal_one():
    rows, encoder = random_rows()[[0, 2, 5]], random_encoder()
    expected = [literal_memberships(encoder.tables, rows[[row]].indices) for row in range(3)]

    whole = encoder.encode(rows, encoder.interactions(torch.arange(25)))
    under_autograd = encoder.halves(rows)

    np.testing.assert_allclose(whole, expected, rtol=1e-4)
    np.testing.assert_allclose(under_autograd, expected, rtol=1e-4)


def test_the_triplets_are_semi_hard():
    rng = np.random.default_rng(0)
    anchors, positives = rng.random((2, 9, 4))
    positives[3] += 5  # farther than any negative: the farthest one is taken
    losses = []
    for own in range(9):
        gap = np.linalg.norm(anchors[own] - positives[own])
        negatives = [np.linalg.norm(anchors[own] - positives[other]) for other in range(9) if other != own]
        farther = [distance for distance in negatives if distance > gap]
        losses.append(max(0, 0.4 + gap - (min(farther) if farther else max(negatives))))

    loss = triplet_loss(torch.as_tensor(anchors), torch.as_tensor(positives), 0.4)

    assert loss.item() == pytest.approx(np.mean(losses))


def test_the_halves_of_a_row_are_disjoint_and_of_one_length():
    rows = random_rows()
    rows = rows[np.flatnonzero(np.diff(rows.indptr) > 1)]
    lengths = np.minimum(np.diff(rows.indptr), 6)

    one, two = split_halves(rows, 6, np.random.default_rng(0))

    assert one.multiply(two).nnz == 0
    assert ((one + two) - rows).max() <= 0
    for half in (one, two):
        np.testing.assert_array_equal(np.diff(half.indptr), lengths // 2)


def test_a_user_votes_with_the_clusters_of_the_largest_memberships():
    memberships = np.array([[0.1, 0.9, 0.5, 0.9], [0.4, 0.3, 0.2, 0.1]], np.float32)

    np.testing.assert_array_equal(voting(memberships, 2).toarray(), np.float32([[0, 0.9, 0, 0.9], [0.4, 0.3, 0, 0]]))
    np.testing.assert_array_equal(voting(memberships, 9).toarray(), memberships)


@pytest.mark.parametrize("total", ["mean", "sum"])
@pytest.mark.parametrize("popular", [None, 15])
def test_a_shortlist_holds_what_its_own_users_contribute_most_to(total, popular):
    train, memberships = random_rows(), np.random.default_rng(0).random((40, 3)).astype(np.float32)
    liked = train.toarray()
    votes = voting(memberships, 2)
    ranked = sorted(range(25), key=lambda item: (-liked[:, item].sum(), item))

    lists = shortlists(train, votes, 4, total, popular).toarray()

    for cluster, row in enumerate(lists):
        own = [user for user in range(40) if cluster in np.argsort(-memberships[user])[:2]]
        assert 0 < len(own) < 40
        wanted = np.zeros(25)
        for item in ranked[:popular]:
            values = [memberships[user, cluster] for user in own if liked[user, item]]
            wanted[item] = sum(values) if total == "sum" or not values else np.mean(values)
        best = np.argsort(-wanted)[:4]
        np.testing.assert_array_equal(np.flatnonzero(row), np.sort(best))
        np.testing.assert_allclose(row[best], wanted[best], rtol=1e-5)


@pytest.mark.parametrize("votes", ["mean", "sum"])
def test_the_first_clusters_vote_for_what_they_list(votes):
    history = random_rows(n_users=6, seed=1)
    model = EfficientRec(top_clusters=2, shortlist=9, votes=votes, **SMALL).fit(random_rows(), ALONE)
    lists, memberships = model.state()["shortlists"].toarray(), model.memberships(history)

    scores = model.score(history)

    for row in range(6):
        first = np.argsort(-memberships[row], kind="stable")[:2]
        for item in range(25):
            heard = [memberships[row, c] * lists[c, item] for c in first if lists[c, item] > 0]
            expected = (sum(heard) if votes == "sum" else np.mean(heard)) if heard else 0
            assert scores[row, item] == pytest.approx(expected, rel=1e-5)


def test_the_size_does_not_grow_with_the_users():
    few, many = (EfficientRec(**SMALL).fit(random_rows(n_users=n), ALONE) for n in (40, 400))

    assert few.size() == many.size()


def test_size_and_estimate_agree():
    train = random_rows(n_users=200)
    model = EfficientRec(**SMALL, shortlist=10, top_clusters=6).fit(train, ALONE)

    estimate = SPEC.estimate(model, Shape.of(train))

    layers = 5 * 7 + 7 + 7 * 7 + 7 + 7 + 7 + 7 * 6 + 6
    assert model.size().n_parameters == 25 * 5 + layers + 6 * 10
    assert estimate.model_bytes == model.size().n_bytes
    assert estimate.peak_bytes > 6 * estimate.model_bytes


def test_training_brings_the_halves_of_a_history_together():
    board = planted_board(0)

    def nearer(epochs):
        model = EfficientRec(clusters=16, epochs=epochs).fit(board.train, ALONE)
        halves = split_halves(board.train, 200, np.random.default_rng(0))
        one, two = (model.memberships(half) for half in halves)
        distances = np.linalg.norm(one[:, None] - two[None, :], axis=2)
        return (distances.diagonal()[:, None] < distances).mean()

    assert nearer(30) > nearer(1) + 0.1


def test_the_planted_board_is_ranked_far_better_than_by_popularity():
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = EfficientRec(clusters=16).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


def test_values_count_as_ones():
    history = random_rows(seed=1)
    plain = EfficientRec(**SMALL).fit(random_rows(), ALONE)
    valued = EfficientRec(**SMALL).fit(random_rows() * 3, ALONE)

    np.testing.assert_array_equal(valued.score(history * 7), plain.score(history))


def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    train = random_rows()

    def killer(name, step, value):
        if name == "progress" and step == 8:
            raise Killed

    def fit(**context):
        options = SMALL | {"epochs": 6, "batch_size": 20}
        return EfficientRec(**options).fit(train, FitContext(n_threads=1, **context))

    whole = fit().score(train)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    resumed = fit(checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(train), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EfficientRec(shortest=30).fit(random_rows(), ALONE), "no user has the 30 items"),
        (lambda: EfficientRec().fit(random_rows() * np.nan, ALONE), "NaN"),
        (lambda: EfficientRec(**SMALL).fit(random_rows(), ALONE).score(random_rows(n_items=26)), "26 items"),
    ],
)
def test_bad_input_is_an_error(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        EfficientRec().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize("options", [{"clusters": 0}, {"shortest": 1}, {"margin": 0}, {"votes": "median"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        EfficientRec(**options)


@pytest.mark.gpu
def test_a_gpu_ends_near_where_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = EfficientRec(clusters=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores, board) > 0.65
