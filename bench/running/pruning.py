"""Trials without hope: ended while they train, by what other trials of the study had come to at that epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recscale.records.record import VALIDATION, RunRecord, rises_with_quality
from recscale.running.checkpoints import spent_before
from recscale.running.job import Job

LEAST_EPOCHS = 5  # before which nothing is ended: a low learning rate starts slowly whatever it comes to
LEAST_OTHERS = 5  # trials that have come to their end with such figures, before any is judged by them
LEAST_AT_STEP = 3  # of them with a figure at the same epoch: others may have stopped before


def watched(history: Mapping[str, Sequence[Sequence[float]]]) -> tuple[str | None, dict[int, float]]:
    """Return the name of the first series of validation figures, and its finite values by epoch."""
    for name, points in history.items():
        if name.startswith(VALIDATION):
            return name, {int(step): float(value) for step, value in points if math.isfinite(value)}
    return None, {}


@dataclass
class MedianWatch:
    """Ends a trial whose best validation figure so far is worse than the median of the others at that epoch.

    The rule is Optuna's MedianPruner (Golovin et al. 2017, section 3.2.2), over those trials that came to their end
    and log the same figure, from the fifth epoch on; a model that logs none is never ended. `before` are the trials
    that were known when this one was drawn, so that the decision does not depend on who ran what first.
    """

    before: Sequence[RunRecord]
    _figures: dict[int, float] = field(default_factory=dict)
    _judge: Any = None  # the trial in Optuna's words

    def start(self, job: Job, checkpoint: Path) -> None:
        """Begin with what a trial had reported before it was interrupted, where it goes on from a checkpoint."""
        spent = spent_before(checkpoint)
        self._figures = watched(spent.history)[1] if spent else {}

    def look(self, job: Job, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take one event of a running trial; return the fields of its record if it is to end now, else None."""
        name, step, value = str(event.get("name")), event.get("step"), event.get("value")
        if event.get("event") != "log" or not name.startswith(VALIDATION):
            return None
        if not isinstance(step, int) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        self._figures[step] = float(value)
        others = self._others(name)
        at_step = [figures[step] for figures in others if step in figures]
        if step < LEAST_EPOCHS or len(others) < LEAST_OTHERS or not self._is_hopeless(name, others, step):
            return None
        middle = statistics.median(at_step)
        reason = f"at step {step}: {name} {value:.4f}, where the median of {len(at_step)} others is {middle:.4f}"
        history = {name: [[at, figure] for at, figure in sorted(self._figures.items())]}
        return {"status": "pruned", "reason": reason, "history": history, "device_used": job.device}

    def _others(self, name: str) -> list[dict[int, float]]:
        """Return the figures of the trials that came to their end with the same series."""
        found = [watched(record.history) for record in self.before if record.status == "ok"]
        return [figures for series, figures in found if series == name and figures]

    def _is_hopeless(self, name: str, others: Sequence[dict[int, float]], step: int) -> bool:
        """Ask Optuna's pruner about this trial beside the others."""
        import optuna

        if self._judge is None:
            rises = rises_with_quality(name.removeprefix(VALIDATION))
            study = optuna.create_study(
                direction="maximize" if rises else "minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=LEAST_OTHERS, n_min_trials=LEAST_AT_STEP),
            )
            for figures in others:
                last = figures[max(figures)]
                study.add_trial(optuna.trial.create_trial(value=last, intermediate_values=figures))
            self._judge = study.ask()
            for at in sorted(set(self._figures) - {step}):
                self._judge.report(self._figures[at], at)
        self._judge.report(self._figures[step], step)
        return bool(self._judge.should_prune())


@dataclass
class Watches:
    """A watch for each of several trials that run at the same time, by the keys of their jobs."""

    watches: Mapping[str, MedianWatch]

    def start(self, job: Job, checkpoint: Path) -> None:
        """Begin to follow a trial."""
        if job.key in self.watches:
            self.watches[job.key].start(job, checkpoint)

    def look(self, job: Job, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take one event of a running trial; return the fields of its record if it is to end now, else None."""
        return self.watches[job.key].look(job, event) if job.key in self.watches else None
