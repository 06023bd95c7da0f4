"""Suites that are tuned, and processes that share a study by the claims and the records of a store alone."""

import json
import subprocess
import sys

import pytest

from recscale.errors import UsageError
from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.suite import load_suite
from recscale.running.tune_options import TuneOptions
from recscale.running.tuning import run_suite

pytest.importorskip("optuna")


@pytest.fixture
def suite_file(tmp_path, data_file, trained):
    """Return a function that writes a suite of one model with what it says of tuning, and returns its path."""

    def write(tune, *, model="trained"):
        path = tmp_path / "suite.yaml"
        path.write_text(
            f"datasets: [{{file: {{path: {data_file}}}}}]\nprotocols: [hold-one-out]\nmodels: [{model}]\n"
            f"plugins: [{trained}]\nseeds: [0, 1]\ntune: {tune}\n"
        )
        return path

    return write


def test_a_suite_that_says_tune_is_tuned_and_the_winners_are_its_runs(tmp_path, suite_file):
    suite = load_suite(suite_file("{trials: 2, sampler: random, time: 1h}"))
    store = Store(tmp_path / "store")

    records = run_suite(suite, store, Silent())

    assert suite.tuning() == TuneOptions(trials=2, sampler="random", seconds=3600.0)
    assert [(r.seed, r.evaluated_on) for r in records] == [(0, "test"), (1, "test")]
    assert len(store.trials()) == 2 and len(store.records()) == 2
    assert load_suite(suite_file("")).tuning() == TuneOptions()


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("{trails: 3}", "no key of tune named 'trails'; did you mean 'trials'"),
        ("{trials: 0}", "trials=0"),
        ("{time: 0}", "'0' is no duration|0 is no duration"),
        ("{seconds: 0}", "seconds=0"),
        ("{seconds: 5, time: 5s}", "say the same"),
        ("{pruner: hyperband}", "pruner='hyperband'"),
        ("{workers: 0}", "workers=0"),
        ("{metric: ndgc@10}", "did you mean 'ndcg"),
        ("often", "tune"),
    ],
)
def test_a_suite_that_tunes_wrongly_is_refused_in_a_line(tmp_path, suite_file, tune, message):
    with pytest.raises(UsageError, match=message):
        run_suite(load_suite(suite_file(tune)), Store(tmp_path / "store"), Silent())


def command(path, store, *flags):
    """Return the command line that tunes a suite into a store."""
    code = "import sys; from recscale.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", code, "tune", "--suite", str(path), "--store", str(store), *flags]


def test_two_processes_divide_the_trials_of_a_study_also_where_a_third_was_killed(tmp_path, suite_file):
    path, store = suite_file("{trials: 5}", model='"trained[pause=0.2]"'), tmp_path / "store"
    killed = subprocess.Popen(command(path, store), stderr=subprocess.PIPE, text=True)
    for line in killed.stderr:
        if line.startswith("  started"):
            break
    killed.kill()
    killed.communicate()

    both = [
        subprocess.Popen(command(path, store, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in both]

    assert [process.returncode for process in both] == [0, 0]
    found = [[json.loads(line) for line in out.splitlines()] for out, _ in told]
    assert found[0] == found[1]  # the same trials, and the same winner on the test users
    assert [record["evaluated_on"] for record in found[0]] == ["validation"] * 5 + ["test"] * 2
    assert [record["trial"]["number"] for record in found[0][:5]] == list(range(5))
    begun = [[line for line in errors.splitlines() if line.startswith("  started")] for _, errors in told]
    assert len(begun[0]) + len(begun[1]) == 7 and all(begun)  # none was run twice, and both ran some
    alone = run_suite(load_suite(path), Store(tmp_path / "alone"), Silent())
    assert [record.key for record in alone] == [record["key"] for record in found[0][5:]]
