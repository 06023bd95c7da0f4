"""A job on several devices: its processes fit one model together, are measured together and end together."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from torch import distributed

import recscale
from recscale.records.record import Phase
from recscale.records.store import Store
from recscale.running.peers import summed

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without Gloo")

TWO = {"device": "cpu,cpu", "threads": 2}
BEGUN = """import os, time
        import torch
        from torch import distributed
        if not distributed.is_initialized(): return self  # the warm-up
        first = distributed.get_rank() == 0
        assert (distributed.get_world_size(), context.n_threads, context.device) == (2, 1, "cpu")
        """
MEET = "distributed.all_reduce(torch.ones(1))"
WAIT = "time.sleep(600)"


@pytest.fixture
def run(data_file, plugin, tmp_path):
    """Return a function that runs a plug-in model on two devices, with this body of its fit, and returns its record."""

    def begin(body, more=", is_parallel=True", **suite):
        path = plugin("odd", body=BEGUN + body, more=more)
        data = {"file": {"path": str(data_file)}}
        options = {"store": tmp_path / "s", "plugins": [path], "models": ["odd"], "progress": False, **TWO, **suite}
        recscale.run(data, **options)
        (record,) = Store(tmp_path / "s").records()
        return record

    return begin


def test_two_processes_give_the_record_of_one(data_file, tmp_path):
    found, model = [], "elfm[n_clusters=4,factors=4,epochs=3]"
    for device in ("cpu", "cpu,cpu"):
        data, store = {"file": {"path": str(data_file)}}, tmp_path / device
        recscale.run(data, store=store, models=[model], device=device, threads=2, progress=False)
        (record,) = Store(store).records()
        found.append((record, Store(store).per_user(record)))
    (one, users), (two, others) = found

    assert (one.device_used, two.device_used) == ("cpu", "cpu,cpu")
    assert one.key != two.key
    assert one.status == two.status == "ok"
    assert (one.n_parameters, one.n_bytes) == (two.n_parameters, two.n_bytes)
    assert [name for name, _ in one.history.items()] == [name for name, _ in two.history.items()]
    np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-4)
    assert users.keys() == others.keys()
    for name, values in users.items():
        np.testing.assert_allclose(np.mean(values), np.mean(others[name]), atol=0.02, err_msg=name)
    assert two.estimated_peak_bytes == 2 * one.estimated_peak_bytes


def test_memory_and_processor_time_are_those_of_all(run):
    alone = f"os.environ['OMP_NUM_THREADS'] == '1' or first or exit(1)\n        {MEET}"
    spends = "if not first:\n            self.held = np.ones(50_000_000)\n            end = time.process_time() + 2\n"
    spends += "            while time.process_time() < end: pass\n"

    fit = run(f"{alone}\n        {spends}        {MEET}").phases["fit"]

    assert isinstance(fit, Phase)
    assert fit.cpu_seconds > 2
    assert fit.peak_rss_bytes > fit.start_rss_bytes + 390_000_000
    assert fit.start_rss_bytes > 200_000_000  # two processes with torch


@pytest.mark.parametrize(
    ("joules", "total"),
    [((5.0, None), 5.0), ((5.0, 3.0), 8.0), ((None, None), None), ((None, 3.0), None)],
    ids=["processors", "GPUs", "none", "the first unknown"],
)
def test_the_costs_of_the_processes_add_up(joules, total):
    first = Phase(wall_seconds=2, cpu_seconds=1, peak_rss_bytes=100, peak_device_bytes=None, energy_joules=joules[0])
    second = Phase(wall_seconds=3, cpu_seconds=4, peak_rss_bytes=20, peak_device_bytes=7, energy_joules=joules[1])

    assert summed([first, second]) == Phase(wall_seconds=2, cpu_seconds=5, peak_rss_bytes=120, energy_joules=total)
    assert summed([first]) == first


@pytest.mark.parametrize(
    ("first", "second", "status", "reason"),
    [
        (MEET, "raise ValueError('this part is wrong')", "error", "process 2 of 2: ValueError: this part is wrong"),
        (MEET, "os.kill(os.getpid(), 9)", "out_of_memory", "process 2 of 2: killed by SIGKILL"),
        (WAIT, "raise MemoryError('none left')", "out_of_memory", "process 2 of 2: MemoryError: none left"),
        (WAIT, "os._exit(3)", "error", "process 2 of 2: ended without a result (exit code 3)"),
    ],
)
def test_a_process_that_fails_ends_the_job_with_its_reason(run, first, second, status, reason):
    record = run(f"if first: {first}\n        else: {second}")

    assert record.status == status
    assert record.reason.startswith(reason)
    assert record.failed_phase == "fit"
    assert "load" in record.phases


def test_a_first_process_that_fails_ends_the_others(run, tmp_path):
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"

    record = run(f"if first: {MEET}; raise ValueError('the first')\n        {note}; {MEET}; time.sleep(600)")

    assert (record.status, record.reason) == ("error", "ValueError: the first")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_time_ends_all_processes(run, tmp_path):
    note = f"open({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'w').close()"

    record = run(f"{note}\n        while True: time.sleep(0.1)", timeout=25)

    assert record.status == "timeout"
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(timeout=10)


def test_each_process_has_its_part_of_the_memory(run):
    body = f"{MEET}; self.held = np.zeros(1_200_000_000 // 8)"

    record = run(body, max_memory="2GB")

    assert record.status == "out_of_memory"


def test_a_model_for_one_device_is_skipped(run):
    record = run("", more="")

    assert record.status == "skipped"
    assert record.reason == "cpu,cpu was asked for, but this model is trained on one device alone"


def test_a_fit_that_was_killed_goes_on_in_all_processes(data_file, plugin, tmp_path):
    body = BEGUN + (
        "kept = context.checkpoint.path\n"
        "        begun = int(kept.read_text()) if kept.exists() else 0\n"
        "        both = torch.tensor([begun, -begun]); distributed.all_reduce(both, distributed.ReduceOp.MAX)\n"
        "        assert both.tolist() == [begun, -begun]\n"
        "        for step in range(begun, 3):\n"
        f"            {MEET}\n"
        "            context.log('begun', step, begun)\n"
        "            if first: kept.write_text(str(step + 1)); context.checkpoint.written()\n"
        "            if begun == 0 and step == 1: time.sleep(600)\n"
    )
    path, store = plugin("odd", body=body, more=", is_parallel=True"), tmp_path / "s"
    command = [sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(store)]
    command += ["--plugin", path, "-m", "odd", "--device", "cpu,cpu", "--threads", "2"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(b"[1,0.0]]" in cost.read_bytes() for cost in store.glob(".work/checkpoint-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    assert len(family) == 2
    assert not psutil.wait_procs(family, timeout=10)[1]

    subprocess.run(command, check=True, capture_output=True)

    (record,) = Store(store).records()
    assert (record.status, record.n_resumptions) == ("ok", 1)
    assert record.history["begun"] == [[0, 0], [1, 0], [2, 2]]
    assert not list(Path(store, ".work").iterdir())
