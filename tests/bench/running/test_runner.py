"""Every job ends as a record, whatever its model does."""

import io
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

import recscale
from recscale.errors import StoreError
from recscale.records.store import Store
from recscale.running import local_pool
from recscale.running.display import Lines, Silent
from recscale.running.runner import Runner, open_store
from recscale.running.suite import Suite


def run(data_file, *plugins, store, **suite):
    models = [Path(p).stem for p in plugins]
    return recscale.run(
        {"file": {"path": str(data_file)}}, store=store, progress=False, models=models, plugins=list(plugins), **suite
    )


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("raises", "error", "ValueError: this model is wrong"),
        ("allocates", "out_of_memory", ""),
        ("loops", "timeout", ""),
        ("overruns", "timeout", "time budget"),
        ("segfaults", "error", "SIGSEGV"),
        ("killed", "out_of_memory", "SIGKILL"),
        ("exits", "error", "exit code 3"),
        ("nan", "error", "NaN"),
    ],
)
def test_a_failure_is_a_record_and_the_next_job_runs(tmp_path, data_file, plugin, enough_seconds, name, status, reason):
    seconds = enough_seconds if status == "timeout" else 60  # a busy machine takes long to start a process
    frame = run(data_file, plugin(name), plugin("good"), store=tmp_path / "s", timeout=seconds, max_memory="2GB")

    assert frame["status"].tolist() == [status, "ok"]
    assert reason in frame["reason"][0]
    assert frame["failed_phase"][0] in ("fit", "warm-up", "score")
    assert len(Store(tmp_path / "s").records()) == 2


def test_what_is_logged_and_no_finite_number_is_left_out(tmp_path, data_file, plugin):
    logs = "for step, loss in enumerate((0.5, np.nan, np.inf, 0.25)): context.log('loss', step, loss)"
    frame = run(data_file, plugin("good", body=logs), store=tmp_path / "s")

    assert frame["status"].tolist() == ["ok"]
    (record,) = Store(tmp_path / "s").records()
    assert record.history == {"loss": [[0, 0.5], [3, 0.25]]}


def test_an_outcome_that_fits_no_record_is_a_failure_and_the_next_job_runs(tmp_path, data_file, plugin):
    odd = plugin("odd", body="context.log('loss', float('nan'), 1.0)")  # a step that JSON has no word for
    frame = run(data_file, odd, plugin("good"), store=tmp_path / "s")

    assert frame["status"].tolist() == ["error", "ok"]
    assert frame["reason"][0].startswith("what the worker wrote is no record: ")
    assert len(Store(tmp_path / "s").records()) == 2


def test_the_log_in_a_record_names_no_place_of_the_installation(tmp_path, data_file, plugin):
    run(data_file, plugin("nan"), store=tmp_path / "s")

    (record,) = Store(tmp_path / "s").records()
    assert any("recscale/evaluation/" in line for line in record.log_tail)
    assert str(Path(recscale.__file__).parent) not in "".join(record.log_tail)


def test_a_model_that_prints_garbage_everywhere_is_measured_all_the_same(tmp_path, data_file, plugin):
    frame = run(data_file, plugin("garbage"), store=tmp_path / "s")

    assert frame["status"].tolist() == ["ok"]


def test_what_a_model_had_to_change_stands_in_its_record_once_and_nothing_else(tmp_path, data_file, plugin):
    body = (
        "import warnings; from recscale.errors import FitWarning\n"
        "        for _ in range(2): warnings.warn('beta raised to 3', FitWarning)\n"
        "        warnings.warn('something else')"
    )
    run(data_file, plugin("warns", body=body), store=tmp_path / "s")

    (record,) = Store(tmp_path / "s").records()
    assert record.warnings == ["beta raised to 3", *record.warnings[1:]]
    assert not any("beta" in line or "something" in line for line in record.warnings[1:])


def test_a_record_says_what_was_measured(tmp_path, data_file, plugin):
    row = run(data_file, plugin("good"), store=tmp_path / "s").iloc[0]

    assert (row["n_parameters"], row["n_bytes"]) == (20, 80)
    assert row["disk_bytes"] > 80
    assert 0 < row["ndcg@100"] <= 1
    assert row["fit_peak_rss_bytes"] >= row["fit_start_rss_bytes"] > 0
    assert row["latency_p99_seconds"] >= row["latency_median_seconds"] > 0
    assert row["users_per_second"] > 0
    assert row["calibration"]["gemm_gflops"] > 0
    assert row["device_used"] == "cpu"
    assert row["n_test_users"] + row["dropped_users"] == 6


def test_runs_of_one_process_share_the_speed_of_the_machine_for_a_while(tmp_path, data_file, plugin, monkeypatch):
    def measured(store):
        return run(data_file, plugin("good"), store=tmp_path / store).iloc[0]["calibration"]

    first, second = measured("one"), measured("two")
    monkeypatch.setattr(local_pool, "CALIBRATION_HOLDS_SECONDS", 0.0)
    third = measured("three")

    assert first == second
    assert first.keys() == third.keys() and first != third


def test_finished_jobs_are_not_repeated_and_failed_ones_when_asked(tmp_path, data_file, plugin):
    plugins = (plugin("good"), plugin("raises"))
    first = run(data_file, *plugins, store=tmp_path / "s")
    second = run(data_file, *plugins, store=tmp_path / "s")
    third = run(data_file, *plugins, store=tmp_path / "s", overwrite="failed")

    assert first["started_at"].tolist() == second["started_at"].tolist()
    assert third["key"].tolist() == first["key"].tolist()
    assert third["fit_wall_seconds"][0] == first["fit_wall_seconds"][0]
    assert third["fit_wall_seconds"][1] != first["fit_wall_seconds"][1]


def test_what_another_machine_finished_counts_where_it_may_and_what_failed_there_runs_here(tmp_path, data_file, plugin):
    plugins = (plugin("good"), plugin("raises"))
    first = run(data_file, *plugins, store=tmp_path / "s")
    (own,) = tmp_path.glob("s/[!.]*")
    own.rename(tmp_path / "s" / "another-machine")
    counted = run(data_file, *plugins, store=tmp_path / "s", any_machine=True)
    made_here = [path.stem.split("-")[0] for path in own.rglob("*.json")]
    anew = run(data_file, *plugins, store=tmp_path / "s")

    assert counted["fit_wall_seconds"][0] == first["fit_wall_seconds"][0] != anew["fit_wall_seconds"][0]
    assert counted["fit_wall_seconds"][1] == anew["fit_wall_seconds"][1] != first["fit_wall_seconds"][1]
    assert made_here == ["raises"]


def test_another_metric_is_measured_beside_those_that_a_finished_record_has(tmp_path, data_file, plugin):
    path = plugin("good")
    first = run(data_file, path, store=tmp_path / "s")
    for metrics in (["ndcg@10"], ["recall@5"]):
        run(data_file, path, store=tmp_path / "s", metrics=metrics)

    (record,) = Store(tmp_path / "s").records()
    assert {"ndcg@10", "recall@5"} <= set(record.metrics)
    assert set(record.metrics) - {"ndcg@10", "recall@5"} == {c for c in first if c in record.metrics}
    by_user = set(Store(tmp_path / "s").per_user(record))
    assert {"ndcg@10", "recall@5", "ndcg@100"} <= by_user
    assert "prediction_coverage" in set(record.metrics) - by_user


def test_a_claim_is_freed_where_a_job_cannot_be_started(tmp_path, data_file, plugin, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    path = plugin("good")
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "_start", stop)
        with pytest.raises(KeyboardInterrupt) as held:  # a notebook keeps what it shows
            run(data_file, path, store=tmp_path / "s")

    assert run(data_file, path, store=tmp_path / "s")["status"].tolist() == ["ok"] and held


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_job_whose_file_is_damaged_runs_again_and_that_is_said(tmp_path, data_file, plugin, suffix):
    path = plugin("good")
    first = run(data_file, path, store=tmp_path / "s")
    (file,) = (tmp_path / "s").rglob(f"good-*{suffix}")
    file.write_bytes(file.read_bytes()[:200])

    command = [sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(tmp_path / "s")]
    told = subprocess.run([*command, "--plugin", path, "-m", "good"], check=True, capture_output=True, text=True).stderr

    (record,) = Store(tmp_path / "s").records()
    assert f"{file.name} cannot be read" in told
    assert record.phases["fit"].wall_seconds != first["fit_wall_seconds"][0]
    assert list(Store(tmp_path / "s").per_user(record)["ndcg@100"].shape) == [record.n_test_users]


def test_a_result_that_cannot_be_written_ends_the_run_and_is_no_failure_of_the_job(tmp_path, data_file, plugin):
    full = plugin("full", body="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))")

    with pytest.raises(StoreError, match="cannot be written: file too large; finished jobs are kept"):
        run(data_file, plugin("good"), full, store=tmp_path / "s")

    assert [(r.model, r.status) for r in Store(tmp_path / "s").records()] == [("good", "ok")]
    assert not list((tmp_path / "s" / ".work").iterdir())


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
LARGE = "self.counts_ = np.zeros((100_000, self.counts_.size), np.float32)"


@pytest.mark.parametrize(
    "body",
    [
        f"{FULL.format(2**20)}; {LARGE}",  # for the saved model
        f"{FULL.format(2**11)}",  # for the vectors of users
        f"{FULL.format(2**10)}; context.checkpoint.path.write_bytes(bytes(2**20))",  # for what a training keeps
    ],
)
def test_a_disk_that_is_full_for_part_of_a_job_ends_the_run_too(tmp_path, data_file, plugin, body):
    with pytest.raises(StoreError, match=r"\.work cannot be written: file too large; finished jobs are kept"):
        run(data_file, plugin("full", body=body), store=tmp_path / "s")

    assert Store(tmp_path / "s").records() == []


def test_a_model_that_finds_no_room_elsewhere_has_failed(tmp_path, data_file, plugin):
    frame = run(data_file, plugin("full", body="raise OSError(28, 'No space left on device')"), store=tmp_path / "s")

    assert frame["status"].tolist() == ["error"]


def test_a_split_that_changes_between_plan_and_run_ends_the_run_and_is_no_failure_of_the_job(
    tmp_path, data_file, plugin
):
    suite = Suite(datasets=[{"file": {"path": str(data_file)}}], models=["good"], plugins=[plugin("good")])
    runner = Runner(suite, open_store(tmp_path / "s"), Silent())
    plan = runner.plan()
    (job,) = plan.jobs
    other = msgspec.structs.replace(job.prepared, split_fingerprint="of another split")

    with pytest.raises(StoreError, match=r"the cached split of .* has changed since the job was planned; .* run the"):
        runner.run_plan(replace(plan, jobs=[msgspec.structs.replace(job, prepared=other)]))

    assert Store(tmp_path / "s").records() == []


def test_a_changed_model_is_another_job(tmp_path, data_file, plugin):
    first = run(data_file, plugin("good"), store=tmp_path / "s")
    changed = run(data_file, plugin("good", body="self.scale = 2.0"), store=tmp_path / "s")

    assert first["key"][0] != changed["key"][0]


def test_the_warm_up_looks_at_validation_users_as_the_fit_does(tmp_path, data_file, plugin):
    told = tmp_path / "told"
    body = f"""users = context.validation
        assert not (users.history * users.target).nnz and users.history.shape == users.target.shape
        open({str(told)!r}, "a").write(f"{{train.shape[0]}} {{users.n_users}} {{users.target.nnz > 0}}\\n")"""

    frame = run(data_file, plugin("good", body=body), store=tmp_path / "s")

    assert frame["status"].tolist() == ["ok"]
    assert told.read_text().splitlines() == ["64 4 True", "64 4 True", "48 6 True"]


def test_a_changed_entry_of_a_file_is_other_data(tmp_path, data_file, plugin):
    (tmp_path / "data.csv").write_text("user,item,other\n" + "".join(
        f"u{user},i{item},j{item % 5}\n" for user in range(40) for item in range(user % 7, user % 7 + 12)
    ))  # fmt: skip
    entry, found = tmp_path / "data.yaml", []
    for item in ("item", "other"):
        entry.write_text(f"path: data.csv\nuser: user\nitem: {item}\n")
        found.append(run(entry, plugin("good"), store=tmp_path / "s")["n_items"][0])

    assert found[0] > found[1] == 5


def test_files_of_one_name_in_two_folders_have_each_their_split(tmp_path, data_file, monkeypatch):
    places = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.csv").write_text(data_file.read_text())
        monkeypatch.chdir(tmp_path / name)
        suite = Suite(datasets=[{"file": {"path": "data.csv"}}], models=["popularity"])
        ((_, prepared),) = Runner(suite, Store(tmp_path / "s"), Silent()).prepare()
        places.append(prepared.split_path)

    assert len(set(places)) == 2


def test_a_changed_file_is_other_data(tmp_path, data_file, plugin):
    path = tmp_path / "data.csv"
    path.write_text(data_file.read_text())
    first = run(path, plugin("good"), store=tmp_path / "s")
    path.write_text(path.read_text() + "u0,i19\nu1,i19\nu2,i19\n")
    changed = run(path, plugin("good"), store=tmp_path / "s")

    assert first["data_fingerprint"][0] != changed["data_fingerprint"][0]
    assert first["key"][0] != changed["key"][0]


def test_a_job_that_cannot_fit_is_refused_with_the_figure(tmp_path, data_file, plugin):
    greedy = Path(plugin("good", more=", estimate=lambda model, shape: Estimate(729 * 10**9, 10**9)"))
    greedy.write_text(greedy.read_text().replace("Model, ModelSpec\n", "Estimate, Model, ModelSpec\n", 1))

    frame = run(data_file, str(greedy), store=tmp_path / "s", max_memory="8GB")

    assert frame["status"].tolist() == ["refused"]
    assert frame["reason"][0] == "needs about 729 GB, the limit is 8 GB"
    assert frame["estimated_peak_bytes"][0] == 729 * 10**9


def test_a_model_that_needs_a_gpu_is_skipped_with_the_reason(tmp_path, data_file, plugin):
    frame = run(data_file, plugin("good", more=", devices=('cuda',)"), store=tmp_path / "s", device="auto")

    if frame["status"][0] == "ok":
        pytest.skip("this machine has a GPU")
    assert frame["status"].tolist() == ["skipped"]
    assert "GPU" in frame["reason"][0]


def test_a_limit_below_what_the_libraries_take_is_said_at_once(tmp_path, data_file, plugin):
    frame = run(data_file, plugin("good"), store=tmp_path / "s", max_memory="60MB")

    assert frame["status"].tolist() == ["out_of_memory"]
    assert "Python and its libraries take" in frame["reason"][0]


def test_sizes_and_seeds_multiply(tmp_path, data_file, plugin):
    plugin("good")
    frame = recscale.run(
        {"file": {"path": str(data_file)}},
        store=tmp_path / "s",
        progress=False,
        models=["good[width=4,8]"],
        plugins=[str(tmp_path / "good.py")],
        seeds=[0, 1],
        jobs=2,
    )

    assert sorted(zip(frame["parameter.width"], frame["seed"], strict=True)) == [(4, 0), (4, 1), (8, 0), (8, 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path, data_file, plugin, gate, number):
    stopped, waits = gate
    quick, slow = plugin("good"), plugin("loops", body=waits)
    command = [sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(tmp_path / "s")]
    command += ["--plugin", quick, "--plugin", slow, "-m", "good", "-m", "loops"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and its children too
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").rglob("good-*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    told = running.communicate(timeout=30)[1]
    code = running.returncode

    assert ("interrupted: finished jobs are kept" in told) == (number == signal.SIGINT)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    before = {r.model: r for r in Store(tmp_path / "s").records()}
    assert list(before) == ["good"]
    stopped.touch()
    subprocess.run(command, check=True, capture_output=True)
    after = {r.model: r for r in Store(tmp_path / "s").records()}
    assert after["good"] == before["good"]
    assert after["loops"].status == "ok"
    assert not list((tmp_path / "s" / ".work").iterdir())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, None),
        ({"jobs": 2, "threads": 1, "max_memory": "10MB"}, None),
        ({"jobs": 1000}, "1000 jobs at once may take 1000 threads on"),
        ({"jobs": 2, "max_memory": "900GB"}, "1.8 TB of memory where"),
    ],
)
def test_jobs_that_may_be_in_each_others_way_are_told_of(tmp_path, data_file, asked, told):
    suite = Suite(datasets=[{"file": {"path": str(data_file)}}], models=["popularity"], **asked)

    shown = io.StringIO()
    runner = Runner(suite, open_store(tmp_path / "s"), Lines(shown))
    for _ in range(2):
        runner.plan()

    assert shown.getvalue().count("note: ") == (told is not None)
    assert (told or "") in shown.getvalue()


def test_what_a_model_started_ends_with_its_job(tmp_path, data_file, plugin):
    started = tmp_path / "started"
    sleeper = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    run(
        data_file,
        plugin("good", body=f"{sleeper}; open({str(started)!r}, 'a').write(f'{{p.pid}}\\n')"),
        store=tmp_path / "s",
    )

    for number in started.read_text().split():
        assert not psutil.pid_exists(int(number)) or psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE


def test_two_runners_on_one_store_do_each_job_once(tmp_path, data_file, plugin):
    path = plugin("good", body="import time; time.sleep(0.3)")
    command = [sys.executable, "-m", "recscale", "run", "--data", str(data_file), "--store", str(tmp_path / "s")]
    command += ["--plugin", path, "-m", "good[width=1,2,3,4]", "--json"]

    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [one.communicate(timeout=120) for one in both]

    assert [one.returncode for one in both] == [0, 0], answers
    assert sorted(answers[0][0].splitlines()) == sorted(answers[1][0].splitlines())
    assert len(Store(tmp_path / "s").records()) == 4
