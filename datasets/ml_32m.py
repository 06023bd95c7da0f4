"""MovieLens 32M: ratings of 1995 to 2023."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._movielens import COMMAS, FILES, Release, load_release
from recscale.datasets._published import Published

_RELEASE = Release(
    origin=Origin(
        dataset="ml-32m",
        remotes=(Remote("ml-32m.zip", f"{FILES}/ml-32m.zip", "md5:d472be332d4daa821edc399621853b57"),),
        unpacked=(("ratings.csv",),),
    ),
    published=Published(200_948, 84_432, 32_000_204),
    ratings="ratings.csv",
    layout=COMMAS,
    titles="movies.csv",
    titles_separator=",",
)


@dataclass(frozen=True)
class MovieLens32M(Source):
    """Ratings 0.5 to 5 with times; comma-separated with a header."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        return load_release(_RELEASE, verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _RELEASE.origin.find() is not None


SPEC = DatasetSpec(
    source=MovieLens32M,
    title="MovieLens 32M",
    cite="Harper, Konstan 2015 (The MovieLens Datasets: History and Context, ACM TiiS 5)",
    url="https://grouplens.org/datasets/movielens/32m/",
    licence="research use only; no redistribution without permission",
    filter="liang-ml",
    statistics={"none": Statistics(200_948, 84_432, 32_000_204)},
)
