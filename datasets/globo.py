"""Globo.com: clicks of readers on news, with times."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table, rows_of
from recscale.datasets._table import Rows
from recscale.datasets._text import Layout, read_columns, reading
from recscale.errors import DataError

_ORIGIN = Origin(
    dataset="globo",
    remotes=(
        Remote(
            "clicks.zip",
            page="https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom",
        ),
    ),
    unpacked=(("clicks",),),
)
_NAMES = {"user": "user_id", "item": "click_article_id", "timestamp": "click_timestamp"}
_LAYOUT = Layout(dict.fromkeys(_NAMES.values(), "int"))


@dataclass(frozen=True)
class Globo(Source):
    """Clicks with times in milliseconds, one file an hour; of repeated clicks on an article the last counts."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all clicks. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        rows = read_table(found.paths[0]) if found.is_table else _rows(found.paths[0])
        published = Published(322_897, 46_033, 2_988_181) if self.verify else None
        return finish("globo", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


def _rows(path: Path) -> Rows:
    """Read the files `clicks_hour_*.csv` of a folder or a zip, in the order of their names."""
    import pyarrow as pa

    pieces: list[dict[str, Any]] = []
    with reading(path):
        if path.is_dir():
            for file in sorted(path.glob("clicks_hour_*.csv")):
                with file.open("rb") as stream:
                    pieces.append(read_columns(stream, _LAYOUT, file))
        else:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(n for n in archive.namelist() if Path(n).match("clicks_hour_*.csv")):
                    with archive.open(name) as stream:
                        pieces.append(read_columns(stream, _LAYOUT, f"{path} ({name})"))
    if not pieces:
        raise DataError(f"{path} holds no clicks_hour_*.csv")
    joined = {
        column: pa.chunked_array([chunk for piece in pieces for chunk in piece[name].chunks])
        for column, name in _NAMES.items()
    }
    return rows_of(joined)


SPEC = DatasetSpec(
    source=Globo,
    title="Globo.com news",
    cite="de Souza Pereira Moreira, Ferreira, da Cunha 2018 (News Session-Based Recommendations, DLRS)",
    url="https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom",
    licence="academic use only",
    filter="5-core",
    statistics={"none": Statistics(322_897, 46_033, 2_950_710)},
)
