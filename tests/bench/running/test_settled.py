"""Which records make running a job again needless, and which may take the place of another."""

import msgspec
import numpy as np
import pytest

import recscale
from recscale.measuring.budget import parse_bytes
from recscale.records.record import Phase, RunRecord, Trial
from recscale.running.display import Silent
from recscale.running.runner import Runner, open_store
from recscale.running.suite import Suite

MORE_THAN_ANY_MACHINE = 10**15
SLOW = {"fit": Phase(wall_seconds=100.0, cpu_seconds=100.0)}
LARGE_ON_GPU = {"fit": Phase(wall_seconds=0.1, cpu_seconds=0.1, peak_device_bytes=4 * 10**9)}


def suite(data_file, model, **limits):
    return {"datasets": [{"file": {"path": str(data_file)}}], "models": ["good"], "plugins": [model], **limits}


def run(data_file, model, store, **limits):
    return recscale.run(store=store, progress=False, **suite(data_file, model, **limits))


@pytest.mark.parametrize(
    ("record", "asked", "is_settled"),
    [
        ({"peak_rss_bytes": MORE_THAN_ANY_MACHINE}, {}, True),  # what is free now is no limit that anybody asked for
        ({"peak_rss_bytes": MORE_THAN_ANY_MACHINE}, {"max_memory": "8GB"}, False),
        ({"peak_rss_bytes": MORE_THAN_ANY_MACHINE, "max_memory_bytes": 8 * 10**9}, {"max_memory": "8GB"}, True),
        ({"peak_rss_bytes": MORE_THAN_ANY_MACHINE, "max_memory_bytes": 9 * 10**9}, {"max_memory": "8GB"}, False),
        ({"phases": SLOW}, {"timeout": 100}, True),
        ({"phases": SLOW}, {"timeout": 99}, False),
        ({"phases": SLOW, "timeout_seconds": 99.0}, {"timeout": 99}, True),
        ({"phases": {"judge": SLOW["fit"]}}, {"timeout": 99}, True),
        ({"phases": LARGE_ON_GPU}, {"max_gpu_memory": "4GB"}, True),
        ({"phases": LARGE_ON_GPU}, {"max_gpu_memory": "3GB"}, False),
        ({"phases": LARGE_ON_GPU, "max_gpu_memory_bytes": 3 * 10**9}, {"max_gpu_memory": "3GB"}, True),
    ],
)
def test_a_finished_job_is_settled_unless_it_took_more_than_is_asked_for(
    tmp_path, data_file, plugin, record, asked, is_settled
):
    store = open_store(tmp_path / "s")
    runner = Runner(Suite(**suite(data_file, plugin("good"), **asked)), store, Silent())
    (job,) = runner.plan().jobs
    finished = {"status": "ok", "metrics": dict.fromkeys(job.metrics, 0.5), "peak_rss_bytes": 1}
    unlimited = dict.fromkeys(("timeout_seconds", "max_memory_bytes", "max_gpu_memory_bytes"))
    record = msgspec.convert(job.blank_record() | finished | unlimited | record, RunRecord)
    store.put(record, {"ndcg@100": np.zeros(2, np.float32)})

    assert list(runner.plan().settled) == [job.key] * is_settled


def test_a_key_holds_the_kind_and_the_number_of_devices_and_not_which_they_are(tmp_path, data_file, plugin):
    (job,) = Runner(Suite(**suite(data_file, plugin("good"))), open_store(tmp_path / "s"), Silent()).plan().jobs
    devices = ("cpu", "cpu,cpu", "cuda:0", "cuda:3", "cuda:0,1", "cuda:3,2")

    keys = {device: msgspec.structs.replace(job, device=device).key for device in devices}

    assert keys["cpu"] == job.key
    assert keys["cuda:0"] == keys["cuda:3"] and keys["cuda:0,1"] == keys["cuda:3,2"]
    assert len(set(keys.values())) == 4


def test_a_finished_job_stays_as_it_is_when_less_memory_is_free(tmp_path, data_file, plugin):
    model, store = plugin("good"), open_store(tmp_path / "s")
    run(data_file, model, store.root)
    before = store.records()

    frame = run(data_file, model, store.root, jobs=10**6)  # each may have a millionth of what is free

    assert frame["status"].tolist() == ["ok"]
    assert store.records() == before


@pytest.mark.parametrize(
    ("job_is", "is_settled"),
    [
        ({}, True),
        ({"may_be_pruned": False}, False),
        ({"trial": Trial(study="good", number=1, metric="ndcg@100", sampler="random", seed=1)}, False),
        ({"trial": None}, False),
    ],
)
def test_a_pruned_trial_settles_the_same_trial_alone(tmp_path, data_file, plugin, job_is, is_settled):
    suite_of_one = Suite(**suite(data_file, plugin("good")))
    (job,) = Runner(suite_of_one, open_store(tmp_path / "s"), Silent()).plan().jobs
    trial = Trial(study="good", number=1, metric="ndcg@100", sampler="random", seed=0)
    job = msgspec.structs.replace(job, trial=trial, may_be_pruned=True)
    record = msgspec.convert(job.blank_record() | {"status": "pruned"}, RunRecord)

    again = msgspec.structs.replace(job, **job_is)

    assert again.is_settled_by(record, "never", suite_of_one.limits()) == is_settled


@pytest.mark.parametrize("again", [{}, {"overwrite": "always"}])
def test_a_failure_under_a_smaller_budget_is_told_and_the_finished_record_is_kept(
    tmp_path, data_file, plugin, capfd, again
):
    model, store = plugin("good", body="self.held = np.ones(50_000_000)"), open_store(tmp_path / "s")
    run(data_file, model, store.root)
    (before,) = store.records()

    frame = recscale.run(store=store.root, **suite(data_file, model, max_memory="400MB"), **again)

    assert frame["status"].tolist() == ["out_of_memory"]
    assert frame["max_memory_bytes"].tolist() == [parse_bytes("400MB")]
    assert "out of memory" in (told := capfd.readouterr().err)
    assert "the store keeps the finished record" in told
    assert store.records() == [before]
    assert len(store.per_user(before)["ndcg@100"]) == before.n_test_users
    assert list(run(data_file, model, store.root)["fit_wall_seconds"]) == [before.phases["fit"].wall_seconds]
