import shlex

from recscale.reporting import sections
from recscale.reporting.comparisons import compare


def test_the_summary_counts_every_outcome(realistic_records):
    assert sections.summary(realistic_records()) == (
        "36 runs on 1 data set: 32 ok, 1 refused, 1 skipped, 1 OOM, 1 timeout."
    )


def test_the_headline_names_the_best_and_the_smallest_that_comes_close(realistic_records):
    (comparison,) = compare(realistic_records())

    assert sections.headline(comparison) == (
        "Best ndcg@100: ease k=6104 with 0.5600 and 37.3 M parameters. Smallest within 1 % of the best: "
        "chol k=200 with 0.5560 and 1.22 M parameters, 30.5 times smaller."
    )


def test_the_headline_of_failures_alone_says_so(record):
    (comparison,) = compare([record(status="error")])

    assert "No run finished" in sections.headline(comparison)


def test_machines_are_described_with_the_range_of_their_calibration(record):
    records = [
        record(),
        record(seed=1, calibration={"gemm_gflops": 180.0}, started_at="2026-02-05T00:00:00Z"),
        record(
            machine={"cpu": "other", "memory_bytes": 8_000_000_000, "gpus": [{"name": "H100", "memory_bytes": 80e9}]}
        ),
    ]

    first, second = sections.machines(records)

    assert (first.letter, first.made) == ("A", "2 records, 2026-02-03 to 2026-02-05")
    assert ("gemm gflops", "190 (180 to 200)") in first.calibrations
    assert second.facts == [("cpu", "other"), ("memory", "8 GB"), ("gpus", "H100, 80 GB")]
    assert second.made == "1 record, 2026-02-03"


def test_commands_ask_for_the_same_runs_again(sized_record, record):
    records = [
        *(sized_record("chol", "k", k, score=0.5, n_parameters=k, seed=s) for k in (200, 20) for s in (0, 1)),
        record(
            "ease",
            dataset="file[path=my file.csv]",
            dataset_name="file",
            timeout_seconds=600.0,
            max_memory_bytes=8 * 10**9,
        ),
    ]

    found = [shlex.split(line) for c in compare(records) for line in sections.commands(c)]

    assert found == [
        ["recscale", "run", "debian-depends", "--protocol", "fold-in", "-m", "chol[k=20,200,l2=100.0]", "--seeds", "0",
         "1", "--device", "auto"],
        ["recscale", "run", "file[path=my file.csv]", "--protocol", "fold-in", "-m", "ease[l2=100.0]", "--seeds", "0",
         "--device", "auto", "--timeout", "600", "--max-memory", "8000000000"],
    ]  # fmt: skip
