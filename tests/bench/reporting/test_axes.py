from recscale.reporting.axes import BYTES, MEMORY, PARAMETERS, SECONDS, THROUGHPUT
from recscale.reporting.comparisons import compare


def only(record):
    return compare([record])[0].configurations[0]


def test_the_cost_of_a_configuration_is_the_mean_over_its_runs(record):
    (found,) = compare([record(n_parameters=10), record(seed=1, n_parameters=30)])

    assert PARAMETERS.value(found.configurations[0]) == 20


def test_a_model_without_parameters_stands_at_the_foot_of_the_axis(record):
    assert PARAMETERS.value(only(record(n_parameters=0))) == 1


def test_a_failure_stands_where_its_estimate_puts_it(record):
    failed = only(record(status="refused", estimated_model_bytes=4_000, estimated_peak_bytes=9_000))

    assert PARAMETERS.expected(failed) == 1_000
    assert BYTES.expected(failed) == 4_000
    assert MEMORY.expected(failed) == 9_000
    assert SECONDS.expected(failed) is None


def test_what_was_counted_before_a_failure_goes_before_the_estimate(record):
    failed = only(
        record(status="error", failed_phase="score", n_parameters=77, n_bytes=88, estimated_model_bytes=4_000)
    )

    assert PARAMETERS.expected(failed) == 77
    assert BYTES.expected(failed) == 88


def test_a_run_that_was_stopped_stands_at_its_time_limit(record):
    assert SECONDS.expected(only(record(status="timeout", timeout_seconds=600.0))) == 600.0


def test_more_is_better_for_throughput_alone():
    assert not THROUGHPUT.lower_is_better
    assert all(axis.lower_is_better for axis in (PARAMETERS, BYTES, MEMORY, SECONDS))
