"""Jobs on a Ray cluster: the same records as on one machine, whatever is lost on the way."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

import recscale
from recscale.errors import DeviceUnavailable, MissingExtra, UsageError
from recscale.measuring.machine import machine_name
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.executor import load_ray
from recscale.running.ray_pool import RayExecutor, connect
from recscale.running.runner import Runner
from recscale.running.suite import Suite
from recscale.running.tune_options import TuneOptions
from recscale.running.tuning import Tuner

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
SMALL = {
    "num_cpus": 1,
    "object_store_memory": 80 * 10**6,
    "include_dashboard": False,
    "include_log_monitor": False,  # this and the next are processes that take a second to start
    "no_monitor": True,
}
OF_THIS_RUN = {"phases", "started_at", "calibration", "log_tail", "users_per_second", "peak_rss_bytes"}


def run(data_file, *plugins, store, **suite):
    models = suite.pop("models", [Path(p).stem for p in plugins])
    data = {"file": {"path": str(data_file)}}
    return recscale.run(data, store=store, progress=False, models=models, plugins=list(plugins), **suite)


@pytest.fixture(scope="module")
def node_cache(tmp_path_factory):
    """Return the folder of the nodes' own cache."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def cluster(node_cache):
    """Return a Ray cluster of one node with one CPU, which this process is connected to."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSCALE_CACHE", str(node_cache))
        made = Cluster(initialize_head=True, head_node_args=SMALL)
        before = signal.getsignal(signal.SIGTERM)
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
        made.shutdown()


def test_the_same_suite_gives_the_same_records(tmp_path, data_file, plugin, cluster):
    plugins, models = [plugin(name) for name in ("good", "raises", "allocates")], ["good[width=4,8]"]

    for name, executor in (("local", {}), ("ray", {"executor": "ray"})):
        wanted = [*models, "raises", "allocates"]
        run(data_file, *plugins, models=wanted, store=tmp_path / name, max_memory="2GB", threads=1, **executor)

    local, other = (Store(tmp_path / name) for name in ("local", "ray"))
    assert [r.status for r in other.records()] == ["out_of_memory", "ok", "ok", "error"]
    assert [told(record) for record in other.records()] == [told(record) for record in local.records()]
    for one, two in zip(local.records(), other.records(), strict=True):
        vectors = local.per_user(one)
        assert vectors.keys() == other.per_user(two).keys()
        assert all(np.array_equal(values, other.per_user(two)[name]) for name, values in vectors.items())
        assert two.calibration["gemm_gflops"] > 0
    assert not list((tmp_path / "ray" / ".work").iterdir())


def told(record):
    """Return what two runs of a job have in common."""
    fields = msgspec.to_builtins(record).items()
    kept = {name: value for name, value in fields if name not in OF_THIS_RUN and not name.endswith("_seconds")}
    return kept | {"phases": list(record.phases), "reason": (record.reason or "")[:40]}


@pytest.fixture
def processes(tmp_path):
    """Return the beginning of a fit that notes the process it runs in, and a function that returns those noted."""
    path = tmp_path / "processes"
    path.touch()
    return f"import os; open({str(path)!r}, 'a').write(f'{{os.getpid()}} ')", lambda: set(path.read_text().split())


def is_running(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(process)).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_job_whose_node_is_lost_runs_again_and_is_recorded_once(
    tmp_path, data_file, plugin, cluster, processes, gate
):
    (note, noted), (lost, waits) = processes, gate
    path = plugin("good", body=f"{note}\n        {waits}")
    node = cluster.add_node(**SMALL)

    def lose_the_node():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(noted()) < 2:
            time.sleep(0.05)
        begun = noted()
        cluster.remove_node(node, allow_graceful=False)
        while time.monotonic() < deadline and all(map(is_running, begun)):
            time.sleep(0.05)  # the node's worker outlives it by a moment, in which an open gate would let it answer
        lost.touch()

    killer = threading.Thread(target=lose_the_node)
    killer.start()
    frame = run(data_file, path, models=["good[width=1,2,3]"], store=tmp_path / "s", executor="ray")
    killer.join()

    assert frame["status"].tolist() == ["ok"] * 3
    assert len(noted()) == 4
    assert len(Store(tmp_path / "s").records()) == 3
    assert not Store(tmp_path / "s").unreadable


def test_a_job_that_is_lost_every_time_is_a_failure(tmp_path, data_file, plugin, cluster, processes):
    note, noted = processes
    kills = f"{note}; import signal; os.kill(os.getppid(), signal.SIGKILL)"

    frame = run(data_file, plugin("kills", body=kills), plugin("good"), store=tmp_path / "s", executor="ray")

    assert frame["status"].tolist() == ["error", "ok"]
    assert "Ray worker was lost" in frame["reason"][0]
    assert "3 times" in frame["reason"][0]
    assert len(noted()) == 3
    assert len(Store(tmp_path / "s").records()) == 2


def test_a_job_is_ended_when_its_time_is_over(tmp_path, data_file, plugin, cluster):
    frame = run(data_file, plugin("loops"), store=tmp_path / "s", executor="ray", timeout=4)

    assert frame["status"].tolist() == ["timeout"]
    assert 4 <= frame["job_wall_seconds"][0] < 60


def test_a_node_that_does_not_have_the_split_is_sent_it_once(tmp_path, data_file, plugin, cluster, node_cache):
    class Elsewhere(RayExecutor):
        """The driver of a cluster that does not share its file system: the same paths, other files."""

        def files_in(self, folder):
            return [msgspec.structs.replace(file, modified_ns=0) for file in super().files_in(folder)]

    data = {"file": {"path": str(data_file)}}
    suite = Suite(datasets=[data], models=["good[width=1,2]"], plugins=[plugin("good")], executor="ray")
    store = Store(tmp_path / "s", machine_name())
    runner = Runner(suite, store, Silent())
    ((_, prepared),) = runner.prepare()
    runner._executor = Elsewhere(suite, store.work_folder())
    records = runner.run()

    assert [record.status for record in records] == ["ok", "ok"]
    (placed,) = (node_cache / "placed").iterdir()
    assert (placed / "split.npz").read_bytes() == Path(prepared.split_path).read_bytes()


def test_trials_drawn_on_a_cluster_are_those_of_one_machine(tmp_path, data_file, trained, cluster):
    def tune(executor, options=TuneOptions(trials=3, workers=2)):
        data = {"file": {"path": str(data_file)}}
        suite = Suite(datasets=[data], models=["trained"], plugins=[trained], executor=executor)
        return Tuner(suite, Store(tmp_path / executor), Silent(), options).run()

    (local,), winners = tune("local")
    (other,), found = tune("ray")

    assert [t.key for t in other.trials] == [t.key for t in local.trials]
    assert [t.metrics for t in other.trials] == [t.metrics for t in local.trials]
    assert [record.metrics for record in found] == [record.metrics for record in winners]


def test_a_node_with_another_model_ends_the_run_and_records_nothing(tmp_path, data_file, plugin, cluster):
    path = Path(plugin("good"))
    suite = Suite(datasets=[{"file": {"path": str(data_file)}}], models=["good"], plugins=[str(path)], executor="ray")
    runner = Runner(suite, Store(tmp_path / "s"), Silent())
    plan = runner.plan()
    path.write_text(path.read_text() + "OTHER = 1\n")

    with pytest.raises(UsageError, match="does not have the model good as it is here"):
        runner.run_plan(plan)
    runner.close()
    assert Store(tmp_path / "s").records() == []


def test_a_job_gets_a_gpu_where_a_node_has_one(tmp_path, cluster):
    executor, both = RayExecutor(Suite(executor="ray"), tmp_path), ("cpu", "cuda")

    assert executor.device("auto", both) == executor.device("cpu", both) == executor.device("auto", ("cpu",)) == "cpu"
    with pytest.raises(DeviceUnavailable, match="no node of the Ray cluster has one"):
        executor.device("cuda", both)
    with pytest.raises(UsageError, match="ask for cuda"):
        executor.device("cuda:1", both)
    with pytest.raises(UsageError, match="ask for cuda, or for cuda:0,1, which are any 2 of a node"):
        executor.device("cuda:1,0", both)
    assert executor.device("cpu,cpu", both) == "cpu,cpu"
    node = cluster.add_node(**SMALL | {"num_cpus": 0}, num_gpus=1)
    assert executor.device("auto", both) == executor.device("cuda", both) == "cuda:0"
    with pytest.raises(DeviceUnavailable, match="no node of the Ray cluster has 2"):
        executor.device("cuda:0,1", both)
    assert executor.device("auto", ("cpu",)) == "cpu"
    cluster.remove_node(node)
    node = cluster.add_node(**SMALL | {"num_cpus": 0}, num_gpus=2)
    assert executor.device("cuda:0,1", both) == "cuda:0,1"
    cluster.remove_node(node)
    executor.close()


@needs_ray
def test_an_interrupt_keeps_what_is_finished_and_leaves_no_process_behind(tmp_path, data_file, plugin, processes, gate):
    (note, noted), (interrupted, waits) = processes, gate
    quick, slow = plugin("good"), plugin("slow", body=f"{note}\n        {waits}")
    command = [sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(tmp_path / "s")]
    command += ["--plugin", quick, "--plugin", slow, "-m", "good", "-m", "slow", "--executor", "ray"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and its children too
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    running = subprocess.Popen(command, **streams, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not noted() or not list((tmp_path / "s").rglob("good-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    told = running.communicate(timeout=180)[1]

    assert "interrupted: finished jobs are kept" in told
    assert running.returncode == 130
    assert len(family) > 3
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert [r.model for r in Store(tmp_path / "s").records()] == ["good"]
    assert not list((tmp_path / "s" / ".work").iterdir())
    interrupted.touch()
    run(data_file, quick, slow, store=tmp_path / "s")
    assert [(r.model, r.status) for r in Store(tmp_path / "s").records()] == [("good", "ok"), ("slow", "ok")]


def test_without_ray_the_extra_is_named(tmp_path, data_file, plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingExtra, match=r"pip install 'recscale\[ray\]'"):
        run(data_file, plugin("good"), store=tmp_path / "s", executor="ray")


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ({"ray_address": "auto"}, "--executor ray"),
        ({"threads": 4096}, "more than there are cores"),
        ({"threads": 0}, "at least one thread"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(tmp_path, data_file, plugin, suite, said):
    with pytest.raises(UsageError, match=said):
        run(data_file, plugin("good"), store=tmp_path / "s", **suite)


@needs_ray
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "--ray-address auto"),
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: "),
        ("somewhere", "expected auto or host:port"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line_with_the_remedy(address, said):
    with pytest.raises(UsageError, match=said) as caught:
        connect(load_ray(), address)

    assert "\n" not in str(caught.value)
