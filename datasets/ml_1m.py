"""MovieLens 1M: a published train, validation and test split, or the ratings themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from recscale.contract import Dataset, DatasetSpec, Source
from recscale.datasets._files import Origin, Remote
from recscale.datasets._movielens import COLONS, FILES, Release, load_release
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode
from recscale.datasets._text import reading
from recscale.errors import DataError

_FOLDER = "https://huggingface.co/datasets/reczoo/Movielens1M_m1/resolve/main"
_SPLIT = Origin(
    dataset="ml-1m",
    remotes=(
        Remote("train_data.json", f"{_FOLDER}/train_data.json", "md5:4229bc5369f943918103daf7fd92e920"),
        Remote("test_data.json", f"{_FOLDER}/test_data.json", "md5:cdd3ad819512cb87dad2f098c8437df2"),
        Remote("validation_data.json", f"{_FOLDER}/validation_data.json", "md5:60be3b377d39806f80a43e37c94449f6"),
    ),
)
_RATINGS = Release(
    origin=Origin(
        dataset="ml-1m",
        remotes=(
            Remote(
                "ml-1m.zip",
                f"{FILES}/ml-1m.zip",
                "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            ),
        ),
        unpacked=(("ratings.dat",),),
        has_table=False,  # a mirror's table holds the split
    ),
    published=Published(6_040, 3_706, 1_000_209),
    ratings="ratings.dat",
    layout=COLONS,
    titles="movies.dat",
    titles_separator="::",
    titles_encoding="latin-1",
)


@dataclass(frozen=True)
class MovieLens1M(Source):
    """`split`: 995,154 ratings as positives in three parts, without times. `ratings`: all 1,000,209, with times."""

    variant: Literal["split", "ratings"] = "split"
    verify: bool = True

    def load(self) -> Dataset:
        """Read the chosen variant. Raises DataError."""
        if self.variant == "ratings":
            return load_release(_RATINGS, verify=self.verify)
        found = _SPLIT.obtain(verify=self.verify)
        rows = read_table(found.paths[0]) if found.is_table else _read_split(found.paths)
        published = Published(6_022, 3_043, 995_154) if self.verify else None
        return finish("ml-1m", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return (_RATINGS.origin if self.variant == "ratings" else _SPLIT).find() is not None


def _read_split(paths: tuple[Path, ...]) -> Rows:
    """Read one list of item lists a part, in the order train, test, validation; a list's place is its user."""
    users, items, parts = [], [], []
    for part, path in enumerate(paths):
        with reading(path):
            text = path.read_text(encoding="utf-8")
        try:
            lists = [np.array(entry, dtype=np.int64).reshape(-1) for entry in json.loads(text)]
        except (ValueError, TypeError, OverflowError):
            raise DataError(f"{path} is damaged or no JSON list of lists of item numbers; fetch it again") from None
        if not lists:
            raise DataError(f"{path} holds no interactions")
        users.append(np.repeat(np.arange(len(lists)), [entry.size for entry in lists]))
        items.append(np.concatenate(lists))
        parts.append(np.full(items[-1].size, part, dtype=np.int8))
    return Rows(
        encode(np.concatenate(users), "user"), encode(np.concatenate(items), "item"), parts=np.concatenate(parts)
    )


# no figures by filter: they would hold for one variant alone, and each is checked as it is read
SPEC = DatasetSpec(
    source=MovieLens1M,
    title="MovieLens 1M",
    cite="Harper, Konstan 2015 (The MovieLens Datasets, ACM TiiS 5); split of Yu, Qin 2020 (LCF, ICML)",
    url="https://grouplens.org/datasets/movielens/1m/",
    licence="research use only; no redistribution without permission",
    filter="5-core",
    has_fixed_split=True,
)
