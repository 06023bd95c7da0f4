"""Each run on a page of its own: what was asked, what it cost phase by phase, the end of its log, where it ran."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recscale.records.record import Phase, RunRecord
from recscale.reporting import units
from recscale.reporting.comparisons import Comparison, Configuration, canonical, text

Facts = list[tuple[str, str]]
Anchors = Mapping[int, str]  # by id() of a record: two machines may have made records of one key

_MOST_LOG_LINES = 10
_LONGEST_LINE = 300
_FINGERPRINT_LETTERS = 12
_ENVIRONMENT = (
    "started_at", "device_requested", "device_used", "n_threads", "memory_method", "energy_sources", "calibration",
    "versions", "data_fingerprint", "code_fingerprint",
)  # fmt: skip
# What stands above the table, in the tables of the run, or has lines of its own.
_SHOWN_ELSEWHERE = {
    "schema_version", "status", "model", "model_title", "configuration", "dataset", "dataset_name", "filter",
    "protocol", "split_fingerprint", "n_train_users", "n_items", "n_train_interactions", "n_test_users",
    "dropped_users", "machine", "phases", "history", "reason", "log_tail", "cocluster_examples", "evaluated_on",
    "standard_errors", *_ENVIRONMENT,
}  # fmt: skip
_COSTS = (
    ("time", "wall_seconds", units.duration),
    ("CPU time", "cpu_seconds", units.duration),
    ("memory before", "start_rss_bytes", units.size),
    ("peak memory", "peak_rss_bytes", units.size),
    ("peak of torch on the GPU", "peak_device_bytes", units.size),
    ("peak on the GPU", "peak_device_process_bytes", units.size),
    ("energy", "energy_joules", units.energy),
)


@dataclass(frozen=True)
class Run:
    """One record, for those who want to know everything."""

    anchor: str
    label: str
    outcome: str
    has_failed: bool
    reason: str
    settings: Facts
    phases: Facts
    log: str
    machine: str
    environment: Facts


def anchors(comparisons: list[Comparison]) -> dict[int, str]:
    """Return an id in the page for each record of all comparisons, by `id()`; all different, letters and digits."""
    found: dict[int, str] = {}
    taken: dict[str, int] = {}
    for record in (r for comparison in comparisons for c in comparison.configurations for r in c.records):
        name = "recscale-run-" + (re.sub(r"[^a-z0-9]+", "", record.key.lower())[:16] or "0")
        taken[name] = taken.get(name, 0) + 1
        found[id(record)] = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return found


def runs(comparison: Comparison, names: Anchors) -> list[Run]:
    """Return every record of a comparison, in the order of the table."""
    return [_run(c, record, names[id(record)]) for c in comparison.configurations for record in c.records]


def _run(configuration: Configuration, record: RunRecord, anchor: str) -> Run:
    return Run(
        anchor=anchor,
        label=f"{configuration.label} · seed {record.seed}",
        outcome=configuration.outcome,
        has_failed=not configuration.succeeded,
        reason=one_line(record.reason or ""),
        settings=_settings(record),
        phases=_phases(record.phases),
        log="\n".join(one_line(line)[:_LONGEST_LINE] for line in record.log_tail[-_MOST_LOG_LINES:]),
        machine=configuration.machine,
        environment=[(_words(name), _fact(name, value)) for name in _ENVIRONMENT if (value := getattr(record, name))],
    )


def _settings(record: RunRecord) -> Facts:
    """Return what was asked and what came of it; what is empty or shown once for all runs is left out."""
    found = [
        (_words(name), _fact(name, value))
        for name in record.__struct_fields__
        if name not in _SHOWN_ELSEWHERE and (value := getattr(record, name)) not in (None, "", {}, [])
    ]
    for name, steps in record.history.items():
        if steps:
            found.append((f"history of {name}", f"{len(steps)} entries, the last {canonical(steps[-1])}"))
    return [(one_line(name), one_line(value)) for name, value in found]


def _phases(phases: Mapping[str, Phase]) -> Facts:
    """Return what each phase cost, as far as it was measured."""
    return [
        (
            one_line(name),
            ", ".join(
                f"{words} {write(value)}"
                for words, field, write in _COSTS
                if (value := getattr(phase, field)) is not None
            ),
        )
        for name, phase in phases.items()
    ]


def _words(name: str) -> str:
    """Return a name of a field in words; what is counted and what has a unit says so in its value."""
    if name == "n_bytes":
        return "model size"
    return re.sub("^n_", "number of ", re.sub(r"_(bytes|seconds)$", "", name)).replace("_", " ")


def _fact(name: str, value: Any) -> str:
    """Return a value with its unit, as the name of the field tells it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(str(key), item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _number(name, value)
    return text(value)[:_FINGERPRINT_LETTERS] if name.endswith("_fingerprint") else text(value)


def _number(name: str, value: float) -> str:
    """Return a number with its unit, as the name of the field tells it."""
    if name.endswith("_bytes"):
        return units.size(value)
    if name.endswith("_seconds"):
        return units.duration(value)
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if name.startswith("n_") else str(value)


def one_line(line: str) -> str:
    """Return text without line breaks and control characters (a terminal would obey them)."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", line)
