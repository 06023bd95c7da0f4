"""Subsamples: a data set at a share of its users, items or interactions, each smaller one a part of the larger ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Dataset, Options
from recscale.errors import DataError
from recscale.evaluation.filtering import keep_entries

Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True)
class Subsample(Options):
    """The shares that are kept of the users, of the items and of the interactions of a filtered data set.

    Each of the three stands in one random order, which depends on their number alone; a share is the beginning of it.
    """

    users: Share = 1.0
    items: Share = 1.0
    interactions: Share = 1.0


WAYS = tuple(field.name for field in fields(Subsample))


def take_subsample(dataset: Dataset, sample: Subsample) -> Dataset:
    """Return the part of a data set that `sample` keeps, without the users and items that have no interaction left.

    The order of what is left stays. A data set that loses nothing is returned as it is. Needs 8 bytes for each
    interaction where a share of them is taken. Raises DataError if nothing is left.
    """
    if sample == Subsample():
        return dataset
    matrix = dataset.interactions
    n_users, n_items = matrix.shape
    keep = np.repeat(_chosen("users", n_users, sample.users), np.diff(matrix.indptr))
    keep &= _chosen("items", n_items, sample.items)[matrix.indices]
    keep &= _chosen("interactions", matrix.nnz, sample.interactions)
    if not keep.any():
        kept = ", ".join(f"{name}={share:g}" for name, share in asdict(sample).items() if share < 1)
        raise DataError(f"the subsample {kept} of {dataset.name!r} has no interactions; take larger shares")
    return keep_entries(dataset, keep)


def _chosen(way: str, n: int, share: float) -> NDArray[np.bool_]:
    """Return which of `n` things a share keeps: at least one, the same ones every time."""
    if share == 1:
        return np.ones(n, dtype=np.bool_)
    order = np.random.default_rng(WAYS.index(way)).permutation(n)
    chosen = np.zeros(n, dtype=np.bool_)
    chosen[order[: max(1, round(share * n))]] = True
    return chosen
