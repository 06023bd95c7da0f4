"""The store keeps what it was given, whole or not at all."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from recscale.errors import StoreError, UsageError
from recscale.records.owners import remove_abandoned
from recscale.records.record import SCHEMA_VERSION, Phase, RunRecord
from recscale.records.store import Store
from recscale.reporting.serving import version_of


def record_of(**changes):
    fields = {
        "key": "a" * 64,
        "status": "ok",
        "model": "ease",
        "model_title": "EASE",
        "parameters": {"l2": 500.0, "k": None},
        "size_knob": "k",
        "dataset": "gowalla[filter=10-core]",
        "dataset_name": "gowalla",
        "filter": {},
        "protocol": "fold-in",
        "seed": 0,
        "device_requested": "auto",
        "n_threads": 2,
        "data_fingerprint": "d",
        "split_fingerprint": "s",
        "code_fingerprint": "c",
        "n_train_users": 10,
        "n_items": 5,
        "n_train_interactions": 30,
        "metrics": {"ndcg@100": 0.25},
        "phases": {"fit": Phase(wall_seconds=1.5, cpu_seconds=2.0)},
    }
    return RunRecord(**(fields | changes))


def place_of(record):
    return {"dataset": record.dataset, "protocol": record.protocol, "model": record.model, "key": record.key}


VECTORS = {"ndcg@100": np.array([0.0, 0.5], np.float32)}


def test_a_finished_record_whose_vectors_are_gone_is_none_and_the_file_is_named(tmp_path):
    store, record = Store(tmp_path, "machine"), record_of()
    store.put(record, VECTORS).with_suffix(".npz").unlink()

    assert store.get(**place_of(record)) is None
    (file,) = store.unreadable
    assert (file.path.suffix, file.reason) == (".npz", "missing")


@pytest.mark.parametrize("without", [{"status": "timeout", "metrics": {}}, {"evaluated_on": "validation"}])
def test_a_failure_and_a_trial_need_no_vectors(tmp_path, without):
    store, record = Store(tmp_path, "machine"), record_of(**without)
    store.put(record)

    assert store.get(**place_of(record), evaluated_on=record.evaluated_on) == record
    assert store.unreadable == []


def test_what_another_machine_finished_is_found_where_it_is_asked_for(tmp_path):
    failed, done = record_of(status="timeout", metrics={}), record_of(seed=3)
    Store(tmp_path, "a").put(failed)
    Store(tmp_path, "b").put(done, VECTORS)
    Store(tmp_path, ".work").put(record_of(seed=4))  # no machine's folder

    for machine in ("a", "c"):
        assert Store(tmp_path, machine).get_elsewhere(**place_of(done)) == done
    assert Store(tmp_path, "a").get(**place_of(done)) == failed
    assert Store(tmp_path, "b").get_elsewhere(**place_of(done)) is None


def test_a_record_is_amended_where_it_lies_and_keeps_its_vectors(tmp_path):
    for machine in ("a", "b"):
        Store(tmp_path, machine).put(record_of(started_at=f"on {machine}"), {"ndcg@100": np.full(3, 0.25)})
    store = Store(tmp_path, "c")

    amended = store.amend(record_of(started_at="on b"), warnings=["odd"])

    assert [(r.started_at, r.warnings) for r in store.records()] == [("on a", []), ("on b", ["odd"])]
    assert store.per_user(amended)["ndcg@100"].tolist() == [0.25] * 3


def test_a_record_comes_back_as_it_was_put_with_its_vectors(tmp_path):
    store = Store(tmp_path, "machine")
    record = record_of()

    store.put(record, {"ndcg@100": np.array([0.0, 0.5], np.float32)})

    assert store.get(**place_of(record)) == record
    np.testing.assert_array_equal(store.per_user(record)["ndcg@100"], np.array([0.0, 0.5], np.float32))


def test_weights_lie_beside_the_metrics_that_have_them_and_are_no_metric(tmp_path):
    store, old = Store(tmp_path / "new"), Store(tmp_path / "old")
    metrics = {"mse": np.array([0.5, 1.5]), "mrr": np.array([1, 0.5], np.float32)}

    store.put(record_of(), metrics | {"weight.mse": np.array([1, 3], np.float32)})
    old.put(record_of(), metrics)

    assert set(store.per_user(record_of())) == set(store.by_user(record_of())) == {"mse", "mrr"}
    assert store.by_user(record_of())["mse"].shares.tolist() == [0.5, 1.5]
    assert store.by_user(record_of())["mse"].values().tolist() == [1, 1]
    assert store.by_user(record_of())["mrr"].shares is old.by_user(record_of())["mse"].shares is None


def test_vectors_are_those_of_the_machine_that_made_the_record(tmp_path):
    for machine, value in (("amd", 0.4), ("zen", 0.5)):
        record = record_of(metrics={"ndcg@100": value}, started_at=f"on {machine}")
        Store(tmp_path, machine).put(record, {"ndcg@100": np.full(3, value)})
    Store(tmp_path, "arm").put(record_of(status="error", reason="no such instruction", metrics={}))

    store = Store(tmp_path)
    found = [store.per_user(record) for record in store.records()]

    assert [vectors["ndcg@100"].tolist() for vectors in found if vectors] == [[0.4] * 3, [0.5] * 3]
    assert len(found) == 3


@pytest.mark.parametrize("content", [b"", b"no vectors", b"PK\x03\x04 cut short"])
def test_vectors_that_cannot_be_read_are_one_line_that_names_the_file(tmp_path, content):
    store = Store(tmp_path, "machine")
    path = store.put(record_of(), {"ndcg@100": np.array([0.5], np.float32)})
    path.with_suffix(".npz").write_bytes(content)

    with pytest.raises(StoreError, match="holds no vectors of users") as caught:
        store.per_user(record_of())

    assert path.stem in str(caught.value) and "\n" not in str(caught.value)


def test_the_place_names_machine_data_set_protocol_and_model(tmp_path):
    path = Store(tmp_path, "machine").put(record_of())

    assert path.relative_to(tmp_path).as_posix() == f"machine/gowalla_filter=10-core/fold-in/ease-{'a' * 16}.json"


def test_a_flat_row_has_units_and_metric_names_as_columns(tmp_path):
    store = Store(tmp_path, "machine")
    store.put(record_of())

    row = store.frame().iloc[0]

    assert (row["fit_wall_seconds"], row["ndcg@100"], row["parameter.l2"]) == (1.5, 0.25, 500.0)


def test_a_record_that_is_put_again_replaces_the_old_one_and_its_vectors(tmp_path):
    store = Store(tmp_path, "machine")
    store.put(record_of(), {"ndcg@100": np.zeros(2, np.float32)})

    store.put(record_of(status="timeout", reason="too long"))

    assert [r.status for r in store.records()] == ["timeout"]
    assert store.per_user(record_of()) == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 1}', b"\xff\xfe", b"[]"])
def test_a_file_that_is_no_record_is_named_and_left_out(tmp_path, content):
    store = Store(tmp_path, "machine")
    path = store.put(record_of())
    broken = path.with_name("broken.json")
    broken.write_bytes(content)

    records = store.records()

    assert len(records) == 1
    assert [u.path for u in store.unreadable] == [broken]


def test_a_corrupted_record_is_no_record_so_its_job_runs_again(tmp_path):
    store = Store(tmp_path, "machine")
    store.put(record_of()).write_bytes(b'{"schema_version": 1, "key"')

    assert store.get(**place_of(record_of())) is None


@pytest.mark.parametrize("start", [0, 30, 120, -80, -22])  # header, content and directory of the zip file
def test_a_record_whose_vectors_are_damaged_is_none_and_the_file_is_named(tmp_path, start):
    store = Store(tmp_path, "machine")
    record = record_of()
    vectors = store.put(record, {"ndcg@100": np.random.default_rng(0).random(50)}).with_suffix(".npz")
    content = bytearray(vectors.read_bytes())
    content[start : start + 16 or None] = bytes(range(200, 216))
    vectors.write_bytes(content)

    assert store.get(**place_of(record)) is None
    assert [file.path for file in store.unreadable] == [vectors]
    with pytest.raises(StoreError, match="holds no vectors of users"):
        store.per_user(record)


def test_vectors_that_are_cut_short_are_damaged(tmp_path):
    store = Store(tmp_path, "machine")
    record = record_of()
    vectors = store.put(record, {"ndcg@100": np.random.default_rng(0).random(50)}).with_suffix(".npz")
    whole = vectors.read_bytes()

    for length in range(0, len(whole), 7):
        vectors.write_bytes(whole[:length])
        assert store.get(**place_of(record)) is None
    vectors.write_bytes(whole)
    assert store.get(**place_of(record)) == record


def test_a_newer_schema_is_an_error_that_says_to_upgrade(tmp_path):
    store = Store(tmp_path, "machine")
    path = store.put(record_of())
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1, "novelty": 1}))

    with pytest.raises(StoreError, match="upgrade recscale"):
        store.records()


def test_records_are_read_while_folders_of_running_jobs_come_and_go(tmp_path):
    store = Store(tmp_path, "machine")
    store.put(record_of())
    is_over = threading.Event()

    def come_and_go():
        while not is_over.is_set():
            folder = store.work_folder() / "job" / "of a worker"
            folder.mkdir(parents=True)
            shutil.rmtree(folder.parent)

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(come_and_go)
        try:
            for _ in range(300):
                assert len(store.records()) == 1
                assert len(version_of(tmp_path)) == 16
        finally:
            is_over.set()
        others.result()


def test_a_missing_store_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="recscale run --store"):
        Store(tmp_path / "nowhere").records()


def test_a_store_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store").make_writable()


def test_a_full_disk_leaves_the_old_record_and_no_half_written_file(tmp_path, monkeypatch):
    store = Store(tmp_path, "machine")
    path = store.put(record_of())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.put(record_of(status="error"))

    assert [r.status for r in store.records()] == ["ok"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_a_process_that_dies_while_it_writes_leaves_the_old_record_and_a_file_that_is_removed(tmp_path):
    path = Store(tmp_path, "machine").put(record_of())
    code = (
        "import os, sys; os.fsync = lambda _: os._exit(9)\n"
        "import msgspec; from recscale.records.record import RunRecord; from recscale.records.store import Store\n"
        "Store(sys.argv[1], 'machine').put(msgspec.json.decode(sys.argv[2], type=RunRecord))"
    )
    changed = msgspec.json.encode(record_of(status="error")).decode()

    died = subprocess.run([sys.executable, "-c", code, str(tmp_path), changed], check=False)

    store = Store(tmp_path)
    assert died.returncode == 9
    assert [r.status for r in store.records()] == ["ok"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(list(store.work_folder().iterdir())) == 1
    remove_abandoned(store.work_folder())
    assert list(store.work_folder().iterdir()) == []


def test_records_may_be_read_by_whom_the_umask_lets(tmp_path):
    (tmp_path / "any").touch()
    path = Store(tmp_path, "machine").put(record_of(), {"ndcg@100": np.zeros(2, np.float32)})

    for written in (path, path.with_suffix(".npz")):
        assert written.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_where_no_lock_can_be_written_a_claim_says_so_in_one_line(tmp_path):
    (tmp_path / ".locks").touch()

    with pytest.raises(StoreError, match="cannot be written"), Store(tmp_path).claim("k"):
        pass


def test_only_one_process_holds_a_claim_and_its_death_frees_it(tmp_path):
    hold = "import sys,time; from recscale.records.store import Store\n"
    hold += "with Store(sys.argv[1]).claim('k') as mine: print(mine, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline().strip() == "True"

    with Store(tmp_path).claim("k") as mine:
        assert not mine
    other.kill()
    other.wait()
    other.stdout.close()
    with Store(tmp_path).claim("k") as mine:
        assert mine


def test_a_record_is_found_by_the_beginning_of_its_key_in_either_case(tmp_path):
    store = Store(tmp_path, "machine")
    for letter in "abc":
        store.put(record_of(key=letter * 64))

    assert store.find("bbbbbb").key == "b" * 64
    assert store.find(" " + "C" * 64).key == "c" * 64


def test_of_the_records_of_one_job_on_two_machines_a_finished_one_is_found(tmp_path):
    Store(tmp_path, "one").put(record_of(status="timeout", reason="too long"))
    Store(tmp_path, "other").put(record_of())
    Store(tmp_path, "third").put(record_of(status="timeout", reason="too long"))

    assert Store(tmp_path).find("aaaaaa").status == "ok"


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        ("aaaaa", "at least 6 of the letters"),
        ("elfm-aaaaaa", "no beginning of a key"),
        ("aaaaab", "did you mean 'aaaaaa'"),
        ("123456", "recscale explain --store .* lists the keys"),
        ("cccccc", r"2 keys in .* begin with 'cccccc': .*give more letters"),
    ],
)
def test_a_key_that_names_no_record_or_several_is_an_error_with_the_remedy(tmp_path, beginning, expected):
    store = Store(tmp_path, "machine")
    for key in ("a" * 64, "c" * 64, "c" * 10 + "d" * 54):
        store.put(record_of(key=key))

    with pytest.raises(UsageError, match=expected) as raised:
        store.find(beginning)

    assert "\n" not in str(raised.value)
