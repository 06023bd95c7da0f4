"""Tuning: each model gets the same number of trials, or the same time, on validation users; then comes the test.

A study is one model on one split, with the options that were given held fast and the others drawn from its search space
by Optuna, the first trial at the defaults. Every trial is a job like any other, under the same budget, in a process of
its own, and its record stays in the store, with its place in each study that it is a trial of: what tuning has cost can
be read there. From the records the same trials are
drawn again, after an interruption and by other processes: those that share a store divide the trials among them by the
claims of the store, and end with the same winners. These are then run on the test users, over all seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import msgspec

from recscale.contract import Choice, ModelSpec, Range
from recscale.errors import UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS, check_metrics, metric
from recscale.evaluation.protocols import resolve_protocol
from recscale.records.record import RunRecord, Trial
from recscale.records.store import Store
from recscale.running.draws import Course, Draws, load_optuna, n_choices
from recscale.running.job import Data, Job, Prepared
from recscale.running.pruning import MedianWatch, Watches
from recscale.running.references import text_of
from recscale.running.runner import WAIT_SECONDS, Display, Overwrite, Runner
from recscale.running.suite import Suite, all_data, combinations
from recscale.running.tune_options import TuneOptions

Splits: TypeAlias = list[tuple[Data, Prepared]]


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
    def n_pruned(self) -> int:
        """How many trials were ended for want of hope: no failures."""
        return sum(trial.status == "pruned" for trial in self.trials)

    @property
    def n_failed(self) -> int:
        """How many trials failed."""
        return sum(trial.status not in ("ok", "pruned") for trial in self.trials)

    @property
    def best(self) -> RunRecord | None:
        """The first trial of the best value; None if none came to an end with one."""
        finished = [t for t in self.trials if t.status == "ok" and math.isfinite(t.metrics[self.metric])]
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
    def text(self) -> str:
        """The model as it was given."""
        return text_of(self.name, self.given)

    @property
    def space(self) -> dict[str, Choice | Range]:
        """The options that are searched."""
        return {option: values for option, values in self.spec.space.items() if option not in self.given}

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the options that are searched."""
        space = self.space
        return {option.name: option.default for option in fields(self.spec.model) if option.name in space}  # type: ignore[arg-type]

    def study(self, course: Course) -> Study:
        """Return what a course has come to."""
        return Study(self.data, self.name, self.given, self.metric, course.trials)


@dataclass
class Tuner:
    """Tunes the models of a suite, each with the same effort, and runs the best of each on the test users."""

    suite: Suite
    store: Store
    display: Display
    options: TuneOptions = field(default_factory=TuneOptions)
    overwrite: Overwrite = "never"

    def run(self) -> tuple[list[Study], list[RunRecord]]:
        """Return the studies, and the records of their best options on the test users.

        Raises MissingExtra without Optuna, UsageError for a split without validation users and for several jobs at a
        time, UnknownName for the metric, and what Runner raises.
        """
        if self.options.metric is not None:
            for data in all_data(self.suite):
                check_metrics([self.options.metric], resolve_protocol(data.protocol, data.protocol_options))
        if self.suite.jobs != 1 and self.suite.executor == "local":
            raise UsageError(
                "the trials of a study follow from those before: they run one at a time, with --jobs 1; to share them,"
                " start the same command again beside this one, or give them to a cluster with --executor ray"
            )
        load_optuna()
        runner = Runner(self.suite, self.store, self.display, self.overwrite, is_any_machine=True)
        try:
            splits = runner.prepare()
            as_written = self._as_written(runner, splits)
            pairs = [(subject, self._course(runner, subject)) for subject in self._subjects(runner, splits)]
            self._search(runner, pairs)
            studies = [subject.study(course) for subject, course in pairs]
            best = self._test(runner, [subject for subject, _ in pairs], studies)
            return studies, best + self._run(runner, as_written, "as written, where no validation users are to tune on")
        finally:
            runner.close()

    def _as_written(self, runner: Runner, splits: Splits) -> list[Job]:
        """Return the jobs of splits without validation users: the models as they are written, in the profile `full`.

        Raises UsageError in others, where there must be some to tune on.
        """
        bare = [(data, prepared) for data, prepared in splits if not prepared.n_valid_users]
        if bare and self.suite.profile != "full":
            raise UsageError(_nothing_to_tune_on(bare[0][0]))
        suite = runner.budgeted()
        return [job for data, prepared in bare for job in runner.expand(suite, data, prepared)]

    def _subjects(self, runner: Runner, splits: Splits) -> list[_Subject]:
        """Return what is to be studied, each once."""
        found: dict[tuple[str, str, str], _Subject] = {}
        suite = runner.budgeted()
        for data, prepared in splits:
            if not prepared.n_valid_users:
                continue
            by = self.options.metric or (suite.metrics or DEFAULT_METRICS[data.protocol])[0]
            for entry, spec, given in combinations(suite, data):
                told = (data.text, data.protocol_text, text_of(entry.name, given))
                found.setdefault(told, _Subject(suite, data, prepared, spec, entry.name, given, by))
        return list(found.values())

    def _course(self, runner: Runner, subject: _Subject) -> Course:
        """Return the trials of a study, none of which has been drawn."""
        space, defaults, options = subject.space, subject.defaults, self.options
        rises = bool(metric(subject.metric).higher_is_better)

        def job_of(drawn: dict[str, Any], number: int) -> Job:
            (job,) = _jobs(runner, subject, {**subject.given, **drawn}, is_trial=True)
            trial = Trial(
                study=subject.text,
                number=number,
                metric=subject.metric,
                sampler=options.sampler,
                seed=options.seed,
            )
            return msgspec.structs.replace(job, trial=trial, may_be_pruned=options.pruner is not None)

        draws = Draws(space, defaults, options, is_better_higher=rises)
        return Course(options, draws, subject.metric, job_of, min(options.most_trials, n_choices(space, defaults)))

    def _search(self, runner: Runner, pairs: list[tuple[_Subject, Course]]) -> None:
        """Run the trials of all studies; where other processes hold what is left of one, go on with the next."""
        if runner.executor.has_room(1):
            return self._search_together(runner, pairs)
        for subject, course in pairs:
            self._announce(subject, course)
            self._go_on(runner, course)
        while held := [job for _, course in pairs for job in course.open()]:
            if not sum(self._go_on(runner, course) for _, course in pairs):
                self.display.waiting(held[0])
                time.sleep(WAIT_SECONDS)
        return None

    def _search_together(self, runner: Runner, pairs: list[tuple[_Subject, Course]]) -> None:
        """Run the trials of all studies in rounds: all that can be drawn, at once, and then those that follow."""
        most = sum(course.most for _, course in pairs)
        n_studies = len(pairs)
        told = f"of {n_studies} {'study' if n_studies == 1 else 'studies'}, {self.options.workers} of each at a time"
        self.display.planned(None if most == math.inf else int(most), 0, told, "trial")
        while opened := [(course, job) for _, course in pairs for job in course.open()]:
            if not self._take(runner, opened):
                self.display.waiting(opened[0][1])
                time.sleep(WAIT_SECONDS)

    def _announce(self, subject: _Subject, course: Course) -> None:
        told = f"of {subject.text} on {subject.data.text}, {subject.data.protocol_text}, by {subject.metric}"
        self.display.planned(None if course.most == math.inf else int(course.most), 0, told, "trial")

    def _go_on(self, runner: Runner, course: Course) -> int:
        """Run the trials of one study as long as there are some that nobody else holds; return how many came to an end.

        What other processes have finished meanwhile is taken over.
        """
        n_before = len(course.records)
        while any(self._take(runner, [(course, job)]) for job in course.open()):
            pass
        return len(course.records) - n_before

    def _take(self, runner: Runner, opened: Sequence[tuple[Course, Job]]) -> bool:
        """Run trials, or take their records, also from other studies; return False if other processes hold them all."""
        plan = runner.plan_of([job for _, job in opened])
        watches = {job.key: MedianWatch(course.before(job)) for course, job in opened if job.may_be_pruned}
        found = {record.key: record for record in runner.run_free(plan, Watches(watches))}
        n_taken = 0
        for course, job in opened:
            record = found.get(job.key)
            if record is not None and job.trial not in record.places:
                record = runner.share(job)
            if record is None:
                continue
            if job.key in plan.settled:
                self.display.finished(job, record)
            course.take(record)
            n_taken += 1
        return n_taken > 0

    def _test(self, runner: Runner, subjects: list[_Subject], studies: list[Study]) -> list[RunRecord]:
        """Run the winners for the test users, each once, and return their records."""
        pairs = zip(subjects, studies, strict=True)
        jobs = [job for subject, study in pairs if study.best for job in _jobs(runner, subject, study.best.parameters)]
        n_best = sum(study.best is not None for study in studies)
        told = f"of the best of {n_best} {'study' if n_best == 1 else 'studies'}, for the test users"
        return self._run(runner, jobs, told)

    def _run(self, runner: Runner, jobs: list[Job], told: str) -> list[RunRecord]:
        """Run jobs, if there are any, and return their records."""
        if not jobs:
            return []
        plan = runner.plan_of(jobs)
        self.display.planned(len(plan.jobs), len(plan.settled), told)
        return runner.run_plan(plan)


def run_suite(
    suite: Suite, store: Store, display: Display, overwrite: Overwrite = "never", is_any_machine: bool = False
) -> list[RunRecord]:
    """Run a suite and return the records of test users: of the winners, where it is tuned, else of all its jobs.

    With `is_any_machine` the records of other machines count, as those of a search always do.
    """
    if not suite.is_tuned:
        return Runner(suite, store, display, overwrite, is_any_machine).run()
    return Tuner(suite, store, display, suite.tuning(), overwrite).run()[1]


def _nothing_to_tune_on(data: Data) -> str:
    """Say what a split without validation users lacks."""
    kind, remedy = "users", "fold-in or hold-one-out"
    if "valid_share" in data.protocol_options:
        kind, remedy = "ratings", f"'{data.protocol}[valid_share=0.1]'"
    return f"{data.text}, {data.protocol_text} has no validation {kind} to tune on; use --protocol {remedy}"


def _jobs(runner: Runner, subject: _Subject, options: Mapping[str, Any], *, is_trial: bool = False) -> list[Job]:
    """Return the jobs of these options: a trial, for validation users and the first seed, or those for test users."""
    reference = {subject.name: {option: [value] for option, value in options.items()}}
    seeds = subject.suite.all_seeds[:1] if is_trial else subject.suite.all_seeds
    suite = msgspec.structs.replace(subject.suite, models=[reference], profile=None, seeds=seeds)
    jobs = runner.expand(suite, subject.data, subject.prepared)
    metrics = list(dict.fromkeys([subject.metric, *jobs[0].metrics]))
    changes: dict[str, Any] = {"evaluated_on": "validation", "family": None} if is_trial else {}
    return [msgspec.structs.replace(job, metrics=metrics, **changes) for job in jobs]
