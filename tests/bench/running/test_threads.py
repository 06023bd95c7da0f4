"""The cores that jobs divide are those that this process may keep busy, and its speed is that of a job's threads."""

from types import SimpleNamespace

import pytest

from recscale.measuring._cgroup import CgroupLimits
from recscale.measuring.machine import usable_cores
from recscale.running.display import Silent
from recscale.running.job import Request
from recscale.running.local_pool import LocalExecutor, ask
from recscale.running.ray_pool import connect
from recscale.running.runner import Runner, open_store
from recscale.running.suite import Suite, expand

NOTE_THREADS = """
from concurrent.futures import ThreadPoolExecutor

start = ThreadPoolExecutor.__init__

def noted(self, max_workers=None, *rest, **options):
    with open({path!r}, "w") as file:
        file.write(str(max_workers))
    start(self, max_workers, *rest, **options)

ThreadPoolExecutor.__init__ = noted
"""


@pytest.fixture
def _three_of_eight_cores(monkeypatch):
    """Have a container's quota be three cores of the eight that a process may run on."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("recscale.measuring.machine.cgroup_limits", lambda *root: CgroupLimits(cpus=3.0))


@pytest.mark.usefixtures("_three_of_eight_cores")
def test_jobs_divide_the_quota_of_the_container(tmp_path, data_file):
    suite = Suite(datasets=[{"file": {"path": str(data_file)}}], models=["popularity"])
    ((data, prepared),) = Runner(suite, open_store(tmp_path / "s"), Silent()).prepare()

    (job,) = expand(suite, data, prepared)

    assert job.n_threads == 3
    assert LocalExecutor(suite, tmp_path).n_cores == 3


@pytest.mark.usefixtures("_three_of_eight_cores")
def test_a_ray_of_our_own_has_the_quota_of_the_container():
    asked = {}

    connect(SimpleNamespace(init=lambda *address, **options: asked.update(options)), None)

    assert asked["num_cpus"] == 3


def test_the_speed_of_the_machine_is_measured_on_the_threads_of_a_job(tmp_path, monkeypatch):
    n_threads = usable_cores() + 1
    (tmp_path / "sitecustomize.py").write_text(NOTE_THREADS.format(path=str(tmp_path / "noted")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    ask(Request(task="calibrate"), tmp_path, n_threads=n_threads)

    assert (tmp_path / "noted").read_text() == str(n_threads)
