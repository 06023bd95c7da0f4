"""Gowalla: check-ins of users at places, in the train and test split of the LightGCN paper."""

from __future__ import annotations

from dataclasses import dataclass

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._lists import load_split
from recscale.datasets._published import Published

_FOLDER = "https://huggingface.co/datasets/reczoo/Gowalla_m1/resolve/main"
_ORIGIN = Origin(
    dataset="gowalla",
    remotes=(
        Remote("train.txt", f"{_FOLDER}/train.txt", "md5:5eec1eb2edb8dd648377d348b8e136cf"),
        Remote("test.txt", f"{_FOLDER}/test.txt", "md5:c04e2c4bcd2389f53ed8281816166149"),
    ),
)


@dataclass(frozen=True)
class Gowalla(Source):
    """Lines `user place place ...`, one file a part; every check-in counts once."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read both parts. Raises DataError."""
        return load_split(_ORIGIN, Published(29_858, 40_981, 1_027_370), verify=self.verify)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=Gowalla,
    title="Gowalla",
    cite="Cho, Myers, Leskovec 2011 (Friendship and Mobility, KDD); split of He et al. 2020 (LightGCN, SIGIR)",
    url="https://snap.stanford.edu/data/loc-gowalla.html",
    licence="not stated; published for research",
    filter="10-core",
    statistics={
        "none": Statistics(29_858, 40_981, 1_027_370),
        "10-core": Statistics(29_857, 40_979, 1_027_343),
    },
    has_fixed_split=True,
)
