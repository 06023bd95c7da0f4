"""Have memory and time got worse: those of one job before and after."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from recscale.records.pairs import Finding, Pair, Tolerances, Verdict
from recscale.records.record import RunRecord

LEAST_BYTES = 16 * 2**20
"""Memory that two runs of the same job may differ by: pages of libraries that are read or not, and of the allocator."""
LEAST_SECONDS = 0.5
"""A phase that takes less is not judged by time: start of threads and caches are a part of it that differs."""
_TIMED = ("fit", "score")


def memory_findings(pair: Pair, tolerances: Tolerances) -> Iterator[Finding]:
    """Compare what each phase took beyond what the process had when it began, and on its GPU: the most of the runs."""
    taken = {"memory": grown_bytes, "device memory": _device_bytes}
    for (kind, bytes_of), name in itertools.product(taken.items(), _TIMED):
        sides = [[bytes_of(record, name) for record in side] for side in (pair.before, pair.after)]
        known = [[value for value in side if value is not None] for side in sides]
        if not known[0] or not known[1]:
            continue
        one, other = float(max(known[0])), float(max(known[1]))
        verdict: Verdict = "level"
        note = _unlike(pair, name)
        if note:
            verdict = "not compared"
        elif abs(other - one) > max(tolerances.memory * one, LEAST_BYTES):
            verdict = "worse" if other > one else "better"
        yield pair.finding(f"{kind} of {name}", verdict, unit="bytes", baseline=one, candidate=other, note=note)


def _unlike(pair: Pair, phase: str) -> str:
    """Return why the costs of a phase are not of one kind on both sides; empty if they are."""
    records = (*pair.before, *pair.after)
    kinds = sorted({(record.device_used or "cpu").partition(":")[0] for record in records})
    if len(kinds) > 1:
        return f"on {' and '.join(kinds)}"
    if phase != "fit":
        return ""
    if any(record.n_resumptions for record in records):
        return "a fit was resumed"
    if len({record.shrunk_from is None for record in records}) > 1:
        return "the fit is shared with another size in some of the runs alone"
    return ""


def grown_bytes(record: RunRecord, phase: str) -> int | None:
    """Return what a phase took beyond what the process had when it began; None if that is not known."""
    cost = record.phases.get(phase)
    if cost is None or cost.peak_rss_bytes is None:
        return None
    return max(0, cost.peak_rss_bytes - (cost.start_rss_bytes or 0))


def processor(record: RunRecord) -> str:
    """Return what a job ran on: the model of the CPU, and behind it those of the GPUs where they were used."""
    gpus = record.machine.get("gpus", []) if (record.device_used or "").startswith("cuda") else []
    return " with ".join([record.machine.get("cpu", "an unknown CPU"), *sorted({gpu["name"] for gpu in gpus})])


def processors(records: Iterable[RunRecord]) -> list[str]:
    """Return what records were made on, each once."""
    return sorted({processor(record) for record in records})


def _device_bytes(record: RunRecord, phase: str) -> int | None:
    """Return the most that a phase held on its device; None on a CPU."""
    cost = record.phases.get(phase)
    return None if cost is None else cost.peak_device_bytes


def time_findings(pair: Pair, tolerances: Tolerances) -> Iterator[Finding]:
    """Compare the fastest run of each phase, after the speed of the machine is taken out.

    On one and the same machine the seconds themselves have to agree: whatever else it does may slow the calibration
    and not the phase, or the other way round, and either alone would be an alarm about nothing. Where the seeds of one
    side ran on different processors, its fastest run and its speed may be of different ones: nothing is compared.
    """
    sides = (pair.before, pair.after)
    speeds = [max(record.calibration.get("gemm_gflops", 0.0) for record in side) for side in sides]
    same_machine = pair.before[0].machine == pair.after[0].machine
    reason = "" if all(speeds) or same_machine else "another machine, and no calibration"
    mixed = next((names for names in map(processors, sides) if len(names) > 1), None)
    if mixed:
        reason = f"seeds on {' and '.join(mixed)}"
    relative = speeds[1] / speeds[0] if all(speeds) else 1.0
    for name in _TIMED:
        walls = [[record.phases[name].wall_seconds for record in side if name in record.phases] for side in sides]
        if not all(walls):
            continue
        one, other = (min(side) for side in walls)
        verdict: Verdict = "not compared"
        note = _unlike(pair, name) or reason
        if not note and one > 0:
            ratios = (other / one * relative, other / one if same_machine else other / one * relative)
            verdict, note = _timed(ratios, max(one, other), len(sides[0]), tolerances)
        yield pair.finding(f"time of {name}", verdict, unit="seconds", baseline=one, candidate=other, note=note)


def _timed(ratios: tuple[float, float], seconds: float, n_runs: int, tolerances: Tolerances) -> tuple[Verdict, str]:
    """Return what is to be thought of a ratio of times, calibrated and as it has to be confirmed."""
    factor = 1 + tolerances.time
    told = f"{ratios[0]:.2f} times, calibrated"
    if seconds < LEAST_SECONDS or not (min(ratios) > factor or max(ratios) < 1 / factor):
        return "level", told
    if n_runs < tolerances.repeats:
        runs = "run" if n_runs == 1 else "runs"
        return "unsure", f"{told}, by {n_runs} {runs}; {tolerances.repeats} seeds or more would tell"
    return ("worse" if min(ratios) > factor else "better"), told
