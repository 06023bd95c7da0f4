"""Loading, filtering and splitting a data set, once: the split lies in a cache and is found again by what made it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from recscale import __version__, registry
from recscale._parameters import build
from recscale.contract import Dataset, DatasetSpec, Filter, Shape
from recscale.errors import DataError
from recscale.evaluation.filtering import apply_filter
from recscale.evaluation.protocols import resolve_protocol
from recscale.evaluation.split_file import save_names, save_split
from recscale.evaluation.splitting import split
from recscale.evaluation.subsampling import Subsample, take_subsample
from recscale.running.job import Data, Prepared, Source


def cache_root() -> Path:
    """Return the folder of prepared splits: under `RECSCALE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("RECSCALE_CACHE")
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("recscale"))) / "prepared"


def cache_key(data: Data, plugins: list[str]) -> str:
    """Return the SHA-256 of all that decides a split but the contents of the source files."""
    entry = registry.find("dataset", data.name, plugins)
    decisive = {
        "version": __version__,
        "data": {**msgspec.to_builtins(data), "options": _placed(data.options)},
        "loader": registry.code_fingerprint(entry),
        "splitter": _own_code(),
        "mirrors": os.environ.get("RECSCALE_DATA", ""),
    }
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()


def _placed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a data set with the whole path of a file of one's own: other folders have others."""
    path = options.get("path")
    return options if path is None else {**options, "path": str(Path(path).expanduser().resolve())}


def find_prepared(data: Data, plugins: list[str]) -> Prepared | None:
    """Return the cached split of `data`, or None if there is none or a source file has changed since."""
    folder = cache_root() / cache_key(data, plugins)[:32]
    try:
        prepared = msgspec.json.decode((folder / "prepared.json").read_bytes(), type=Prepared)
        unchanged = all(Source.of(Path(s.path)) == s for s in prepared.sources)
    except (OSError, msgspec.DecodeError):
        return None
    return prepared if unchanged and Path(prepared.split_path).is_file() else None


def prepare(data: Data, plugins: list[str]) -> Prepared:
    """Load, filter, subsample and split `data`, write the split to the cache and return what is known of it.

    Raises DataError, UsageError or UnknownName.
    """
    started = time.monotonic()
    spec = registry.dataset_spec(data.name, plugins)
    loaded = build(spec.source, data.name, data.options).load()
    sources = [Source.of(path) for path in loaded.sources]
    dataset = apply_filter(loaded, Filter(**data.filter))
    del loaded
    _check_statistics(spec, data, dataset)
    dataset = take_subsample(dataset, Subsample(**data.shares))
    protocol = resolve_protocol(data.protocol, data.protocol_options)
    parts = split(dataset, protocol)
    folder = cache_root() / cache_key(data, plugins)[:32]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "split.npz"
    save_split(parts, path)
    save_names((dataset.item_ids if dataset.item_titles is None else dataset.item_titles)[parts.items], path)
    shape = Shape.of(parts.train)
    prepared = Prepared(
        split_path=str(path),
        data_fingerprint=dataset.fingerprint,
        split_fingerprint=parts.fingerprint,
        n_users=dataset.interactions.shape[0],
        n_train_users=shape.n_users,
        n_items=shape.n_items,
        n_interactions=int(dataset.interactions.nnz),
        n_train_interactions=shape.n_interactions,
        n_train_pairs=shape.n_pairs,
        n_valid_users=parts.valid.n_users,
        n_test_users=parts.test.n_users,
        dropped_users=parts.dropped_users,
        load_seconds=time.monotonic() - started,
        sources=sources,
    )
    temporary = folder / f".prepared.{os.getpid()}.json"
    temporary.write_bytes(msgspec.json.encode(prepared))
    temporary.replace(folder / "prepared.json")
    return prepared


def _check_statistics(spec: DatasetSpec, data: Data, dataset: Dataset) -> None:
    """Hold a filtered data set against the published figures, where there are any for its filter."""
    published = spec.statistics.get(data.filter_name or "")
    if published is None or without_verification(data.options):
        return
    found = (*dataset.interactions.shape, int(dataset.interactions.nnz))
    expected = (published.n_users, published.n_items, published.n_interactions)
    if found != expected:
        raise DataError(
            f"{data.text} has {found[0]:,} users, {found[1]:,} items and {found[2]:,} interactions, but published are"
            f" {expected[0]:,}, {expected[1]:,} and {expected[2]:,}; {data.name}[verify=false] goes on all the same"
        )


def without_verification(options: dict[str, Any]) -> bool:
    """Tell whether the options of a data set differ from the published one on purpose."""
    return options.get("verify") is False


def _own_code() -> str:
    digest = hashlib.sha256()
    evaluation = Path(__file__).parent.parent / "evaluation"
    for name in ("_entries", "_parts", "_rated", "filtering", "protocols", "split_file", "splitting", "subsampling"):
        digest.update((evaluation / f"{name}.py").read_bytes())
    return digest.hexdigest()
