import time
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.models._entries_needs import estimate
from recscale.models._entry_trainer import Drawn, EntryTrainer
from recscale.models._judges import with_judges
from recscale.models._unseen import Unseen
from recscale.models.gmf import GMF
from recscale.models.mf_bpr import MFBPR
from recscale.models.neumf import NeuMF
from recscale.models.ucml import UCML
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)  # tables this small are slower on two
MODELS = [MFBPR, GMF, UCML, NeuMF]


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def test_the_penalty_is_half_lambda_times_the_squares_of_what_was_drawn(random_rows):
    seen = {}

    def first_loss(regularization):
        model = MFBPR(factors=4, epochs=1, batch_size=1000, regularization=regularization)
        model.fit(random_rows(), FitContext(n_threads=1, log=lambda name, step, value: seen.update({name: value})))
        return seen["loss"]

    penalty = first_loss(2.0) - first_loss(0.0)

    assert penalty == pytest.approx(3 * 0.1**2, rel=0.2)  # three vectors of about this length, and factor 2 / 2


def test_no_item_of_the_row_is_drawn_and_every_other_one_as_often(random_rows):
    rows = random_rows(n_users=4, n_items=7)
    users = torch.tensor([0, 1, 3]).repeat(2000)

    drawn = Unseen(rows, "cpu").draw(users, 3, np.random.default_rng(0))

    for user in (0, 1, 3):
        counts = np.bincount(drawn[users == user].numpy().ravel(), minlength=7)
        missing = rows[[user]].toarray()[0] == 0
        assert counts[~missing].sum() == 0
        np.testing.assert_allclose(counts[missing], 6000 / missing.sum(), rtol=0.1)


def test_many_validation_users_are_judged_by_at_most_a_thousand_of_them():
    everyone = sp.csr_array(np.arange(1.0, 2501.0)[:, None])
    context = FitContext(validation=HeldOut(everyone, everyone))
    few = FitContext(validation=HeldOut(everyone[:1000], everyone[:1000]))

    judges = with_judges(context).validation

    np.testing.assert_array_equal(judges.history.toarray()[:, 0], np.arange(1.0, 2501.0, 3))
    np.testing.assert_array_equal(judges.target.toarray()[:, 0], np.arange(1.0, 2501.0, 3))
    assert with_judges(few) is few
    assert with_judges(ALONE) is ALONE


@pytest.mark.parametrize("model", MODELS)
def test_an_empty_history_gets_the_mean_user(model, random_rows):
    fitted = model(factors=4, epochs=2).fit(random_rows(), ALONE)
    kept = fitted.kept_

    scores = fitted.score(sp.csr_array((1, 25), dtype=np.float32))

    np.testing.assert_allclose(scores, fitted.score_users(kept, kept["start"][None]), rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_user_who_has_everything_is_scored(model, random_rows):
    fitted = model(factors=4, epochs=2).fit(random_rows(), ALONE)

    scores = fitted.score(sp.csr_array(np.ones((1, 25), np.float32)))

    assert np.isfinite(scores).all()


@pytest.mark.parametrize("model", MODELS)
def test_scores_do_not_depend_on_who_is_scored_beside_whom(model, random_rows):
    history = random_rows(n_users=6, seed=1)
    fitted = model(factors=4, epochs=5, learning_rate=0.05).fit(random_rows(), ALONE)

    alone = np.concatenate([fitted.score(history[[row]]) for row in range(6)])

    np.testing.assert_allclose(alone, fitted.score(history), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [*MODELS, partial(GMF, clusters=6, growth_epochs=4)])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(model, tmp_path, random_rows):
    train = random_rows()
    steps = -(-(train.nnz - 25) // 50)  # the user who has everything is left out

    def killer(name, step, value):
        if name == "progress" and step == 3 * steps + 1:
            raise Killed

    def fit(**context):
        return model(factors=4, epochs=5, batch_size=50).fit(train, FitContext(n_threads=1, **context))

    whole = fit().score(train)
    with pytest.raises(Killed):
        fit(log=killer, checkpoint=Checkpoint(tmp_path / "c.pt"))
    seen = []
    resumed = fit(log=lambda *entry: seen.append(entry), checkpoint=Checkpoint(tmp_path / "c.pt"))

    np.testing.assert_array_equal(resumed.score(train), whole)
    assert next(step for name, step, _ in seen if name == "progress") == 3 * steps + 1


@pytest.mark.parametrize("model", MODELS)
def test_the_planted_board_is_ranked_far_better_than_by_popularity(model):
    board = planted_board(0)
    popularity = np.tile(board.train.sum(axis=0), (board.history.shape[0], 1))

    scores = model(factors=16).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > placement(popularity, board) + 0.1


@pytest.mark.parametrize("model", MODELS)
def test_an_item_goes_by_the_loss_of_all_entries_that_it_is_drawn_for(model, random_rows):
    """Entry by entry, place by place, candidate by candidate."""
    fitted = model(factors=4, clusters=5, negatives=2, regularization=0.1)
    trainer = EntryTrainer(fitted, random_rows(n_users=8, n_items=12), ALONE)
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.normal_(generator=torch.manual_seed(0))
        if model is UCML:
            trainer.tables["bias"].zero_()  # it has none
    candidates, expected = torch.randn(5, fitted.width(), generator=torch.manual_seed(1)), torch.zeros(12, 5)

    with torch.no_grad():
        found = trainer._item_losses(0, candidates)
        for drawn, items in trainer._samples(0, 1):
            for place in range(items.numel()):
                row, slot = divmod(place, items.shape[1])
                for number, candidate in enumerate(candidates):
                    one = Drawn(*(part[row : row + 1].clone() for part in drawn))
                    one.items[0, slot] = candidate
                    loss = fitted.losses(fitted.scores_of(trainer.tables, one))[0] + 0.05 * candidate @ candidate
                    expected[items[row, slot], number] += loss

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_items_share_the_vectors_of_clusters(model, random_rows):
    train = random_rows()
    free = model(factors=4, epochs=6).fit(train, ALONE)
    shared = model(factors=4, epochs=6, clusters=5, growth_epochs=4).fit(train, ALONE)

    state = shared.state()

    assert len(state["items"]) == 5 and set(state["item_clusters"]) == set(range(5))
    np.testing.assert_array_equal(shared.kept_["items"], state["items"][state["item_clusters"].astype(int)])
    assert shared.size().n_bytes == free.size().n_bytes - 20 * state["items"][0].nbytes + 25
    for one in (free, shared):
        assert estimate(one, Shape.of(train)).model_bytes == one.size().n_bytes


@pytest.mark.parametrize("model", MODELS)
def test_planted_groups_of_items_are_found(model):
    groups = np.arange(24) % 3
    liked = np.random.default_rng(0).random((90, 24)) < np.where(groups == np.arange(90)[:, None] % 3, 0.7, 0.02)
    options = {"factors": 8, "learning_rate": 0.02, "epochs": 30, "batch_size": 64, "negatives": 4}

    fitted = model(clusters=3, growth_epochs=20, **options).fit(sp.csr_array(liked.astype(np.float32)), ALONE)

    together = np.zeros((3, 3), int)
    np.add.at(together, (groups, fitted.state()["item_clusters"]), 1)
    assert sorted(together.argmax(1)) == [0, 1, 2] and together.max(1).sum() >= 22  # an item may stay by damping


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("clusters", [None, 3])
def test_a_model_scores_the_same_after_the_disk(model, clusters, tmp_path, random_rows):
    history = random_rows(seed=1)
    fitted = model(factors=4, epochs=2, clusters=clusters).fit(random_rows(), ALONE)

    fitted.save(tmp_path / "model.npz")

    np.testing.assert_array_equal(model.load(tmp_path / "model.npz").score(history), fitted.score(history))


@pytest.mark.parametrize("model", MODELS)
def test_rows_without_any_item_leave_nothing_but_finite_scores(model, random_rows):
    empty = sp.csr_array((3, random_rows().shape[1]), dtype=np.float32)

    assert np.isfinite(model(epochs=1).fit(empty, ALONE).score(random_rows())).all()


def test_a_matrix_in_which_everyone_has_everything_teaches_nothing():
    model = MFBPR(factors=4, epochs=2).fit(sp.csr_array(np.ones((5, 6), np.float32)), ALONE)

    assert np.ptp(model.state()["biases"].numpy()) == 0


def test_a_rate_that_is_too_high_is_an_error(random_rows):
    with pytest.raises(NumericalError, match="lower the learning rate"):
        MFBPR(factors=4, learning_rate=1e30, regularization=1.0).fit(random_rows(), ALONE)


def test_a_matrix_with_what_is_no_number_is_refused(random_rows):
    with pytest.raises(DataError, match="NaN"):
        MFBPR().fit(random_rows() * np.nan, ALONE)


def test_a_history_over_other_items_is_refused(random_rows):
    with pytest.raises(DataError, match="26 items"):
        MFBPR(epochs=1).fit(random_rows(), ALONE).score(random_rows(n_items=26))


def test_a_deadline_stops_the_fit(random_rows):
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        MFBPR().fit(random_rows(), FitContext(deadline=time.monotonic() - 1))


@pytest.mark.parametrize(
    "options",
    [{"factors": 0}, {"regularization": -1}, {"negatives": 0}, {"fold_in_rate": 0}, {"fold_in_regularization": -1}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        MFBPR(**options)


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_ends_near_where_the_cpu_does(model):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    board = planted_board(0)

    scores = model(factors=16).fit(board.train, FitContext(device="cuda")).score(board.history)

    assert placement(scores.cpu().numpy(), board) > 0.8
