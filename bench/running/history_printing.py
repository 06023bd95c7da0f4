"""What `recscale history` prints: a row a figure, from its first version to its last, and the steps that count."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from recscale.records.history import JobHistory, Series, Step, Version
from recscale.running.compare_printing import share, written
from recscale.running.printing import columns

_HEADINGS = ("data", "protocol", "model", "figure", "first", "…", "last", "last step", "steps that count")
_MOST_BETWEEN = 3  # values between the first and the last; JSON and figures have all of them


def print_histories(found: Sequence[JobHistory], *, as_json: bool) -> None:
    """Print the figures of each job that has more than one version, or one line where none has; as JSON everything."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode({"jobs": found}), indent=1).decode() + "\n")
        return
    grown = [history for history in found if len(history.versions) > 1]
    if not grown:
        sys.stdout.write(f"{_alone(found)}; run the same after a change and there is a history\n")
        return
    rows = [_cells(history, series) for history in grown for series in history.series]
    sys.stdout.write(columns(list(_HEADINGS), rows) + "\n\n" + _summary(found, grown) + "\n")


def _alone(found: Sequence[JobHistory]) -> str:
    """Return how many jobs have one version alone, and which it is where all have the same."""
    labels = {history.versions[0].label for history in found}
    which = f": {next(iter(labels))}" if len(labels) == 1 else ""
    return f"one version alone of {len(found):,} job{'s' * (len(found) != 1)}{which}"


def _cells(history: JobHistory, series: Series) -> list[str]:
    told = [_told(value, series, version) for value, version in zip(series.values, history.versions, strict=True)]
    parts = [_part(step, *pair) for step, pair in zip(series.steps, pairwise(history.versions), strict=True)]
    between = told[1:-1]
    more = ["…"] * (len(between) > _MOST_BETWEEN)
    return [
        history.dataset,
        history.protocol,
        history.job,
        series.quantity,
        told[0],
        " ".join([*more, *between[-_MOST_BETWEEN:]]),
        told[-1],
        _change(series.steps[-1], parts[-1]),
        "; ".join(_step(step, part) for step, part in zip(series.steps, parts, strict=True) if step.verdict != "level"),
    ]


def _told(value: float | None, series: Series, version: Version) -> str:
    """Return a value, or why there is none."""
    if value is not None:
        return written(value, series.unit)
    return "not measured" if version.status == "ok" else version.status


def _part(step: Step, before: Version, after: Version) -> str:
    """Return the seeds that a step is over where one of its versions has others, too, so that the values differ."""
    if set(step.seeds) == set(before.seeds) == set(after.seeds):
        return ""
    return f", seed{'s' * (len(step.seeds) > 1)} {', '.join(map(str, step.seeds))} alone"


def _change(step: Step, part: str) -> str:
    """Return by how much a figure changed, and over which seeds if not over all."""
    changed = share(step.change)
    return changed + part * bool(changed)


def _step(step: Step, part: str) -> str:
    """Return a step that is not level: what it is, where, and by how much or why."""
    why = _change(step, part) or step.note
    return f"{step.verdict} at {step.version}" + f" ({why})" * bool(why)


def _summary(found: Sequence[JobHistory], grown: Sequence[JobHistory]) -> str:
    """Return one line: how many jobs and versions there are, and what came of the steps."""
    steps = [step for history in grown for series in history.series for step in series.steps]
    n_versions = len({version.label for history in grown for version in history.versions})
    told = [f"{n:,} {verdict}" for verdict in ("worse", "better") if (n := _count(steps, verdict))]
    line = f"{len(grown):,} job{'s' * (len(grown) != 1)} over {n_versions:,} versions; "
    line += f"steps of figures: {', '.join(told) or 'none worse, none better'}"
    single = [history for history in found if len(history.versions) == 1]
    return f"{line}; {_alone(single)}" if single else line


def _count(steps: Sequence[Step], verdict: str) -> int:
    return sum(step.verdict == verdict for step in steps)
