"""What the five MovieLens releases have in common: one file of ratings and one of titles in a zip."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from recscale.contract import Dataset
from recscale.datasets._files import Origin
from recscale.datasets._published import Published, finish, read_table, rows_of
from recscale.datasets._text import Layout, open_member, read_columns, reading
from recscale.errors import DataError

PAGE = "https://grouplens.org/datasets/movielens"
FILES = "https://files.grouplens.org/datasets/movielens"
CITE = "Harper, Konstan 2015 (The MovieLens Datasets: History and Context, ACM TiiS 5)"

_TYPES = {"user": "int", "item": "int", "rating": "float", "timestamp": "int"}
TABBED = Layout(_TYPES, columns=("user", "item", "rating", "timestamp"), separator="\t")
COMMAS = Layout(_TYPES, columns=("user", "item", "rating", "timestamp"), header=True)
# "::" parts the columns: read as single colons with an empty column between, since parsers want one letter
COLONS = Layout(_TYPES, columns=("user", "a", "item", "b", "rating", "c", "timestamp"), separator=":")


@dataclass(frozen=True)
class Release:
    """Where one release comes from, what it must hold, and how its two files are written."""

    origin: Origin
    published: Published
    ratings: str
    layout: Layout
    titles: str
    titles_separator: str
    titles_encoding: str = "utf-8"


def load_release(release: Release, *, verify: bool) -> Dataset:
    """Return all ratings of a release, with times and titles. Raises DataError."""
    found = release.origin.obtain(verify=verify)
    path, titles = found.paths[0], None
    if found.is_table:
        rows = read_table(path)
    else:
        with open_member(path, release.ratings) as stream:
            rows = rows_of(read_columns(stream, release.layout, path))
        titles = _titles(release, path)
    return finish(release.origin.dataset, rows, release.published if verify else None, titles=titles, sources=(path,))


def _titles(release: Release, path: Path) -> dict[int, str] | None:
    """Return the titles by movie, None where the mirror holds the ratings without them."""
    source = path if path.suffix == ".zip" else path.with_name(release.titles)
    if not source.exists():
        return None
    with open_member(source, release.titles) as stream, reading(source):
        text = io.TextIOWrapper(stream, encoding=release.titles_encoding, newline="")
        if release.titles_separator == ",":
            fields = list(csv.reader(text))[1:]
        else:
            fields = [line.split(release.titles_separator) for line in text]
    try:
        return {int(field[0]): field[1] for field in fields}
    except (ValueError, IndexError):
        raise DataError(f"{source}: {release.titles} does not hold lines of a number and a title") from None
