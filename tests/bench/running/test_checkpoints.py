"""A training that was killed goes on, and its record counts both parts."""

import os
import subprocess
import sys
import time

import msgspec
import pytest

import recscale
from recscale.measuring.budget import Budget
from recscale.measuring.machine import machine_name
from recscale.records.record import Phase
from recscale.records.store import Store
from recscale.running import process
from recscale.running.checkpoints import remove_old_checkpoints, spent_before, together
from recscale.running.job import Request, SpentBefore

# Counts to four in its checkpoint, and says from where; a first attempt waits at two for the kill.
BODY = """
        import time
        kept = context.checkpoint and context.checkpoint.path
        begun = int(kept.read_text()) if kept and kept.exists() else 0
        for step in range(begun, 4):
            if train.shape[0] == 64: break  # the warm-up
            time.sleep(0.3 if (begun, step) != (0, 2) else 600)
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


def killed_at_two(data_file, store, plugin_path):
    """Start a run, kill it when the second checkpoint is whole, and return the paths of checkpoint and cost."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command(data_file, store, plugin_path), **quiet)
    deadline = time.monotonic() + 120
    while not any(
        b'begun":[[0,0.0],[1,0.0]]' in path.read_bytes() for path in (store / ".work").glob("checkpoint-*.json")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.wait()
    time.sleep(0.2)  # the worker dies with its parent
    (checkpoint,), (cost,) = ((store / ".work").glob(f"checkpoint-*.{kind}") for kind in ("pt", "json"))
    return checkpoint, cost


def spend(cost, seconds):
    """Make a fit that was killed have taken longer."""
    spent = msgspec.json.decode(cost.read_bytes(), type=SpentBefore)
    fit = msgspec.structs.replace(spent.fit, wall_seconds=seconds)
    cost.write_bytes(msgspec.json.encode(msgspec.structs.replace(spent, fit=fit)))


def test_a_killed_training_goes_on_from_its_checkpoint_and_both_parts_count(tmp_path, data_file, counting):
    store = tmp_path / "s"
    killed_at_two(data_file, store, counting)
    assert not Store(store).records()

    subprocess.run(command(data_file, store, counting), check=True, capture_output=True)

    (record,) = Store(store).records()
    assert record.status == "ok" and record.n_resumptions == 1
    assert record.history["begun"] == [[0, 0], [1, 0], [2, 2], [3, 2]]
    assert record.phases["fit"].wall_seconds >= 4 * 0.3
    assert record.phases["fit"].energy_joules is None
    assert not [told for told in record.warnings if told.startswith("the fit went on")]
    assert not list((store / ".work").iterdir())


def test_a_fit_that_goes_on_on_another_machine_says_so(tmp_path, data_file, counting):
    store = tmp_path / "s"
    _, cost = killed_at_two(data_file, store, counting)
    spent = msgspec.json.decode(cost.read_bytes(), type=SpentBefore)
    cost.write_bytes(msgspec.json.encode(msgspec.structs.replace(spent, machine="pdp-11", n_threads=64)))

    subprocess.run(command(data_file, store, counting), check=True, capture_output=True)

    (record,) = Store(store).records()
    told = [told for told in record.warnings if told.startswith("the fit went on")]
    assert told[0].endswith("threads after 64")
    assert told[1].endswith(f"{machine_name()} after pdp-11: its time is of both")


def test_a_training_that_was_not_killed_was_never_resumed_and_leaves_no_checkpoint(tmp_path, data_file, plugin):
    frame = recscale.run(
        {"file": {"path": str(data_file)}},
        models=["counts"],
        plugins=[plugin("counts", body=BODY.replace("600", "0"))],
        store=tmp_path / "s",
        progress=False,
    )

    assert frame["status"].tolist() == ["ok"] and frame["n_resumptions"].tolist() == [0]
    assert not list((tmp_path / "s" / ".work").iterdir())


def test_what_was_spent_before_a_kill_counts_against_the_limit_and_a_longer_one_goes_on(tmp_path, data_file, plugin):
    body = BODY.replace("context.checkpoint.written()", "context.checkpoint.written(); context.progress(step, 4)")
    store, path = tmp_path / "s", plugin("counts", body=body)
    _, cost = killed_at_two(data_file, store, path)
    spend(cost, 1000.0)

    subprocess.run([*command(data_file, store, path), "--timeout", "900"], capture_output=True, check=True)
    (short,) = Store(store).records()
    subprocess.run([*command(data_file, store, path), "--timeout", "3000"], capture_output=True, check=True)
    (long,) = Store(store).records()

    assert (short.status, short.failed_phase, short.n_resumptions) == ("timeout", "fit", 1)
    assert short.phases["fit"].wall_seconds > 1000
    assert (long.status, long.n_resumptions) == ("ok", 2)
    assert long.phases["fit"].wall_seconds > 1000
    assert not list((store / ".work").iterdir())


def test_a_model_that_never_looks_at_the_time_has_no_more_of_it_after_a_kill(tmp_path, data_file, plugin, monkeypatch):
    monkeypatch.setattr(process, "LEAST_SECONDS", 0.0)
    store, path = tmp_path / "s", plugin("counts", body=BODY)
    checkpoint, cost = killed_at_two(data_file, store, path)
    spend(cost, 1000.0)
    request = Request(task="calibrate", limits=Budget(timeout_seconds=900.0), checkpoint=str(checkpoint))

    worker = process.WorkerProcess(request, tmp_path)
    worker.started -= process.GRACE_SECONDS + 0.1  # as if the time of grace were over

    worker.is_done()
    assert worker.outcome()["status"] == "timeout"
    worker.close()


def test_a_refused_job_keeps_its_checkpoint(tmp_path, data_file, plugin):
    more = ", estimate=lambda model, shape: __import__('recscale').contract.Estimate(10**9, 10)"
    store, path = tmp_path / "s", plugin("counts", body=BODY, more=more)
    checkpoint, _ = killed_at_two(data_file, store, path)

    subprocess.run([*command(data_file, store, path), "--max-memory", "500MB"], capture_output=True, check=True)

    (record,) = Store(store).records()
    assert record.status == "refused"
    assert checkpoint.exists()


def test_a_checkpoint_without_its_cost_is_removed_and_the_fit_begins_again(tmp_path):
    whole = SpentBefore(
        fit=Phase(wall_seconds=1, cpu_seconds=1), history={}, n_resumptions=0, n_threads=1, written_ns=5
    )
    for content in (None, b"{", b"{}", msgspec.json.encode(whole)):  # the last is that of another checkpoint
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
