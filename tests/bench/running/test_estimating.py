"""What earlier fits took decides what a plan expects and what is refused."""

import json
from pathlib import Path

import msgspec
import pytest

import recscale
from recscale.cli import main
from recscale.records.estimates import MEMORY, TIME
from recscale.records.record import Phase, RunRecord
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.estimating import PastFits, why_refused
from recscale.running.runner import Runner, open_store
from recscale.running.suite import Suite

MB = 10**6
HELD = "self.held = np.ones(8_000_000)"  # 64 MB


@pytest.fixture
def sized(plugin):
    """Return a function that writes a model whose fits take 64 MB, and whose formula says something else."""

    def write(formula_bytes):
        more = f", estimate=lambda model, shape: Estimate({formula_bytes}, 80, 0.001)"
        path = Path(plugin("good", body=HELD, more=more))
        path.write_text(path.read_text().replace("Model, ModelSpec\n", "Estimate, Model, ModelSpec\n", 1))
        return str(path)

    return write


def suite(data_file, model, **keys):
    return {"datasets": [{"file": {"path": str(data_file)}}], "models": ["good"], "plugins": [model], **keys}


def run(data_file, model, store, **keys):
    return recscale.run(store=store, progress=False, **suite(data_file, model, **keys))


def plan(data_file, model, store, **keys):
    return Runner(Suite(**suite(data_file, model, **keys)), open_store(store), Silent()).plan()


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


def test_a_plan_expects_what_earlier_fits_took(tmp_path, data_file, sized):
    model = sized(32 * MB)
    run(data_file, model, tmp_path / "s", seeds=[0, 1])

    found = plan(data_file, model, tmp_path / "s", seeds=[2])

    (memory,) = (forecast.memory for forecast in found.forecasts.values())
    assert memory.n_fits == 2
    assert memory.value == pytest.approx(64 * MB, rel=0.15)
    assert memory.low < 64 * MB < memory.high


def test_a_formula_that_says_too_little_is_refused_once_fits_have_shown_it(tmp_path, data_file, sized):
    model = sized(32 * MB)
    run(data_file, model, tmp_path / "s", seeds=[0, 1])

    alone = plan(data_file, model, tmp_path / "other", max_memory="240MB")
    frame = run(data_file, model, tmp_path / "s", seeds=[2], max_memory="240MB")

    assert not alone.refusals
    assert frame["status"].tolist() == ["refused"]
    assert "the limit is 240 MB" in frame["reason"][0] and "are expected by 2 earlier fits" in frame["reason"][0]


def test_a_formula_that_says_too_much_refuses_no_more_once_fits_have_shown_it(tmp_path, data_file, sized):
    model = sized(640 * MB)
    run(data_file, model, tmp_path / "s", seeds=[0, 1])

    alone = plan(data_file, model, tmp_path / "other", max_memory="800MB")
    frame = run(data_file, model, tmp_path / "s", seeds=[2], max_memory="800MB")

    assert list(alone.refusals.values()) == ["needs about 840 MB, the limit is 800 MB"]
    assert frame["status"].tolist() == ["ok"]


def slow(plugin):
    """Write a model whose fits take 0.6 s or more, and whose formula says 0.1 s."""
    more = ", estimate=lambda model, shape: Estimate(1, 80, 0.1)"
    path = Path(plugin("good", body="import time; time.sleep(0.6)", more=more))
    path.write_text(path.read_text().replace("Model, ModelSpec\n", "Estimate, Model, ModelSpec\n", 1))
    return str(path)


def test_only_fits_that_lasted_too_long_refuse_for_time_and_no_trial_that_may_be_pruned(tmp_path, data_file, plugin):
    model, limited = slow(plugin), {"seeds": [2], "timeout": "50ms"}
    run(data_file, model, tmp_path / "s", seeds=[0, 1])

    alone = plan(data_file, model, tmp_path / "other", **limited)
    informed = plan(data_file, model, tmp_path / "s", **limited)
    enough = plan(data_file, model, tmp_path / "s", seeds=[2], timeout="1h")
    (record,) = run(data_file, model, tmp_path / "s", **limited).to_dict("records")

    assert not alone.refusals and not enough.refusals
    (job,), (forecast,), (reason,) = informed.jobs, informed.forecasts.values(), informed.refusals.values()
    assert "the limit is 50 ms" in reason and "are expected by 2 earlier fits" in reason
    assert (record["status"], record["reason"]) == ("refused", reason)
    assert why_refused(msgspec.structs.replace(job, may_be_pruned=True), forecast) is None


def test_a_job_that_was_refused_for_its_time_runs_once_there_is_clearly_more(tmp_path, data_file, plugin):
    model = slow(plugin)
    run(data_file, model, tmp_path / "s", seeds=[0, 1])
    run(data_file, model, tmp_path / "s", seeds=[2], timeout="50ms")

    (same,) = plan(data_file, model, tmp_path / "s", seeds=[2], timeout="60ms").settled.values()
    found = run(data_file, model, tmp_path / "s", seeds=[2], timeout="1h")

    assert same.status == "refused"
    assert found["status"].tolist() == ["ok"]


def test_records_hold_what_every_formula_needs_to_know_of_a_split(tmp_path, data_file, plugin):
    run(data_file, plugin("good"), tmp_path / "s")

    (record,) = Store(tmp_path / "s").records()
    lengths = record.n_train_interactions // record.n_train_users
    assert record.n_train_pairs == record.n_train_users * lengths**2  # all users of the file have as many items


def past(**changes):
    cost = Phase(wall_seconds=10.0, cpu_seconds=20.0, start_rss_bytes=200 * MB, peak_rss_bytes=600 * MB)
    fields = {
        "key": "a" * 64, "status": "ok", "model": "popularity", "model_title": "Popularity", "parameters": {},
        "dataset": "one", "dataset_name": "one", "filter": {}, "protocol": "fold-in", "seed": 0,
        "device_requested": "auto", "device_used": "cpu", "n_threads": 2, "data_fingerprint": "d",
        "split_fingerprint": "s", "code_fingerprint": "c", "n_train_users": 1_000_000, "n_items": 10_000,
        "n_train_interactions": 50_000_000, "n_train_pairs": 3_000_000_000, "phases": {"fit": cost},
        "estimated_peak_bytes": 1, "machine": {"cpu": "slow"}, "calibration": {"gemm_gflops": 50.0},
    }  # fmt: skip
    return RunRecord(**(fields | changes))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return a store with a fit on a slow machine and two on one that is twice as fast."""
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    kept = Store(tmp_path / "s", "machine")
    fast = {"machine": {"cpu": "fast"}, "calibration": {"gemm_gflops": 100.0}}
    kept.put(past())
    kept.put(past(key="b" * 64, dataset="two", dataset_name="two", **fast))
    kept.put(past(key="c" * 64, dataset="three", dataset_name="three", n_threads=1, calibration={"gemm_gflops": 25.0}))
    return kept


def test_seconds_of_machines_and_threads_are_compared_by_their_calibrations(store):
    found = {one.fit.dataset: one.fit.measured for one in PastFits(store, {}).judged(TIME)}

    assert found == {"one": pytest.approx(5.0), "two": pytest.approx(10.0), "three": pytest.approx(2.5)}


def test_the_formula_of_today_is_what_a_record_is_compared_with(store):
    memory = PastFits(store, {}).judged(MEMORY)

    assert all(one.fit.case.formula > 8 * 50_000_000 for one in memory) and len(memory) == 3


@pytest.mark.parametrize(
    ("model", "n_pairs", "is_known"), [("popularity", None, 1), ("slim", 3 * 10**9, 1), ("slim", None, 0)]
)
def test_a_record_without_the_pairs_of_its_split_counts_where_the_formula_needs_none(store, model, n_pairs, is_known):
    store.put(past(key="d" * 64, model=model, n_train_interactions=2_000_000, n_train_pairs=n_pairs))

    fits = PastFits(store, {})

    assert len(fits.judged(MEMORY)) == 3 + is_known
    assert fits.n_unknown() == 1 - is_known


def test_the_goodness_of_estimates_is_a_table_and_a_document(store, capsys):
    assert call("estimates", "--store", store.root) == 0
    table = capsys.readouterr().out
    assert call("estimates", "--store", store.root, "-m", "popularity", "--json") == 0
    document = json.loads(capsys.readouterr().out)

    assert "memory: 3 fits of 1 models, within 25% 100% (100% by formula)" in table
    assert {row["dataset"] for row in document["memory"]} == {"one", "two", "three"}
    assert document["memory"][0]["predicted"]["n_fits"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--store", "nowhere"], "no store at nowhere"), (["-m", "populrity"], "did you mean 'popularity'")],
)
def test_what_cannot_be_judged_is_one_line(arguments, told, capsys):
    assert call("estimates", *arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
