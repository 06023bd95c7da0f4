"""The tables of papers that `recscale repro` runs again: what a file in `papers/` holds, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import yaml

from recscale.errors import RecscaleError, UnknownName, UsageError
from recscale.running.references import grid, parse_reference
from recscale.running.suite import Suite, check_suite

Published: TypeAlias = float | str | tuple[float, float] | None  # a figure, what stands in its place, a range, nothing
SizeField: TypeAlias = Literal["n_parameters", "n_bytes"]
FOLDER = Path(__file__).parent / "papers"
SUFFIX = ".yaml"


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a cell of ours may lie from the paper's, and why that far.

    The sum of `absolute`, of `relative` times the paper's figure, and of `standard_errors` times ours.
    """

    reason: str
    absolute: float = 0.0
    relative: float = 0.0
    standard_errors: float = 0.0

    def bound(self, published: float, standard_error: float | None) -> float:
        """Return the largest difference that is within."""
        return self.absolute + self.relative * abs(published) + self.standard_errors * (standard_error or 0.0)


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set of the paper, and the one that we run: by name with its options, or none and `why_absent`.

    `stands_for` names a column of the paper that this data set is run in the place of: the same order of rows is to be
    expected, not the same figures. `protocol` is that of the table unless it is given.
    """

    name: str
    dataset: str | None = None
    why_absent: str | None = None
    protocol: str | None = None
    stands_for: str | None = None
    notes: list[str] = []


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the paper: our model with its options (None: we have none), another by column, and the cells.

    `cells` has for each column one value a metric of the table.
    """

    name: str
    model: str | None = None
    by_column: dict[str, str | None] = {}
    cells: dict[str, list[Published]] = {}
    tolerance: Tolerance | None = None
    notes: list[str] = []

    def model_on(self, column: str) -> str | None:
        """Return what is run for this row on a column."""
        return self.by_column.get(column, self.model)


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the paper, or (`claim`) what it says in words where no figures are known.

    `sizes` are shown beside the metrics.
    """

    name: str
    title: str
    protocol: str
    metrics: list[str]
    columns: list[Column]
    rows: list[Row]
    sizes: list[SizeField] = []
    tolerance: Tolerance | None = None
    claim: str | None = None
    notes: list[str] = []

    def protocol_on(self, column: Column) -> str:
        """Return the protocol of a column."""
        return column.protocol or self.protocol

    def published(self, row: Row, column: str) -> dict[str, Published]:
        """Return the paper's cells of a row and column by metric."""
        return dict(zip(self.metrics, row.cells.get(column, [None] * len(self.metrics)), strict=True))


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: a paper by its key in docs/citations.bib, its tables, and the known differences of protocol by name."""

    title: str
    cite: str
    tables: list[Table]
    notes: dict[str, str] = {}


def paper_files() -> dict[str, Path]:
    """Return the files that come with recscale, by the name of the paper."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def load_paper(name: str) -> Paper:
    """Return a paper by its name, or from a file of one's own that ends in .yaml.

    Raises UnknownName for a paper that there is not, UsageError for a file that cannot be used.
    """
    known = paper_files()
    if name not in known and not name.endswith(SUFFIX):
        raise UnknownName("paper", name, known)
    path = known.get(name, Path(name))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        paper = msgspec.convert(content, Paper)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the tables {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"the tables {path} are not YAML: {' '.join(str(error).split())}") from None
    except msgspec.ValidationError as error:
        raise UsageError(f"the tables {path.name}: {error}") from None
    _check(paper, path.name)
    return paper


def chosen(paper: Paper, tables: Sequence[str], columns: Sequence[str], rows: Sequence[str]) -> Paper:
    """Return the paper with the tables, columns and rows of these names alone; no names mean all.

    Raises UnknownName for a name that no table has.
    """
    kept = _named("table", tables, paper.tables)
    _known("column", columns, [column.name for table in kept for column in table.columns])
    _known("row", rows, [row.name for table in kept for row in table.rows])
    cut = [
        msgspec.structs.replace(
            table,
            columns=[column for column in table.columns if not columns or column.name in columns],
            rows=[row for row in table.rows if not rows or row.name in rows],
        )
        for table in kept
    ]
    left = [table for table in cut if table.columns and table.rows]
    if not left:
        raise UsageError("no table has both the columns and the rows that were asked for; see recscale repro --list")
    return msgspec.structs.replace(paper, tables=left)


def suite_of(table: Table, column: Column, base: Suite) -> Suite:
    """Return the suite that runs the rows of a table on one column; it has no models where no row has one."""
    models = dict.fromkeys(model for row in table.rows if (model := row.model_on(column.name)) is not None)
    return msgspec.structs.replace(
        base, datasets=[column.dataset], protocols=[table.protocol_on(column)], models=list(models)
    )


def check_references(paper: Paper) -> None:
    """Check that every model, data set, protocol and metric of a paper exists and fits. Raises UsageError."""
    for table in paper.tables:
        for column in table.columns:
            suite = suite_of(table, column, Suite(metrics=table.metrics))
            if column.dataset is None or not suite.models:
                continue
            try:
                for model in suite.models:
                    _check_single(model)
                check_suite(suite)
            except RecscaleError as error:
                raise UsageError(f"table {table.name}, column {column.name}: {error}") from None


def _check_single(model: str) -> None:
    n_models = len(grid(parse_reference(model)[1]))
    if n_models != 1:
        raise UsageError(f"{model} is a grid of {n_models} models; a row is one model: give one value of each option")


def _named(kind: str, names: Sequence[str], among: Sequence[Table]) -> list[Table]:
    _known(kind, names, [one.name for one in among])
    return [one for one in among if not names or one.name in names]


def _known(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    listed = list(dict.fromkeys(known))
    for name in names:
        if name not in listed:
            raise UnknownName(kind, name, listed)


def _check(paper: Paper, file: str) -> None:
    """Check all that can be checked without data. Raises UsageError, which says where in the file."""
    if not paper.tables:
        raise UsageError(f"the tables {file}: there is none; give at least one under tables")
    _once("table", [table.name for table in paper.tables], file)
    for table in paper.tables:
        where = f"{file}, table {table.name}"
        _once("column", [column.name for column in table.columns], where)
        _once("row", [row.name for row in table.rows], where)
        for column in table.columns:
            _check_column(table, column, f"{where}, column {column.name}")
        for row in table.rows:
            _check_row(table, row, f"{where}, row {row.name}")
    lists = [
        notes
        for table in paper.tables
        for notes in (table.notes, *(column.notes for column in table.columns), *(row.notes for row in table.rows))
    ]
    used = {note for notes in lists for note in notes}
    for note in sorted(used - set(paper.notes)):
        raise UnknownName(f"note ({file})", note, paper.notes)
    for note in sorted(set(paper.notes) - used):
        raise UsageError(f"the tables {file}: no table, column or row has the note {note}; name it or remove it")


def _once(kind: str, names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: two {kind}s are named {name!r}; rename one")
    if not names:
        raise UsageError(f"{where}: there is no {kind}; give at least one")


def _check_column(table: Table, column: Column, where: str) -> None:
    if (column.dataset is None) == (column.why_absent is None):
        raise UsageError(f"{where}: give either dataset or why_absent, the reason why there is none")
    if column.stands_for is not None:
        others = [other.name for other in table.columns if other.stands_for is None]
        if column.stands_for not in others:
            raise UnknownName(f"column of the paper ({where}, stands_for)", column.stands_for, others)
    if column.dataset is not None and not suite_of(table, column, Suite()).models:
        raise UsageError(f"{where}: no row has a model of ours; remove the column, or its data set")


def _check_row(table: Table, row: Row, where: str) -> None:
    papers_own = [column.name for column in table.columns if column.stands_for is None]
    _known_in(where, "by_column", row.by_column, [column.name for column in table.columns])
    _known_in(where, "cells", row.cells, papers_own)
    for column, cells in row.cells.items():
        if len(cells) != len(table.metrics):
            raise UsageError(
                f"{where}: {column} has {len(cells)} cells, and the table {len(table.metrics)} metrics"
                f" ({', '.join(table.metrics)}); give one for each, null for none"
            )
        if any(isinstance(cell, tuple) and cell[0] > cell[1] for cell in cells):
            raise UsageError(f"{where}: {column} has a range whose first figure is the larger; write the smaller first")
    has_figures = any(isinstance(cell, float | tuple) for cells in row.cells.values() for cell in cells)
    if has_figures and row.tolerance is None and table.tolerance is None:
        raise UsageError(f"{where}: there is no tolerance for its figures; give one, with its reason, to table or row")


def _known_in(where: str, key: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownName(f"column ({where}, {key})", name, known)
