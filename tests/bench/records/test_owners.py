"""What dead processes have left is removed, and nothing else."""

import os
import subprocess
import sys

import pytest

from recscale.records.owners import owner_mark, remove_abandoned

PRINT_MARK = "from recscale.records.owners import owner_mark; print(owner_mark(), flush=True)"


def mark_of_another(*, alive):
    """Return the mark of a process, and the process, which waits for its input to end if it is to live."""
    code = PRINT_MARK + ("; input()" if alive else "")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    mark = process.stdout.readline().strip()
    if not alive:
        process.communicate()
    return mark, process


@pytest.mark.parametrize("alive", [True, False])
def test_files_and_folders_stay_as_long_as_their_process_lives(tmp_path, alive):
    mark, process = mark_of_another(alive=alive)
    (tmp_path / f"{mark}-record.json").write_text("half a rec")
    (tmp_path / f"{mark}-job").mkdir()
    (tmp_path / f"{mark}-job" / "log.txt").touch()
    (tmp_path / f"{owner_mark()}-own").mkdir()
    (tmp_path / "checkpoint-abc.pt").touch()

    remove_abandoned(tmp_path)
    if alive:
        process.communicate()

    expected = [f"{mark}-record.json", f"{mark}-job"] if alive else []
    assert {p.name for p in tmp_path.iterdir()} == {*expected, f"{owner_mark()}-own", "checkpoint-abc.pt"}


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    boot, pid, start = owner_mark().split("-")
    assert int(pid) == os.getpid()
    (tmp_path / f"{boot}-{pid}-{int(start) - 1}-job").mkdir()

    remove_abandoned(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_files_of_another_container_stay_whatever_runs_under_its_numbers_here(tmp_path):
    boot, pid, start = owner_mark().split("-")
    kernel, _, namespace = boot.rpartition(".")
    of_another = f"{kernel}.{int(namespace) + 1}-{pid}-{int(start) - 1}-job"
    (tmp_path / of_another).mkdir()

    remove_abandoned(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [of_another]


def test_a_process_in_a_container_of_its_own_has_another_mark(tmp_path):
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
        sys.executable,
        "-c",
        PRINT_MARK,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode != 0:
        pytest.skip(f"no namespace can be made here: {done.stderr.strip()}")
    mark = done.stdout.strip()
    (tmp_path / f"{mark}-job").mkdir()

    remove_abandoned(tmp_path)

    assert mark.split("-")[0] != owner_mark().split("-")[0]
    assert [path.name for path in tmp_path.iterdir()] == [f"{mark}-job"]
