"""Reads files of one list a line: `user item item ...` of the LightGCN splits, and market baskets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recscale.contract import Dataset
from recscale.datasets._files import Origin
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode
from recscale.errors import DataError

_NEWLINE, _SPACE, _TAB, _RETURN = 10, 32, 9, 13
_MOST_DIGITS = 18  # the longest number that always fits int64


@dataclass(frozen=True, eq=False)
class Lists:
    """The numbers of a file, line by line: `values` (tokens,), and `lengths` (lines,) of the lines."""

    values: NDArray[np.int64]
    lengths: NDArray[np.int64]


def read_lists(path: Path) -> Lists:
    """Return the numbers of each line. Raises DataError for anything but digits and blanks, naming the line."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the path of a file that does")
    text = path.read_bytes()
    letters = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", dtype=np.uint8)
    is_digit = (letters >= ord("0")) & (letters <= ord("9"))
    is_newline = letters == _NEWLINE
    is_blank = is_newline | (letters == _SPACE) | (letters == _TAB) | (letters == _RETURN)
    wrong = np.flatnonzero(~(is_digit | is_blank))
    if wrong.size:
        line, letter = int(is_newline[: wrong[0]].sum()) + 1, chr(letters[wrong[0]])
        raise DataError(f"{path}, line {line}: found {letter!r}; expected ids of digits with blanks between them")
    edges = np.flatnonzero(np.diff(is_digit, prepend=False))
    starts, ends = edges[::2], edges[1::2]
    if starts.size == 0:
        raise DataError(f"{path} holds no interactions")
    if (ends - starts).max() > _MOST_DIGITS:
        line = int(is_newline[: starts[np.argmax(ends - starts)]].sum()) + 1
        raise DataError(f"{path}, line {line}: an id of more than {_MOST_DIGITS} digits is too large")
    line_ends = np.flatnonzero(is_newline)
    lengths = np.diff(np.searchsorted(starts, line_ends), prepend=0)
    return Lists(np.array(text.split(), dtype=np.int64), lengths)


def read_split(train: Path, test: Path) -> Rows:
    """Return the rows of a train and a test file whose lines are `user item item ...`. Raises DataError."""
    users, items, parts = [], [], []
    for part, path in enumerate((train, test)):
        lists = read_lists(path)
        starts = np.cumsum(lists.lengths) - lists.lengths
        filled = lists.lengths > 0
        is_user = np.zeros(lists.values.size, dtype=bool)
        is_user[starts[filled]] = True
        users.append(np.repeat(lists.values[is_user], lists.lengths[filled] - 1))
        items.append(lists.values[~is_user])
        parts.append(np.full(items[-1].size, part, dtype=np.int8))
    return Rows(
        encode(np.concatenate(users), "user"), encode(np.concatenate(items), "item"), parts=np.concatenate(parts)
    )


def load_split(origin: Origin, published: Published, *, verify: bool) -> Dataset:
    """Return a data set that is published as train.txt and test.txt. Raises DataError."""
    found = origin.obtain(verify=verify)
    rows = read_table(found.paths[0]) if found.is_table else read_split(*found.paths)
    return finish(origin.dataset, rows, published if verify else None, sources=found.paths)
