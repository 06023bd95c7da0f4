"""Numbers for people: bytes, counts and seconds in the units that tables and the command line share."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "\N{EN DASH}"

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_COUNT_UNITS = ("", "k", "M", "G", "T", "P", "E")
_TIME_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_bytes(n_bytes: float | None) -> str:
    """Return bytes in decimal units to three digits: 3.4e9 -> '3.4 GB', None -> '\N{EN DASH}'."""
    return _scaled(n_bytes, _BYTE_UNITS)


def format_count(count: float | None) -> str:
    """Return a count to three digits: 1141824 -> '1.14 M', 512 -> '512', None -> '\N{EN DASH}'."""
    return _scaled(count, _COUNT_UNITS)


def format_seconds(seconds: float | None) -> str:
    """Return a duration to two digits, or in its two largest units: 0.0123 -> '12 ms', 75 -> '1 min 15 s'."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    sign, magnitude = ("-" if seconds < 0 else ""), abs(seconds)
    if round(magnitude) >= 60:
        return sign + _clock(magnitude)
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("\N{MICRO SIGN}s", 1e6), ("ns", 1e9)):
        rounded = _rounded(magnitude * factor, digits=2)
        if rounded >= 1.0:
            return f"{sign}{_plain(rounded)} {unit}"
    return "0 s"


def _scaled(value: float | None, units: Sequence[str]) -> str:
    """Return `value` to three digits in the largest unit of a thousand that leaves at least 1."""
    if value is None or not math.isfinite(value):
        return MISSING
    sign, rounded, step = ("-" if value < 0 else ""), _rounded(abs(value), digits=3), 0
    while rounded >= 1000 and step < len(units) - 1:
        rounded, step = rounded / 1000, step + 1
    return f"{sign}{_plain(rounded)} {units[step]}".rstrip()


def _rounded(value: float, *, digits: int) -> float:
    """Return `value` to so many significant digits."""
    if value == 0:
        return 0.0
    places = digits - 1 - math.floor(math.log10(value))
    return round(value, places)


def _plain(value: float) -> str:
    """Return a number without an exponent or trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _clock(seconds: float) -> str:
    """Return a minute or more in its two largest units, rounded to the smaller of them."""
    for index, (length, unit) in enumerate(_TIME_UNITS[:-1]):
        small_length, small_unit = _TIME_UNITS[index + 1]
        n_small = round(seconds / small_length)
        if n_small * small_length >= length:
            large, small = divmod(n_small, length // small_length)
            return f"{large} {unit} {small} {small_unit}" if small else f"{large} {unit}"
    return f"{round(seconds)} s"
