"""Amazon-Book: books and those who reviewed them, in the train and test split of the LightGCN paper."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._lists import load_split
from recscale.datasets._published import Published

_FOLDER = "https://huggingface.co/datasets/reczoo/AmazonBooks_m1/resolve/main"
_ORIGIN = Origin(
    dataset="amazon-book",
    remotes=(
        Remote("train.txt", f"{_FOLDER}/train.txt", "md5:c916ecac04ca72300a016228258b41ed"),
        Remote("test.txt", f"{_FOLDER}/test.txt", "md5:30f8ccfea18d25007ba9fb9aba4e174d"),
    ),
)


@dataclass(frozen=True)
class AmazonBook(Source):
    """Lines `user item item ...`, one file a part; every rating is a positive."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read both parts. Raises DataError."""
        return load_split(_ORIGIN, Published(52_643, 91_599, 2_984_108), verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=AmazonBook,
    title="Amazon-Book",
    cite="He, McAuley 2016 (Ups and Downs, WWW); split of He et al. 2020 (LightGCN, SIGIR)",
    url="https://cseweb.ucsd.edu/~jmcauley/datasets.html",
    licence="not stated; published for research",
    filter="10-core",
    statistics={"none": Statistics(52_643, 91_599, 2_984_108)},
    has_fixed_split=True,
)
