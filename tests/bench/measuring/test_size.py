import pytest

from recscale.measuring.size import format_bytes, format_count, format_seconds

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (3_400_000_000, "3.4 GB"),
        (729_432_000_000, "729 GB"),
        (8 * 2**30, "8.59 GB"),
        (1_500_000_000_000, "1.5 TB"),
        (-2_500_000, "-2.5 MB"),
        (float("nan"), DASH),
        (None, DASH),
    ],
)
def test_bytes_are_written_in_decimal_units_to_three_digits(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (40_981, "41 k"),
        (1_141_824, "1.14 M"),
        (999_999, "1 M"),
        (35_000_000, "35 M"),
        (2_500_000_000, "2.5 G"),
        (None, DASH),
    ],
)
def test_counts_are_written_to_three_digits(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3e-9, "3 ns"),
        (4.2e-5, "42 \N{MICRO SIGN}s"),
        (0.0123, "12 ms"),
        (0.5, "500 ms"),
        (0.9999, "1 s"),
        (1.26, "1.3 s"),
        (47.2, "47 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (75, "1 min 15 s"),
        (3599.7, "1 h"),
        (3720, "1 h 2 min"),
        (86_399, "1 d"),
        (93_600, "1 d 2 h"),
        (-75, "-1 min 15 s"),
        (float("inf"), DASH),
        (None, DASH),
    ],
)
def test_durations_are_written_to_two_digits_or_in_two_units(seconds, text):
    assert format_seconds(seconds) == text
