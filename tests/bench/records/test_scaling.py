"""How records of subsamples become lines, exponents and breaks."""

import pytest

from recscale.records.record import Phase, RunRecord
from recscale.records.scaling import TOO_FEW, TOO_SMALL, families, scaling

BASE = 200_000_000


def record(share, by="users", *, model="cubic", n=None, day=1, **changes):
    """Return a run on a share of 1,000 users: its memory grows by the square, its time by the cube."""
    n = round(1_000 * share) if n is None else n
    seconds = 1e-8 * n**3
    phase = {"wall_seconds": seconds, "cpu_seconds": seconds, "start_rss_bytes": BASE}
    fields = {
        "key": f"{model}{share}{by}{day}{changes.get('seed', 0)}".ljust(64, "0"), "status": "ok", "model": model,
        "model_title": model, "parameters": {}, "dataset": f"data[{by}={share}]" if share < 1 else "data",
        "dataset_name": "data", "filter": {}, "shares": {by: share} if share < 1 else {},
        "sampled_from": "data" if share < 1 else None, "protocol": "fold-in", "seed": 0, "device_requested": "auto",
        "device_used": "cpu", "n_threads": 2, "data_fingerprint": "d", "split_fingerprint": "s",
        "code_fingerprint": "c", "n_train_users": n, "n_items": 50, "n_train_interactions": 10 * n,
        "n_test_users": 100, "metrics": {"mrr": 0.1 + share / 10}, "n_bytes": 8 * n, "scoring_seconds": 1e-3 * n,
        "phases": {"fit": Phase(**phase, peak_rss_bytes=BASE + 1_000 * n**2)}, "timeout_seconds": 640.0,
        "max_memory_bytes": BASE + 4_000_000_000, "started_at": f"2026-01-{day:02}T00:00:00+00:00",
    }  # fmt: skip
    return RunRecord(**(fields | changes))


def growths(records):
    (family,) = families(records)
    (line,) = scaling(family).lines
    return {growth.quantity: growth for growth in line.growths}


def failed(share, status="out_of_memory", **changes):
    return record(share, status=status, reason="why", phases={}, metrics={}, scoring_seconds=None, **changes)


def test_every_quantity_has_the_exponent_that_it_was_made_with():
    found = growths([record(share) for share in (0.125, 0.25, 0.5, 1)])

    assert [round(g.exponent, 6) for g in found.values()] == [2, 3, 1, 1]
    assert found["memory of the fit"].low == pytest.approx(2)
    assert found["time of the fit"].largest.ratio == pytest.approx(1)


def test_limits_are_left_where_the_formulas_say():
    found = growths([record(share) for share in (0.125, 0.25, 0.5, 1)])

    assert found["memory of the fit"].leaves.at == pytest.approx(2_000)  # 4 GB beside the base
    assert found["time of the fit"].leaves.at == pytest.approx(4_000)  # 640 s
    assert found["score time a user"].leaves is None


def test_a_limit_that_is_given_stands_in_the_place_of_that_of_the_runs():
    (family,) = families([record(share) for share in (0.125, 0.25, 0.5, 1)])

    (line,) = scaling(family, limits={"timeout_seconds": 80.0, "max_memory_bytes": None}).lines

    assert [g.leaves and g.leaves.at for g in line.growths] == [pytest.approx(2_000), pytest.approx(2_000), None, None]


def test_what_cannot_be_told_from_noise_is_left_out_and_said_so():
    found = growths([record(share) for share in (0.01, 0.02, 0.05, 0.09)])

    assert found["memory of the fit"].reason == TOO_SMALL
    assert found["memory of the fit"].exponent is None
    assert found["model size"].exponent == pytest.approx(1)


def test_two_sizes_have_an_exponent_and_no_interval():
    found = growths([record(0.5), record(1)])["memory of the fit"]

    assert (found.exponent, found.low, found.reason) == (pytest.approx(2), None, TOO_FEW)


def test_a_failure_stands_among_the_runs_and_not_in_the_law():
    (family,) = families([record(0.25), record(0.5), failed(1)])

    (line,) = scaling(family).lines

    assert [(run.share, run.status) for run in line.runs] == [(0.25, "ok"), (0.5, "ok"), (1, "out_of_memory")]
    assert line.growths[0].n_sizes == 2
    assert line.growths[0].exponent == pytest.approx(2)


def linear(n, **changes):
    """Return a run on n users that takes a million bytes a user."""
    fit = Phase(wall_seconds=0.01 * n, cpu_seconds=1, start_rss_bytes=BASE, peak_rss_bytes=BASE + 10**6 * n)
    return record(n / 8_000, n=n, **({"phases": {"fit": fit}, "max_memory_bytes": BASE + 10**11} | changes))


def test_a_limit_is_left_no_later_than_at_the_size_that_ran_out():
    sizes = [linear(n) for n in (1_000, 2_000, 4_000)]
    broken = linear(8_000, status="out_of_memory", phases={}, metrics={})

    alone, found = growths(sizes)["memory of the fit"].leaves, growths([*sizes, broken])["memory of the fit"].leaves

    assert (alone.at, alone.ran_out_at) == (pytest.approx(100_000), None)
    assert (found.at, found.low, found.high, found.ran_out_at) == (8_000, 8_000, 8_000, 8_000)
    assert growths([*sizes[1:], broken])["memory of the fit"].leaves.at == 8_000
    assert growths([*sizes, broken])["time of the fit"].leaves.at == pytest.approx(64_000)


def test_a_time_out_ends_the_time_and_not_the_memory():
    sizes = [linear(n) for n in (1_000, 2_000, 4_000)]

    found = growths([*sizes, linear(8_000, status="timeout", phases={}, metrics={})])

    assert found["time of the fit"].leaves.at == 8_000
    assert found["memory of the fit"].leaves.at == pytest.approx(100_000)


def test_what_ran_out_of_less_than_the_limit_or_below_a_size_that_finished_ends_nothing():
    sizes = [linear(n) for n in (1_000, 2_000, 4_000)]
    less = linear(8_000, status="out_of_memory", phases={}, metrics={}, max_memory_bytes=BASE + 10**9)
    elsewhere = linear(8_000, status="out_of_memory", failed_phase="score", phases={}, metrics={})
    flaky = linear(2_000, seed=1, status="out_of_memory", phases={}, metrics={})
    refused = linear(8_000, status="refused", phases={}, metrics={})

    for broken in (less, elsewhere, flaky, refused):
        (family,) = families([*sizes, broken])
        (line,) = scaling(family, limits={"max_memory_bytes": BASE + 10**11}).lines
        assert line.growths[0].leaves.at == pytest.approx(100_000)
        assert line.growths[0].leaves.ran_out_at is None


def test_a_run_that_ran_out_on_the_gpu_ends_the_memory_of_the_gpu():
    def on_gpu(n, **changes):
        fit = Phase(wall_seconds=1, cpu_seconds=1, peak_device_bytes=10**6 * n)
        return linear(n, **({"device_used": "cuda:0", "phases": {"fit": fit}} | changes))

    sizes = [on_gpu(n, max_gpu_memory_bytes=10**11) for n in (1_000, 2_000, 4_000)]
    broken = on_gpu(8_000, device_used=None, status="out_of_gpu_memory", phases={}, metrics={})

    (family,) = families([*sizes, broken])
    (line,) = scaling(family, limits={"max_gpu_memory_bytes": 10**11}).lines
    assert line.growths[0].leaves.at == 8_000


def test_where_one_size_finished_there_is_nothing_to_fit():
    found = growths([record(0.5), failed(1)])

    assert {growth.reason for growth in found.values()} == {TOO_FEW}


def test_the_whole_belongs_to_every_way_of_subsampling():
    found = families([record(0.5), record(0.5, "items"), record(1)])

    assert [(f.by, [r.n_train_users for r in f.members["cubic"]]) for f in found] == [
        ("users", [500, 1_000]), ("items", [500, 1_000]),
    ]  # fmt: skip


def test_two_shares_at_once_and_data_that_nobody_subsampled_are_no_family():
    both = record(0.5, dataset="data[items=0.5,users=0.5]", shares={"users": 0.5, "items": 0.5})

    assert families([both, record(1)]) == []


def test_a_configuration_that_ran_on_the_whole_alone_is_left_out():
    (family,) = families([record(0.5), record(1), record(1, model="other")])

    assert list(family.members) == ["cubic"]


def test_of_two_versions_of_the_code_the_one_with_more_sizes_counts_and_then_the_newer_one():
    old = [record(share, code_fingerprint="old", day=1) for share in (0.25, 0.5, 1)]
    new = [record(share, code_fingerprint="new", day=2) for share in (0.5, 1)]

    assert {r.code_fingerprint for r in families(old + new)[0].members["cubic"]} == {"old"}
    assert {r.code_fingerprint for r in families(old[1:] + new)[0].members["cubic"]} == {"new"}


def test_seeds_are_runs_of_the_same_size():
    (family,) = families([record(share, seed=seed) for share in (0.25, 0.5, 1) for seed in (0, 1)])

    (line,) = scaling(family).lines

    assert len(line.runs) == 6
    assert line.growths[0].n_sizes == 3


def test_on_a_gpu_memory_is_that_of_the_device_and_its_limit_too():
    records = [
        record(
            share,
            device_used="cuda:0",
            max_gpu_memory_bytes=16_000_000_000,
            phases={"fit": Phase(wall_seconds=1, cpu_seconds=1, peak_device_bytes=round(16_000_000 * 1_000 * share))},
        )
        for share in (0.25, 0.5, 1)
    ]

    memory = growths(records)["memory of the fit"]

    assert (memory.exponent, memory.leaves.at) == (pytest.approx(1), pytest.approx(1_000))


def test_the_metric_that_is_asked_for_stands_beside_the_sizes():
    records = [record(share, metrics={"mrr": 0.1, "hr@50": share}) for share in (0.5, 1)]
    (family,) = families(records)

    assert scaling(family).metric == "mrr"
    assert [run.score for run in scaling(family, "hr@50").lines[0].runs] == [0.5, 1]
    assert scaling(family, "ndcg@100").metric == "mrr"
