"""How alike the co-clusters are that several seeds of one configuration have found, from what the store keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recscale.evaluation.coclusters import stability_of_lists
from recscale.records.record import RunRecord
from recscale.records.store import Store


@dataclass(frozen=True)
class StabilityOverSeeds:
    """Reads the first items of co-clusters from a store."""

    store: Store

    def __call__(self, records: Sequence[RunRecord]) -> tuple[float | None, int]:
        """Return the mean stability over pairs of records, None for no pair, and of how many the items are known."""
        found = [top.astype(np.int64) for record in records if (top := self.store.top_items(record)) is not None]
        pairs = [stability_of_lists(one, other) for one, other in itertools.combinations(found, 2)]
        known = [value for value in pairs if math.isfinite(value)]
        return (sum(known) / len(known) if known else None), len(found)
