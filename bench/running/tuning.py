"""Tuning: each model gets the same number of trials, or the same time, on validation users; then comes the test.

A study is one model on one split, with the options that were given held fast and the others drawn from its search space
by Optuna, the first trial at the defaults. Every trial is a job like any other, under the same budget, in a process of
its own, and its record stays in the store: what tuning has cost can be read there, and a study that was interrupted
draws the same trials again and finds those that are done. The best trial is then run on the test users, over all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from recscale.contract import Choice, ModelSpec, Options, Range
from recscale.errors import MissingExtra, UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS, check_metrics, metric
from recscale.evaluation.protocols import resolve_protocol
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.job import Data, Job, Prepared
from recscale.running.references import text_of
from recscale.running.runner import Display, Overwrite, Runner
from recscale.running.suite import Suite, all_data, combinations, expand

N_TRIALS = 20
N_RANDOM = 5  # trials that come to an end before the sampler learns from them
MOST_REPEATS = 100  # draws of what was tried before, in a row, after which there is nothing left to try
DIGITS = 4  # of a number that is drawn


@dataclass(frozen=True)
class TuneOptions(Options):
    """How much to try, and by what.

    A study ends after `trials` (None: 20 where no time is given, else any number), or before the trial that would begin
    once the jobs of the others have taken `seconds`, whichever is first. `metric` is of the validation users; None: the
    first that the suite asks for, or else of the protocol. `sampler`: `tpe` (Bergstra et al. 2011, after the first five
    trials that come to an end) or `random`; `seed` is that of the sampler.
    """

    trials: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0)] | None = None
    metric: str | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Annotated[int, Meta(ge=0)] = 0

    @property
    def most_trials(self) -> float:
        """How many trials a study may have."""
        if self.trials is None:
            return N_TRIALS if self.seconds is None else math.inf
        return self.trials


@dataclass(frozen=True)
class Study:
    """What tuning one model on one split has come to."""

    data: Data
    model: str
    given: Mapping[str, Any]  # options that were held fast
    metric: str
    trials: tuple[RunRecord, ...]  # in their order; failures too

    @property
    def text(self) -> str:
        """The model as it was given."""
        return text_of(self.model, self.given)

    @property
    def seconds(self) -> float:
        """What the jobs of all trials took, from the start of their processes to the end."""
        return sum(trial.job_wall_seconds or 0.0 for trial in self.trials)

    @property
    def best(self) -> RunRecord | None:
        """The first trial of the best value; None if all failed."""
        finished = [trial for trial in self.trials if trial.status == "ok"]
        sign = 1 if metric(self.metric).higher_is_better else -1
        return max(finished, key=lambda trial: sign * trial.metrics[self.metric], default=None)


@dataclass(frozen=True)
class _Subject:
    """What a study is about."""

    suite: Suite  # with its budget
    data: Data
    prepared: Prepared
    spec: ModelSpec
    name: str
    given: Mapping[str, Any]
    metric: str

    @property
    def space(self) -> dict[str, Choice | Range]:
        """The options that are searched."""
        return {option: values for option, values in self.spec.space.items() if option not in self.given}

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the options that are searched."""
        space = self.space
        return {option.name: option.default for option in fields(self.spec.model) if option.name in space}  # type: ignore[arg-type]


@dataclass
class Tuner:
    """Tunes the models of a suite, each with the same effort, and runs the best of each on the test users."""

    suite: Suite
    store: Store
    display: Display
    options: TuneOptions = TuneOptions()
    overwrite: Overwrite = "never"

    def run(self) -> tuple[list[Study], list[RunRecord]]:
        """Return the studies, and the records of their best options on the test users.

        Raises MissingExtra without Optuna, UsageError for a split without validation users and for several jobs at a
        time, UnknownName for the metric, and what Runner raises.
        """
        if self.options.metric is not None:
            for data in all_data(self.suite):
                check_metrics([self.options.metric], resolve_protocol(data.protocol, data.protocol_options))
        if self.suite.jobs != 1:
            raise UsageError("the trials of a study follow from those before: they run one at a time, with --jobs 1")
        _optuna()
        runner = Runner(self.suite, self.store, self.display, self.overwrite)
        studies: list[Study] = []
        records: list[RunRecord] = []
        try:
            for subject in self._subjects(runner):
                study = Study(
                    subject.data, subject.name, subject.given, subject.metric, tuple(self._trials(runner, subject))
                )
                studies.append(study)
                if study.best is not None:
                    plan = runner.plan_of(_jobs(subject, study.best.parameters))
                    told = f"of the best {study.text} on {subject.data.text}, for the test users"
                    self.display.planned(len(plan.jobs), len(plan.settled), told)
                    records += runner.run_plan(plan)
        finally:
            self.display.closed()
        return studies, records

    def _subjects(self, runner: Runner) -> list[_Subject]:
        """Prepare the data and return what is to be studied, each once."""
        found: dict[tuple[str, str, str], _Subject] = {}
        splits, suite = runner.prepare(), runner.budgeted()
        for data, prepared in splits:
            if not prepared.n_valid_users:
                raise UsageError(_nothing_to_tune_on(data))
            by = self.options.metric or (suite.metrics or DEFAULT_METRICS[data.protocol])[0]
            for entry, spec, given in combinations(suite, data):
                told = (data.text, data.protocol_text, text_of(entry.name, given))
                found.setdefault(told, _Subject(suite, data, prepared, spec, entry.name, given, by))
        return list(found.values())

    def _trials(self, runner: Runner, subject: _Subject) -> Iterator[RunRecord]:
        """Run the trials of one study, one after another."""
        space = subject.space
        most = min(self.options.most_trials, _n_choices(space, subject.defaults))
        drawn = self.draws(space, subject.defaults, is_better_higher=bool(metric(subject.metric).higher_is_better))
        told = f"of {text_of(subject.name, subject.given)} on {subject.data.text}, {subject.data.protocol_text}"
        self.display.planned(None if most == math.inf else int(most), 0, f"{told}, by {subject.metric}", "trial")
        spent, n_repeats, value, seen = 0.0, 0, None, dict[str, RunRecord]()
        while len(seen) < most and spent < (self.options.seconds or math.inf) and n_repeats < MOST_REPEATS:
            (job,) = _jobs(subject, {**subject.given, **drawn.send(value)}, is_trial=True)
            n_repeats = n_repeats + 1 if job.key in seen else 0
            if job.key not in seen:
                plan = runner.plan_of([job])
                (record,) = runner.run_plan(plan)
                if plan.settled:
                    self.display.finished(job, record)
                seen[job.key] = record
                spent += record.job_wall_seconds or 0.0
                yield record
                if record.status == "skipped":  # what is missing here is missing for every trial
                    return
            value = seen[job.key].metrics.get(subject.metric) if seen[job.key].status == "ok" else None

    def draws(
        self, space: Mapping[str, Choice | Range], defaults: Mapping[str, Any], *, is_better_higher: bool
    ) -> Generator[dict[str, Any], float | None, None]:
        """Yield options without end, the defaults first; it is sent the value that they reached, None for a failure.

        All in memory: the same is drawn again from the seed and from the values, so nothing else has to be kept.
        """
        optuna, seed = _optuna(), self.options.seed
        if self.options.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_RANDOM)
        study = optuna.create_study(sampler=sampler, direction="maximize" if is_better_higher else "minimize")
        first = {option: _placed(space[option], value) for option, value in defaults.items()}
        if None in first.values():
            yield dict(defaults)  # the sampler cannot be told of what it would not draw
        else:
            study.enqueue_trial(first)
        while True:
            trial = study.ask()
            value = yield {option: _drawn(trial, option, values) for option, values in space.items()}
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)


def _nothing_to_tune_on(data: Data) -> str:
    """Say what a split without validation users lacks."""
    kind, remedy = "users", "fold-in or hold-one-out"
    if "valid_share" in data.protocol_options:
        kind, remedy = "ratings", f"'{data.protocol}[valid_share=0.1]'"
    return f"{data.text}, {data.protocol_text} has no validation {kind} to tune on; use --protocol {remedy}"


def _jobs(subject: _Subject, options: Mapping[str, Any], *, is_trial: bool = False) -> list[Job]:
    """Return the jobs of these options: a trial, for validation users and the first seed, or those for test users."""
    reference = {subject.name: {option: [value] for option, value in options.items()}}
    seeds = subject.suite.seeds[:1] if is_trial else subject.suite.seeds
    suite = msgspec.structs.replace(subject.suite, models=[reference], profile=None, seeds=seeds)
    jobs = expand(suite, subject.data, subject.prepared)
    metrics = list(dict.fromkeys([subject.metric, *jobs[0].metrics]))
    changes: dict[str, Any] = {"evaluated_on": "validation", "family": None} if is_trial else {}
    return [msgspec.structs.replace(job, metrics=metrics, **changes) for job in jobs]


def _n_choices(space: Mapping[str, Choice | Range], defaults: Mapping[str, Any]) -> float:
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


def _optuna() -> Any:
    """Return Optuna, silent unless something is wrong. Raises MissingExtra."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
