"""Yelp2018: businesses and those who reviewed them, in the train and test split of the LightGCN paper."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._lists import load_split
from recscale.datasets._published import Published

_FOLDER = "https://huggingface.co/datasets/reczoo/Yelp18_m1/resolve/main"
_ORIGIN = Origin(
    dataset="yelp2018",
    remotes=(
        Remote("train.txt", f"{_FOLDER}/train.txt"),
        Remote("test.txt", f"{_FOLDER}/test.txt"),
    ),
)


@dataclass(frozen=True)
class Yelp2018(Source):
    """Lines `user item item ...`, one file a part; every rating is a positive."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read both parts. Raises DataError."""
        return load_split(_ORIGIN, Published(31_668, 38_048, 1_561_406), verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=Yelp2018,
    title="Yelp2018",
    cite="Yelp Dataset Challenge 2018; split of He et al. 2020 (LightGCN, SIGIR)",
    url="https://www.yelp.com/dataset",
    licence="not stated; published for research",
    filter="10-core",
    statistics={"none": Statistics(31_668, 38_048, 1_561_406)},
    has_fixed_split=True,
)
