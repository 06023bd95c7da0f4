"""MovieLens 100K: ratings of 1998."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._movielens import FILES, TABBED, Release, load_release
from recscale.datasets._published import Published

_RELEASE = Release(
    origin=Origin(
        dataset="ml-100k",
        remotes=(
            Remote(
                "ml-100k.zip",
                f"{FILES}/ml-100k.zip",
                "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            ),
        ),
        unpacked=(("u.data",),),
    ),
    published=Published(943, 1_682, 100_000),
    ratings="u.data",
    layout=TABBED,
    titles="u.item",
    titles_separator="|",
    titles_encoding="latin-1",
)


@dataclass(frozen=True)
class MovieLens100K(Source):
    """Ratings 1 to 5 with times, tab-separated."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        return load_release(_RELEASE, verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _RELEASE.origin.find() is not None


SPEC = DatasetSpec(
    source=MovieLens100K,
    title="MovieLens 100K",
    cite="Harper, Konstan 2015 (The MovieLens Datasets: History and Context, ACM TiiS 5)",
    url="https://grouplens.org/datasets/movielens/100k/",
    licence="research use only; no redistribution without permission",
    filter="liang-ml",
    statistics={"none": Statistics(943, 1_682, 100_000)},
)
