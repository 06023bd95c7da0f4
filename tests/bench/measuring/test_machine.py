import getpass
import json
import platform
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from recscale.errors import DeviceUnavailable, UsageError
from recscale.measuring.machine import (
    calibrate,
    confirm_device,
    each_device,
    fingerprint,
    machine_name,
    source_commit,
    torch_device,
    usable_cores,
    versions,
)

BOTH = ("cpu", "cuda")
CHOOSE = """
from recscale.errors import RecscaleError
from recscale.measuring import machine
import importlib.metadata
importlib.metadata.version = lambda package: {version!r}
try:
    print(machine.torch_device({requested!r}, {allowed!r}))
except RecscaleError as error:
    print(type(error).__name__, error)
"""


def test_the_fingerprint_tells_the_machine_and_can_be_written_as_json():
    facts = fingerprint()

    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert 1 <= facts["usable_cores"] <= facts["logical_cores"]
    assert facts["memory_bytes"] > 2**28
    assert facts["python"] == platform.python_version()


def test_the_fingerprint_names_no_host_no_user_and_no_path():
    facts = fingerprint()

    words = set(re.findall(r"[\w.-]+", json.dumps(facts)))
    assert platform.node() not in words
    assert getpass.getuser() not in words
    assert not any("/home" in str(value) or "/root" in str(value) for value in facts.values())


def test_the_name_of_a_machine_is_fit_for_a_folder():
    name = machine_name()

    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert re.search(rf"-{usable_cores()}c-\d+g", name)


@pytest.mark.parametrize(
    ("model", "n_gpus", "name"),
    [
        ("AMD EPYC", 0, "amd-epyc-2c-24g"),
        ("AMD EPYC 7763 64-Core Processor", 0, "amd-epyc-7763-2c-24g"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", 0, "intel-xeon-platinum-8481c-2c-24g"),
        ("AMD Ryzen 7 5800H with Radeon Graphics", 0, "amd-ryzen-7-5800h-2c-24g"),
        ("AMD EPYC", 1, "amd-epyc-2c-24g-nvidia-h200"),
        ("AMD EPYC", 2, "amd-epyc-2c-24g-2x-nvidia-h200"),
    ],
)
def test_the_name_of_a_machine_keeps_what_matters_of_its_parts(monkeypatch, model, n_gpus, name):
    gpus = [{"name": "NVIDIA H200", "memory_bytes": None}] * n_gpus
    facts = {"cpu": model, "usable_cores": 2, "memory_bytes": 25_276_514_304, "gpus": gpus}
    monkeypatch.setattr("recscale.measuring.machine.fingerprint", lambda: facts)

    assert machine_name() == name


def test_gpus_stay_in_the_fingerprint_when_they_are_hidden_from_a_job(run_with_gpus):
    done = run_with_gpus(
        "from recscale.measuring.machine import fingerprint; print(fingerprint()['gpus'])", CUDA_VISIBLE_DEVICES=""
    )

    assert done.stdout == f"{[{'name': 'NVIDIA H100 80GB HBM3', 'memory_bytes': 80_000_000_000}] * 2}\n", done.stderr


def test_versions_are_those_of_the_packages_and_of_the_blas():
    found = versions()

    assert {"recscale", "numpy", "scipy", "blas"} <= found.keys()
    assert all(re.search(r"\d", version) for version in found.values())


def test_versions_are_found_without_importing_the_packages(run_fresh):
    done = run_fresh(
        """
        import sys
        from recscale.measuring import budget, energy, gpu, latency, machine, meter, size
        machine.versions()
        print(sorted({"torch", "implicit", "numba", "sklearn", "pandas", "pynvml"} & sys.modules.keys()))
        """
    )

    assert done.stdout == "[]\n", done.stderr


def test_a_calibration_gives_finite_speeds():
    speeds = calibrate(seconds=0.01)

    assert set(speeds) == {"gemm_gflops", "read_gb_per_second", "first_touch_gb_per_second"}
    assert all(0 < speed < float("inf") for speed in speeds.values())


@pytest.mark.parametrize(
    ("version", "files", "cores"),
    [
        ("0::/box\n", {"box/cpu.max": "150000 100000"}, 1),
        ("0::/box\n", {"box/cpu.max": "20000 100000"}, 1),
        ("0::/box\n", {"box/cpu.max": "max 100000"}, None),
        ("0::/host/path\n", {"cpu.max": "100000 100000"}, 1),
        ("4:cpu,cpuacct:/box\n", {"cpu,cpuacct/box/cpu.cfs_quota_us": "100000"}, 1),
        ("4:cpu:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1"}, None),
        ("", {}, None),
    ],
)
def test_usable_cores_obey_the_quota_of_the_container(tmp_path, version, files, cores):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(version)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("quota_us"):
            path.with_name("cpu.cfs_period_us").write_text("100000")

    assert usable_cores(tmp_path) == (cores or usable_cores(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("requested", "allowed", "device"),
    [
        ("auto", BOTH, "cuda:0"),
        ("auto", ("cpu",), "cpu"),
        ("auto", ("cuda",), "cuda:0"),
        ("cpu", BOTH, "cpu"),
        ("cuda", BOTH, "cuda:0"),
        ("cuda:1", BOTH, "cuda:1"),
        ("cuda:2", BOTH, "DeviceUnavailable no GPU for this job: cuda:2 was asked for, and the last one is cuda:1"),
        ("cuda", ("cpu",), "DeviceUnavailable cuda was asked for, but this model runs on cpu alone"),
        ("cpu", ("cuda",), "DeviceUnavailable cpu was asked for, but this model runs on cuda alone"),
    ],
)
def test_with_two_gpus_a_job_runs_where_it_was_asked_to_or_not_at_all(run_with_gpus, requested, allowed, device):
    code = CHOOSE.format(version="2.8.0", requested=requested, allowed=allowed)
    done = run_with_gpus(code, CUDA_VISIBLE_DEVICES="0,1")

    assert done.stdout == f"{device}\n", done.stderr


def test_gpus_that_are_hidden_are_not_used_and_the_reason_says_so(run_with_gpus):
    code = CHOOSE.format(version="2.8.0", requested="cuda", allowed=BOTH)
    done = run_with_gpus(code, CUDA_VISIBLE_DEVICES="")

    assert done.stdout == "DeviceUnavailable no GPU for this job: CUDA_VISIBLE_DEVICES='' hides all\n", done.stderr


def test_a_torch_without_cuda_is_the_reason_why_a_gpu_is_not_used(run_with_gpus):
    code = CHOOSE.format(version="2.8.0+cpu", requested="cuda", allowed=BOTH)
    done = run_with_gpus(code, CUDA_VISIBLE_DEVICES="0")

    assert "the installed torch (2.8.0+cpu) is built without CUDA" in done.stdout, done.stderr


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("recscale.measuring.machine.all_gpus", list)


def test_without_a_gpu_auto_is_the_processor(no_gpu):
    assert torch_device("auto", BOTH) == "cpu"


@pytest.mark.parametrize(("requested", "allowed"), [("cuda", BOTH), ("cuda:0", BOTH), ("auto", ("cuda",))])
def test_without_a_gpu_what_needs_one_is_not_run_elsewhere(no_gpu, requested, allowed):
    with pytest.raises(DeviceUnavailable, match="no NVIDIA driver with a GPU was found"):
        torch_device(requested, allowed)


@pytest.mark.parametrize(
    "requested", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "mps", "auto,auto", "cuda,cuda", "cuda:0,", "cpu:0,1"]
)
def test_a_device_that_does_not_exist_is_a_usage_error(requested):
    with pytest.raises(UsageError, match="expected auto, cpu, cuda, cuda:N, or several"):
        torch_device(requested, BOTH)


def test_several_gpus_must_all_be_there(run_with_gpus):
    code = CHOOSE.format(version="2.8.0", requested="cuda:1,0", allowed=BOTH)
    done = run_with_gpus(code)
    assert done.stdout == "cuda:1,0\n", done.stderr

    code = CHOOSE.format(version="2.8.0", requested="cuda:0,1,2", allowed=BOTH)
    done = run_with_gpus(code)
    assert "cuda:2 was asked for, and the last one is cuda:1" in done.stdout, done.stderr


def test_a_gpu_is_for_one_process():
    with pytest.raises(UsageError, match="cuda:0,1,0 names a GPU twice"):
        torch_device("cuda:0,1,0", BOTH)


def test_several_devices_are_told_apart():
    assert torch_device("cpu,cpu", BOTH) == "cpu,cpu"
    assert each_device("cpu,cpu") == ["cpu", "cpu"]
    assert each_device("cuda:0,2") == ["cuda:0", "cuda:2"]
    assert each_device("cuda:1") == ["cuda:1"]


def fake_torch(n_gpus):
    cuda = SimpleNamespace(is_available=lambda: n_gpus > 0, device_count=lambda: n_gpus)
    return SimpleNamespace(cuda=cuda, __version__="2.8.0")


def test_torch_confirms_a_device_that_it_sees():
    confirm_device("cpu")
    confirm_device("cuda:1", fake_torch(n_gpus=2))

    with pytest.raises(DeviceUnavailable, match="torch sees 2 GPUs"):
        confirm_device("cuda:2", fake_torch(n_gpus=2))
    with pytest.raises(DeviceUnavailable, match="cannot use CUDA here"):
        confirm_device("cuda:0", fake_torch(n_gpus=0))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a git repository with one committed file."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name, value in (("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")):
        monkeypatch.setenv(name, value)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run from a hook
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init")
    (tmp_path / "model.py").write_text("one")
    git(tmp_path, "add", "model.py")
    git(tmp_path, "commit", "--message", "one")
    return tmp_path


def git(folder, *words):
    who = ["-c", "user.name=one", "-c", "user.email=one@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_named_with_a_plus_where_tracked_files_differ(repository):
    head = git(repository, "rev-parse", "HEAD")[:10]
    assert source_commit(repository) == head

    (repository / "untracked").write_text("no matter")
    git(repository, "tag", "v1")
    assert source_commit(repository) == head
    (repository / "model.py").write_text("two")
    assert source_commit(repository) == f"{head}+"
    git(repository, "add", "model.py")
    assert source_commit(repository) == f"{head}+"


def test_a_commit_is_found_from_a_folder_below_and_from_the_working_directory(repository, monkeypatch):
    (repository / "below").mkdir()
    monkeypatch.chdir(repository / "below")

    assert source_commit() == source_commit(repository)


def test_without_git_a_repository_or_a_commit_there_is_no_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source_commit(tmp_path) is None
    assert source_commit(tmp_path / "missing") is None
    if shutil.which("git"):
        git(tmp_path, "init")
        assert source_commit(tmp_path) is None

    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit(tmp_path) is None


def test_a_git_that_hangs_is_not_waited_for(repository, monkeypatch):
    def hang(words, *, timeout, **others):
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", hang)

    assert source_commit(repository) is None
