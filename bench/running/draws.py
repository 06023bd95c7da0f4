"""What the trials of a study are: each follows from the seed and from what came of those before, whoever runs them.

Nothing is kept but the records: several processes, and one that starts again, draw the same trials from them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recscale.contract import Choice, Range
from recscale.errors import MissingExtra
from recscale.records.record import RunRecord
from recscale.running.job import Job
from recscale.running.pruning import watched
from recscale.running.tune_options import TuneOptions

Space = Mapping[str, Choice | Range]
N_RANDOM = 5  # trials that come to an end before the sampler learns from them
MOST_REPEATS = 100  # draws of what was tried before, in a row, after which there is nothing left to try
MOST_REFUSED = 20  # trials in a row that were refused, which takes no time, after which a study ends
DIGITS = 4  # of a number that is drawn


def load_optuna() -> Any:
    """Return Optuna, silent unless something is wrong. Raises MissingExtra."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Draws:
    """Options drawn from a search space by Optuna, the defaults first. Raises MissingExtra.

    All in memory: the same is drawn again from the seed and from what was told between the draws.
    """

    def __init__(
        self, space: Space, defaults: Mapping[str, Any], options: TuneOptions, *, is_better_higher: bool
    ) -> None:
        self._optuna, self._space, self._defaults = load_optuna(), space, defaults
        direction = "maximize" if is_better_higher else "minimize"
        self._study = self._optuna.create_study(sampler=self._sampler(options), direction=direction)
        first = {option: _placed(space[option], value) for option, value in defaults.items()}
        self._are_defaults_outside = None in first.values()  # the sampler cannot be told of what it would not draw
        if not self._are_defaults_outside:
            self._study.enqueue_trial(first)
        self._asked: list[Any] = []

    def _sampler(self, options: TuneOptions) -> Any:
        samplers = self._optuna.samplers
        if options.sampler == "random":
            return samplers.RandomSampler(seed=options.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)  # before version 5
            # what is under way counts as bad, so that nobody draws next to it
            return samplers.TPESampler(seed=options.seed, n_startup_trials=N_RANDOM, constant_liar=True)

    def ask(self) -> dict[str, Any]:
        """Return the options of one more draw; draws are numbered from 0."""
        if self._are_defaults_outside and not self._asked:
            self._asked.append(None)
            return dict(self._defaults)
        trial = self._study.ask()
        self._asked.append(trial)
        return {option: _drawn(trial, option, values) for option, values in self._space.items()}

    def tell(self, number: int, record: RunRecord, metric: str) -> None:
        """Say what came of a draw: its value, where a pruned one stood, or that there is none."""
        trial, state = self._asked[number], self._optuna.trial.TrialState
        if trial is None:
            return
        if record.status == "ok" and math.isfinite(record.metrics[metric]):
            self._study.tell(trial, record.metrics[metric])
            return
        figures = watched(record.history)[1]
        if record.status != "pruned" or not figures:
            self._study.tell(trial, state=state.FAIL)
            return
        for step, value in figures.items():
            trial.report(value, step)
        self._study.tell(trial, state=state.PRUNED)


@dataclass
class Course:
    """The trials of a study in their order, each drawn when `workers` trials before it have come to an end.

    `draws` and `job_of` say what a trial is, `most` how many different ones there are. The study is what ran before its
    time was spent, one after another: a trial that another process began while those before it still ran, and that came
    too late by their sum, stays in the store and is none of it.
    """

    options: TuneOptions
    draws: Draws
    metric: str
    job_of: Callable[[dict[str, Any], int], Job]  # by the options and the number of the trial
    most: float
    jobs: list[Job] = field(default_factory=list)
    records: dict[str, RunRecord] = field(default_factory=dict)  # by key, of the trials that ended
    _numbers: list[int] = field(default_factory=list)  # of each draw the number of its trial
    _n_told: int = 0
    _n_repeats: int = 0

    @property
    def trials(self) -> tuple[RunRecord, ...]:
        """The records of the study, in the order of its trials."""
        return tuple(self.records[job.key] for job in self.jobs[: self._end()] if job.key in self.records)

    def before(self, job: Job) -> list[RunRecord]:
        """Return the trials that were known when a trial was drawn."""
        number = next(n for n, other in enumerate(self.jobs) if other.key == job.key)
        return [self.records[other.key] for other in self.jobs[: self._n_known(number)]]

    def open(self) -> list[Job]:
        """Return the trials that may begin now, in their order; none where the study is over."""
        while self._may_draw():
            self._draw()
        return [job for job in self.jobs[: self._end()] if job.key not in self.records]

    def take(self, record: RunRecord) -> None:
        """Take the record of a trial that ended."""
        self.records[record.key] = record

    def _n_known(self, number: int) -> int:
        """Return how many trials, from the first on, are known when the trial of that number is drawn."""
        return max(0, number + 1 - self.options.workers)

    def _end(self) -> int:
        """Return the number of the first trial that is none of the study any more, as far as is known."""
        return next((n for n, _ in enumerate(self.jobs) if self._is_over_before(n)), len(self.jobs))

    def _is_over_before(self, number: int) -> bool:
        """Tell whether the study ends before the trial of that number, by those before it that ended."""
        known = [self.records[job.key] for job in self.jobs[:number] if job.key in self.records]
        last = [record.status for record in known[-MOST_REFUSED:]]
        return (
            sum(record.job_wall_seconds or 0.0 for record in known) >= self.options.most_seconds
            or "skipped" in last  # what is missing here is missing for every trial
            or last == ["refused"] * MOST_REFUSED
        )

    def _may_draw(self) -> bool:
        """Tell whether there is one more trial, and all is known that it follows from."""
        number = len(self.jobs)
        return (
            number < self.most
            and self._n_repeats < MOST_REPEATS
            and self._end() == number
            and not self._is_over_before(number)
            and all(job.key in self.records for job in self.jobs[: self._n_known(number)])
        )

    def _draw(self) -> None:
        """Draw once; what was drawn before is no trial of its own, and its value counts once more for the sampler."""
        n_known = self._n_known(len(self.jobs))
        while self._n_told < len(self._numbers) and self._numbers[self._n_told] < n_known:
            record = self.records[self.jobs[self._numbers[self._n_told]].key]
            self.draws.tell(self._n_told, record, self.metric)
            self._n_told += 1
        job = self.job_of(self.draws.ask(), len(self.jobs))
        known = {other.key: number for number, other in enumerate(self.jobs)}
        self._numbers.append(known.get(job.key, len(self.jobs)))
        if job.key in known:
            self._n_repeats += 1
        else:
            self.jobs.append(job)
            self._n_repeats = 0


def n_choices(space: Space, defaults: Mapping[str, Any]) -> float:
    """Return how many different trials there are: infinitely many where a range is searched."""
    if any(isinstance(values, Range) for values in space.values()):
        return math.inf
    n_inside = math.prod(len(values.values) for values in space.values() if isinstance(values, Choice))
    return n_inside + any(_placed(space[option], value) is None for option, value in defaults.items())


def _drawn(trial: Any, option: str, values: Choice | Range) -> Any:
    """Have Optuna draw a value of an option; a number of a few digits, for it is read by people."""
    if isinstance(values, Choice):
        return values.values[trial.suggest_categorical(option, range(len(values.values)))]
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(option, values.low, values.high, log=values.log)
    value = float(f"{trial.suggest_float(option, values.low, values.high, log=values.log):.{DIGITS}g}")
    return min(max(value, values.low), values.high)


def _placed(values: Choice | Range, default: Any) -> Any:
    """Return a default as Optuna takes it; None if it is none of the values that are searched."""
    if isinstance(values, Choice):
        return values.values.index(default) if default in values.values else None
    return default if default is not None and values.low <= default <= values.high else None
