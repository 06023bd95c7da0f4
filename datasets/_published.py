"""Holds what was read against the figures that its publisher gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recscale.contract import Dataset
from recscale.datasets._table import Rows, encode, to_dataset
from recscale.datasets._text import numbers, reading
from recscale.errors import DataError


@dataclass(frozen=True, slots=True)
class Published:
    """The figures of the raw file, repeats included; None where the publisher gives none that can be checked."""

    n_users: int | None
    n_items: int | None
    n_rows: int | None


def check(name: str, rows: Rows, published: Published) -> None:
    """Raise DataError if `rows` are not what was published."""
    found = (rows.users.ids.size, rows.items.ids.size, len(rows))
    expected = (published.n_users, published.n_items, published.n_rows)
    if any(e is not None and e != f for e, f in zip(expected, found, strict=True)):
        raise DataError(
            f"{name} holds {_figures(*found)}, but {_figures(*expected)} were published; "
            f"the file is incomplete or another version (verify=false reads it all the same)"
        )


def finish(
    name: str,
    rows: Rows,
    published: Published | None,
    *,
    titles: Mapping[Any, str] | None = None,
    sources: tuple[Path, ...] = (),
) -> Dataset:
    """Return the Dataset of `rows`, checked first against `published` where that is given. Raises DataError."""
    if published is not None:
        check(name, rows, published)
    return to_dataset(name, rows, titles=titles, sources=sources)


def rows_of(columns: dict[str, Any]) -> Rows:
    """Return the Rows of columns named user, item and, where there are, rating, timestamp and part.

    The columns are taken out of `columns` one by one, so that each is freed once it is encoded. Raises DataError.
    """
    users = encode(columns.pop("user"), "user")
    items = encode(columns.pop("item"), "item")
    ratings = numbers(columns.pop("rating"), "rating", np.float32) if "rating" in columns else None
    times = numbers(columns.pop("timestamp"), "timestamp", np.int64) if "timestamp" in columns else None
    parts = numbers(columns.pop("part"), "part", np.int8) if "part" in columns else None
    return Rows(users, items, ratings=ratings, timestamps=times, parts=parts)


def read_table(path: Path) -> Rows:
    """Return the rows of an `interactions.parquet`: user, item and, where there are, rating, timestamp, split.

    In the column `split` 0 is train and 1 test; where there is a 2 as well, 1 is validation and 2 test.
    """
    import pyarrow.parquet as pq

    with reading(path):
        names = set(pq.read_schema(path).names)
        if not {"user", "item"} <= names:
            raise DataError(f"{path} has the columns {', '.join(sorted(names))}; expected user and item")
        wanted = [name for name in ("user", "item", "rating", "timestamp", "split") if name in names]
        table = pq.read_table(path, columns=wanted)
    columns = {name: table.column(name) for name in wanted}
    del table
    if "split" in columns:
        split = columns.pop("split").to_numpy()
        if split.size and not set(np.unique(split)) <= {0, 1, 2}:
            raise DataError(f"{path} has a split {int(split.max())}; expected 0, 1 or 2")
        code = np.array([0, 2, 1] if split.size and split.max() == 2 else [0, 1, 2], dtype=np.int8)
        columns["part"] = code[split]
    return rows_of(columns)


def _figures(n_users: int | None, n_items: int | None, n_rows: int | None) -> str:
    figures = ((n_users, "users"), (n_items, "items"), (n_rows, "rows"))
    return ", ".join(f"{number:,} {what}" for number, what in figures if number is not None)
