"""The figures of a soak as a table."""

import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from audit import Audit
from faults import JOBS_A_FAULT

from recscale.measuring.machine import machine_name

MB = 10**6
FLAT_MB = 5.0  # that the memory of a runner may rise by in 100 jobs, and be called flat
LEAST_JOBS = 100  # for a slope that means anything


@dataclass(frozen=True)
class Figures:
    """What came of a soak: the audits before and after the run without faults, and what was counted."""

    n_jobs: int
    faults: dict[str, int]
    not_made: int
    can_fill: bool
    n_starts: int
    before: Audit
    after: Audit
    damaged: set[Path]
    repaired: int
    needless: int
    repeated_fits: int
    repeats_accounted_for: int
    complaints: list[str]
    processes: list[str]
    memory: np.ndarray  # (N, 2): finished jobs, and bytes of the first runner
    seconds: float

    @property
    def half_written(self) -> list[str]:
        """What was not whole though nobody had damaged it, or was not whole in the end."""
        damaged = {path.stem for path in self.damaged}
        torn = {path: why for path, why in self.before.broken.items() if path.stem not in damaged}
        return [f"{path.name}: {why}" for path, why in (torn | self.after.broken).items()]

    @property
    def slope(self) -> float | None:
        """By how many MB the memory of the first runner rose in 100 jobs; None if it was watched for fewer."""
        jobs, held = self.memory.T
        if not len(jobs) or np.ptp(jobs) < LEAST_JOBS:
            return None
        return float(np.polyfit(jobs / 100, held / MB, 1)[0])

    @property
    def findings(self) -> list[str]:
        """What must not be, a line each."""
        after = self.after
        found = {
            "lost": after.lost,
            "doubled": after.doubled,
            "half-written": self.half_written,
            "status": sorted({*self.before.odd, *after.odd}),
            "temporary file": after.temporary,
            "lock held": after.locked,
            "process left": self.processes,
            "ended": self.complaints,
        }
        lines = [f"{kind}: {line}" for kind, those in found.items() for line in those]
        if self.needless:
            lines.append(f"{self.needless} whole records were made again by the run without faults")
        if self.repeated_fits > self.repeats_accounted_for:
            lines.append(f"{self.repeated_fits} fits were repeated, faults account for {self.repeats_accounted_for}")
        if self.slope is not None and self.slope > FLAT_MB:
            lines.append(f"the memory of a runner rises by {self.slope:.1f} MB in 100 jobs")
        return lines

    @property
    def is_fine(self) -> bool:
        """Whether nothing was lost."""
        return not self.findings


def table_of(figures: Figures, seed: int) -> str:
    """Return the figures as Markdown."""
    after = figures.after
    rows = [("jobs", figures.n_jobs), *((f"fault: {kind}", figures.faults.get(kind, 0)) for kind in JOBS_A_FAULT)]
    rows += [
        ("faults that found nothing to hit", figures.not_made),
        ("starts of the two runners", figures.n_starts),
        *((f"records: {status}", n) for status, n in sorted(Counter(after.statuses).items())),
        ("lost", len(after.lost)),
        ("doubled", len(after.doubled)),
        ("half-written", len(figures.half_written)),
        ("records damaged at last", len({path.stem for path in figures.before.broken})),
        ("of these, repaired by the run without faults", figures.repaired),
        ("whole records made again by it", figures.needless),
        (f"fits repeated (faults account for {figures.repeats_accounted_for} at most)", figures.repeated_fits),
        ("temporary files left", len(after.temporary)),
        ("locks held", len(after.locked)),
        ("processes left", len(figures.processes)),
        ("ends of a runner that no fault accounts for", len(figures.complaints)),
        *_memory_rows(figures),
        ("wall time", f"{figures.seconds:.0f} s"),
    ]
    command = f"python tests/soak --jobs {figures.n_jobs} --seed {seed}"
    lines = ["# A soak", "", f"`{command}` on {machine_name()}, Python {platform.python_version()}.", ""]
    lines += ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]
    if not figures.can_fill:
        lines += ["", "The disk was not filled: this machine lets nobody mount a file system (`unshare --mount`)."]
    if figures.findings:
        lines += ["", "What must not be:", "", *(f"- {line.replace(os.linesep, ' ')}" for line in figures.findings)]
    return "\n".join(lines)


def _memory_rows(figures: Figures) -> list[tuple[str, str]]:
    """Return the memory of the runner that was left alone: first, last, and how it rises."""
    if not len(figures.memory):
        return [("memory of the first runner", "not watched: too few jobs")]
    (first_jobs, first), (last_jobs, last) = figures.memory[0], figures.memory[-1]
    rows = [
        (f"memory of the first runner at {first_jobs:.0f} jobs", f"{first / MB:.1f} MB"),
        (f"the same at {last_jobs:.0f} jobs", f"{last / MB:.1f} MB"),
    ]
    if figures.slope is not None:
        rows.append(("its slope over 100 jobs", f"{figures.slope:+.2f} MB"))
    return rows
