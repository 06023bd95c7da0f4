"""What `recscale scale` prints: what each size took, how it grows, where the model leaves its budget; also as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from recscale.measuring.size import MISSING, format_bytes, format_count, format_seconds
from recscale.records.power_law import HORIZON, Break, Prediction
from recscale.records.scaling import QUANTITIES, Growth, Line, Run, Scaling
from recscale.running.printing import columns

_WRITE: Mapping[str, Callable[[float | None], str]] = {"bytes": format_bytes, "seconds": format_seconds}
_FAR = "far beyond"


def print_scalings(found: Sequence[Scaling], *, as_json: bool) -> None:
    """Print two tables for each way of subsampling: the runs, and their growth; as JSON one document."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode({"scalings": found}), indent=1).decode() + "\n")
        return
    for one in found:
        runs = [[_named(line, i), *_run(run)] for line in one.lines for i, run in enumerate(line.runs)]
        growths = [[_named(line, i), *_growth(growth)] for line in one.lines for i, growth in enumerate(line.growths)]
        sys.stdout.write(f"\n{one.dataset}, {one.protocol}, by {one.by}\n{columns(_sizes_head(one), runs)}\n\n")
        sys.stdout.write(columns(_growths_head(one), growths) + "\n")
    sys.stdout.write(
        f"\nexponent b of y = c x^b with its 95 % interval; {_FAR}: more than {HORIZON:,.0f} times the largest size;"
        "\npredicted: the largest size, by the law of all smaller ones; ratio: measured / predicted\n"
    )


def _sizes_head(one: Scaling) -> list[str]:
    return ["model", "share", "users", "items", "interactions", one.metric or "score", *(q.name for q in QUANTITIES)]


def _growths_head(one: Scaling) -> list[str]:
    limited = ["limit", f"leaves it at ({one.by})", "interval"]
    return ["model", f"by {one.by}", "exponent", "interval", "sizes", *limited, "largest", "predicted", "ratio"]


def _named(line: Line, place: int) -> str:
    """Return the first cell of a row; the name stands in the first row of a model alone."""
    return "" if place else line.configuration


def _run(run: Run) -> list[str]:
    head = [f"{run.share:g}", f"{run.n_users:,}", f"{run.n_items:,}", f"{run.n_interactions:,}"]
    if run.status != "ok":
        return [*head, f"{run.status.replace('_', ' ')}{f': {run.reason}' if run.reason else ''}"]
    values = [_WRITE[quantity.unit](run.values.get(quantity.name)) for quantity in QUANTITIES]
    return [*head, MISSING if run.score is None else f"{run.score:.4f}", *values]


def _growth(growth: Growth) -> list[str]:
    if growth.exponent is None:
        return [growth.quantity, growth.reason or MISSING]
    write, leaves, largest = _WRITE[growth.unit], growth.leaves, growth.largest
    return [
        growth.quantity,
        f"{growth.exponent:.2f}",
        growth.reason or f"{growth.low:.2f} to {growth.high:.2f}",
        str(growth.n_sizes),
        *([MISSING] * 3 if leaves is None else [write(leaves.limit), *_break(leaves)]),
        *([MISSING] * 3 if largest is None else _prediction(largest, write)),
    ]


def _prediction(largest: Prediction, write: Callable[[float | None], str]) -> list[str]:
    return [write(largest.measured), write(largest.predicted), f"{largest.ratio:.2f}"]


def _break(leaves: Break) -> list[str]:
    """Return where a limit is left, and the interval of that."""
    at = _FAR if leaves.at is None else format_count(leaves.at)
    if leaves.ran_out_at is not None:
        return [at, "ran out there"]
    if not leaves.has_interval:
        return [at, MISSING]
    if leaves.low is None:
        return [at, _FAR]
    high = f"to {format_count(leaves.high)}" if leaves.high is not None else "or more"
    return [at, f"{format_count(leaves.low)} {high}"]
