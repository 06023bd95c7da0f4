"""A short soak loses nothing, and an audit finds whatever is lost."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
N_JOBS, N_SEEDS, TIMEOUT_SECONDS = 20, 1, 15

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """Return the folder that a soak has left, and what it printed."""
    folder = tmp_path_factory.mktemp("soak")
    size = ["--jobs", str(N_JOBS), "--timeout", str(TIMEOUT_SECONDS), "--seed", "0"]
    command = [sys.executable, str(HERE), *size, "--keep", str(folder), "--out", str(folder / "soak.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def bench(soaked, tmp_path, monkeypatch):
    """Return a copy of what the soak has left, to be damaged."""
    monkeypatch.syspath_prepend(HERE)
    store = shutil.copytree(soaked[0] / "disk" / "store", tmp_path / "store")
    bench = importlib.import_module("runners").Bench
    return bench(tmp_path, store, n_widths=N_JOBS - 2, n_seeds=N_SEEDS, timeout_seconds=TIMEOUT_SECONDS)


@pytest.fixture
def audit(bench):
    """Return the audit, which finds nothing before anything is damaged."""
    found = importlib.import_module("audit").audit
    assert (found(bench).lost, found(bench).doubled, found(bench).broken) == ([], [], {})
    return found


def one_file(bench, suffix):
    """Return the first file of a finished job."""
    return next(path for path in sorted(bench.files()) if path.suffix == suffix and path.with_suffix(".npz").exists())


def test_a_soak_loses_nothing_and_tells_every_fault(soaked):
    folder, told = soaked
    figures = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", told, re.MULTILINE))

    assert figures["jobs"] == str(N_JOBS)
    assert {figures[name] for name in ("lost", "doubled", "half-written", "temporary files left")} == {"0"}
    assert int(figures["records: ok"]) > N_JOBS / 2
    assert figures["records damaged at last"] == figures["of these, repaired by the run without faults"] != "0"
    kinds = [name for name in figures if name.startswith("fault: ") and name != "fault: disk full"]
    assert all(int(figures[kind]) >= 1 for kind in kinds)
    assert figures["fault: disk full"] == "1" or "lets nobody mount" in told
    assert (folder / "soak.md").read_text() == told


def test_an_audit_finds_a_lost_record(bench, audit):
    one_file(bench, ".json").unlink()

    assert len(audit(bench).lost) == 1
    assert list(audit(bench).broken.values()) == ["vectors without a record"]


def test_an_audit_finds_a_record_that_is_there_twice(bench, audit):
    path = one_file(bench, ".json")
    for file in (path, path.with_suffix(".npz")):
        shutil.copy(file, file.with_stem(file.stem[:-1] + "x"))

    assert len(audit(bench).doubled) == 1


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_an_audit_finds_a_file_that_is_half_written(bench, audit, suffix):
    path = one_file(bench, suffix)
    path.write_bytes(path.read_bytes()[:-1])

    assert list(audit(bench).broken) == [path]


def test_an_audit_finds_vectors_of_another_job(bench, audit):
    path, *others = [path for path in sorted(bench.files()) if path.suffix == ".npz"]
    path.write_bytes(next(o.read_bytes() for o in others if o.read_bytes() != path.read_bytes()))

    assert list(audit(bench).broken) == [path]


def test_an_audit_finds_what_lies_about_and_a_status_without_a_cause(bench, audit):
    path = one_file(bench, ".json")
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "out_of_memory"'))
    path.with_suffix(".npz").unlink()
    (bench.store / ".work" / "left").mkdir()
    path.with_name(f".{path.name}.part").touch()

    found = audit(bench)
    assert len(found.odd) == 1
    assert len(found.temporary) == 2
