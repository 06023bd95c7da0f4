"""Jobs at a time take the GPUs of a machine in turn, unless one was asked for."""

import msgspec
import pytest

from recscale.measuring.gpu import Gpu
from recscale.running import local_pool
from recscale.running.display import Silent
from recscale.running.job import Request
from recscale.running.local_pool import LocalExecutor
from recscale.running.runner import Runner, open_store
from recscale.running.suite import Suite

GPUS = [Gpu("H100", 0, "a"), Gpu("H100", 1, "b"), Gpu("T4", 2, "c"), Gpu("H100", 3, "d")]


class Started:
    """Stands for the process of a job: this machine has no GPU to run it on."""

    def __init__(self, request, work_folder, start, *, n_threads):
        self.devices = local_pool.each_device(request.job.device)
        self.has_ended = False

    def is_done(self):
        return self.has_ended


@pytest.fixture
def launch(tmp_path, data_file, monkeypatch):
    """Start a job on a machine of four GPUs, one of another kind."""
    monkeypatch.setattr(local_pool, "LocalWorker", Started)
    monkeypatch.setattr(local_pool, "visible_gpus", lambda: GPUS)
    monkeypatch.setattr(local_pool, "_calibration", lambda *given: {"gemm_gflops": 1.0})
    suite = Suite(datasets=[{"file": {"path": str(data_file)}}], models=["popularity"], jobs=3)
    (job,) = Runner(suite, open_store(tmp_path / "s"), Silent()).plan().jobs
    executor = LocalExecutor(suite, tmp_path)

    def start(requested, device):
        on = msgspec.structs.replace(job, device_requested=requested, device=device)
        return executor.launch(Request(task="run", job=on))

    return start


def test_jobs_that_may_run_on_any_gpu_take_the_one_that_the_fewest_use(launch):
    first, second, third = (launch("auto", "cuda:0") for _ in range(3))
    second.has_ended = True
    fourth, fifth = launch("cuda", "cuda:0"), launch("cuda", "cuda:0")

    assert [worker.devices for worker in (first, second, third)] == [["cuda:0"], ["cuda:1"], ["cuda:3"]]
    assert fourth.devices == ["cuda:1"]
    assert fifth.devices == ["cuda:0"]  # all are taken again


def test_a_gpu_that_was_asked_for_and_a_processor_stay(launch):
    asked = [("cuda:1", "cuda:1"), *[("cuda:0", "cuda:0")] * 2, ("cuda:0,1", "cuda:0,1"), ("auto", "cpu")]

    got = [",".join(launch(*one).devices) for one in asked]

    assert got == ["cuda:1", "cuda:0", "cuda:0", "cuda:0,cuda:1", "cpu"]
    assert launch("auto", "cuda:0").devices == ["cuda:3"]
