"""`recscale history` on stores: a table, JSON, figures, and one line where there is no history."""

import json

import numpy as np
import pytest

from recscale.cli import main
from recscale.records.record import Phase, RunRecord
from recscale.records.store import Store


def put(folder, day, *, scale=1.0, model="ease", seed=0, **changes):
    values = (scale * np.random.default_rng(0).random(200)).astype(np.float32)
    fields = {
        "key": f"{day}{model}{seed}".ljust(64, "0"), "status": "ok", "model": model, "model_title": "EASE",
        "parameters": {"k": 50}, "configuration": f"{model}[k=50]", "dataset": "debian-depends",
        "dataset_name": "debian-depends", "filter": {}, "protocol": "fold-in", "seed": seed, "device_requested": "auto",
        "n_threads": 2, "data_fingerprint": "d", "split_fingerprint": "s", "code_fingerprint": f"code{day}",
        "commit": f"commit{day}", "n_train_users": 10, "n_items": 5, "n_train_interactions": 30,
        "metrics": {"ndcg@100": float(values.mean())}, "n_parameters": 1_000, "n_bytes": 8_000,
        "phases": {"fit": Phase(wall_seconds=1.5, cpu_seconds=2.0, start_rss_bytes=10**8, peak_rss_bytes=3 * 10**8)},
        "calibration": {"gemm_gflops": 100.0}, "started_at": f"2026-01-0{day}T00:00:00+00:00",
    }  # fmt: skip
    record = RunRecord(**(fields | changes))
    Store(folder, "machine").put(record, {"ndcg@100": values} if record.status == "ok" else {})
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["history", *map(str, arguments)])
    return ended.value.code


def test_a_history_is_a_row_a_figure_with_the_steps_that_count(tmp_path, capsys):
    for day, scale in ((1, 1.0), (2, 1.0), (3, 0.9)):
        put(tmp_path / "s", day, scale=scale)

    assert call(tmp_path / "s") == 0

    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "ndcg@100" in line]
    assert row.endswith("-10 %      worse at commit3 (-10 %)")
    (sizes,) = [line for line in lines if " parameters " in line]
    assert sizes.split()[-8:] == ["1", "k", "1", "k", "1", "k", "0", "%"]
    assert lines[-1] == "1 job over 3 versions; steps of figures: 1 worse"


def test_several_stores_are_one_history(tmp_path, capsys):
    before, after = put(tmp_path / "before", 1), put(tmp_path / "after", 2, n_parameters=900)

    assert call(before, after) == 0
    assert "better at commit2 (-10 %)" in capsys.readouterr().out


def test_seeds_that_one_version_alone_has_are_in_no_change(tmp_path, capsys):
    put(tmp_path / "s", 1)
    put(tmp_path / "s", 1, seed=1, scale=0.5)
    put(tmp_path / "s", 2, scale=0.9)

    assert call(tmp_path / "s") == 0

    (row,) = [line for line in capsys.readouterr().out.splitlines() if "ndcg@100" in line]
    assert row.endswith("-10 %, seed 0 alone  worse at commit2 (-10 %, seed 0 alone)")


def test_one_version_alone_is_said_in_one_line(tmp_path, capsys):
    put(tmp_path / "s", 1)

    assert call(tmp_path / "s", "--out", tmp_path / "figures") == 0
    captured = capsys.readouterr()
    assert captured.out == "one version alone of 1 job: commit1; run the same after a change and there is a history\n"
    assert not list(tmp_path.glob("figures/*"))
    put(tmp_path / "s", 2)
    put(tmp_path / "s", 2, model="bpr")
    assert call(tmp_path / "s") == 0
    assert capsys.readouterr().out.endswith("none worse, none better; one version alone of 1 job: commit2\n")


def test_a_failure_stands_in_the_table(tmp_path, capsys):
    put(tmp_path / "s", 1)
    put(tmp_path / "s", 2, status="timeout", reason="too long", metrics={}, phases={})

    assert call(tmp_path / "s") == 0
    assert "worse at commit2 (seed 0: ok before, timeout now: too long)" in capsys.readouterr().out


def test_a_program_reads_every_value_and_step(tmp_path, capsys):
    for day in (1, 2):
        put(tmp_path / "s", day)

    assert call(tmp_path / "s", "--json") == 0

    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert [version["commit"] for version in job["versions"]] == ["commit1", "commit2"]
    assert [series["values"] for series in job["series"]][1] == [1_000, 1_000]
    assert job["series"][0]["steps"][0]["verdict"] == "level"


def test_figures_are_drawn_where_they_are_asked_for(tmp_path, capsys):
    for day in (1, 2):
        put(tmp_path / "s", day)

    assert call(tmp_path / "s", "--out", tmp_path / "figures") == 0

    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["history-debian-depends-fold-in.png", "history-debian-depends-fold-in.svg"]
    assert capsys.readouterr().err.count("wrote") == 2


def test_bad_input_is_one_line_and_two(tmp_path, capsys):
    store = put(tmp_path / "s", 1)
    put(store, 2)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()

    for arguments, words in (
        ((tmp_path / "none",), "no store at"),
        ((tmp_path / "empty",), "no records in"),
        ((store, "-m", "eas"), "did you mean 'ease'"),
        ((store, "--metric", "ndcg@10"), "did you mean 'ndcg@100'"),
        ((store, "--out", tmp_path / "file"), "cannot be written"),
    ):
        assert call(*arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and words in err, err
