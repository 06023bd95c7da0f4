"""A training that was killed goes on, and its record counts both parts."""

import os
import subprocess
import sys
import time

import msgspec
import pytest

import recscale
from recscale.records.record import Phase
from recscale.records.store import Store
from recscale.running.checkpoints import remove_old_checkpoints, spent_before, together
from recscale.running.job import SpentBefore

# Counts to four in its checkpoint, a second each; says with what it began and what it was told.
BODY = """
        import time
        kept = context.checkpoint and context.checkpoint.path
        begun = int(kept.read_text()) if kept and kept.exists() else 0
        for step in range(begun, 4):
            if train.shape[0] == 64: break  # the warm-up
            time.sleep(0.5)
            context.log("begun", step, begun)
            kept.write_text(str(step + 1))
            context.checkpoint.written()
        assert train.shape[0] != 64 or context.checkpoint is None"""


@pytest.fixture
def counting(plugin):
    return plugin("counts", body=BODY)


def command(data_file, store, plugin_path):
    return [
        sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(store),
        "--plugin", plugin_path, "-m", "counts",
    ]  # fmt: skip


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_training_goes_on_from_its_checkpoint_and_both_parts_count(tmp_path, data_file, counting):
    store = tmp_path / "s"
    work = store / ".work"
    running = subprocess.Popen(
        command(data_file, store, counting), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(path.read_text() == "2" for path in work.glob("checkpoint-*.pt")))
    running.kill()
    running.wait()
    time.sleep(0.2)  # the worker dies with its parent
    assert not Store(store).records()

    subprocess.run(command(data_file, store, counting), check=True, capture_output=True)

    (record,) = Store(store).records()
    assert record.status == "ok" and record.n_resumptions == 1
    assert [step for step, _ in record.history["begun"]] == [0, 1, 2, 3]
    assert [begun for _, begun in record.history["begun"]][-2:] == [record.history["begun"][-1][1]] * 2
    assert record.history["begun"][-1][1] in (2, 3)
    assert record.phases["fit"].wall_seconds >= 4 * 0.5
    assert record.phases["fit"].energy_joules is None
    assert not list(work.iterdir())


def test_a_training_that_was_not_killed_was_never_resumed_and_leaves_no_checkpoint(tmp_path, data_file, counting):
    frame = recscale.run(
        {"file": {"path": str(data_file)}}, models=["counts"], plugins=[counting], store=tmp_path / "s", progress=False
    )

    assert frame["status"].tolist() == ["ok"] and frame["n_resumptions"].tolist() == [0]
    assert not list((tmp_path / "s" / ".work").iterdir())


def test_what_was_spent_before_a_kill_counts_against_the_time_limit(tmp_path, data_file, plugin):
    body = BODY.replace("context.checkpoint.written()", "context.checkpoint.written(); context.progress(step, 4)")
    store, path = tmp_path / "s", plugin("counts", body=body)
    running = subprocess.Popen(command(data_file, store, path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(file.read_text() == "2" for file in (store / ".work").glob("checkpoint-*.pt")))
    running.kill()
    running.wait()
    (kept,) = (store / ".work").glob("checkpoint-*.json")
    spent = msgspec.json.decode(kept.read_bytes(), type=SpentBefore)
    long_ago = msgspec.structs.replace(spent.fit, wall_seconds=1000.0)
    kept.write_bytes(msgspec.json.encode(msgspec.structs.replace(spent, fit=long_ago)))

    done = subprocess.run([*command(data_file, store, path), "--timeout", "900"], capture_output=True, check=False)

    (record,) = Store(store).records()
    assert done.returncode == 0
    assert (record.status, record.failed_phase) == ("timeout", "fit")


def test_a_checkpoint_without_its_cost_is_removed_and_the_fit_begins_again(tmp_path):
    for content in (None, b"{", b"{}"):
        checkpoint = tmp_path / "checkpoint-1.pt"
        checkpoint.write_text("1")
        if content is not None:
            checkpoint.with_suffix(".json").write_bytes(content)

        assert spent_before(checkpoint) is None
        assert not list(tmp_path.iterdir())


def test_old_checkpoints_are_deleted_and_nothing_else(tmp_path):
    month_ago = time.time() - 40 * 86_400
    for name in ("checkpoint-old.pt", "checkpoint-old.json", "checkpoint-new.pt", "other"):
        (tmp_path / name).touch()
    for name in ("checkpoint-old.pt", "checkpoint-old.json", "other"):
        os.utime(tmp_path / name, (month_ago, month_ago))

    remove_old_checkpoints(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-new.pt", "other"]


def test_two_phases_cost_the_sum_of_their_times_and_the_larger_of_their_peaks():
    own = Phase(wall_seconds=1, cpu_seconds=2, start_rss_bytes=5, peak_rss_bytes=7, energy_joules=3)
    before = Phase(wall_seconds=10, cpu_seconds=20, start_rss_bytes=4, peak_rss_bytes=6, peak_device_bytes=8)

    both = together(own, before)

    assert (both.wall_seconds, both.cpu_seconds, both.start_rss_bytes) == (11, 22, 4)
    assert (both.peak_rss_bytes, both.peak_device_bytes) == (7, 8)
    assert both.energy_joules is None
