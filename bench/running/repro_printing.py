"""What `recscale repro` prints: our cells beside the paper's, the same as JSON and as Markdown, and what there is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from recscale.errors import StoreError
from recscale.measuring.size import MISSING, format_bytes, format_count
from recscale.running.display import display_for
from recscale.running.printing import columns, print_plan
from recscale.running.repro import Cell, Reproduced, Reproduction, tally, why_absent
from recscale.running.repro_tables import Column, Paper, Published, Table, Tolerance, chosen, load_paper, paper_files
from recscale.running.runner import Overwrite, open_store
from recscale.running.suite import Suite

_HEADINGS = ("row", "our model", "figure", "paper", "ours", "difference", "tolerance", "verdict", "notes")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a paper: which tables, columns and rows (none: all), from which store, and in which form.

    `limits` are the budgets and the device, under the keys of a suite. `command` is what a person would type for it:
    it stands in the Markdown. With `list_only` nothing is run, and with `plan` nothing either.
    """

    command: str
    limits: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    store: Path = Path("results")
    overwrite: Overwrite = "never"
    download: bool = False
    list_only: bool = False
    plan: bool = False
    stored: bool = False
    as_json: bool = False
    markdown: Path | None = None


def answer(name: str | None, asked: Asked) -> bool:
    """Run the tables of a paper and print them, or the plan, or what there is; return whether any cell is outside.

    Without a name nothing can be run: all papers are listed. Raises UsageError, UnknownName, DataError or StoreError.
    """
    if name is None or asked.list_only:
        papers = {one: load_paper(one) for one in ([name] if name is not None else paper_files())}
        print_papers(papers, as_json=asked.as_json)
        return False
    paper = chosen(load_paper(name), asked.tables, asked.columns, asked.rows)
    store, display = open_store(asked.store), display_for(quiet=False)
    work = Reproduction(paper, Suite(**asked.limits), store, display, asked.overwrite, asked.download, asked.stored)
    if asked.plan:
        print_plan(work.plan(), as_json=asked.as_json)
        return False
    found = work.run()
    print_reproduced(name, paper, found, as_json=asked.as_json)
    if asked.markdown is not None:
        write_reproduced(name, paper, found, asked)
    return any(cell.verdict in ("outside", "failed") for one in found for cell in one.cells)


def print_papers(papers: Mapping[str, Paper], *, as_json: bool) -> None:
    """Print each paper with its tables, and what of them can be run with the data that is here. Raises DataError."""
    if as_json:
        told = {name: {t.name: _here(t) for t in paper.tables} for name, paper in papers.items()}
        _out(msgspec.json.format(msgspec.json.encode(told), indent=1).decode())
        return
    for name, paper in papers.items():
        _out(f"{name}: {paper.title} ({paper.cite})")
        for table in paper.tables:
            _out(f"  {table.name}: {table.title}; {', '.join(table.metrics)}; {len(table.rows)} rows")
            for column, reason in _here(table).items():
                _out(f"    {_titled(table, column)}: {reason or 'here'}")


def print_reproduced(name: str, paper: Paper, found: Sequence[Reproduced], *, as_json: bool) -> None:
    """Print every table with its verdicts, then the known differences; as one JSON document for programs."""
    if as_json:
        document = {"paper": name, "title": paper.title, "cite": paper.cite, "tables": found, "notes": paper.notes}
        _out(msgspec.json.format(msgspec.json.encode(document), indent=1).decode())
        return
    numbers = _numbers(found)
    _out(f"{name}: {paper.title} ({paper.cite})")
    for one in found:
        _out(f"\n{one.table.name}: {one.table.title}")
        for line in _claim(one.table):
            _out(line)
        for column in one.table.columns:
            _out(f"\n{_described(one, column)}")
            cells = [cell for cell in one.cells if cell.column == column.name]
            _out(columns(list(_HEADINGS), _rows(cells, numbers)))
            for line in [*_failures(cells), *_orders(one, column)]:
                _out(line)
        _out("")
        for line in [*_tolerances(one.table), f"{one.table.name}: {summary(one)}"]:
            _out(line)
    if numbers:
        _out("\nKnown differences")
        for note, number in numbers.items():
            _out(f"{number:>3}  {' '.join(paper.notes[note].split())}")


def write_reproduced(name: str, paper: Paper, found: Sequence[Reproduced], asked: Asked) -> None:
    """Write the same as Markdown, with the command that made it. Raises StoreError if that cannot be written."""
    path = asked.markdown or Path(f"{name}.md")
    numbers = _numbers(found)
    lines = [f"# {name}: {paper.title}", "", f"Cited as `{paper.cite}`. Made by", "", "```sh", asked.command, "```"]
    for one in found:
        lines += ["", f"## {_escaped(f'{one.table.name}: {one.table.title}')}"]
        lines += [part for line in _claim(one.table) for part in ("", _escaped(line))]
        for column in one.table.columns:
            cells = [cell for cell in one.cells if cell.column == column.name]
            lines += ["", f"**{_escaped(_described(one, column))}**", "", "| " + " | ".join(_HEADINGS) + " |"]
            lines += ["|" + " :-- |" * len(_HEADINGS)]
            lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in _rows(cells, numbers)]
            told = [*_failures(cells), *_orders(one, column)]
            lines += ["", *(f"- {_escaped(line)}" for line in told)] if told else []
        made = f"Ran on {', '.join(one.machines) or 'no machine yet'}; commit {', '.join(one.commits) or 'not known'}."
        lines += ["", *(f"{line}  " for line in map(_escaped, _tolerances(one.table)))]
        lines += [f"{_escaped(one.table.name)}: {summary(one)}. {_escaped(made)}"]
    if numbers:
        lines += ["", "## Known differences", ""]
        lines += [f"{number}. {_escaped(' '.join(paper.notes[note].split()))}" for note, number in numbers.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the tables cannot be written to {path}: {error.strerror or error}") from None


def summary(one: Reproduced) -> str:
    """Return one line: how many cells there are, and what came of them."""
    counts = tally(one.cells)
    n_cells = len(one.cells)
    told = ", ".join(f"{n:,} {verdict}" for verdict, n in counts.items())
    return f"{n_cells:,} cell{'s' * (n_cells != 1)}: {told}"


def _here(table: Table) -> dict[str, str | None]:
    """Return for each column why its data is absent, None where it is here."""
    return {column.name: why_absent(table, column, download=False) for column in table.columns}


def _titled(table: Table, name: str) -> str:
    """Return the name of a column with the data set that is run for it, and what it stands for."""
    column = next(column for column in table.columns if column.name == name)
    stands = f", in the place of {column.stands_for}" if column.stands_for else ""
    same = column.dataset is None or column.dataset == name
    return f"{name}{'' if same else f' = {column.dataset}'}{stands}"


def _numbers(found: Sequence[Reproduced]) -> dict[str, int]:
    """Return the numbers of the notes that concern any cell, in the order in which they are met."""
    notes = dict.fromkeys(note for one in found for cell in one.cells for note in cell.notes)
    return {note: number for number, note in enumerate(notes, start=1)}


def _claim(table: Table) -> list[str]:
    return [f"The paper says: {' '.join(table.claim.split())}"] if table.claim else []


def _described(one: Reproduced, column: Column) -> str:
    """Return what a column is: the paper's data, ours with its filter, the protocol, and whether it is here."""
    stands = f", which stands for {column.stands_for}: the same order is to be expected, not the same figures"
    data = one.data.get(column.name)
    told = f"{column.name}{stands if column.stands_for else ''}"
    if data is not None:
        told += f" ({data}, {one.table.protocol_on(column)})"
    return f"{told}: {one.absent[column.name]}" if column.name in one.absent else told


def _rows(cells: Sequence[Cell], numbers: dict[str, int]) -> list[list[str]]:
    """Return a line a cell; the row and its model stand in the first of each row alone."""
    rows, before = [], None
    for cell in cells:
        rows.append(
            [
                "" if cell.row == before else cell.row,
                "" if cell.row == before else cell.model or MISSING,
                cell.metric,
                _published(cell.published),
                _ours(cell),
                MISSING if cell.difference is None else f"{round(cell.difference, 4) + 0.0:+.4f}",
                MISSING if cell.tolerance is None else f"{cell.tolerance:.4f}",
                cell.verdict,
                ", ".join(map(str, sorted(numbers[note] for note in cell.notes))),
            ]
        )
        before = cell.row
    return rows


def _published(value: Published) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[1]:g}"
    return MISSING if value is None else value if isinstance(value, str) else f"{value:.4f}"


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return cell.status.replace("_", " ") if cell.status else MISSING
    if cell.metric == "n_bytes":
        return format_bytes(cell.ours)
    if cell.metric == "n_parameters":
        return format_count(cell.ours)
    error = "" if cell.standard_error is None else f" \N{PLUS-MINUS SIGN} {cell.standard_error:.4f}"
    return f"{cell.ours:.4f}{error}"


def _failures(cells: Sequence[Cell]) -> list[str]:
    """Return the reason of each row that failed, once."""
    reasons = {cell.row: cell for cell in cells if cell.verdict == "failed"}
    return [f"{row}: {(cell.status or 'failed').replace('_', ' ')}: {cell.reason}" for row, cell in reasons.items()]


def _orders(one: Reproduced, column: Column) -> list[str]:
    """Return in how many pairs of rows our order is the paper's."""
    told = [
        f"{order.metric} {order.n_agreeing} of {order.n_pairs}" for order in one.orders if order.column == column.name
    ]
    return [f"pairs of rows in the paper's order: {', '.join(told)}"] if told else []


def _tolerances(table: Table) -> list[str]:
    """Return what each tolerance is, and why."""
    lines = [f"tolerance: {_tolerance(table.tolerance)}"] if table.tolerance else []
    own: dict[Tolerance, list[str]] = {}
    for row in table.rows:
        if row.tolerance is not None:
            own.setdefault(row.tolerance, []).append(row.name)
    return lines + [f"tolerance of {', '.join(rows)}: {_tolerance(tolerance)}" for tolerance, rows in own.items()]


def _tolerance(tolerance: Tolerance) -> str:
    parts = [f"{tolerance.absolute:g}"] if tolerance.absolute else []
    parts += [f"{100 * tolerance.relative:g} % of the paper's figure"] if tolerance.relative else []
    parts += [f"{tolerance.standard_errors:g} standard errors"] if tolerance.standard_errors else []
    return f"{' + '.join(parts) or '0'}; {' '.join(tolerance.reason.split())}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
