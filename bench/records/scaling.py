"""How the needs of a model grow with the data: a power law over the subsamples of one data set that finished."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import msgspec

from recscale.records.costs import grown_bytes
from recscale.records.power_law import Break, Prediction, base_line, leaves, power_law, prediction
from recscale.records.record import RunRecord, renumbered

LEAST_SECONDS = 0.05  # below it a time is that of the clock, of caches and of whatever else the machine does
LEAST_BYTES = 10_000_000  # below it a growth is that of buffers and of the heap's own pages
TOO_SMALL, TOO_FEW, NOT_MEASURED = "too small to fit", "too few sizes", "not measured"
WAYS: Mapping[str, Callable[[RunRecord], int]] = {
    "users": lambda r: r.n_train_users,
    "items": lambda r: r.n_items,
    "interactions": lambda r: r.n_train_interactions,
}


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How one quantity of a model grows. `reason` says why there is no exponent, or no interval of it."""

    quantity: str
    unit: Literal["bytes", "seconds"]
    n_sizes: int
    exponent: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    leaves: Break | None = None
    largest: Prediction | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a model at one size: what came of it, and what was measured, by the names of the quantities."""

    share: float
    n_users: int
    n_items: int
    n_interactions: int
    seed: int
    status: str
    reason: str | None
    score: float | None
    values: dict[str, float]
    key: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration of a model over the sizes."""

    model: str
    configuration: str
    runs: list[Run]
    growths: list[Growth]


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """The models of one data set under one protocol over its sizes, subsampled in one way."""

    dataset: str
    protocol: str
    by: str
    metric: str | None
    lines: list[Line]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is followed: how it is read, below what it cannot be told, and what limits it.

    `per` divides it; `base` is what the process holds beside it, which counts against the limit too. `ended_by`
    tells whether a run ran out of it.
    """

    name: str
    unit: Literal["bytes", "seconds"]
    read: Callable[[RunRecord], float | None]
    smallest: float = 0.0
    per: Callable[[RunRecord], float] = lambda r: 1.0
    base: Callable[[RunRecord], float] = lambda r: 0.0
    limit: Callable[[RunRecord], float | None] = lambda r: None
    ended_by: Callable[[RunRecord], bool] = lambda r: False

    def value(self, record: RunRecord) -> float | None:
        """Return what a run took; None if that was not measured, or the run did not finish."""
        found = self.read(record) if record.status == "ok" else None
        return None if found is None else found / self.per(record)

    def can_be_told(self, record: RunRecord) -> bool:
        """Tell whether what a run took is more than noise."""
        found = self.read(record) if record.status == "ok" else None
        return found is not None and found > 0 and found >= self.smallest


def _on_gpu(record: RunRecord) -> bool:
    return not (record.device_used or "cpu").startswith("cpu")


def _in_fit(record: RunRecord) -> bool:
    """Tell whether what ended a run befell its fit, as far as is known."""
    return record.failed_phase in (None, "fit")


def _fit_bytes(record: RunRecord) -> float | None:
    fit = record.phases.get("fit")
    return fit.peak_device_bytes if fit and _on_gpu(record) else grown_bytes(record, "fit")


def _fit_seconds(record: RunRecord) -> float | None:
    return record.phases["fit"].wall_seconds if "fit" in record.phases else None


def _start_bytes(record: RunRecord) -> float:
    return 0 if _on_gpu(record) else record.phases["fit"].start_rss_bytes or 0


MEMORY = Quantity(
    name="memory of the fit",
    unit="bytes",
    read=_fit_bytes,
    smallest=LEAST_BYTES,
    base=_start_bytes,
    limit=lambda r: r.max_gpu_memory_bytes if _on_gpu(r) else r.max_memory_bytes,
    ended_by=lambda r: _in_fit(r) and r.status == ("out_of_gpu_memory" if _on_gpu(r) else "out_of_memory"),
)
TIME = Quantity(
    name="time of the fit",
    unit="seconds",
    read=_fit_seconds,
    smallest=LEAST_SECONDS,
    limit=lambda r: r.timeout_seconds,
    ended_by=lambda r: _in_fit(r) and r.status == "timeout",
)
SCORE = Quantity(
    name="score time a user",
    unit="seconds",
    read=lambda r: r.scoring_seconds,
    smallest=LEAST_SECONDS,
    per=lambda r: r.n_test_users or 1,
)
SIZE = Quantity(name="model size", unit="bytes", read=lambda r: r.n_bytes)
QUANTITIES = (MEMORY, TIME, SCORE, SIZE)


def growth(
    quantity: Quantity,
    records: Sequence[RunRecord],
    count: Callable[[RunRecord], int],
    limits: Mapping[str, float | None] = MappingProxyType({}),
) -> Growth:
    """Return how a quantity grows over the records of one configuration, whose size `count` reads.

    The limit is that of the newest of them, or among `limits`, by the name that it has in a record.
    """
    told = [record for record in records if quantity.can_be_told(record)]
    xs = [float(count(record)) for record in told]
    n_sizes = len(set(xs))
    unfitted = Growth(quantity=quantity.name, unit=quantity.unit, n_sizes=n_sizes)
    if n_sizes < 2:
        known = {count(record) for record in records if quantity.value(record) is not None}
        reason = NOT_MEASURED if not known else TOO_FEW if len(known) < 2 else TOO_SMALL
        return msgspec.structs.replace(unfitted, reason=reason)
    ys = [quantity.value(record) or 0.0 for record in told]
    law = power_law(xs, ys)
    low, high = law.interval() or (None, None)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    # a run that was killed does not say on which device it was
    alike = [msgspec.structs.replace(record, device_used=told[0].device_used) for record in records]
    limit = quantity.limit(msgspec.structs.replace(max(alike, key=lambda r: r.started_at), **given))
    end = None
    if limit is not None:
        base = base_line(xs, list(map(quantity.base, told)))
        end = leaves(law, limit, base, max(xs), _ran_out_at(quantity, alike, count, limit, max(xs)))
    return msgspec.structs.replace(
        unfitted,
        exponent=law.exponent,
        low=low,
        high=high,
        reason=TOO_FEW if low is None else None,
        leaves=end,
        largest=prediction(xs, ys),
    )


def _ran_out_at(
    quantity: Quantity, records: Sequence[RunRecord], count: Callable[[RunRecord], int], limit: float, largest: float
) -> float | None:
    """Return the smallest size, from the largest that finished on, that ran out of so much or more; None without."""
    ended = [
        float(count(record))
        for record in records
        if quantity.ended_by(record) and (quantity.limit(record) or math.inf) >= limit and count(record) >= largest
    ]
    return min(ended, default=None)


@dataclass(frozen=True)
class Family:
    """Records of one data set under one protocol, whole and subsampled in one way, by configuration, small to large."""

    dataset: str
    protocol: str
    by: str
    members: Mapping[str, tuple[RunRecord, ...]]


def families(records: Sequence[RunRecord]) -> list[Family]:
    """Return the families of at least two sizes. The whole data set belongs to every way of subsampling it.

    Configurations that were run on the whole alone are left out. Of several machines, devices or versions of the code
    of one configuration the one with the most sizes counts, and of those the newest.
    """
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        whole = (record.sampled_from or record.dataset, record.protocol)
        for way in record.shares if len(record.shares) == 1 else () if record.shares else WAYS:
            groups[*whole, way].append(record)
    return [
        Family(*key, _members(found, key[2]))
        for key, found in sorted(groups.items(), key=lambda group: (*group[0][:2], list(WAYS).index(group[0][2])))
        if len({share(record) for record in found}) > 1
    ]


def share(record: RunRecord) -> float:
    """Return the share of the data set that a record is of."""
    return math.prod(record.shares.values())


def _members(records: Sequence[RunRecord], way: str) -> dict[str, tuple[RunRecord, ...]]:
    versions: dict[str, dict[bytes, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        same = msgspec.json.encode(
            [r.machine, renumbered(r.device_requested), r.n_threads, r.code_fingerprint], order="deterministic"
        )
        versions[r.configuration or r.model][same].append(r)
    found = {}
    for name, groups in sorted(versions.items()):
        if not any(r.shares for group in groups.values() for r in group):
            continue
        chosen = max(groups.values(), key=lambda g: (len({share(r) for r in g}), max(r.started_at for r in g)))
        newest = {(share(r), r.seed): r for r in sorted(chosen, key=lambda r: r.started_at)}
        found[name] = tuple(sorted(newest.values(), key=lambda r: (WAYS[way](r), r.seed)))
    return found


def scaling(
    family: Family, metric: str | None = None, limits: Mapping[str, float | None] = MappingProxyType({})
) -> Scaling:
    """Return how the models of a family scale; beside it `metric`, or the main one where that was not measured.

    `limits`, by their names in a record, stand in the place of those of the runs; None leaves one as it is.
    """
    measured = [name for records in family.members.values() for r in records for name in r.metrics]
    shown = metric if metric in measured else next(iter(measured), None)
    lines = [
        Line(
            model=records[0].model,
            configuration=name,
            runs=[_run(record, shown) for record in records],
            growths=[growth(quantity, records, WAYS[family.by], limits) for quantity in QUANTITIES],
        )
        for name, records in family.members.items()
    ]
    return Scaling(dataset=family.dataset, protocol=family.protocol, by=family.by, metric=shown, lines=lines)


def _run(record: RunRecord, metric: str | None) -> Run:
    values = {quantity.name: quantity.value(record) for quantity in QUANTITIES}
    return Run(
        share=share(record),
        n_users=record.n_train_users,
        n_items=record.n_items,
        n_interactions=record.n_train_interactions,
        seed=record.seed,
        status=record.status,
        reason=record.reason,
        score=record.metrics.get(metric) if metric else None,
        values={name: value for name, value in values.items() if value is not None},
        key=record.key,
    )
