"""Runs models on a data set at several sizes, as `recscale scale` asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from recscale.contract import Options
from recscale.errors import UsageError
from recscale.evaluation.subsampling import Share
from recscale.records.record import RunRecord
from recscale.records.store import Store
from recscale.running.references import parse_reference, resolve_data
from recscale.running.runner import Display, Overwrite, Runner
from recscale.running.suite import Suite

Way: TypeAlias = Literal["users", "items", "interactions"]


@dataclass(frozen=True)
class ScaleOptions(Options):
    """In which ways a data set is subsampled, and the shares that are kept of it; raises UsageError for one share."""

    by: Annotated[tuple[Way, ...], msgspec.Meta(min_length=1)] = ("users", "items", "interactions")
    shares: tuple[Share, ...] = (0.125, 0.25, 0.5, 1.0)

    def __post_init__(self) -> None:
        """Check the shares, too."""
        super().__post_init__()
        if len(set(self.shares)) < 2:
            raise UsageError(f"{self.shares} is no two different shares; expected some such as 0.25 0.5 1")


def scale(
    suite: Suite, store: Store, display: Display, options: ScaleOptions, overwrite: Overwrite = "never"
) -> list[RunRecord]:
    """Run a suite on its data sets at every size; return the records. Raises UsageError, DataError or StoreError."""
    if suite.tune is not None:
        raise UsageError("a suite with the key tune is not scaled; tune it first, and name the options that were found")
    return Runner(subsampled(suite, options), store, display, overwrite).run()


def subsampled(suite: Suite, options: ScaleOptions) -> Suite:
    """Return a suite on the subsamples of its data sets, the smallest first: what breaks breaks late.

    Raises UsageError for a data set that is a subsample already, or that has an option of the same name.
    """
    datasets = []
    for written in suite.datasets:
        for protocol in suite.protocols:
            _check_whole(written, protocol, suite.plugins)
        name, given = parse_reference(written)
        for share in sorted(set(options.shares)):
            ways = dict.fromkeys(options.by) if share < 1 else [None]
            datasets += [{name: given if way is None else given | {way: [share]}} for way in ways]
    return msgspec.structs.replace(suite, datasets=datasets)


def _check_whole(written: Any, protocol: str, plugins: list[str]) -> None:
    data = resolve_data(written, protocol, plugins)
    if data.shares:
        raise UsageError(f"{data.text} is a subsample itself; name the whole data set: {data.sampled_from}")
    taken = [way for way in ScaleOptions.by if way in data.options]
    if taken:
        raise UsageError(f"{data.name} has an option {taken[0]} of its own, so it cannot be subsampled by {taken[0]}")
