"""Netflix Prize: ratings of 1998 to 2005."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode
from recscale.datasets._text import reading
from recscale.errors import DataError

_COMBINED = tuple(f"combined_data_{number}.txt" for number in range(1, 5))
_ORIGIN = Origin(
    dataset="netflix",
    remotes=(
        Remote(
            "nf_prize_dataset.tar.gz",
            "https://archive.org/download/nf_prize_dataset.tar/nf_prize_dataset.tar.gz",
        ),
    ),
    unpacked=(_COMBINED, ("training_set",), ("training_set.tar",)),
)
_HEADING = re.compile(rb"^(\d+):\s*?\n", re.MULTILINE)
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class NetflixPrize(Source):
    """Ratings 1 to 5 with days; `movie:` and then lines `user,rating,date`, in four files, or one a movie."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        rows = read_table(found.paths[0]) if found.is_table else _rows(found.paths)
        published = Published(480_189, 17_770, 100_480_507) if self.verify else None
        return finish("netflix", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


def _rows(paths: tuple[Path, ...]) -> Rows:
    users: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    ratings: list[NDArray[np.float32]] = []
    days: list[NDArray[np.int32]] = []
    for path in paths:
        for movie, section in _sections(path):
            columns = _columns(section, path)
            users.append(columns["user"].to_numpy())
            items.append(np.full(users[-1].size, movie, dtype=np.int32))
            ratings.append(columns["rating"].to_numpy())
            days.append(columns["date"].cast("int32").to_numpy())
    if not users:
        raise DataError(f"{paths[0]} holds no interactions")
    return Rows(
        _encoded(users, "user"),
        _encoded(items, "movie"),
        ratings=_joined(ratings),
        timestamps=_joined(days).astype(np.int64) * _SECONDS_A_DAY,
    )


def _encoded(pieces: list[NDArray[np.int32]], what: str) -> Any:
    return encode(_joined(pieces), what)


def _joined(pieces: list[Any]) -> Any:
    """Join the pieces and let go of them, so that 100 M rows are held twice for one column at a time."""
    whole = np.concatenate(pieces)
    pieces.clear()
    return whole


def _sections(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield each movie and its lines."""
    for text in _texts(path):
        headings = list(_HEADING.finditer(text))
        if not headings or headings[0].start() > 0:
            raise DataError(f"{path} does not begin with a line `movie:`; it is damaged or another file")
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for heading, end in zip(headings, ends, strict=True):
            if heading.end() < end:
                yield int(heading[1]), memoryview(text)[heading.end() : end]


def _texts(path: Path) -> Iterator[bytes]:
    with reading(path):
        if path.is_dir():
            for file in sorted(path.glob("mv_*.txt")):
                yield file.read_bytes()
        elif path.suffix == ".txt":
            yield path.read_bytes()
        else:
            with tarfile.open(path, mode="r|*") as archive:
                yield from _from_tar(archive)


def _from_tar(archive: tarfile.TarFile) -> Iterator[bytes]:
    """Yield the mv_*.txt files of a tar, or of the training_set.tar within it."""
    for member in archive:
        name, stream = Path(member.name).name, archive.extractfile(member)
        if stream is not None and name == "training_set.tar":
            with tarfile.open(fileobj=stream, mode="r|") as inner:
                yield from _from_tar(inner)
        elif stream is not None and name.startswith("mv_"):
            yield stream.read()


def _columns(section: memoryview, path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    types = {"user": pa.int32(), "rating": pa.float32(), "date": pa.date32()}
    with reading(path):
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(section)),
            read_options=csv.ReadOptions(column_names=list(types), use_threads=False),
            parse_options=csv.ParseOptions(quote_char=False),
            convert_options=csv.ConvertOptions(column_types=types),
        )
    if any(table.column(name).null_count for name in types):
        raise DataError(f"{path} has a line without a user, a rating or a date; it is damaged, fetch it again")
    return table


SPEC = DatasetSpec(
    source=NetflixPrize,
    title="Netflix Prize",
    cite="Bennett, Lanning 2007 (The Netflix Prize, KDD Cup and Workshop)",
    url="https://archive.org/details/nf_prize_dataset.tar",
    licence="research use only; no redistribution",
    filter="liang-ml",
    statistics={"none": Statistics(480_189, 17_770, 100_480_507)},
)
