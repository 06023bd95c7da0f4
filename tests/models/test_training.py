import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recscale.checkpoint import Checkpoint
from recscale.contract import FitContext, HeldOut
from recscale.errors import DeadlineExceeded, NumericalError, UsageError
from recscale.models import _validation
from recscale.models._training import Learner, Plan, session, train_module
from recscale.models._validation import validation_value

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
TARGET = POINTS @ np.array([1.0, -2.0, 3.0], np.float32)


class Killed(Exception):
    """What a test throws to end a training in the middle."""


def regression(*, noisy=False, score=None, rate=lambda epochs: 1.0, optimiser=torch.optim.Adam, learning_rate=0.05):
    """A linear regression whose loss may draw from every generator that a model can."""
    module = torch.nn.ParameterDict({"weights": torch.zeros(3)})

    def loss(batch):
        x = torch.from_numpy(POINTS[batch.rows])
        if noisy:
            x = (
                x
                + 0.1 * torch.randn(x.shape)
                + torch.from_numpy(batch.rng.normal(size=x.shape).astype(np.float32)) / 10
            )
        return (x @ module["weights"] - torch.from_numpy(TARGET[batch.rows])).square().mean()

    made = optimiser(module.parameters(), lr=learning_rate)
    return Learner(module, made, loss, score or (lambda history: torch.zeros(history.shape)), rate)


def plan(**options):
    return Plan(**{"n_examples": 50, "epochs": 8, "batch_size": 16, "identity": "a regression"} | options)


def weights_of(learner):
    return learner.module["weights"].detach().numpy().copy()


def recorder():
    seen = {}
    return seen, lambda name, step, value: seen.setdefault(name, []).append((step, value))


def ranked_validation(n_items=6):
    """One user who wants item 5, of whom nothing is known but item 0."""
    history, target = np.zeros((2, 1, n_items), np.float32)
    history[0, 0], target[0, 5] = 1, 1
    return HeldOut(sp.csr_array(history), sp.csr_array(target))


def test_a_regression_finds_its_weights():
    learner = regression(learning_rate=0.3)

    train_module(learner, plan(epochs=60), FitContext(n_threads=1))

    np.testing.assert_allclose(weights_of(learner), [1, -2, 3], atol=1e-3)


def test_the_seed_alone_decides_and_no_generator_is_moved():
    results = []
    for seed, disturbance in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        learner = regression(noisy=True)
        train_module(learner, plan(), FitContext(n_threads=1, seed=seed))
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights_of(learner))

    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_every_example_comes_once_an_epoch_in_another_order():
    learner, seen = regression(), []
    spy = Learner(learner.module, learner.optimiser, lambda b: (seen.append(b), learner.loss(b))[1], learner.score)

    train_module(spy, plan(epochs=2), FitContext(n_threads=1))

    orders = [np.concatenate([b.rows for b in seen if b.epoch == epoch]) for epoch in (0, 1)]
    assert [len(b.rows) for b in seen] == [16, 16, 16, 2] * 2
    assert [b.step for b in seen] == list(range(8))
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("validation", [None, ranked_validation()])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path, validation):
    def make():
        learner = regression(noisy=True)
        return Learner(learner.module, learner.optimiser, learner.loss, lambda h: score_of(learner, h))

    def score_of(learner, history):
        return torch.outer(torch.ones(history.shape[0]), torch.arange(6.0)) * learner.module["weights"].sum()

    def killer(name, step, value):
        if name == "progress" and step == 18:
            raise Killed

    whole, first, second = make(), make(), make()
    train_module(whole, plan(), FitContext(n_threads=1, validation=validation))

    with pytest.raises(Killed):
        train_module(
            first,
            plan(),
            FitContext(n_threads=1, log=killer, validation=validation, checkpoint=Checkpoint(tmp_path / "c.pt")),
        )
    seen, log = recorder()
    train_module(
        second,
        plan(),
        FitContext(n_threads=1, log=log, validation=validation, checkpoint=Checkpoint(tmp_path / "c.pt")),
    )

    np.testing.assert_array_equal(weights_of(second), weights_of(whole))
    assert seen["progress"][0] == (17, 32)  # four epochs of four steps were kept
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_finished_checkpoint_is_not_trained_again(tmp_path):
    first, second = regression(), regression()
    train_module(first, plan(), FitContext(n_threads=1, checkpoint=Checkpoint(tmp_path / "c.pt")))
    seen, log = recorder()

    train_module(second, plan(), FitContext(n_threads=1, log=log, checkpoint=Checkpoint(tmp_path / "c.pt")))

    assert "progress" not in seen
    np.testing.assert_array_equal(weights_of(second), weights_of(first))


@pytest.mark.parametrize(
    ("other", "seed"), [(plan(batch_size=8), 0), (plan(identity="another"), 0), (plan(), 1)], ids=str
)
def test_a_checkpoint_of_another_training_is_an_error(tmp_path, other, seed):
    train_module(regression(), plan(), FitContext(n_threads=1, checkpoint=Checkpoint(tmp_path / "c.pt")))

    with pytest.raises(UsageError, match="is the checkpoint of another training; remove it"):
        train_module(regression(), other, FitContext(n_threads=1, seed=seed, checkpoint=Checkpoint(tmp_path / "c.pt")))


def test_a_checkpoint_of_another_shape_is_an_error(tmp_path):
    train_module(regression(), plan(), FitContext(n_threads=1, checkpoint=Checkpoint(tmp_path / "c.pt")))
    module = torch.nn.ParameterDict({"weights": torch.zeros(4)})
    wider = Learner(module, torch.optim.SGD(module.parameters(), lr=1), lambda b: 0, lambda h: 0)

    with pytest.raises(UsageError, match=r"\(4,\)"):
        train_module(wider, plan(), FitContext(n_threads=1, checkpoint=Checkpoint(tmp_path / "c.pt")))


def scripted(values):
    """A learner whose n-th epoch ends with weight n, and scores the wanted item by the script: above others or not."""
    module = torch.nn.ParameterDict({"epoch": torch.zeros(1)})

    def before_epoch(epoch):
        module["epoch"].data.fill_(epoch + 1)

    def score(history):
        place = values[int(module["epoch"].item()) - 1]  # of the wanted item, from 1
        scores = torch.arange(6.0, 0, -1).repeat(history.shape[0], 1)
        scores[:, 5] = 5.5 - (place - 1)
        return scores

    optimiser = torch.optim.SGD(module.parameters(), lr=0.0)
    return Learner(module, optimiser, lambda b: (module["epoch"] * 0).sum(), score, before_epoch=before_epoch)


@pytest.mark.parametrize(
    ("options", "kept", "ended"),
    [
        ({"patience": None}, 2, 6),
        ({"patience": 2}, 2, 4),
        ({"patience": 3}, 2, 5),
        ({"patience": 2, "warm_up": 3}, 5, 6),
        ({"patience": None, "measure": "mrr"}, 2, 6),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends_it(options, kept, ended):
    learner = scripted([3, 1, 4, 4, 2, 5])
    seen, log = recorder()

    train_module(learner, plan(epochs=6, **options), FitContext(n_threads=1, validation=ranked_validation(), log=log))

    assert learner.module["epoch"].item() == kept
    assert len(seen["loss"]) == ended


def test_without_validation_users_the_last_epoch_stays():
    learner = scripted([1] * 6)

    train_module(learner, plan(epochs=6, patience=1), FitContext(n_threads=1))

    assert learner.module["epoch"].item() == 6


def test_loss_validation_and_gauges_are_logged():
    learner = scripted([1, 3])
    with_gauge = Learner(
        learner.module, learner.optimiser, learner.loss, learner.score, gauges=lambda: {"dead co-clusters": 7.0}
    )
    seen, log = recorder()

    train_module(
        with_gauge, plan(epochs=2, measure="mrr"), FitContext(n_threads=1, validation=ranked_validation(), log=log)
    )

    assert seen["loss"] == [(1, 0.0), (2, 0.0)]
    assert [step for step, _ in seen["validation mrr"]] == [1, 2]
    assert seen["dead co-clusters"] == [(1, 7.0), (2, 7.0)]
    assert seen["progress"][-1] == (8, 8)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path):
    learner = regression()
    bad = Learner(
        learner.module,
        learner.optimiser,
        lambda b: learner.loss(b) * (np.nan if b.step == 5 else 1.0),
        learner.score,
    )

    with pytest.raises(NumericalError, match=r"became nan at step 6, the one before was \d+\.\d+; lower the learning"):
        train_module(bad, plan(), FitContext(n_threads=1, checkpoint=Checkpoint(tmp_path / "c.pt")))

    assert torch.load(tmp_path / "c.pt", weights_only=True)["standing"]["epochs"] == 1


def test_a_first_loss_that_is_not_finite_is_not_blamed_on_the_learning_rate():
    learner = regression()
    bad = Learner(learner.module, learner.optimiser, lambda b: learner.loss(b) * np.nan, learner.score)

    with pytest.raises(NumericalError, match="the loss is nan at the first step: look at the numbers of the matrix"):
        train_module(bad, plan(), FitContext(n_threads=1))


def test_scores_that_are_not_finite_are_an_error():
    learner = regression(score=lambda history: torch.full(history.shape, torch.nan))

    with pytest.raises(NumericalError, match="validation scores"):
        train_module(learner, plan(), FitContext(n_threads=1, validation=ranked_validation()))


def test_the_learning_rate_follows_its_schedule_within_an_epoch():
    learner, rates = regression(rate=lambda epochs: 1 - epochs / 4, optimiser=torch.optim.SGD, learning_rate=0.2), []
    spy = Learner(
        learner.module,
        learner.optimiser,
        learner.loss,
        learner.score,
        learner.rate,
        after_step=lambda: rates.append(learner.optimiser.param_groups[0]["lr"]),
    )

    train_module(spy, plan(epochs=2, batch_size=25), FitContext(n_threads=1))

    np.testing.assert_allclose(rates, [0.2, 0.175, 0.15, 0.125])


def test_a_deadline_stops_it_between_two_steps():
    with pytest.raises(DeadlineExceeded, match="step 1 of 32"):
        train_module(regression(), plan(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_threads_are_put_back():
    before = torch.get_num_threads()

    with session(FitContext(n_threads=before + 1)):
        inside = torch.get_num_threads()

    assert (inside, torch.get_num_threads()) == (before + 1, before)


def measured_by_hand(scores, history, target, measure):
    values = []
    for row in range(len(scores)):
        wanted = set(np.flatnonzero(target[row]))
        if not wanted:
            continue
        order = [i for i in np.argsort(-scores[row]) if not history[row, i]]
        ranks = [order.index(i) + 1 for i in wanted]
        ideal = sum(1 / np.log2(r + 1) for r in range(1, min(100, len(wanted)) + 1))
        gain = sum(1 / np.log2(r + 1) for r in ranks if r <= 100)
        values.append(gain / ideal if measure == "ndcg" else 1 / min(ranks))
    return np.mean(values)


@pytest.mark.parametrize("measure", ["ndcg", "mrr"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_the_validation_measure_agrees_with_one_by_hand(measure, as_tensor, monkeypatch):
    monkeypatch.setattr("recscale.models._validation.BLOCK_BYTES", 4 * 300 * 3)  # so that it takes several blocks
    rng = np.random.default_rng(0)
    kind = rng.choice(3, size=(8, 300), p=[0.8, 0.1, 0.1])
    kind[3][kind[3] == 2] = 0  # a user without targets
    held_out = HeldOut(*(sp.csr_array((kind == part).astype(np.float32)) for part in (1, 2)))
    scores = rng.normal(size=(8, 300)).astype(np.float32)
    position = iter([0, 3, 6])

    def score(history):
        first = next(position)
        part = scores[first : first + history.shape[0]]
        return torch.from_numpy(part.copy()) if as_tensor else part.copy()

    value = validation_value(score, held_out, measure)

    assert value == pytest.approx(measured_by_hand(scores, kind == 1, kind == 2, measure), rel=1e-5)


def test_ties_count_half_in_the_reciprocal_rank():
    value = validation_value(lambda history: torch.zeros(history.shape), ranked_validation(), "mrr")

    assert value == pytest.approx(1 / 3)  # among five equals the middle one


def test_ties_count_half_in_the_ndcg():
    value = validation_value(lambda history: torch.zeros(history.shape), ranked_validation(), "ndcg")

    assert value == pytest.approx(1 / np.log2(1 + 3))


def some_scores(rng, n_levels=None):
    """Return histories, targets and scores of 50 users and 400 items, of so many levels or all different."""
    kind = rng.choice(3, size=(50, 400), p=[0.6, 0.1, 0.3])
    kind[7][kind[7] == 2] = 0  # a user without targets
    kind[9][9:] = 0  # and one with few
    known, wanted = (sp.csr_array((kind == part).astype(np.float32)) for part in (1, 2))
    scores = rng.permutation(50 * 400).reshape(50, 400) if n_levels is None else rng.integers(0, n_levels, (50, 400))
    return torch.from_numpy(scores.astype(np.float32)), known, wanted


def test_the_counted_reciprocal_rank_is_that_of_the_masked_scores_to_the_bit():
    scores, known, wanted = some_scores(np.random.default_rng(1), n_levels=60)  # many ties

    counted = _validation._sum(scores, known, wanted, "mrr")

    assert counted == float(_validation._mrr(*_validation._masked(scores, known, wanted)).double().sum()) > 0


def test_the_counted_ndcg_is_that_of_the_masked_scores():
    scores, known, wanted = some_scores(np.random.default_rng(1))

    counted = _validation._sum(scores, known, wanted, "ndcg")

    expected = float(_validation._ndcg(*_validation._masked(scores, known, wanted)).double().sum())
    assert counted == pytest.approx(expected, rel=1e-6)
