"""What `recscale estimates` prints: how good the estimates of the fits in a store are, predicted from other data."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence

import msgspec

from recscale.measuring.size import format_bytes, format_seconds
from recscale.records.estimates import CLOSE, MEMORY, TIME, Judged, Resource, is_close
from recscale.running.estimating import PastFits
from recscale.running.printing import columns

_HEADINGS = ("model", "data set", "fits", "measured", "by formula", "corrected", f"within {CLOSE - 1:.0%}")
_TOLD: dict[str, Callable[[float], str]] = {MEMORY.name: format_bytes, TIME.name: format_seconds}


def print_estimates(past: PastFits, models: Sequence[str], *, as_json: bool) -> None:
    """Print for memory and time a row a model and data set: measured values, and their ratios to what was predicted."""
    found = {resource.name: past.judged(resource, models) for resource in (MEMORY, TIME)}
    n_unknown = past.n_unknown(models)
    if as_json:
        content = {name: [_plain(one) for one in rows] for name, rows in found.items()} | {"n_unknown": n_unknown}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n")
        return
    for resource in (MEMORY, TIME):
        sys.stdout.write(_table(resource, found[resource.name]) + "\n\n")
    if n_unknown:
        sys.stdout.write(
            f"left out: {n_unknown} records of models that are not known here (--plugin), or that do not hold what the"
            " formula needs to know of the split: prepare their data sets (recscale prepare), and it is read there\n"
        )


def _table(resource: Resource, rows: Sequence[Judged]) -> str:
    """Return the rows of one resource, and a line that sums them up."""
    told = _TOLD[resource.name]
    if not rows:
        return f"{resource.name}: no fit here took {told(resource.floor)} or more"
    groups: dict[tuple[str, str], list[Judged]] = {}
    for row in sorted(rows, key=lambda row: (row.fit.model, row.fit.dataset)):
        groups.setdefault((row.fit.model, row.fit.dataset), []).append(row)
    cells = [[*names, *_cells(group, told)] for names, group in groups.items()]
    title = f"{resource.name} of fits of {told(resource.floor)} or more, and its ratio to what was predicted"
    return "\n".join([title, columns(_HEADINGS, cells), _summary(resource, rows)])


def _cells(group: Sequence[Judged], told: Callable[[float], str]) -> list[str]:
    measured = sorted(row.fit.measured for row in group)
    ends = [told(measured[0])] if len(measured) == 1 else [told(measured[0]), told(measured[-1])]
    n_close = sum(is_close(row.ratio) for row in group)
    by_formula, corrected = [row.formula_ratio for row in group], [row.ratio for row in group]
    return [str(len(group)), " to ".join(ends), _ratios(by_formula), _ratios(corrected), f"{n_close} of {len(group)}"]


def _ratios(values: Sequence[float]) -> str:
    """Return the median of some ratios, with their ends where there are several."""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def _summary(resource: Resource, rows: Sequence[Judged]) -> str:
    by_formula, corrected = [row.formula_ratio for row in rows], [row.ratio for row in rows]
    close = (
        f"{told} {_share(corrected, factor)} ({_share(by_formula, factor)} by formula)"
        for factor, told in ((CLOSE, f"within {CLOSE - 1:.0%}"), (2.0, "within a factor of 2"))
    )
    inside = statistics.fmean(row.is_in_interval for row in rows)
    n_models = len({row.fit.model for row in rows})
    return f"{resource.name}: {len(rows)} fits of {n_models} models, {', '.join(close)}; in the interval {inside:.0%}"


def _share(ratios: Sequence[float], factor: float) -> str:
    return f"{statistics.fmean(is_close(ratio, factor) for ratio in ratios):.0%}"


def _plain(row: Judged) -> dict[str, object]:
    return {
        "model": row.fit.model,
        "configuration": row.fit.configuration,
        "dataset": row.fit.dataset,
        "measured": row.fit.measured,
        "formula": row.fit.case.formula,
        "predicted": row.predicted,
        "formula_ratio": row.formula_ratio,
        "ratio": row.ratio,
    }
