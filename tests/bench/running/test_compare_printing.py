"""`recscale compare` on two stores: a table, JSON, a summary, and the exit code."""

import json

import numpy as np
import pytest

from recscale.cli import main
from recscale.records.record import Phase, RunRecord
from recscale.records.store import Store


def store_at(folder, *, scale=1.0, model="ease", split="s"):
    values = (scale * np.random.default_rng(0).random(200)).astype(np.float32)
    record = RunRecord(
        key="a" * 64, status="ok", model=model, model_title="EASE", parameters={"k": 50},
        configuration=f"{model}[k=50|<b>]", dataset="debian-depends", dataset_name="debian-depends", filter={},
        protocol="fold-in", seed=0, device_requested="auto", n_threads=2, data_fingerprint="d", split_fingerprint=split,
        code_fingerprint="c", n_train_users=10, n_items=5, n_train_interactions=30,
        metrics={"ndcg@100": float(values.mean())}, n_parameters=1_000, n_bytes=8_000,
        phases={"fit": Phase(wall_seconds=1.5, cpu_seconds=2.0)}, machine={"cpu": "one"},
    )  # fmt: skip
    Store(folder, "machine").put(record, {"ndcg@100": values})
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    return ended.value.code


def test_a_store_is_level_with_itself(tmp_path, capsys):
    before = store_at(tmp_path / "before")

    assert call(before, before) == 0
    assert capsys.readouterr().out == "nothing got worse: 1 job compared; 4 level\n"
    assert call(before, before, "--all") == 0
    assert "time of fit" in capsys.readouterr().out


def test_a_regression_is_shown_and_ends_with_one(tmp_path, capsys):
    before, after = store_at(tmp_path / "before"), store_at(tmp_path / "after", scale=0.9)

    assert call(before, after) == 1
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("worse")]
    assert "ndcg@100" in row and "-10 %" in row and "200 worse" in row
    assert "something got worse: 1 job compared; 1 worse, 3 level" in out
    assert call(after, before) == 0  # the other way round it is better
    assert "1 better" in capsys.readouterr().out


def test_a_program_reads_the_same(tmp_path, capsys):
    before, after = store_at(tmp_path / "before"), store_at(tmp_path / "after", scale=0.9)

    assert call(before, after, "--json") == 1

    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["worse"] == 1
    (worse,) = [finding for finding in document["findings"] if finding["verdict"] == "worse"]
    assert worse["quantity"] == "ndcg@100"
    assert worse["candidate"] == pytest.approx(0.9 * worse["baseline"], rel=1e-6)


def test_a_summary_for_a_pull_request_is_one_table_of_harmless_text(tmp_path, capsys):
    before, after = store_at(tmp_path / "before"), store_at(tmp_path / "after", scale=0.9)

    call(before, after, "--markdown", tmp_path / "summary.md")

    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert lines[0].startswith("### recscale: something got worse")
    assert lines[4].startswith("| worse | debian-depends | fold-in | ease[k=50\\|&lt;b>] | ndcg@100 |")
    assert lines[3].count("|") == lines[4].count("|") - lines[4].count("\\|")


def test_a_comparison_of_nothing_says_why_and_is_no_success(tmp_path, capsys):
    before, after = store_at(tmp_path / "before"), store_at(tmp_path / "after", split="t", scale=0.5)

    assert call(before, after) == 2
    printed = capsys.readouterr()
    assert "split fingerprint s is now t" in printed.out
    assert "no job could be compared" in printed.err


def test_bad_input_is_one_line_and_two(tmp_path, capsys):
    before = store_at(tmp_path / "before")

    for arguments, words in (
        ((before, tmp_path / "none"), "no store at"),
        ((before, store_at(tmp_path / "other", model="bpr")), "no job in common: models ease against bpr"),
        ((before, before, "--level", "2"), "level=2"),
        ((before, before, "--repeats", "0"), "repeats=0"),
        ((before, before, "--markdown", tmp_path / "none" / "summary.md"), "summary cannot be written"),
        ((before,), "CANDIDATE"),
    ):
        assert call(*arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and words in err, err
