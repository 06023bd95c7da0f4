"""Last.fm 2K: how often listeners played artists (HetRec 2011)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table, rows_of
from recscale.datasets._text import Layout, open_member, read_columns, reading
from recscale.errors import DataError

_ORIGIN = Origin(
    dataset="lastfm-2k",
    remotes=(
        Remote(
            "hetrec2011-lastfm-2k.zip",
            "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
            "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
        ),
    ),
    unpacked=(("user_artists.dat",),),
)
_LAYOUT = Layout(
    {"user": "int", "item": "int", "rating": "float"},
    columns=("user", "item", "rating"),
    separator="\t",
    header=True,
)


@dataclass(frozen=True)
class LastFm2K(Source):
    """Play counts as ratings, without times; tab-separated with a header."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all play counts. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        path, titles = found.paths[0], None
        if found.is_table:
            rows = read_table(path)
        else:
            with open_member(path, "user_artists.dat") as stream:
                rows = rows_of(read_columns(stream, _LAYOUT, path))
            titles = _names(path)
        published = Published(1_892, 17_632, 92_834) if self.verify else None
        return finish("lastfm-2k", rows, published, titles=titles, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


def _names(path: Path) -> dict[int, str] | None:
    """Return the artists' names, None where the mirror holds the play counts without them."""
    source = path if path.suffix == ".zip" else path.with_name("artists.dat")
    if not source.exists():
        return None
    with open_member(source, "artists.dat") as stream, reading(source):
        fields = [line.split("\t") for line in list(io.TextIOWrapper(stream, encoding="utf-8", errors="replace"))[1:]]
    try:
        return {int(field[0]): field[1] for field in fields}
    except (ValueError, IndexError):
        raise DataError(f"{source}: artists.dat does not hold lines of a number and a name") from None


SPEC = DatasetSpec(
    source=LastFm2K,
    title="Last.fm 2K",
    cite="Cantador, Brusilovsky, Kuflik 2011 (HetRec workshop, RecSys)",
    url="https://grouplens.org/datasets/hetrec-2011/",
    licence="non-commercial use",
    filter="5-core",
    statistics={"none": Statistics(1_892, 17_632, 92_834)},
)
