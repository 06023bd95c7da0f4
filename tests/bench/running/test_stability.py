"""How alike the co-clusters of several seeds are, from the lists in a store."""

import numpy as np
import pytest

import recscale
from recscale.records.store import Store
from recscale.running.stability import StabilityOverSeeds


class Lists:
    """Has the first items of the co-clusters of some records, as a store has."""

    def __init__(self, lists):
        self.lists = lists

    def top_items(self, record):
        return None if record not in self.lists else np.array(self.lists[record])


def test_stability_is_the_mean_over_pairs_of_the_records_whose_lists_are_there():
    over = StabilityOverSeeds(
        Lists({"a": [[1, 2], [3, 4]], "b": [[2, 1], [3, 5]], "c": [[6, 7], [8, 9]], "d": [[-1, -1]]})
    )

    a_with_b = (1 + 1 / 3) / 2
    assert over(["a", "b"]) == (pytest.approx(a_with_b), 2)
    assert over(["a", "b", "c", "gone"]) == (pytest.approx(a_with_b / 3), 3)  # c shares no item with any
    assert over(["a", "b", "d"]) == (pytest.approx(a_with_b), 3)  # of d nothing is known
    assert over(["a"]) == (None, 1)
    assert over([]) == (None, 0)


def test_a_run_keeps_the_lists_and_two_seeds_are_compared(tmp_path, data_file):
    store = Store(tmp_path / "s")
    recscale.run(
        {"file": {"path": str(data_file)}}, store=tmp_path / "s", progress=False, seeds=[0, 1],
        models=["bigclam[n_clusters=3]", "popularity"],
    )  # fmt: skip

    records = {(record.model, record.seed): record for record in store.records()}
    one, other = (records["bigclam", seed] for seed in (0, 1))
    lists = store.top_items(one)
    assert lists.shape == (3, 20) and set(lists.ravel().tolist()) <= set(range(-1, 20))
    assert {len(values) for values in store.per_user(one).values()} == {6}  # users, and no co-clusters
    stability, n_seeds = StabilityOverSeeds(store)([one, other])
    assert 0 < stability <= 1 and n_seeds == 2
    assert store.top_items(records["popularity", 0]) is None
