"""What a report says beside tables and figures: the machines, the commands, in words."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recscale.records.record import FAILURES, RunRecord, renumbered
from recscale.reporting import units
from recscale.reporting.axes import PARAMETERS
from recscale.reporting.comparisons import (
    WORDS,
    Comparison,
    Configuration,
    canonical,
    filter_text,
    machine_letters,
    text,
)
from recscale.reporting.frontier import smallest_within
from recscale.reporting.runs import Facts, one_line

CLOSE_SHARE = 0.01


@dataclass(frozen=True)
class Machine:
    """A machine that made records: its facts, and its calibrations over time."""

    letter: str
    facts: Facts
    calibrations: Facts
    made: str  # how many records, and when


def summary(records: Sequence[RunRecord]) -> str:
    """Return one line: how many runs, and what became of them."""
    statuses: Counter[str] = Counter(r.status for r in records)
    outcomes = [f"{statuses[s]} {WORDS.get(s, s)}" for s in ("ok", *FAILURES) if statuses[s]]
    data = {r.dataset for r in records}
    runs, sets = ("run" if len(records) == 1 else "runs"), ("data set" if len(data) == 1 else "data sets")
    return f"{len(records):,} {runs} on {len(data)} {sets}: {', '.join(outcomes)}."


def facts(comparison: Comparison) -> Facts:
    """Return what a comparison was made on."""
    first = comparison.first
    users = "" if first.n_test_users is None else f"{first.n_test_users:,}"
    dropped = f" ({first.dropped_users:,} dropped for want of a target)" if first.dropped_users else ""
    pairs = [
        ("data", first.dataset),
        ("filter", filter_text(first.filter)),
        ("protocol", first.protocol),
        ("training", f"{first.n_train_users:,} users, {first.n_items:,} items, {first.n_train_interactions:,} entries"),
        ("test users", users + dropped),
        ("split", first.split_fingerprint[:12]),
        ("machine", ", ".join(comparison.machines)),
    ]
    return [(name, value) for name, value in pairs if value]


def headline(comparison: Comparison) -> str:
    """Return the finding in words: the best, and the smallest that comes close to it."""
    metric = comparison.metric
    ranked = [c for c in comparison.succeeded if metric and c.score(metric) is not None]
    if not ranked or metric is None:
        return "No run finished, so there is nothing to compare; the failures are listed below."
    best = ranked[0]
    line = f"Best {metric}: {_described(best, metric)}."
    sizes = [(PARAMETERS.value(c), c.score(metric)) for c in ranked]
    points = [(x if x is not None else float("nan"), y if y is not None else float("nan")) for x, y in sizes]
    index = smallest_within(points, CLOSE_SHARE, higher_score=comparison.higher_is_better)
    if index is None or index == 0:
        return line
    close = f"Smallest within {100 * CLOSE_SHARE:g} % of the best: {_described(ranked[index], metric)}"
    factor = points[0][0] / points[index][0]
    return f"{line} {close}{f', {factor:.3g} times smaller' if factor >= 1.05 else ''}."


def _described(configuration: Configuration, metric: str) -> str:
    score, size = configuration.score(metric) or 0.0, PARAMETERS.value(configuration)
    return f"{configuration.label} with {units.score(score)}" + (f" and {units.count(size)} parameters" if size else "")


def remarks(comparison: Comparison) -> list[str]:
    """Return what a reader of the table and the figures must know."""
    found = list(comparison.notes)
    if comparison.missing_metric:
        found.append(f"{comparison.missing_metric} was not measured here; sorted by {comparison.metric} instead.")
    if len(comparison.machines) > 1:
        found.append(
            f"Machines {', '.join(comparison.machines)} made these records: their times are comparable as ratios to "
            "the calibration alone (the calibrated column)."
        )
    return found


def machines(records: Sequence[RunRecord]) -> list[Machine]:
    """Return the machines behind the records, by letter."""
    letters = machine_letters(records)
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[canonical(record.machine)].append(record)
    found = []
    for machine, members in groups.items():
        described = [(_words(name), _fact(name, value)) for name, value in members[0].machine.items()]
        dates = sorted(r.started_at[:10] for r in members if r.started_at)
        period = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "time unknown"
        made = f"{len(members):,} record{'s' if len(members) > 1 else ''}, {period}"
        found.append(Machine(letters[machine], described, _calibrations(members), made))
    return sorted(found, key=lambda machine: (len(machine.letter), machine.letter))


def _calibrations(records: Sequence[RunRecord]) -> Facts:
    """Return the median of each calibration and its range over the records."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.calibration.items():
            values[name].append(value)
    found = []
    for name, seen in values.items():
        span = f" ({min(seen):.3g} to {max(seen):.3g})" if min(seen) != max(seen) else ""
        found.append((_words(name), f"{statistics.median(seen):.3g}{span}"))
    return found


def _words(name: str) -> str:
    """Return a name of a field in words; a size in bytes carries its unit in the value."""
    return name.removesuffix("_bytes").replace("_", " ")


def _fact(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int | float):
        return units.size(value)
    if isinstance(value, Mapping):
        return ", ".join(_fact(str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_fact(name, item) for item in value) or "none"
    return text(value)


def versions(records: Iterable[RunRecord]) -> Facts:
    """Return the versions of each package that the records were made with."""
    seen: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for package, version in record.versions.items():
            seen[package].add(version)
    return [(package, ", ".join(sorted(found))) for package, found in sorted(seen.items())]


def commands(comparison: Comparison) -> list[str]:
    """Return command lines that ask for the runs of a comparison again, grouped by seeds, device and budget."""
    grids: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in (r for c in comparison.configurations for r in c.records):
        rest = {name: value for name, value in record.parameters.items() if name != record.size_knob}
        budget = (record.timeout_seconds, record.max_memory_bytes, record.max_gpu_memory_bytes)
        grids[(renumbered(record.device_requested), budget, record.model, canonical(rest))].append(record)
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (device, budget, _, _), members in grids.items():
        seeds = tuple(sorted({r.seed for r in members}))
        groups[(device, budget, seeds)].append(_reference(members))
    first = comparison.first
    lines = []
    for (device, budget, seeds), references in groups.items():
        words = ["recscale", "run", first.dataset, "--protocol", first.protocol]
        words += [word for reference in sorted(references) for word in ("-m", reference)]
        words += ["--seeds", *map(str, seeds), "--device", device, *_budget_flags(budget)]
        lines.append(shlex.join(one_line(word) for word in words))
    return sorted(lines)


def _reference(members: Sequence[RunRecord]) -> str:
    """Return a model with its parameters as the command line reads it, all values of the size knob in one list."""
    first = members[0]
    values: dict[str, list[str]] = {name: [text(value)] for name, value in sorted(first.parameters.items())}
    if first.size_knob in values:
        knobs = {text(r.parameters[first.size_knob]): r.parameters[first.size_knob] for r in members}
        values[first.size_knob] = sorted(knobs, key=lambda key: (_number(knobs[key]), key))
    inside = ",".join(f"{name}={','.join(found)}" for name, found in values.items())
    return f"{first.model}[{inside}]" if inside else first.model


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _budget_flags(budget: Sequence[float | None]) -> list[str]:
    flags = ("--timeout", "--max-memory", "--max-gpu-memory")
    given = [(flag, limit) for flag, limit in zip(flags, budget, strict=True) if limit is not None]
    return [word for flag, limit in given for word in (flag, budget_text(limit))]


def budget_text(limit: float) -> str:
    """Return a limit in bytes or seconds as it is written on a command line."""
    return f"{limit:.0f}" if limit == int(limit) else f"{limit}"
