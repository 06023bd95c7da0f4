"""The result store: one atomic JSON file a job, the per-user vectors beside it, safe for several writers.

Layout: `<root>/<machine>/<data set>/<protocol>/<model>-<key>.json`, with `<model>-<key>.npz` for the vectors. Trials of
tuning, evaluated on validation users, lie in a folder `trials` beside them.
A file is written to the work folder and moved to its place, vectors first, so what can be read is complete.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recscale.errors import StoreError, UsageError
from recscale.records.owners import owner_mark
from recscale.records.record import SCHEMA_VERSION, Part, RunRecord
from recscale.records.statistics import ByUser

_LOCKS = ".locks"
_WORK = ".work"
_TRIALS = "trials"
TOP_ITEMS = "cocluster.top_items"  # beside the per-user vectors
HISTORY_SIZES = "user.history_size"  # and this
WEIGHTS = "weight."  # and, before the name of a metric, how much each user counts in it
_LEAST_ROOM_BYTES = 2**16
LEAST_KEY_LETTERS = 6
_BEGINNING = re.compile(f"[0-9a-f]{{{LEAST_KEY_LETTERS},64}}")


@dataclass(frozen=True)
class Unreadable:
    """A file in the store that holds no record, and why."""

    path: Path
    reason: str


class Store:
    """Records under a folder. Raises StoreError, always in one line, for a folder that cannot serve.

    `machine` is the name of this machine's sub-folder; reading takes in every machine.
    """

    def __init__(self, root: str | Path, machine: str = "unknown") -> None:
        self.root = Path(root)
        self.machine = machine
        self.unreadable: list[Unreadable] = []

    def make_writable(self) -> None:
        """Create the folder if it is missing and make sure that files can be made in it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:  # without a name: a kill leaves nothing
                file.write(bytes(_LEAST_ROOM_BYTES))  # a full disk takes a file's name, but nothing in it
        except OSError as error:
            raise self._unwritable(error) from None

    def work_folder(self) -> Path:
        """Return the folder for the files of running jobs, on the same file system as the store. Raises StoreError."""
        folder = self.root / _WORK
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return folder

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"the store {self.root} cannot be written: {_why(error)}; choose another: --store")

    def path_of(self, *, dataset: str, protocol: str, model: str, key: str, evaluated_on: Part = "test") -> Path:
        """Return where the record of a job lies."""
        folder = self.root / self.machine / _slug(dataset) / _slug(protocol)
        return (folder if evaluated_on == "test" else folder / _TRIALS) / f"{model}-{key[:16]}.json"

    def _own_path(self, record: RunRecord) -> Path:
        names = ("dataset", "protocol", "model", "key", "evaluated_on")
        return self.path_of(**{name: getattr(record, name) for name in names})

    def get(self, **job: Any) -> RunRecord | None:
        """Return the record of a job, described as for `path_of`, or None if there is none that can be read.

        One whose vectors cannot be read is none either; `unreadable` names the file.
        """
        return self._whole(self.path_of(**job), job["key"])

    def get_elsewhere(self, **job: Any) -> RunRecord | None:
        """Return what another machine made of a job, finished or pruned, or None; of several that of the first name."""
        inside = self.path_of(**job).relative_to(self.root / self.machine)
        for folder in sorted(self.root.glob("[!.]*")):
            found = self._whole(folder / inside, job["key"]) if folder.name != self.machine else None
            if found is not None and found.status in ("ok", "pruned"):
                return found
        return None

    def _whole(self, path: Path, key: str) -> RunRecord | None:
        if not path.is_file():
            return None
        found = self._read(path)
        if found is None or found.key != key:
            return None
        vectors = path.with_suffix(".npz")
        has_vectors = found.status == "ok" and found.evaluated_on == "test"
        if reason := "missing" if has_vectors and not vectors.exists() else _damage(vectors):
            self.unreadable.append(Unreadable(vectors, reason))
            return None
        return found

    def put(self, record: RunRecord, per_user: Mapping[str, NDArray[Any]] | None = None) -> Path:
        """Write a record and its per-user vectors; return the path of the record."""
        path = self._own_path(record)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            vectors = path.with_suffix(".npz")
            if per_user:
                buffer = io.BytesIO()
                np.savez_compressed(buffer, allow_pickle=False, **per_user)
                self._replace(vectors, buffer.getvalue())
            self._replace(path, _written(record))
            if not per_user:
                vectors.unlink(missing_ok=True)
        except OSError as error:
            raise self._lost(record, error) from None
        return path

    def amend(self, record: RunRecord, **changes: Any) -> RunRecord:
        """Change a record where it lies, on whichever machine, and return it; its vectors stay. Raises StoreError."""
        amended = msgspec.structs.replace(record, **changes)
        path = self._place_of(record)
        try:
            if path is not None:
                self._replace(path, _written(amended))
        except OSError as error:
            raise self._lost(record, error) from None
        return amended

    def _lost(self, record: RunRecord, error: OSError) -> StoreError:
        return StoreError(
            f"the record of {record.model} could not be written to {self.root}: {_why(error)};"
            " finished jobs are kept: run the same command again once that is mended"
        )

    def per_user(self, record: RunRecord) -> dict[str, NDArray[Any]]:
        """Return the per-user metric vectors of a record, by metric name; empty for a failure."""
        return {name: values for name, values in self._arrays(record).items() if _is_metric(name)}

    def by_user(self, record: RunRecord) -> dict[str, ByUser]:
        """Return the same with how much each user counts, which records of earlier versions do not say."""
        found = self._arrays(record)
        return {n: ByUser.of(values, found.get(WEIGHTS + n)) for n, values in found.items() if _is_metric(n)}

    def history_sizes(self, record: RunRecord) -> NDArray[np.int32] | None:
        """Return how many items the history of each test user (U,) has; None for a failure and in old records."""
        return self._arrays(record).get(HISTORY_SIZES)

    def top_items(self, record: RunRecord) -> NDArray[np.int32] | None:
        """Return the first items (N, 20) of every co-cluster, -1 for none; None if the record has no co-clusters."""
        return self._arrays(record).get(TOP_ITEMS) if record.coclusters else None

    def _arrays(self, record: RunRecord) -> dict[str, NDArray[Any]]:
        place = self._place_of(record)
        path = place and place.with_suffix(".npz")
        if path is None or not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file}
        except Exception as error:  # garbage in a zip file fails in any way
            raise StoreError(
                f"{path} holds no vectors of users: {error}; remove it with its record and run the job again"
            ) from None

    def _place_of(self, record: RunRecord) -> Path | None:
        """Return where a record lies; where several machines did its job, the very same one. None if nowhere."""
        inside = self._own_path(record).relative_to(self.root / self.machine)
        places = [place for folder in self.root.glob("[!.]*") if (place := folder / inside).is_file()]
        if len(places) > 1:
            written = msgspec.json.encode(record)
            places = [place for place in places if msgspec.json.encode(self._read(place)) == written]
        return places[0] if places else None

    def records(self) -> list[RunRecord]:
        """Return every record of test users, sorted by its place. Files that hold none are listed in `unreadable`."""
        return self._all("*.json")

    def trials(self) -> list[RunRecord]:
        """Return every trial of tuning, sorted by its place. Files that hold none are listed in `unreadable`."""
        return self._all(f"{_TRIALS}/*.json")

    def _all(self, pattern: str) -> list[RunRecord]:
        if not self.root.is_dir():
            raise StoreError(f"no store at {self.root}; make one with: recscale run --store {self.root} ...")
        self.unreadable = []
        paths = sorted(self.root.glob(f"[!.]*/*/*/{pattern}"))  # not into work folders, which come and go
        return [record for path in paths if (record := self._read(path)) is not None]

    def find(self, beginning: str) -> RunRecord:
        """Return the record whose key begins so; where several machines did one job, a finished one.

        Raises UsageError for fewer than 6 letters, and for a beginning that no key has, or more than one.
        """
        wanted = beginning.strip().lower()
        if not _BEGINNING.fullmatch(wanted):
            raise UsageError(
                f"{beginning!r} is no beginning of a key; expected at least {LEAST_KEY_LETTERS} of the letters 0-9 and"
                f" a-f; recscale explain --store {self.root} lists the keys"
            )
        found: dict[str, RunRecord] = {}
        known = self.records()
        for record in known:
            if record.key.startswith(wanted) and (record.key not in found or record.status == "ok"):
                found[record.key] = record
        if len(found) > 1:
            told = ", ".join(f"{r.key[: len(wanted) + 6]} ({r.configuration or r.model})" for r in found.values())
            raise UsageError(f"{len(found)} keys in {self.root} begin with {beginning!r}: {told}; give more letters")
        if not found:
            near = difflib.get_close_matches(wanted, {r.key[: len(wanted)] for r in known}, n=1, cutoff=0.75)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"no record in {self.root} has a key that begins with {beginning!r}; {hint}recscale explain --store"
                f" {self.root} lists the keys"
            )
        return next(iter(found.values()))

    def frame(self) -> Any:
        """Return all records as a pandas DataFrame, a row a record."""
        import pandas as pd

        return pd.DataFrame([record.flat() for record in self.records()])

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the right to run a job; yields False if another runner holds it. Freed if this process dies.

        Raises StoreError where no lock can be written.
        """
        from filelock import FileLock, Timeout

        folder = self.root / _LOCKS
        lock = FileLock(folder / f"{key[:32]}.lock", timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            yield True
        finally:
            lock.release()

    def _replace(self, path: Path, content: bytes) -> None:
        """Write `content` to `path` at once: to the work folder first, on the disk, then moved into place."""
        temporary = self.work_folder() / f"{owner_mark()}-{path.name}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _read(self, path: Path) -> RunRecord | None:
        try:
            content = path.read_bytes()
        except OSError as error:
            self.unreadable.append(Unreadable(path, _why(error)))
            return None
        try:
            version = msgspec.json.decode(content, type=_Versioned).schema_version
        except msgspec.DecodeError as error:
            self.unreadable.append(Unreadable(path, f"no record: {error}"))
            return None
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path.name} has schema {version}, this recscale reads up to {SCHEMA_VERSION}; upgrade recscale"
            )
        try:
            return msgspec.json.decode(content, type=RunRecord)
        except msgspec.DecodeError as error:
            self.unreadable.append(Unreadable(path, f"no record of schema {version}: {error}"))
            return None


def _written(record: RunRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


class _Versioned(msgspec.Struct):
    schema_version: int


def _damage(vectors: Path) -> str | None:
    """Return why a file of vectors cannot be read; None if it can, or is not there. Takes a second for 20 MB."""
    try:
        with zipfile.ZipFile(vectors) as file:
            torn = file.testzip()
    except FileNotFoundError:
        return None
    except Exception as error:  # garbage fails in any way
        return f"no vectors of users: {error}"
    return f"no vectors of users: {torn} is damaged" if torn else None


def _is_metric(name: str) -> bool:
    return name not in (TOP_ITEMS, HISTORY_SIZES) and not name.startswith(WEIGHTS)


def _slug(text: str) -> str:
    """Return a folder name for a data set or protocol: letters, digits, dots, `=`, `-`; others become `_`."""
    return re.sub(r"[^A-Za-z0-9.=,-]+", "_", text).strip("_.")[:120] or "unnamed"


def _why(error: OSError) -> str:
    return "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error)).lower()
