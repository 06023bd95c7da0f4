"""`recscale scale` from the command line to its tables, and subsamples as data sets of any other verb."""

import json

import numpy as np
import pytest

import recscale
from recscale.cli import main
from recscale.errors import UsageError
from recscale.records.store import Store
from recscale.running.references import resolve_data
from recscale.running.scaling import ScaleOptions, subsampled
from recscale.running.suite import Suite

GREEDY = (  # a megabyte for each user, and no more than 130 of them
    "self.held_ = np.ones(train.shape[0] * 125_000)\n"
    "        if train.shape[0] > 130: raise MemoryError('too many users')"
)


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Return a csv of 200 users and 60 items."""
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = [f"u{user},i{item}" for user in range(200) for item in rng.choice(60, size=20, replace=False)]
    path = tmp_path / "many.csv"
    path.write_text("\n".join(["user,item", *lines]) + "\n")
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["scale", *map(str, arguments)])
    return ended.value.code


def test_growth_is_measured_and_the_break_predicted_and_what_is_done_is_not_run_again(tmp_path, many, plugin, capsys):
    asked = ["--data", many, "-m", "good", "--plugin", plugin("good", body=GREEDY), "--by", "users"]
    asked += ["--shares", "0.25", "0.5", "0.75", "1", "--max-memory", "2GB", "--store", tmp_path / "s"]

    assert call(*asked, "--strict") == 1
    text = capsys.readouterr().out
    assert call(*asked, "--json") == 0
    again = capsys.readouterr()

    assert "fold-in, by users" in text
    assert "out of memory: MemoryError: too many users" in text
    assert "score time a user  too small to fit" in text
    assert "leaves it at (users)" in text
    assert "4 jobs, 4 of them finished before" in again.err
    (one,) = json.loads(again.out)["scalings"]
    (line,) = one["lines"]
    memory = line["growths"][0]
    assert [run["status"] for run in line["runs"]] == ["ok", "ok", "ok", "out_of_memory"]
    assert [run["n_users"] for run in line["runs"]] == [40, 80, 120, 160]
    assert memory["exponent"] == pytest.approx(1, abs=0.1)
    assert memory["largest"]["ratio"] == pytest.approx(1, abs=0.1)
    assert memory["leaves"]["at"] == memory["leaves"]["ran_out_at"] == 160
    assert "ran out there" in text

    assert call(*(word for word in asked if word != "1"), "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["scalings"][0]["lines"]
    leaves = line["growths"][0]["leaves"]
    assert 1_000 < leaves["at"] < 2_000  # a megabyte for each user, beside what the process holds
    assert leaves["ran_out_at"] is None


def test_a_subsample_is_a_data_set_of_any_other_verb(tmp_path, many, plugin):
    file = {"file": {"path": str(many), "users": 0.5}}

    frame = recscale.run(file, store=tmp_path / "s", progress=False, models=["good"], plugins=[plugin("good")])

    (record,) = Store(tmp_path / "s").records()
    assert frame["status"].tolist() == ["ok"]
    assert (record.n_train_users, record.shares) == (80, {"users": 0.5})
    assert record.dataset == f"file[path={many},users=0.5]"
    assert record.sampled_from == f"file[path={many}]"
    assert frame["share.users"].tolist() == [0.5]


def test_the_filter_of_a_data_set_stays_and_comes_before_its_subsample():
    data = resolve_data("gowalla[users=0.25]", "fold-in", [])

    assert data.text == "gowalla[filter=10-core,users=0.25]"
    assert (data.shares, data.sampled_from) == ({"users": 0.25}, "gowalla[filter=10-core]")
    assert data.filter == resolve_data("gowalla", "fold-in", []).filter


def test_the_whole_is_no_subsample():
    data = resolve_data("gowalla[users=1,items=1.0]", "fold-in", [])

    assert data == resolve_data("gowalla", "fold-in", [])


def test_a_suite_has_every_size_once_and_the_smallest_first():
    suite = subsampled(Suite(datasets=["gowalla"]), ScaleOptions(by=("users", "items"), shares=(1.0, 0.25)))

    texts = [resolve_data(dataset, "fixed", []).text for dataset in suite.datasets]
    assert texts == ["gowalla[users=0.25]", "gowalla[items=0.25]", "gowalla"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gowalla[users=0.5]"], "is a subsample itself; name the whole data set: gowalla"),
        (["gowalla", "--shares", "0.5"], "no two different shares"),
        (["gowalla", "--shares", "0.5", "1.5"], "shares"),
        (["gowalla", "--shares", "0", "1"], "shares"),
        (["gowalla", "--by", "rows"], "--by"),
    ],
)
def test_what_cannot_be_scaled_is_one_clear_line(tmp_path, arguments, message, capsys):
    assert call(*arguments, "-m", "popularity", "--store", tmp_path / "s") == 2

    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_suite_that_tunes_is_not_scaled(tmp_path, capsys):
    path = tmp_path / "suite.yaml"
    path.write_text("models: [popularity]\ntune: {trials: 2}\n")

    assert call("--suite", path, "--store", tmp_path / "s") == 2
    assert "tune it first" in capsys.readouterr().err


def test_an_option_of_the_same_name_is_not_taken_for_a_share(tmp_path):
    source = tmp_path / "rows.py"
    source.write_text(
        "from dataclasses import dataclass\n"
        "from recscale.contract import DatasetSpec, Source\n"
        "@dataclass(frozen=True)\n"
        "class Rows(Source):\n"
        "    users: int = 10\n"
        "    def load(self): raise NotImplementedError\n"
        "SPEC = DatasetSpec(source=Rows, title='Rows', cite='none')\n"
    )
    suite = Suite(datasets=["rows"], plugins=[str(source)])

    with pytest.raises(UsageError, match="option users of its own"):
        subsampled(suite, ScaleOptions())
    assert resolve_data("rows[users=5]", "fold-in", [str(source)]).shares == {}
