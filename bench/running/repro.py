"""Runs the tables of a paper again: our cell beside the paper's, with a verdict and the known differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import msgspec

from recscale import registry
from recscale._parameters import build
from recscale.errors import RecscaleError, StoreError, UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.job import Data, Job
from recscale.running.repro_tables import Column, Paper, Published, Row, Table, check_references, suite_of
from recscale.running.runner import Display, Overwrite, Plan, Runner
from recscale.running.suite import Suite, all_data, expand

Verdict = Literal["within", "outside", "failed", "absent", "not run", "no published figure", "no model"]
VERDICTS: tuple[Verdict, ...] = ("within", "outside", "failed", "absent", "not run", "no published figure", "no model")
ROUNDING = 1e-9  # differences of decimal fractions: .1765 - .176 is not .0005 to the last bit


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: the paper's, ours, and what came of the comparison.

    `tolerance` is the bound that the difference was held against; `reason` says why there is no figure of ours.
    """

    column: str
    row: str
    model: str | None
    metric: str
    published: Published
    verdict: Verdict
    ours: float | None = None
    standard_error: float | None = None
    difference: float | None = None
    tolerance: float | None = None
    status: str | None = None
    reason: str | None = None
    key: str | None = None
    notes: list[str] = []


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Of how many pairs of rows the paper's figures differ, and of how many of these ours differ in the same way."""

    column: str
    metric: str
    n_pairs: int
    n_agreeing: int


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one table. `data` is what was run for each column, `absent` why nothing was."""

    table: Table
    cells: list[Cell]
    orders: list[Order]
    data: dict[str, str]
    absent: dict[str, str]
    machines: list[str]
    commits: list[str]


@dataclass(frozen=True)
class NotRun:
    """Why there is no record for a cell."""

    verdict: Literal["absent", "failed", "not run"]
    reason: str


Outcome: TypeAlias = RunRecord | NotRun | None  # None: the data is here, and the row has no model


@dataclass(frozen=True)
class Task:
    """A column of a table on data that is here."""

    table: Table
    column: Column


@dataclass
class Reproduction:
    """Runs the tables of a paper into a store, a column after another.

    `base` has the budgets and the device; its data sets, protocols and models are those of the paper. Data that is not
    here is fetched only with `download`. With `is_stored` nothing is run: what has no record yet has no figure, and a
    failure counts on whatever machine it was, and under whatever budget.
    """

    paper: Paper
    base: Suite
    store: Store
    display: Display
    overwrite: Overwrite = "never"
    download: bool = False
    is_stored: bool = False

    def plan(self) -> Plan:
        """Return the jobs of all tables on data that is here, with what is known before they run."""
        check_references(self.paper)
        plan = Plan([], {}, {})
        try:
            for task in self._tasks():
                runner = self._runner(task)
                found = runner.plan_of(list(_jobs(runner, task).values()))
                plan.jobs += [job for job in found.jobs if all(job.key != other.key for other in plan.jobs)]
                plan.settled |= found.settled
                plan.refusals |= found.refusals
                plan.forecasts |= found.forecasts
        finally:
            self.display.closed()
        return plan

    def run(self) -> list[Reproduced]:
        """Run what is not settled yet; return every table with its cells. Raises UsageError, DataError, StoreError."""
        self.base.limits()  # wrong budgets are said so even where no data is here
        check_references(self.paper)
        found: dict[tuple[str, str], dict[str, Outcome]] = {}
        try:
            for task in self._tasks():
                found[task.table.name, task.column.name] = self._run(task)
        finally:
            self.display.closed()
        return [self._reproduced(table, found) for table in self.paper.tables]

    def _tasks(self) -> Iterator[Task]:
        for table in self.paper.tables:
            for column in table.columns:
                has_models = bool(suite_of(table, column, self.base).models)
                if has_models and why_absent(table, column, download=self.download) is None:
                    yield Task(table, column)

    def _runner(self, task: Task) -> Runner:
        suite = suite_of(task.table, task.column, self.base)
        (data,) = all_data(suite)
        # the protocol's own metrics too: a record then serves an ordinary run as well
        metrics = list(dict.fromkeys([*DEFAULT_METRICS[data.protocol], *task.table.metrics]))
        suite = msgspec.structs.replace(suite, metrics=metrics)
        return Runner(suite, self.store, self.display, self.overwrite, is_any_machine=True)

    def _run(self, task: Task) -> dict[str, Outcome]:
        """Return the record of each row that has a model, or why the data could not be prepared."""
        runner = self._runner(task)
        try:
            jobs = _jobs(runner, task)
        except (StoreError, UsageError):
            raise
        except RecscaleError as error:  # the data is damaged or not as published: other columns may be fine
            return dict.fromkeys((row.name for row in task.table.rows), NotRun("failed", str(error)))
        plan = runner.plan_of(list(jobs.values()))
        self.display.planned(len(plan.jobs), len(plan.settled))
        if self.is_stored:
            records = self._stored | plan.settled
        else:
            records = {record.key: record for record in runner.run_plan(plan)}
        missing = NotRun("not run", "the store has no record of it; run the command without --stored")
        return {row: records.get(job.key, missing) for row, job in jobs.items()}

    @cached_property
    def _stored(self) -> dict[str, RunRecord]:
        """The last record of each job, by its key."""
        return {record.key: record for record in sorted(self.store.records(), key=lambda r: r.started_at)}

    def _reproduced(self, table: Table, found: Mapping[tuple[str, str], Mapping[str, Outcome]]) -> Reproduced:
        absent, cells = {}, []
        for column in table.columns:
            outcomes = found.get((table.name, column.name), {})
            reason = why_absent(table, column, download=self.download)
            missing = None if reason is None else NotRun("absent", reason)
            if reason is not None:
                absent[column.name] = reason
            for row in table.rows:
                cells += cells_of(table, row, column, outcomes.get(row.name, missing))
        kept = [found[key] for key in found if key[0] == table.name]
        records = [one for outcomes in kept for one in outcomes.values() if isinstance(one, RunRecord)]
        return Reproduced(
            table=table,
            cells=cells,
            orders=orders_of(table, cells),
            data={column.name: data_of(table, column).text for column in table.columns if column.dataset is not None},
            absent=absent,
            machines=_distinct(_machine(record) for record in records),
            commits=_distinct(str(record.commit) for record in records if record.commit),
        )


def data_of(table: Table, column: Column) -> Data:
    """Return the data set of a column that has one. Raises UnknownName or UsageError."""
    (data,) = all_data(suite_of(table, column, Suite()))
    return data


def why_absent(table: Table, column: Column, *, download: bool) -> str | None:
    """Return why the data of a column cannot be used now, and what to do; None if it can. Raises DataError."""
    if column.dataset is None:
        return column.why_absent
    data = data_of(table, column)
    if download or build(registry.dataset_spec(data.name).source, data.name, data.options).is_here():
        return None
    written = f'"{column.dataset}"' if "[" in column.dataset else column.dataset
    return f"absent: recscale prepare {written}, or --download"


def cells_of(table: Table, row: Row, column: Column, outcome: Outcome) -> list[Cell]:
    """Return the cells of a row and column, one for each metric and size."""
    notes = list(dict.fromkeys([*table.notes, *column.notes, *row.notes]))
    model = row.model_on(column.name)
    published = table.published(row, column.name)
    if isinstance(outcome, RunRecord) and outcome.status == "ok":
        published |= dict.fromkeys(table.sizes)
    cells = []
    for metric, figure in published.items():
        cell = Cell(
            column=column.name, row=row.name, model=model, metric=metric, published=figure, verdict="no model",
            notes=notes,
        )  # fmt: skip
        if model is None or outcome is None:
            cells.append(cell)
        elif isinstance(outcome, NotRun):
            cells.append(msgspec.structs.replace(cell, verdict=outcome.verdict, reason=outcome.reason))
        else:
            cells.append(_judged(cell, outcome, row if row.tolerance is not None else table))
    return cells


def _judged(cell: Cell, record: RunRecord, holder: Row | Table) -> Cell:
    """Return a cell with the figure of a record, and how far it is from the paper's."""
    filled = msgspec.structs.replace(cell, status=record.status, key=record.key)
    if record.status != "ok":
        return msgspec.structs.replace(filled, verdict="failed", reason=record.reason)
    ours = record.metrics[cell.metric] if cell.metric in record.metrics else getattr(record, cell.metric)
    error = record.standard_errors.get(cell.metric)
    filled = msgspec.structs.replace(filled, ours=ours, standard_error=error, verdict="no published figure")
    if not isinstance(cell.published, float | tuple) or holder.tolerance is None:
        return filled
    nearest, difference = distance(cell.published, ours)
    bound = holder.tolerance.bound(nearest, error)
    verdict: Verdict = "within" if abs(difference) <= bound + ROUNDING else "outside"
    return msgspec.structs.replace(filled, difference=difference, tolerance=bound, verdict=verdict)


def distance(published: float | tuple[float, float], ours: float) -> tuple[float, float]:
    """Return the published figure that is nearest to ours, and ours less that: 0 inside of a published range."""
    low, high = published if isinstance(published, tuple) else (published, published)
    nearest = min(max(ours, low), high)
    return nearest, ours - nearest


def orders_of(table: Table, cells: Sequence[Cell]) -> list[Order]:
    """Return for each column and metric how many pairs of rows stand in the order that the paper has them in.

    A column that stands for another is held against that one. Pairs that the paper has level do not count.
    """
    ours = {(cell.column, cell.metric, cell.row): cell.ours for cell in cells if cell.ours is not None}
    found = []
    for column in table.columns:
        for metric in table.metrics:
            rows = []
            for row in table.rows:
                theirs = table.published(row, column.stands_for or column.name)[metric]
                value = ours.get((column.name, metric, row.name))
                if isinstance(theirs, float) and value is not None:
                    rows.append((theirs, value))
            pairs = [(a[0] - b[0], a[1] - b[1]) for a, b in itertools.combinations(rows, 2) if a[0] != b[0]]
            n_agreeing = sum(published * difference > 0 for published, difference in pairs)
            if pairs:
                found.append(Order(column=column.name, metric=metric, n_pairs=len(pairs), n_agreeing=n_agreeing))
    return found


def tally(cells: Sequence[Cell]) -> dict[Verdict, int]:
    """Return how many cells have each verdict, without those that none has."""
    counts = {verdict: sum(cell.verdict == verdict for cell in cells) for verdict in VERDICTS}
    return {verdict: n for verdict, n in counts.items() if n}


def _jobs(runner: Runner, task: Task) -> dict[str, Job]:
    """Return the job of each row of a column that has a model. Raises RecscaleError where the data is unusable."""
    ((data, prepared),) = runner.prepare()
    suite = runner.budgeted()
    jobs = dict(zip(suite.models, expand(suite, data, prepared), strict=True))  # no grids, and one seed
    models = {row.name: row.model_on(task.column.name) for row in task.table.rows}
    return {row: jobs[model] for row, model in models.items() if model is not None}


def _machine(record: RunRecord) -> str:
    facts = record.machine
    return f"{facts['cpu']} with {facts['usable_cores']} cores" if "cpu" in facts else "a machine not described"


def _distinct(values: Iterator[str]) -> list[str]:
    return sorted(set(values))
