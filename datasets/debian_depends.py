"""Debian dependencies: which packages of Debian 12 name which others. Embedded, so it is always at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._published import Published, finish, read_table

_FILE = Path(__file__).with_name("debian_depends.parquet")


@dataclass(frozen=True)
class DebianDepends(Source):
    """Packages of Debian 12 (main, amd64) as users, the packages that they depend on, recommend or suggest as items."""

    def load(self) -> Dataset:
        """Read the embedded file; the names are ids and titles. Raises DataError."""
        rows = read_table(_FILE)
        titles = dict(zip(rows.items.ids.tolist(), rows.items.ids.tolist(), strict=True))
        return finish("debian-depends", rows, Published(58_045, 50_694, 340_684), titles=titles, sources=(_FILE,))


SPEC = DatasetSpec(
    source=DebianDepends,
    title="Debian dependencies",
    cite="The Debian Project 2023 (package index of Debian 12, main, amd64)",
    url="https://packages.debian.org/bookworm/",
    licence="package metadata, free to redistribute",
    filter="5-core",
    statistics={
        "none": Statistics(58_045, 50_694, 340_684),
        "5-core": Statistics(18_319, 6_104, 184_739),
    },
)
