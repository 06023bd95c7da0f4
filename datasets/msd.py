"""Million Song Dataset, Taste Profile: how often listeners played songs."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table, rows_of
from recscale.datasets._text import Layout, open_member, read_columns

_ORIGIN = Origin(
    dataset="msd",
    remotes=(
        Remote(
            "train_triplets.txt.zip",
            "http://millionsongdataset.com/sites/default/files/challenge/train_triplets.txt.zip",
        ),
    ),
    unpacked=(("train_triplets.txt",),),
)
_LAYOUT = Layout(
    {"user": "text", "item": "text", "rating": "float"}, columns=("user", "item", "rating"), separator="\t"
)


@dataclass(frozen=True)
class TasteProfile(Source):
    """Play counts as ratings, without times; tab-separated."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all play counts. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        path = found.paths[0]
        if found.is_table:
            rows = read_table(path)
        else:
            with open_member(path, "train_triplets.txt") as stream:
                rows = rows_of(read_columns(stream, _LAYOUT, path))
        published = Published(1_019_318, 384_546, 48_373_586) if self.verify else None
        return finish("msd", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=TasteProfile,
    title="Million Song Dataset (Taste Profile)",
    cite="Bertin-Mahieux, Ellis, Whitman, Lamere 2011 (The Million Song Dataset, ISMIR); McFee et al. 2012 (WWW)",
    url="http://millionsongdataset.com/tasteprofile/",
    licence="research use only",
    filter="liang-msd",
    statistics={
        "none": Statistics(1_019_318, 384_546, 48_373_586),
        "liang-msd": Statistics(571_355, 41_140, 33_633_450),  # Liang et al. 2018
    },
)
