"""Tuning: each model gets the same number of trials, or of seconds, on the validation users, and one look at the test.

A study is one model on one split, with the options that were given held fast and the others drawn from its search space
by Optuna, the first trial at the defaults. Every trial is a job like any other, under the same budget, in a process of
its own, and its record stays in the store: what tuning has cost can be read there, and a study that was interrupted
draws the same trials again and finds those that are done. The best trial is then run on the test users, over all seeds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from recscale.contract import Choice, ModelSpec, Options, Range
from recscale.errors import MissingExtra, UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS, metric
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.job import Data, Job, Prepared
from recscale.running.references import text_of
from recscale.running.runner import Display, Overwrite, Runner
from recscale.running.suite import Suite, combinations, expand

N_RANDOM = 5  # trials before the sampler learns from them
MOST_DRAWS = 20  # for each trial: in a small space the same is drawn again and again


@dataclass(frozen=True)
class TuneOptions(Options):
    """How much to try, and by what.

    A study ends after `trials`, or before the trial that would begin once its trials have taken `seconds`, whichever is
    first. `metric` is of the validation users; None: the first of the protocol. `sampler`: `tpe` (Bergstra et al. 2011,
    from the sixth trial on) or `random`; `seed` is that of the sampler.
    """

    trials: Annotated[int, Meta(ge=1)] = 20
    seconds: Annotated[float, Meta(gt=0)] | None = None
    metric: str | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Annotated[int, Meta(ge=0)] = 0


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
        """What all trials took, from load to score."""
        return sum(trial_seconds(trial) for trial in self.trials)

    @property
    def best(self) -> RunRecord | None:
        """The first trial of the best value; None if all failed."""
        finished = [trial for trial in self.trials if trial.status == "ok"]
        sign = 1 if metric(self.metric).higher_is_better else -1
        return max(finished, key=lambda trial: sign * trial.metrics[self.metric], default=None)


def trial_seconds(trial: RunRecord) -> float:
    """Return the seconds of all phases of a trial."""
    return sum(phase.wall_seconds for phase in trial.phases.values())


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
        _optuna()
        if self.suite.jobs != 1:
            raise UsageError("the trials of a study follow from those before: they run one at a time, without --jobs")
        runner = Runner(self.suite, self.store, self.display, self.overwrite)
        splits = runner.prepare()
        for data, prepared in splits:
            metric(self._metric(data))
            if not prepared.n_valid_users:
                raise UsageError(
                    f"{data.text}, {data.protocol_text} has no validation users to tune on; use --protocol fold-in or"
                    " hold-one-out"
                )
        self.suite = runner.budgeted()
        studies: list[Study] = []
        records: list[RunRecord] = []
        try:
            for data, prepared in splits:
                for entry, spec, given in combinations(self.suite):
                    trials = tuple(self._trials(runner, (data, prepared), spec, (entry.name, given)))
                    studies.append(Study(data, entry.name, given, self._metric(data), trials))
                    best = studies[-1].best
                    if best is not None:
                        chosen = _with_model(self.suite, entry.name, best.parameters)
                        plan = runner.plan_of(expand(chosen, data, prepared))
                        self.display.planned(len(plan.jobs), len(plan.settled))
                        records += runner.run_plan(plan)
        finally:
            self.display.closed()
        return studies, records

    def _metric(self, data: Data) -> str:
        return self.options.metric or (self.suite.metrics or DEFAULT_METRICS[data.protocol])[0]

    def _trials(
        self, runner: Runner, on: tuple[Data, Prepared], spec: ModelSpec, model: tuple[str, Mapping[str, Any]]
    ) -> Iterator[RunRecord]:
        """Run the trials of one study, one after another."""
        (name, given), by = model, self._metric(on[0])
        space = {option: values for option, values in spec.space.items() if option not in given}
        sampled = self._sampled(space, _defaults(spec, space), higher_is_better=bool(metric(by).higher_is_better))
        n_trials = self.options.trials if space else 1
        self.display.planned(n_trials, 0)
        spent, seen, value = 0.0, dict[str, RunRecord](), None
        while len(seen) < n_trials and (self.options.seconds is None or spent < self.options.seconds):
            drawn = sampled.send(value)
            if drawn is None:
                return
            job = self._job(on, name, {**given, **drawn})
            if job.key not in seen:
                plan = runner.plan_of([job])
                (seen[job.key],) = runner.run_plan(plan)
                if plan.settled:
                    self.display.finished(job, seen[job.key])
                spent += trial_seconds(seen[job.key])
                yield seen[job.key]
            value = seen[job.key].metrics.get(by) if seen[job.key].status == "ok" else None

    def _sampled(
        self, space: Mapping[str, Choice | Range], defaults: Mapping[str, Any], *, higher_is_better: bool
    ) -> Generator[dict[str, Any] | None, float | None, None]:
        """Yield options, the defaults first; it is sent the value that they reached, None for a failure.

        All in memory: the same is drawn again from the seed and from the records, so nothing else has to be kept.
        Yields None in the end, after as many draws as there are for each trial that is new.
        """
        optuna, seed = _optuna(), self.options.seed
        if self.options.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_RANDOM)
        study = optuna.create_study(sampler=sampler, direction="maximize" if higher_is_better else "minimize")
        first = {option: _placed(space[option], value) for option, value in defaults.items()}
        if None in first.values():
            yield dict(defaults)  # the sampler cannot be told of what it would not draw
        else:
            study.enqueue_trial(first)
        for _ in range(MOST_DRAWS * self.options.trials):
            trial = study.ask()
            value = yield {option: _drawn(trial, option, values) for option, values in space.items()}
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
        yield None

    def _job(self, on: tuple[Data, Prepared], name: str, options: Mapping[str, Any]) -> Job:
        """Return the job of a trial: scored for the validation users, with the first seed."""
        (job,) = expand(
            msgspec.structs.replace(_with_model(self.suite, name, options), seeds=self.suite.seeds[:1]), *on
        )
        metrics = list(dict.fromkeys([self._metric(on[0]), *job.metrics]))
        return msgspec.structs.replace(job, evaluated_on="validation", family=None, metrics=metrics)


def _with_model(suite: Suite, name: str, options: Mapping[str, Any]) -> Suite:
    """Return the suite with one model, whose options are all given."""
    reference = {name: {option: [value] for option, value in options.items()}}
    return msgspec.structs.replace(suite, models=[reference], profile=None)


def _drawn(trial: Any, option: str, values: Choice | Range) -> Any:
    """Have Optuna draw a value of an option."""
    if isinstance(values, Choice):
        return values.values[trial.suggest_categorical(option, range(len(values.values)))]
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(option, values.low, values.high, log=values.log)
    return trial.suggest_float(option, values.low, values.high, log=values.log)


def _defaults(spec: ModelSpec, space: Mapping[str, Choice | Range]) -> dict[str, Any]:
    """Return the defaults of the options that are searched."""
    return {option.name: option.default for option in fields(spec.model) if option.name in space}  # type: ignore[arg-type]


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
