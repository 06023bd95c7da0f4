"""A trial is ended where its best figure is worse than the median of the others, and for nothing else."""

import msgspec
import pytest

from recscale.records.record import Phase, RunRecord
from recscale.running.checkpoints import checkpoint_at
from recscale.running.job import SpentBefore
from recscale.running.pruning import MedianWatch, watched

pytest.importorskip("optuna")
NDCG = "validation ndcg@10"


class Job:
    device = "cpu"


def trial(figures, *, name=NDCG, status="ok"):
    """Return the record of a trial that logged these figures, from epoch 1 on."""
    return RunRecord(
        key="k", evaluated_on="validation", status=status, model="m", model_title="M", parameters={}, dataset="d",
        dataset_name="d", filter={}, protocol="fold-in", seed=0, device_requested="auto", n_threads=1,
        data_fingerprint="d", split_fingerprint="s", code_fingerprint="c", n_train_users=1, n_items=1,
        n_train_interactions=1, history={"loss": [[1, 0.5]], name: [[n + 1, v] for n, v in enumerate(figures)]},
    )  # fmt: skip


def logged(step, value, name=NDCG):
    return {"event": "log", "phase": "fit", "name": name, "step": step, "value": value}


FIVE = [trial([0.1, 0.1, 0.1, 0.1, 0.1, 0.2 + n / 100]) for n in range(5)]  # at epoch 6 the median is .22


def test_a_trial_ends_where_its_best_figure_is_below_the_median_of_that_epoch():
    watch = MedianWatch(FIVE)

    assert watch.look(Job, logged(4, 0.01)) is None  # too early to tell
    assert watch.look(Job, logged(5, 0.1)) is None  # level is not worse
    ended = watch.look(Job, logged(6, 0.2199))

    assert ended["status"] == "pruned" and ended["device_used"] == "cpu"
    assert ended["reason"] == "at step 6: validation ndcg@10 0.2199, where the median of 5 others is 0.2200"
    assert ended["history"] == {NDCG: [[4, 0.01], [5, 0.1], [6, 0.2199]]}


def test_a_trial_that_was_better_before_goes_on():
    watch = MedianWatch(FIVE)

    assert watch.look(Job, logged(1, 0.25)) is None
    assert watch.look(Job, logged(6, 0.01)) is None  # its best is .25


def test_of_an_error_the_lower_is_the_better():
    watch = MedianWatch([trial([0.5] * 5, name="validation mse")] * 5)

    assert watch.look(Job, logged(5, 0.4, "validation mse")) is None
    assert MedianWatch(watch.before).look(Job, logged(5, 0.6, "validation mse"))["status"] == "pruned"


@pytest.mark.parametrize(
    "before",
    [
        FIVE[:4],
        [*FIVE[:4], trial([0.2] * 6, status="pruned")],
        [*FIVE[:4], trial([0.2] * 6, name="validation mrr")],
        [trial([0.9])] * 3 + FIVE[:2],  # at epoch 6 there are two
    ],
)
def test_too_few_others_end_nothing(before):
    assert MedianWatch(before).look(Job, logged(6, 0.0001)) is None


@pytest.mark.parametrize(
    "event",
    [
        logged(6, 0.0, "loss"),
        logged(6, 0.0, "progress"),
        logged(6, float("nan")),
        logged("6", 0.0),
        logged(6, None),
        {"event": "phase", "name": NDCG},
        {},
    ],
)
def test_other_events_end_nothing(event):
    watch = MedianWatch(FIVE)

    assert watch.look(Job, event) is None
    assert watch.look(Job, logged(6, 0.0))["history"] == {NDCG: [[6, 0.0]]}  # nor are they kept


def test_a_trial_that_goes_on_from_a_checkpoint_is_judged_by_what_it_had_reported(tmp_path):
    phase = Phase(wall_seconds=1.0, cpu_seconds=1.0)
    kept = checkpoint_at(
        tmp_path / "c.pt", lambda: SpentBefore(fit=phase, history={NDCG: [[1, 0.9]]}, n_resumptions=0, n_threads=1)
    )
    kept.path.write_bytes(b"weights")
    kept.written()
    watch = MedianWatch(FIVE)

    watch.start(Job, kept.path)

    assert watch.look(Job, logged(6, 0.0)) is None
    watch.start(Job, tmp_path / "none.pt")
    assert MedianWatch(FIVE).look(Job, logged(6, 0.0)) is not None


def test_the_first_series_of_validation_figures_is_watched_and_only_what_is_finite():
    record = msgspec.structs.replace(FIVE[0], history={"loss": [[1, 1.0]], NDCG: [[1, float("nan")], [2, 0.5]]})

    assert watched(record.history) == (NDCG, {2: 0.5})
    assert watched({"loss": [[1, 1.0]]}) == (None, {})
