"""Tables for papers: LaTeX fragments in the style of booktabs, one a comparison, a matrix, a table beside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from recscale.reporting.files import plain_name
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, Row, Table

WIDEST = 6  # columns of figures that a page holds in letters that can be read
_COSTS = ("parameters", "bytes", "peak memory of fit", "fit")
_HEAD = "% Made by recscale report. Needs \\usepackage{booktabs}.\n"
_DOCUMENT = r"""% Made by recscale report: every table, to look at or to take over; each file stands alone as well.
\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx,textcomp}
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
\begin{document}
%s\end{document}
"""
# What LaTeX obeys, and letters that its usual fonts lack. A bracket or a star behind \\ would be its argument.
_LETTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "*": "{*}", "-": "{-}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", NOTHING: "--", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"\textmu{}", "\N{MINUS SIGN}": "$-$", "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}  # fmt: skip


def latex_files(sections: Mapping[str, tuple[Table, Sequence[Grid]]], matrices: Sequence[Grid]) -> dict[str, bytes]:
    """Return the fragments by file name, and `report.tex`, which shows them all.

    `sections` holds by anchor the table of a comparison and the tables beside it. The fragment of a comparison has the
    best configuration of each model, with what its protocol's papers report and what it cost.
    """
    found: dict[str, tuple[str, Grid]] = {}
    for grid in (part for matrix in matrices for part in in_parts(matrix)):
        found[plain_name(grid.title, found)] = (grid.title, grid)
    for anchor, (table, grids) in sections.items():
        found[plain_name(anchor, found)] = (table.title, best_of_each(table))
        for grid in grids:
            found[plain_name(f"{anchor}-{grid.title}", found)] = (f"{table.title}: {grid.title}", grid)
    files = {f"{name}.tex": (_HEAD + fragment(grid)).encode(errors="replace") for name, (_, grid) in found.items()}
    parts = [
        f"\\section*{{{escape_latex(title)}}}\n\\noindent\\fitted{{\\input{{{name}}}}}\n\n"
        f"\\smallskip\\noindent {escape_latex(grid.note)}\n\n"
        for name, (title, grid) in found.items()
    ]
    files[f"{plain_name('report', found)}.tex"] = _DOCUMENT.replace("%s", "".join(parts)).encode(errors="replace")
    return files


def in_parts(grid: Grid) -> list[Grid]:
    """Return a table as one or more that fit a page: the first column, and at most `WIDEST` others in each."""
    others = range(1, len(grid.columns))
    if len(others) <= WIDEST:
        return [grid]
    wanted = [(0, *others[first : first + WIDEST]) for first in range(0, len(others), WIDEST)]
    return [
        replace(
            grid,
            title=f"{grid.title}, part {number} of {len(wanted)}",
            columns=tuple(grid.columns[index] for index in part),
            rows=tuple(tuple(row[index] for index in part) for row in grid.rows),
        )
        for number, part in enumerate(wanted, 1)
    ]


def best_of_each(table: Table) -> Grid:
    """Return the table of a comparison as a paper has it: a row for each model, its best configuration."""
    wanted = [0] + [
        index
        for index, column in enumerate(table.columns)
        if column.heading in (*(table.comparison.headlines or ("result",)), *_COSTS)
    ]
    rows: dict[str, Row] = {}
    for row in table.rows:
        rows.setdefault(row.configuration.model, row)
    return Grid(
        title=table.title,
        columns=tuple(table.columns[index] for index in wanted),
        rows=tuple(
            (
                Cell(model, note=", ".join(row.configuration.details)),
                *(row.cells[index] for index in wanted[1:]),
            )
            for model, row in rows.items()
        ),
        note="The best configuration of each model.",
    )


def fragment(grid: Grid) -> str:
    """Return a table as a `tabular`; the best is bold, the second underlined, the note not in it."""
    lines = [
        f"\\begin{{tabular}}{{{''.join(map(_alignment, grid.columns))}}}",
        "\\toprule",
        _line([escape_latex(column.heading) for column in grid.columns]),
        "\\midrule",
        *(_line([_cell(cell) for cell in row]) for row in grid.rows),
        "\\bottomrule",
        "\\end{tabular}%",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(value: object) -> str:
    """Return text that LaTeX prints as it is, on one line: no command, no comment, no argument comes of it."""
    line = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(value)).strip()
    return "".join(_LETTERS.get(letter, letter) for letter in line)


def _alignment(column: Column) -> str:
    return "r" if column.is_number else "p{9cm}" if column.is_long else "l"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _cell(cell: Cell) -> str:
    shown = escape_latex(cell.text)
    if cell.is_best:
        shown = f"\\textbf{{{shown}}}"
    elif cell.is_second:
        shown = f"\\underline{{{shown}}}"
    return f"{shown} {{\\footnotesize {escape_latex(cell.note)}}}" if cell.note else shown
