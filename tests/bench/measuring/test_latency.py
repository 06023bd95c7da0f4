import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.errors import DataError
from recscale.measuring.latency import single_user_latency, update_latency


@pytest.fixture
def history():
    return sp.csr_array(sp.random(50, 20, density=0.2, format="csr", dtype=np.float32, rng=1))


def test_users_are_scored_one_at_a_time(history):
    shapes = []
    single_user_latency(lambda rows: shapes.append(rows.shape), history, n_users=30, seed=0)

    assert set(shapes) == {(1, 20)}
    assert len(shapes) == 10 + 30


def test_the_users_that_are_drawn_depend_on_the_seed_alone(history):
    def users(seed):
        seen = []
        single_user_latency(lambda rows: seen.append(tuple(rows.data)), history, n_users=20, seed=seed)
        return seen

    assert users(3) == users(3)
    assert users(3) != users(4)


def test_the_median_is_at_most_the_99th_percentile_and_both_are_the_durations_of_calls(history, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    durations = iter([*[9.0] * 10, *range(1, 51)])

    def score(rows):
        clock.now += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    median, p99 = single_user_latency(score, history, n_users=50, budget_seconds=1e6, seed=0)

    assert median == pytest.approx(25.5)
    assert p99 == pytest.approx(49.51)


def test_a_slow_model_is_stopped_when_the_budget_is_used_up(history, monkeypatch):
    clock = SimpleNamespace(now=0.0, calls=0)

    def score(rows):
        clock.now += 2.0
        clock.calls += 1

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    median, _ = single_user_latency(score, history, budget_seconds=5.0, seed=0)

    assert median == 2.0
    assert clock.calls == 3


def test_one_user_is_timed_however_small_the_budget(history):
    calls = []
    median, p99 = single_user_latency(lambda rows: calls.append(1), history, budget_seconds=1e-9, seed=0)

    assert len(calls) == 2
    assert 0 < median == p99


def test_scores_on_a_gpu_are_waited_for(history, monkeypatch):
    waited = []
    torch = SimpleNamespace(cuda=SimpleNamespace(synchronize=waited.append))
    monkeypatch.setitem(sys.modules, "torch", torch)
    scores = SimpleNamespace(is_cuda=True, device="cuda:1")
    single_user_latency(lambda rows: scores, history, n_users=5, seed=0)

    assert waited == ["cuda:1"] * 10


def test_a_history_without_users_is_an_error():
    with pytest.raises(DataError, match="no user to time"):
        single_user_latency(lambda rows: None, sp.csr_array((0, 5), dtype=np.float32))


class Counting:
    """A model whose state is a set of items, and which notes what it is asked for."""

    def __init__(self, seconds=0.0):
        self.asked, self.seconds = [], seconds

    def user_state(self, history):
        return set(history.indices.tolist())

    def remove(self, state, items):
        return state - set(items.tolist())

    def add(self, state, items):
        self.asked.append((frozenset(state), *items.tolist()))
        time.sleep(self.seconds)
        return state | set(items.tolist())

    def score_state(self, state):
        time.sleep(self.seconds)
        return np.zeros((1, 6), np.float32)


def test_an_update_adds_one_item_to_the_others_of_each_user_and_users_without_items_are_left_out():
    history = sp.csr_array(np.array([[1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]], np.float32))
    model = Counting()

    update_latency(model, history, seed=0)

    assert len(model.asked) == 4  # two users, once before it counts
    assert {frozenset({*rest, item}) for rest, item in model.asked} == {frozenset({0, 1, 4}), frozenset({3})}
    assert all(item not in rest for rest, item in model.asked)


def test_the_update_of_a_state_is_a_part_of_what_an_update_costs():
    history = sp.csr_array(np.ones((5, 6), np.float32))

    median, worst, state = update_latency(Counting(0.01), history)

    assert worst >= median >= state + 0.01 >= 0.02


def test_updates_stop_when_their_budget_is_spent_and_one_is_always_counted():
    model = Counting()

    median, _, _ = update_latency(model, sp.csr_array(np.ones((50, 6), np.float32)), budget_seconds=1e-9)

    assert median > 0 and len(model.asked) == 11


def test_updates_of_users_without_items_are_an_error():
    with pytest.raises(DataError, match="no history holds an item"):
        update_latency(Counting(), sp.csr_array((3, 6), dtype=np.float32))
