"""Why a user gets what is recommended: the co-clusters that user and item share, from a record and its model.

The model is that of the record: kept in the store, or fitted again by what the record says and then kept. For any
model with co-clusters, user u and item i overlap in co-cluster c by min(a_uc, a_ic), negative affinities being 0.
Where the overlaps add up to the score, as in ELFM (Yang et al. 2021, RecSys, equation 2), they are its parts.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale import registry
from recscale._parameters import build, option_types
from recscale.abilities import CoClustered
from recscale.contract import Dataset, Filter, Model, ModelSpec, Options, Split
from recscale.errors import DataError, DeviceUnavailable, ModelError, RecscaleError, StoreError, UsageError
from recscale.evaluation.filtering import apply_filter
from recscale.evaluation.likeliest import likeliest
from recscale.evaluation.ranking import check_scores, tie_order
from recscale.evaluation.split_file import load_split
from recscale.evaluation.subsampling import Subsample, take_subsample
from recscale.measuring.budget import machine_memory_limit
from recscale.measuring.machine import kind_of
from recscale.records.record import RunRecord, renumbered
from recscale.records.store import Store
from recscale.running.job import FIT_FILE, FITTED_FILE, Data, Job, Request
from recscale.running.process import WorkerProcess
from recscale.running.references import known_options
from recscale.running.runner import Display, Runner
from recscale.running.suite import Suite, expand

Count: TypeAlias = Annotated[int, Meta(ge=1)]
KEPT_MODELS = ".models"  # in a store
TICK_SECONDS = 0.05
SAME_SCORE = 1e-3  # relative: a sum of thousands of overlaps in float32, in another order than the model's
MOST_COMPARED = 50_000  # ids that difflib looks at for near ones: 0.2 s


@dataclass(frozen=True)
class ExplainOptions(Options):
    """How much to tell: `top` recommendations with `clusters` co-clusters each, and of each the first `items`.

    `plugins` are files of models and data sets of one's own.
    """

    top: Count = 5
    clusters: Count = 3
    items: Count = 10
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """An item by its id and its title; where there are no titles, that is the id again."""

    id: str
    name: str


@dataclass(frozen=True)
class Share:
    """A co-cluster of a user, or of a user and an item.

    `affinity` is that of the user, or the overlap with the item, and `share` its part of all of them, 0 to 1.
    """

    cluster: int
    affinity: float
    share: float
    items: tuple[Item, ...]  # its first ones


@dataclass(frozen=True)
class Recommendation:
    """An item for a user, with the largest overlaps behind it; `overlap` is the sum of all of them."""

    item: Item
    score: float
    overlap: float
    is_target: bool
    clusters: tuple[Share, ...]


@dataclass(frozen=True)
class Target:
    """An item that was held out, and the rank that the model gives it, from 1."""

    item: Item
    rank: int


@dataclass(frozen=True)
class Explanation:
    """What a user has, what is recommended and the co-clusters that it came from.

    `targets` is None for a user that is not of the test part. Shares are of the score where the overlaps of every
    recommendation add up to it, and otherwise of their own sum.
    """

    key: str
    model: str
    dataset: str
    protocol: str
    user: str
    n_items: int  # of the vocabulary
    history: tuple[Item, ...]
    targets: tuple[Target, ...] | None
    recommendations: tuple[Recommendation, ...]
    clusters: tuple[Share, ...]  # the likeliest of the user
    shares_of: Literal["score", "overlap"]
    warnings: tuple[str, ...]


def explain(store: Store, key: str, user: str | None, options: ExplainOptions, display: Display) -> Explanation:
    """Explain what the model of the record whose key begins with `key` recommends to `user`, the id as text.

    The history is the user's row in the data set, or, for a test user, what the split leaves of it.
    Raises UsageError for a key, record, model or user that cannot be explained, DataError if the split has changed
    since, DeviceUnavailable or another RecscaleError where the model cannot be fitted again.
    """
    record = store.find(key)
    spec = _co_clustered_spec(record, options.plugins)
    try:
        job = _job_again(record, store, options.plugins, display)
        display.preparing(job.data)
        person = _find_person(job, user)
        display.prepared(job.data, job.prepared)
        model = _load(spec.model, _kept_or_fitted(job, store, display))
    finally:
        display.closed()
    return _explanation(record, _warnings(record, job), person, _overlaps(model, person.history), options)


def explainable(store: Store, plugins: Sequence[str] = ()) -> list[RunRecord]:
    """Return the finished records of models with co-clusters. Raises StoreError if there is no store."""
    names = _co_clustered_models(plugins)
    return [record for record in store.records() if record.status == "ok" and record.model in names]


def _co_clustered_models(plugins: Sequence[str]) -> list[str]:
    found = []
    for name in registry.entries("model", plugins):
        with contextlib.suppress(RecscaleError, ImportError):  # a package that is not there
            if issubclass(registry.model_spec(name, plugins).model, CoClustered):
                found.append(name)
    return found


def _co_clustered_spec(record: RunRecord, plugins: Sequence[str]) -> ModelSpec:
    """Return the specification of the model of a record that can be explained. Raises UsageError."""
    told = f"record {record.key[:8]}, {record.configuration or record.model} on {record.dataset},"
    if record.status != "ok":
        raise UsageError(f"{told} failed ({record.status}: {record.reason}); only a finished one can be explained")
    if record.model not in registry.entries("model", plugins):
        raise UsageError(f"{told} is of a model that is not here; give the file of your own model by --plugin FILE")
    spec = registry.model_spec(record.model, plugins)
    if not issubclass(spec.model, CoClustered):
        known = ", ".join(_co_clustered_models(plugins)) or "none"
        raise UsageError(f"{told} has no co-clusters; models with co-clusters, which can be explained: {known}")
    return spec


def _job_again(record: RunRecord, store: Store, plugins: Sequence[str], display: Display) -> Job:
    """Return the job of a record as it would be planned today. Raises DataError if its split is another now."""
    suite = Suite(
        datasets=[_data_reference(record, plugins)],
        protocols=[record.protocol],
        models=[{record.model: {name: [value] for name, value in record.parameters.items()}}],
        seeds=[record.seed],
        device=renumbered(record.device_used or record.device_requested),
        max_memory=machine_memory_limit(),
        plugins=list(plugins),
    )
    ((data, prepared),) = Runner(suite, store, display).prepare()
    if data.text != record.dataset:
        raise UsageError(f"the data set of record {record.key[:8]}, {record.dataset}, reads as {data.text} today")
    if prepared.split_fingerprint != record.split_fingerprint:
        raise DataError(
            f"{record.dataset}, {record.protocol}, is split otherwise than when record {record.key[:8]} was made:"
            " the data or the code that splits it has changed; run the model again and explain the new record"
        )
    (job,) = expand(suite, data, prepared)
    return job


def _data_reference(record: RunRecord, plugins: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the data set of a record as a mapping: a path in its text may hold what separates options."""
    name, _, inside = record.dataset.partition("[")
    known = known_options(option_types(registry.dataset_spec(name, plugins).source))
    pieces = re.split(rf"(?:^|,)({'|'.join(known)})=", inside.removesuffix("]"))
    return {name: dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def _warnings(record: RunRecord, job: Job) -> tuple[str, ...]:
    if job.code_fingerprint == record.code_fingerprint:
        return ()
    return (
        f"the code of {record.model} has changed since record {record.key[:8]} was made: this is the model that the"
        " code of today fits, and it may differ from the one that was measured",
    )


@dataclass(frozen=True, eq=False)
class _Person:
    """One user, and the items of the vocabulary."""

    id: str
    history: sp.csr_array  # (1, I)
    targets: NDArray[np.int64] | None
    items: NDArray[Any]  # (I,) ids
    titles: NDArray[Any]  # (I,)

    def item(self, number: int) -> Item:
        """Return the item of a column of the vocabulary."""
        return Item(str(self.items[number]), str(self.titles[number]))

    def listed(self, numbers: NDArray[Any]) -> tuple[Item, ...]:
        """Return several items."""
        return tuple(self.item(number) for number in numbers.tolist())


def _find_person(job: Job, user: str | None) -> _Person:
    """Read the data set and find a user in it. Raises UsageError, or DataError if the data has changed meanwhile."""
    source = registry.dataset_spec(job.data.name, job.plugins).source
    loaded: Dataset = build(source, job.data.name, job.data.options).load()
    dataset = take_subsample(apply_filter(loaded, Filter(**job.data.filter)), Subsample(**job.data.shares))
    if dataset.fingerprint != job.prepared.data_fingerprint:
        raise DataError(f"{job.data.text} has changed since it was prepared; try again")
    row = _row_of(user, dataset, loaded, job.data)
    split = load_split(Path(job.prepared.split_path))
    place = np.flatnonzero(split.users == row)
    targets = split.test.target[place].indices.astype(np.int64) if place.size else None
    history = split.test.history[place[:1]] if place.size else _row_in_vocabulary(row, dataset, split)
    if not history.nnz:
        raise UsageError(f"user {user!r} of {job.data.text} has no known item in this split, so none leads to another")
    titles = dataset.item_ids if dataset.item_titles is None else dataset.item_titles
    return _Person(str(user), history, targets, dataset.item_ids[split.items], titles[split.items])


def _row_in_vocabulary(row: int, dataset: Dataset, split: Split) -> sp.csr_array:
    """Return the row of a user of the data set, (1, I), of which the vocabulary may lack some items."""
    place = np.full(dataset.interactions.shape[1], -1)
    place[split.items] = np.arange(split.items.size)
    columns = place[dataset.interactions[[row]].indices]
    columns = np.sort(columns[columns >= 0])
    ones = np.ones(columns.size, dtype=np.float32)
    return sp.csr_array((ones, columns, np.array([0, columns.size])), shape=(1, split.items.size))


def _row_of(user: str | None, dataset: Dataset, loaded: Dataset, data: Data) -> int:
    """Return the row of the user whose id reads `user`. Raises UsageError with near ids and one that exists."""
    ids = dataset.user_ids.astype(str)
    example = f"a user of {data.text} is, for example, {str(ids[ids.size // 2])!r}"
    if user is None:
        raise UsageError(f"name a user whose recommendations to explain; {example}")
    found = np.flatnonzero(ids == user)
    if found.size:
        return int(found[0])
    if (loaded.user_ids.astype(str) == user).any():
        raise UsageError(f"the filter of {data.text} leaves user {user!r} out; {example}")
    near = difflib.get_close_matches(user, _comparable(ids, user), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? A" if near else "a"
    raise UsageError(f"no user {user!r}; {hint}{example[1:]}")


def _comparable(ids: NDArray[np.str_], user: str) -> list[str]:
    """Return the ids among which near ones are sought: of many, those that begin alike."""
    for n_letters in range(len(user)):
        if ids.size <= MOST_COMPARED:
            break
        ids = ids[np.strings.startswith(ids, user[: n_letters + 1])]
    names: list[str] = ids[:MOST_COMPARED].tolist()
    return names


def _kept_or_fitted(job: Job, store: Store, display: Display) -> Path:
    """Return the file of the model of a job, fitted now if the store does not hold it.

    The key of the job is that of the record unless the code has changed, so that no other model takes its place.
    """
    kept = store.root / KEPT_MODELS / f"{job.key}.npz"
    if kept.is_file():
        return kept
    if job.unavailable:
        raise DeviceUnavailable(
            f"the model was fitted on {kind_of(job.device_requested)}, and here: {job.unavailable}; explain it where"
            f" there is one, or copy {kept.parent} from there, or run again with --device cpu and explain that record"
        )
    display.started(job)
    request = Request(task="run", job=job, plugins=job.plugins, limits=job.limits, keeps_fit=True)
    with contextlib.closing(WorkerProcess(request, store.work_folder(), n_threads=job.n_threads)) as worker:
        while not (worker.folder / FITTED_FILE).exists():  # the worker would go on and measure the model
            if worker.is_done() and not (worker.folder / FITTED_FILE).exists():
                raise RecscaleError(f"{job.label} could not be fitted again: {worker.outcome()['reason']}")
            for event in worker.events():
                display.event(job, event)
            time.sleep(TICK_SECONDS)
        try:
            kept.parent.mkdir(exist_ok=True)
            return (worker.folder / FIT_FILE).replace(kept)
        except OSError as error:
            raise StoreError(f"{kept.parent} cannot be written: {error.strerror or error}") from None


def _load(cls: type[Model], path: Path) -> Model:
    """Return a model from its file. Raises ModelError with the remedy."""
    try:
        return cls.load(path)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, RecscaleError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"the kept model {path} cannot be read ({reason}); delete it to have it fitted again"
        ) from None


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """What a model says of one user: scores, affinities, and the items in the order of their ranks."""

    scores: NDArray[np.float32]  # (I,)
    ranked: NDArray[np.int64]  # without the history
    user: NDArray[np.float32]  # (N,) not negative
    items: NDArray[np.float32]  # (I, N)


def _overlaps(model: Any, history: sp.csr_array) -> _Overlaps:
    """Score one user; ties are ranked as everywhere. Raises ModelError for what breaks the contract."""
    scores = model.score(history)
    check_scores(scores, history.shape)
    row = (scores if isinstance(scores, np.ndarray) else scores.detach().cpu().numpy())[0]
    user, items = np.asarray(model.user_affinity(history)), np.asarray(model.item_affinity())
    if not np.isfinite(row).all() or items.shape[:1] != row.shape or user.shape != (1, *items.shape[1:]):
        raise ModelError(f"{type(model).__name__} gives affinities {user.shape} and {items.shape}, or endless scores")
    order = np.lexsort((tie_order(row.size).rank, -row))
    return _Overlaps(row, order[~np.isin(order, history.indices)], np.maximum(user[0], 0), items)


def _explanation(
    record: RunRecord, warnings: tuple[str, ...], person: _Person, overlaps: _Overlaps, options: ExplainOptions
) -> Explanation:
    best = overlaps.ranked[: options.top]
    recommendations = tuple(_recommendation(item, person, overlaps, options) for item in best.tolist())
    sums = [one.overlap for one in recommendations]
    targets = None if person.targets is None else person.targets.tolist()
    return Explanation(
        key=record.key,
        model=record.configuration or record.model,
        dataset=record.dataset,
        protocol=record.protocol,
        user=person.id,
        n_items=overlaps.scores.size,
        history=person.listed(person.history.indices),
        targets=None if targets is None else tuple(_target(item, person, overlaps) for item in targets),
        recommendations=recommendations,
        clusters=_shares(overlaps.user, person, overlaps, options),
        shares_of="score" if np.allclose(sums, overlaps.scores[best], rtol=SAME_SCORE, atol=0) else "overlap",
        warnings=warnings,
    )


def _recommendation(item: int, person: _Person, overlaps: _Overlaps, options: ExplainOptions) -> Recommendation:
    together = np.minimum(overlaps.user, np.maximum(overlaps.items[item], 0))  # (N,)
    return Recommendation(
        item=person.item(item),
        score=float(overlaps.scores[item]),
        overlap=float(together.sum(dtype=np.float64)),
        is_target=person.targets is not None and item in person.targets,
        clusters=_shares(together, person, overlaps, options),
    )


def _target(item: int, person: _Person, overlaps: _Overlaps) -> Target:
    return Target(person.item(item), int(np.flatnonzero(overlaps.ranked == item)[0]) + 1)


def _shares(
    affinity: NDArray[np.float32], person: _Person, overlaps: _Overlaps, options: ExplainOptions
) -> tuple[Share, ...]:
    """Return the largest of the `affinity` (N,) of co-clusters, none of it negative, as shares of their sum."""
    total = float(affinity.sum(dtype=np.float64))
    found = likeliest(affinity, overlaps.items, options.clusters, options.items)
    return tuple(Share(one.cluster, one.affinity, one.affinity / total, person.listed(one.items)) for one in found)
