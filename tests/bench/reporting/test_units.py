import pytest

from recscale.reporting import units


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (units.count, 0, "0"),
        (units.count, 999, "999"),
        (units.count, 1_234_567, "1.23 M"),
        (units.count, 999_999, "1 M"),
        (units.count, 5.5e10, "55 G"),
        (units.size, 3_400_000_000, "3.4 GB"),
        (units.size, 729e9, "729 GB"),
        (units.size, 12, "12 B"),
        (units.duration, 0.0000123, "12.3 µs"),
        (units.duration, 0.0012, "1.2 ms"),
        (units.duration, 12.34, "12.3 s"),
        (units.duration, 600, "10 min"),
        (units.duration, 9000, "2.5 h"),
        (units.duration, float("inf"), "inf"),
        (units.rate, 12_345.6, "12,346"),
        (units.rate, 4.567, "4.57"),
        (units.energy, 3_400, "3.4 kJ"),
        (units.score, 0.41389, "0.4139"),
        (units.score, 123.456, "123.5"),
    ],
)
def test_a_figure_is_written_with_three_digits_and_its_unit(write, value, expected):
    assert write(value) == expected
