"""Retail: market baskets of a Belgian supermarket, each basket a user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recscale.contract import Dataset, DatasetSpec, Source, Statistics
from recscale.datasets._files import Origin, Remote
from recscale.datasets._lists import read_lists
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode

_ORIGIN = Origin(dataset="retail", remotes=(Remote("retail.dat", "http://fimi.uantwerpen.be/data/retail.dat"),))


@dataclass(frozen=True)
class Retail(Source):
    """A line of item numbers a basket; the id of a basket is its line, counted from 0."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all baskets. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        if found.is_table:
            rows = read_table(found.paths[0])
        else:
            baskets = read_lists(found.paths[0])
            lines = np.repeat(np.arange(baskets.lengths.size), baskets.lengths)
            rows = Rows(encode(lines, "basket"), encode(baskets.values, "item"))
        published = Published(88_162, 16_470, 908_576) if self.verify else None
        return finish("retail", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


SPEC = DatasetSpec(
    source=Retail,
    title="Retail baskets",
    cite="Brijs, Swinnen, Vanhoof, Wets 1999 (Using Association Rules for Product Assortment Decisions, KDD)",
    url="http://fimi.uantwerpen.be/data/",
    licence="free for research, with citation",
    filter="5-core",
    statistics={"none": Statistics(88_162, 16_470, 908_576)},
)
