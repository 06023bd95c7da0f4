"""Records, sorted into what may be compared: one data set, filter, protocol and split at a time."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from recscale.errors import UnknownName, UsageError
from recscale.records.record import RunRecord, renumbered, rises_with_quality
from recscale.reporting import units

WORDS: dict[str, str] = {"ok": "ok", "out_of_memory": "OOM", "out_of_gpu_memory": "GPU OOM"}
# By protocol: what papers report under it, the first of them first.
_HEADLINES: dict[str, tuple[str, ...]] = {
    "fold-in": ("ndcg@100", "recall@20", "recall@50"),
    "hold-one-out": ("mrr", "hr@50"),
    "fixed": ("recall_all@20", "ndcg@20"),
    "ratings": ("mse", "mae"),
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A metric of one configuration: the mean over its runs, and how sure it is.

    `standard_error` is over users (the mean over runs); `spread` the standard deviation over runs, None for one run.
    """

    mean: float
    standard_error: float | None
    spread: float | None


@dataclass(frozen=True)
class Configuration:
    """Runs of one model with one set of parameters and one outcome; they differ in the seed alone.

    `details` are the parameters and settings by which it differs from the others of its model, the size knob first.
    `n_planned` counts the runs of the configuration whatever their outcome.
    """

    model: str
    title: str
    records: tuple[RunRecord, ...]
    status: str
    machine: str  # "A", "B", ...
    details: tuple[str, ...] = ()
    n_planned: int = 1

    @property
    def label(self) -> str:
        """The model and what tells this configuration from the others."""
        return f"{self.model} {', '.join(self.details)}".rstrip()

    @property
    def succeeded(self) -> bool:
        """Whether the runs ended well."""
        return self.status == "ok"

    @property
    def knob_value(self) -> Any:
        """The value of the size knob; None for a model without one."""
        first = self.records[0]
        return first.parameters.get(first.size_knob) if first.size_knob else None

    @property
    def reason(self) -> str:
        """Why the runs failed: the different reasons, in order."""
        return "; ".join(dict.fromkeys(r.reason for r in self.records if r.reason))

    @property
    def word(self) -> str:
        """The outcome as papers print it: OOM, timeout, refused, ..."""
        return WORDS.get(self.status, self.status)

    @property
    def outcome(self) -> str:
        """The outcome with the figure that explains it, such as `refused (needs 729 GB)`."""
        needed = self.mean(lambda r: r.estimated_peak_bytes)
        limit = self.mean(lambda r: r.timeout_seconds)
        if self.status == "refused" and needed is not None:
            return f"refused (needs {units.size(needed)})"
        if self.status == "timeout" and limit is not None:
            return f"timeout ({units.duration(limit)})"
        return self.word

    def mean(self, read: Callable[[RunRecord], float | None]) -> float | None:
        """Return the mean of a figure over the runs that have it; None if none has."""
        values = [value for value in map(read, self.records) if value is not None]
        return statistics.fmean(values) if values else None

    def quantity(self, metric: str) -> Quantity | None:
        """Return a metric over the runs; None if it was not measured."""
        values = [r.metrics[metric] for r in self.records if metric in r.metrics]
        if not values:
            return None
        errors = [r.standard_errors[metric] for r in self.records if metric in r.standard_errors]
        return Quantity(
            mean=statistics.fmean(values),
            standard_error=statistics.fmean(errors) if errors else None,
            spread=statistics.stdev(values) if len(values) > 1 else None,
        )

    def score(self, metric: str) -> float | None:
        """Return the mean of a metric over the runs; None if it was not measured or is not finite."""
        quantity = self.quantity(metric)
        return quantity.mean if quantity and math.isfinite(quantity.mean) else None


@dataclass(frozen=True)
class Comparison:
    """What may stand in one table: configurations on the same split of the same data, best first, failures last.

    `metric` is the one that it is sorted by, `metrics` all of them with that one first; `missing_metric` is the one
    that was asked for, where it was not measured here.
    """

    title: str
    first: RunRecord  # what all records of the comparison share: data, filter, protocol, split
    configurations: tuple[Configuration, ...]
    metrics: tuple[str, ...]
    higher_is_better: bool = True
    missing_metric: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str | None:
        """The main metric; None if nothing was measured."""
        return self.metrics[0] if self.metrics else None

    @property
    def headlines(self) -> tuple[str, ...]:
        """The main metric, and those that papers report under this protocol, as far as they were measured here."""
        usual = _HEADLINES.get(self.first.protocol.partition("[")[0], ())
        return tuple(dict.fromkeys((*self.metrics[:1], *(name for name in usual if name in self.metrics))))

    @property
    def data(self) -> str:
        """The title without the protocol."""
        return self.title.replace(f" · {self.first.protocol}", "", 1)

    def by_model(self) -> dict[str, list[Configuration]]:
        """Return the configurations of each model, the best first; the model of the best comes first."""
        found: dict[str, list[Configuration]] = defaultdict(list)
        for configuration in self.configurations:
            found[configuration.model].append(configuration)
        return dict(found)

    @property
    def succeeded(self) -> tuple[Configuration, ...]:
        """The configurations that ended well."""
        return tuple(c for c in self.configurations if c.succeeded)

    @property
    def failed(self) -> tuple[Configuration, ...]:
        """The configurations that did not."""
        return tuple(c for c in self.configurations if not c.succeeded)

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines of its records, by letter."""
        return tuple(sorted({c.machine for c in self.configurations}))


def compare(
    records: Iterable[RunRecord], *, metric: str | None = None, higher_is_better: bool | None = None
) -> list[Comparison]:
    """Sort records into comparisons, by title; the order of the records does not matter.

    Records whose split fingerprints differ never meet. The main metric is the first one of the protocol's records,
    or `metric`; which way it is better its name tells, unless `higher_is_better` does. Raises UsageError if there are
    no records, UnknownName if no record has `metric`.
    """
    ordered = sorted(records, key=lambda r: (r.key, r.seed, r.started_at, canonical(r.machine)))
    if not ordered:
        raise UsageError("there are no records to report on; run something first, for example: recscale run")
    known = list(dict.fromkeys(name for r in ordered for name in r.metrics))
    if metric is not None and known and metric not in known:
        raise UnknownName("metric", metric, known)
    letters = machine_letters(ordered)
    main = {r.protocol: next(iter(r.metrics)) for r in reversed(ordered) if r.metrics}
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in ordered:
        identity = (record.dataset_name, record.protocol, record.dataset, canonical(record.filter))
        groups[(*identity, record.split_fingerprint)].append(record)
    found = []
    for key, members in sorted(groups.items()):
        measured = list(dict.fromkeys(name for r in members for name in r.metrics))
        first = metric if metric in measured else main.get(members[0].protocol)
        metrics = tuple(sorted(measured, key=lambda name: name != first))
        configurations = _configurations(members, letters)
        rises = rises_with_quality(metrics[0] if metrics else "") if higher_is_better is None else higher_is_better
        comparison = Comparison(
            title=_title(key, list(groups)),
            first=members[0],
            configurations=_sorted(configurations, metrics[0] if metrics else None, rises),
            metrics=metrics,
            higher_is_better=rises,
            missing_metric=metric if measured and metric not in [None, *measured] else None,
            notes=_notes(key, list(groups)),
        )
        found.append(comparison)
    return found


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys."""
    return msgspec.json.encode(value, order="deterministic").decode()


def machine_letters(records: Iterable[RunRecord]) -> dict[str, str]:
    """Return a name (A, B, ...) for each machine, by its canonical description."""
    machines = sorted({canonical(r.machine) for r in records})
    return {machine: _letters(index) for index, machine in enumerate(machines)}


def _letters(index: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    text = chr(ord("A") + index % 26)
    return text if index < 26 else _letters(index // 26 - 1) + text


def filter_text(options: Mapping[str, Any]) -> str:
    """Return a filter in one line; options that are off are left out."""
    active = {name: value for name, value in options.items() if value not in (None, 0, False, "")}
    if not set(active) - {"order"}:
        return "no filter"
    return ", ".join(name if value is True else f"{name}={text(value)}" for name, value in active.items())


def text(value: Any) -> str:
    """Return a parameter as it would be written on the command line."""
    if isinstance(value, str):
        return value
    return "none" if value is None else canonical(value)


def _title(key: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> str:
    """Return the shortest title that no other comparison has: name and protocol, then data set text, filter, split."""
    name, protocol, dataset, options, split = key
    rivals = [other for other in keys if other[:2] == key[:2]]
    title = f"{name if len({other[2] for other in rivals}) == 1 else dataset} · {protocol}"
    rivals = [other for other in rivals if other[2] == dataset]
    if len({other[3] for other in rivals}) > 1:
        title += f" · {filter_text(msgspec.json.decode(options))}"
    return title + (f" · split {split[:8]}" if _other_splits(key, keys) else "")


def _other_splits(key: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> int:
    """Count the other splits of the same data under the same filter and protocol."""
    return sum(other[:4] == key[:4] for other in keys) - 1


def _notes(key: tuple[str, ...], keys: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    others = _other_splits(key, keys)
    if not others:
        return ()
    tables = "another table holds" if others == 1 else f"{others} other tables hold"
    return (f"Split {key[4][:12]}: {tables} runs on other splits of this data; they are not comparable with these.",)


def _configurations(records: Sequence[RunRecord], letters: Mapping[str, str]) -> list[Configuration]:
    """Return the runs of one comparison as configurations, each with the details that tell it from the others."""
    attempts: dict[tuple[Any, ...], int] = defaultdict(int)
    groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        identity = (record.model, *(value for _, value in _settings(record, letters)))
        attempts[identity] += 1
        # Budgets part failures only: they say at what limit a run failed, and change nothing in one that finished.
        limits = (record.timeout_seconds, record.max_memory_bytes, record.max_gpu_memory_bytes)
        groups[(identity, record.status, None if record.status == "ok" else limits)].append(record)
    differing = _differing(records, letters)
    return [
        Configuration(
            model=members[0].model,
            title=members[0].model_title,
            records=tuple(members),
            status=members[0].status,
            machine=letters[canonical(members[0].machine)],
            details=_details(members[0], differing[members[0].model], letters),
            n_planned=attempts[identity],
        )
        for (identity, _, _), members in groups.items()
    ]


def _settings(record: RunRecord, letters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return all that makes runs of one model different configurations, as text by name."""
    return [
        *sorted((name, text(value)) for name, value in record.parameters.items()),
        ("device", renumbered(record.device_requested)),
        ("threads", str(record.n_threads)),
        ("machine", letters[canonical(record.machine)]),
        ("code", record.code_fingerprint[:8]),
    ]


def _differing(records: Sequence[RunRecord], letters: Mapping[str, str]) -> dict[str, set[str]]:
    """Return for each model the names of the settings that differ between its runs."""
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        for name, value in _settings(record, letters):
            values[record.model][name].add(value)
    return {model: {name for name, seen in names.items() if len(seen) > 1} for model, names in values.items()}


def _details(record: RunRecord, differing: set[str], letters: Mapping[str, str]) -> tuple[str, ...]:
    settings = dict(_settings(record, letters))
    knob = [record.size_knob] if record.size_knob in settings else []
    names = [*knob, *(name for name in settings if name in differing and name not in knob)]
    return tuple(f"{name}={settings[name]}" for name in names if name is not None)


def _sorted(
    configurations: list[Configuration], metric: str | None, higher_is_better: bool
) -> tuple[Configuration, ...]:
    """Return the configurations best first, those without a score after them, failures last."""

    def place(configuration: Configuration) -> tuple[Any, ...]:
        score = configuration.score(metric) if metric and configuration.succeeded else None
        badness = math.inf if score is None else -score if higher_is_better else score
        return (not configuration.succeeded, badness, configuration.model, _natural(configuration.knob_value))

    ordered = sorted(configurations, key=lambda c: (*place(c), c.details, c.status))
    return tuple(replace(c, records=tuple(sorted(c.records, key=lambda r: (r.seed, r.key)))) for c in ordered)


def _natural(value: Any) -> tuple[int, float, str]:
    """Return a key that sorts numbers as numbers and everything else as text."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, text(value))
