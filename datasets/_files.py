"""Where the files of a data set come from: local mirrors, then the cache, then a download.

`RECSCALE_DATA` lists mirror folders (separated as in PATH); a file lies at `<mirror>/<data set>/<file>`. The cache
is `RECSCALE_CACHE`, or the cache folder of the user. A download goes to a folder `.part` beside its place and is
moved there once it is whole and its hash is right, so a broken one leaves nothing behind. Where no hash was
published, that of the first download is kept beside the file, and the file is held against it from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recscale.errors import DataError

TABLE = "interactions.parquet"
_RECORDED = "hashes.json"


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as its publisher offers it: no `url` where it must be fetched by hand from `page`.

    `digest` is `sha256:...` or `md5:...` as published; None where none is.
    """

    name: str
    url: str = ""
    digest: str | None = None
    page: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The files to read: in the publisher's format, or (`is_table`) one `interactions.parquet`."""

    paths: tuple[Path, ...]
    is_table: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """All the ways in which the files of one data set may lie about.

    `remotes` are what the publisher offers, all of them needed; each of `unpacked` is a complete set of files that
    a mirror may hold instead. The format of the publisher is read where it is found, else `interactions.parquet`
    of a mirror (unless `has_table` says that it holds something else), else the remotes are downloaded.
    """

    dataset: str
    remotes: tuple[Remote, ...]
    unpacked: tuple[tuple[str, ...], ...] = ()
    has_table: bool = True

    def obtain(self, *, verify: bool = True) -> Found:
        """Return the files, downloaded if need be; with `verify` their hashes are checked. Raises DataError."""
        found = self.find()
        if found is None:
            cache = cache_folder() / self.dataset
            return Found(tuple(self._download(remote, cache) for remote in self.remotes))
        if verify and not found.is_table:
            self._check(found.paths)
        return found

    def find(self) -> Found | None:
        """Return the files that a mirror or the cache has, unchecked; None if they would have to be downloaded.

        Raises DataError for a mirror that does not exist.
        """
        folders = [mirror / self.dataset for mirror in mirrors()]
        for folder in [*folders, cache_folder() / self.dataset]:
            for names in (*self.unpacked, tuple(remote.name for remote in self.remotes)):
                paths = tuple(folder / name for name in names)
                if all(path.exists() for path in paths):
                    return Found(paths)
        for folder in folders:
            if self.has_table and (folder / TABLE).exists():
                return Found((folder / TABLE,), is_table=True)
        return None

    def _check(self, paths: Sequence[Path]) -> None:
        digests = {remote.name: remote.digest for remote in self.remotes}
        for path in paths:
            expected = digests.get(path.name) or _recorded(path)
            if expected and (found := file_digest(path, expected.partition(":")[0])) != expected:
                raise DataError(
                    f"{path} is not the published file: its hash is {found}, expected {expected}; "
                    f"delete it and fetch it again, or read it all the same with verify=false"
                )

    def _download(self, remote: Remote, folder: Path) -> Path:
        from filelock import FileLock

        if not remote.url:
            raise DataError(
                f"{self.dataset} cannot be downloaded by a program; fetch {remote.name} from {remote.page} "
                f"and {_by_hand(self.dataset, remote.name)}"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                target = folder / remote.name
                if not target.exists():  # another process may have fetched it while this one waited
                    _retrieve(remote, folder)
                    if remote.digest is None:
                        _record(target)
                return target
        except OSError as error:
            raise DataError(
                f"cannot download {remote.url} to {folder} ({_reason(error)}); fetch {remote.name} on a machine that "
                f"can, and {_by_hand(self.dataset, remote.name)}"
            ) from error


def mirrors() -> tuple[Path, ...]:
    """Return the folders that `RECSCALE_DATA` lists. Raises DataError for one that does not exist."""
    folders = tuple(Path(part).expanduser() for part in os.environ.get("RECSCALE_DATA", "").split(os.pathsep) if part)
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"RECSCALE_DATA names {folder}, which is no folder; correct or unset it")
    return folders


def cache_folder() -> Path:
    """Return the folder of downloads: `RECSCALE_CACHE`, or the cache folder of the user."""
    if chosen := os.environ.get("RECSCALE_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("recscale"))


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return `<algorithm>:<hexadecimal digest>` of a file."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _by_hand(dataset: str, name: str) -> str:
    mirror = next(iter(mirrors()), None)
    if mirror is not None:
        return f"put it at {mirror / dataset / name}"
    return f"put it at FOLDER/{dataset}/{name} with RECSCALE_DATA=FOLDER"


def _reason(error: OSError) -> str:
    """Return in a few words why a download failed; libraries' own messages repeat the address several times."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP status {status}" if status else error.strerror or type(error).__name__


def _retrieve(remote: Remote, folder: Path) -> None:
    """Download one file whole, with progress on stderr. Raises DataError or OSError, leaving nothing behind."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    unfinished = folder / ".part"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a download that was killed
    try:
        got = pooch.retrieve(remote.url, known_hash=remote.digest, fname=remote.name, path=unfinished, progressbar=True)
        Path(got).replace(folder / remote.name)
    except ValueError as error:
        if remote.digest and "hash" in str(error):
            raise DataError(
                f"{remote.url} gave a file whose hash is not {remote.digest}; it was not kept. Try again, and if it "
                f"stays so, the publisher has changed the file"
            ) from None
        raise DataError(f"cannot download {remote.url}: {str(error).splitlines()[0]}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _record(path: Path) -> None:
    """Keep the hash of a first download beside it."""
    record = path.parent / _RECORDED
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    known[path.name] = file_digest(path)
    unfinished = record.with_suffix(".part")
    unfinished.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(record)


def _recorded(path: Path) -> str | None:
    """Return the hash kept at the first download, None if there is none."""
    record = path.parent / _RECORDED
    if not record.exists():
        return None
    try:
        digest = json.loads(record.read_text(encoding="utf-8")).get(path.name)
    except (ValueError, AttributeError):
        raise DataError(f"{record} is damaged; delete it, and the files beside it if in doubt") from None
    return None if digest is None else str(digest)
