import pytest

from recscale.records.record import Phase
from recscale.reporting.tables import build_tables


def cell_of(table, model, heading):
    column = [c.heading for c in table.columns].index(heading)
    return next(row.cells[column] for row in table.rows if row.configuration.model == model)


def test_a_finished_run_shows_its_figures_in_human_units(record):
    (table,) = build_tables([record("ease", score=0.4139)])

    shown = {column.heading: cell.text for column, cell in zip(table.columns, table.rows[0].cells, strict=True)}
    assert shown == {
        "model": "ease",
        "ndcg@100": "0.4139",
        "recall@50": "0.4967",
        "parameters": "1.23 M",
        "bytes": "4.94 MB",
        "peak memory of fit": "3.4 GB",
        "fit": "12.3 s",
        "users per second": "2,250",
        "latency": "1.2 ms",
        "status": "ok",
    }


def test_scores_carry_their_standard_error_and_the_spread_over_seeds(record):
    (table,) = build_tables([record(score=0.50), record(score=0.54, seed=1)])

    cell = cell_of(table, "ease", "ndcg@100")
    assert (cell.text, cell.note) == ("0.5200", "± 0.0090 (s 0.0283)")
    assert cell_of(table, "ease", "runs").text == "2"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"status": "out_of_memory"}, "OOM"),
        ({"status": "out_of_gpu_memory"}, "GPU OOM"),
        ({"status": "refused", "estimated_peak_bytes": 729_000_000_000}, "refused (needs 729 GB)"),
        ({"status": "timeout", "timeout_seconds": 60.0}, "timeout (60 s)"),
        ({"status": "timeout"}, "timeout"),
        ({"status": "skipped"}, "skipped"),
        ({"status": "error"}, "error"),
    ],
)
def test_a_failure_stands_in_the_table_with_its_reason(record, changes, shown):
    (table,) = build_tables([record("good"), record("bad", reason="because of this", **changes)])

    cell = cell_of(table, "bad", "ndcg@100")
    assert cell.text == shown
    assert cell.is_failure
    assert cell.value is None
    assert cell_of(table, "bad", "reason").text == "because of this"


def test_the_best_score_alone_is_marked(record):
    (table,) = build_tables([record("a", score=0.5), record("b", score=0.7), record("c", score=0.7)])

    assert [cell_of(table, model, "ndcg@100").is_best for model in "abc"] == [False, True, True]
    assert not any(cell.is_best for row in table.rows for cell in (row.cells[0], *row.cells[2:]))


def test_only_failures_still_make_a_table(record):
    (table,) = build_tables([record(status="error", reason="broken")])

    assert cell_of(table, "ease", "result").text == "error"


def test_a_partial_failure_says_how_many_runs_stand_behind_a_row(record):
    (table,) = build_tables([record(), record(seed=1), record(seed=2, status="error", reason="broken")])

    assert [row.cells[[c.heading for c in table.columns].index("runs")].text for row in table.rows] == [
        "2 of 3",
        "1 of 3",
    ]


def test_columns_that_only_some_runs_have_appear_where_one_does(record):
    fit = Phase(
        wall_seconds=1, cpu_seconds=1, peak_device_bytes=10**9, peak_device_process_bytes=2 * 10**9, energy_joules=5e3
    )

    (table,) = build_tables([record("a", phases={"fit": fit}, tied_target_share=0.125), record("b")])

    assert cell_of(table, "a", "peak GPU memory of fit").text == "2 GB"
    assert cell_of(table, "a", "energy of fit").text == "5 kJ"
    assert cell_of(table, "a", "tied targets").text == "12.5 %"
    assert cell_of(table, "b", "energy of fit").text == "–"  # noqa: RUF001


def test_times_of_two_machines_come_with_their_ratio_to_the_calibration(record):
    records = [record(), record(machine={"cpu": "slow"}, calibration={"gemm_gflops": 50.0})]

    (table,) = build_tables(records)

    column = [c.heading for c in table.columns].index("fit, calibrated (FLOP)")
    assert sorted(row.cells[column].value for row in table.rows) == pytest.approx([12.34 * 50e9, 12.34 * 200e9])
