"""MovieLens 10M: ratings of 2009, in halves of a star."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._movielens import COLONS, FILES, Release, load_release
from recscale.datasets._published import Published

_RELEASE = Release(
    origin=Origin(
        dataset="ml-10m",
        remotes=(Remote("ml-10m.zip", f"{FILES}/ml-10m.zip", "md5:ce571fd55effeba0271552578f2648bd"),),
        unpacked=(("ratings.dat",),),
    ),
    published=Published(69_878, 10_677, 10_000_054),
    ratings="ratings.dat",
    layout=COLONS,
    titles="movies.dat",
    titles_separator="::",
)


@dataclass(frozen=True)
class MovieLens10M(Source):
    """Ratings 0.5 to 5 with times; `::` parts the columns."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        return load_release(_RELEASE, verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _RELEASE.origin.find() is not None


SPEC = DatasetSpec(
    source=MovieLens10M,
    title="MovieLens 10M",
    cite="Harper, Konstan 2015 (The MovieLens Datasets: History and Context, ACM TiiS 5)",
    url="https://grouplens.org/datasets/movielens/10m/",
    licence="research use only; no redistribution without permission",
    filter="liang-ml",
    statistics={"none": Statistics(69_878, 10_677, 10_000_054)},
)
