"""MovieLens 20M: ratings of 1995 to 2015."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._movielens import COMMAS, FILES, Release, load_release
from recscale.datasets._published import Published

_RELEASE = Release(
    origin=Origin(
        dataset="ml-20m",
        remotes=(
            Remote(
                "ml-20m.zip",
                f"{FILES}/ml-20m.zip",
                "sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
            ),
        ),
        unpacked=(("ratings.csv",),),
    ),
    published=Published(138_493, 26_744, 20_000_263),
    ratings="ratings.csv",
    layout=COMMAS,
    titles="movies.csv",
    titles_separator=",",
)


@dataclass(frozen=True)
class MovieLens20M(Source):
    """Ratings 0.5 to 5 with times; comma-separated with a header."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        return load_release(_RELEASE, verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _RELEASE.origin.find() is not None


SPEC = DatasetSpec(
    source=MovieLens20M,
    title="MovieLens 20M",
    cite="Harper, Konstan 2015 (The MovieLens Datasets: History and Context, ACM TiiS 5)",
    url="https://grouplens.org/datasets/movielens/20m/",
    licence="research use only; no redistribution without permission",
    filter="liang-ml",
    statistics={
        "none": Statistics(138_493, 26_744, 20_000_263),
        "liang-ml": Statistics(136_677, 20_720, 9_990_682),  # Liang et al. 2018
        "elfm-ml": Statistics(136_674, 13_681, 9_977_455),  # Yang et al. 2021, who call it MovieLens-10M
    },
)
