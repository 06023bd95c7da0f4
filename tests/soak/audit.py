"""What is true of a store: every job has one record that is whole, and nothing else lies there."""

import fcntl
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from runners import Bench

from recscale.records.record import RunRecord
from recscale.records.store import Store


@dataclass
class Audit:
    """What was found in a store. A file is named by its path, a job by what it does, its width and its seed."""

    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # records with a status that nothing accounts for
    temporary: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)


def audit(bench: Bench) -> Audit:
    """Read every file of a store."""
    found = Audit()
    seen: Counter[tuple[str, int, int]] = Counter()
    for path in bench.files():
        if path.suffix == ".json" and not path.name.startswith("."):
            record = _record(bench, path, found)
            if record is not None:
                job = (record.parameters["act"], record.parameters["width"], record.seed)
                seen[job] += 1
                found.statuses[record.status] += 1
                found.odd += _oddity(record, job[0])
        elif path.suffix != ".npz" or path.name.startswith("."):
            found.temporary.append(str(path.relative_to(bench.store)))
        elif not path.with_suffix(".json").exists():
            found.broken[path] = "vectors without a record"
    found.temporary += [str(path.relative_to(bench.store)) for path in (bench.store / ".work").glob("*")]
    found.temporary += [path.name for path in bench.store.glob("*") if path.is_file()]
    found.lost = [str(job) for job in sorted(bench.jobs - set(seen))]
    found.doubled = [str(job) for job, times in seen.items() if times > 1 or job not in bench.jobs]
    found.locked = [path.name for path in (bench.store / ".locks").glob("*") if _is_held(path)]
    return found


def repeated_fits(bench: Bench) -> int:
    """Return how many fits were those of a job that had been fitted before."""
    times = Counter(bench.fits.read_text().splitlines())
    return sum(times.values()) - len(times)


def _record(bench: Bench, path: Path, found: Audit) -> RunRecord | None:
    """Return the record in a file, or None; note what is not whole, of it or of its vectors."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except msgspec.DecodeError as error:
        found.broken[path] = f"no record: {error}"
        return None
    vectors = path.with_suffix(".npz")
    if (record.status == "ok") != vectors.exists():
        found.broken[path] = f"{record.status}, with vectors: {vectors.exists()}"
        return record
    if record.status == "ok":
        try:
            with zipfile.ZipFile(vectors) as file:
                torn = file.testzip()
            per_user = Store(bench.store).per_user(record)
            wrong = torn or [name for name, values in per_user.items() if not _belongs(name, values, record)]
        except Exception as error:  # any: whatever garbage makes of a zip file
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            found.broken[vectors] = str(wrong)
    return record


def _belongs(name: str, values: np.ndarray, record: RunRecord) -> bool:
    """Tell whether a vector is that of a record: as many users, and their mean is the figure in the record."""
    users = values[~np.isnan(values)]
    return len(values) == record.n_test_users and abs(float(users.mean()) - record.metrics[name]) < 1e-6


def _oddity(record: RunRecord, act: str) -> list[str]:
    """Return what is wrong about the status of a record, which any fault may have caused, but no other."""
    told = f"{record.reason} {' '.join(record.log_tail)}"
    accounted = {
        "ok": act == "work",
        "out_of_memory": act == "allocate" or "SIGKILL" in told,
        "timeout": record.job_wall_seconds >= record.timeout_seconds,
    }
    if accounted.get(record.status):
        return []
    return [f"{act} {record.parameters['width']}, seed {record.seed}: {record.status}: {record.reason}"]


def _is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
