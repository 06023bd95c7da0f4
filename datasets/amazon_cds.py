"""Amazon-CDs: records and those who reviewed them, in the train and test split of the BGCF paper."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._lists import load_split
from recscale.datasets._published import Published

_FOLDER = "https://huggingface.co/datasets/reczoo/AmazonCDs_m1/resolve/main"
_ORIGIN = Origin(
    dataset="amazon-cds",
    remotes=(
        Remote("train.txt", f"{_FOLDER}/train.txt"),
        Remote("test.txt", f"{_FOLDER}/test.txt"),
    ),
)


@dataclass(frozen=True)
class AmazonCDs(Source):
    """Lines `user item item ...`, one file a part; every rating is a positive."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read both parts. Raises DataError."""
        return load_split(_ORIGIN, Published(43_169, 35_648, 777_426), verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=AmazonCDs,
    title="Amazon-CDs",
    cite="He, McAuley 2016 (Ups and Downs, WWW); split of Sun et al. 2020 (BGCF, KDD)",
    url="https://cseweb.ucsd.edu/~jmcauley/datasets.html",
    licence="not stated; published for research",
    filter="5-core",
    statistics={"none": Statistics(43_169, 35_648, 777_426)},
    has_fixed_split=True,
)
