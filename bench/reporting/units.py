"""Figures for people: three significant digits, decimal prefixes, the unit always beside the number."""

from __future__ import annotations

import math

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """Return `number` as text such as 1.2 M or 729; decimal prefixes, three significant digits."""
    rounded, prefix = _scaled(number)
    return f"{rounded:.3g} {prefix}".rstrip()


def size(n_bytes: float) -> str:
    """Return `n_bytes` as text such as 3.4 GB; 1 kB is 1,000 bytes."""
    rounded, prefix = _scaled(n_bytes)
    return f"{rounded:.3g} {prefix}B"


def duration(seconds: float) -> str:
    """Return `seconds` as text such as 12 ms, 3.4 s, 12 min or 2.5 h."""
    if not math.isfinite(seconds):
        return str(seconds)
    for limit, unit_seconds, unit in ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{_rounded(seconds / unit_seconds):g} {unit}"
    return f"{_rounded(seconds / 3600.0):g} h"


def rate(per_second: float) -> str:
    """Return a rate as text such as 12,300 or 4.56."""
    return f"{per_second:,.0f}" if abs(per_second) >= 100 else f"{per_second:.3g}"


def energy(joules: float) -> str:
    """Return `joules` as text such as 3.4 kJ."""
    rounded, prefix = _scaled(joules)
    return f"{rounded:.3g} {prefix}J"


def score(value: float) -> str:
    """Return the value of a metric with four decimals (four digits from 10 on)."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def _scaled(number: float) -> tuple[float, str]:
    """Return the number in three digits and its prefix; rounded first, so that 999,999 becomes 1 M and not 1000 k."""
    rounded = _rounded(number)
    for scale, prefix in _PREFIXES:
        if abs(rounded) >= scale:
            return rounded / scale, prefix
    return rounded, ""
