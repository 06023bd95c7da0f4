"""The limits that a container or a service manager puts on this process: Linux control groups, version 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 2**60  # version 1 writes "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits over the groups that hold this process; None where there is none."""

    memory_bytes: int | None = None
    free_bytes: int | None = None  # the least that any of the groups has left, its page cache not counted
    cpus: float | None = None


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the limits of the groups of this process, read below the file system at `root`."""
    memory: list[int] = []
    free: list[int] = []
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is not None and limit < _UNLIMITED:
            memory.append(limit)
            free.append(max(0, limit - _used_bytes(group)))
    cpus = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    return CgroupLimits(min(memory, default=None), min(free, default=None), min(cpus, default=None))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that hold this process, from the innermost to the mount point."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = ("", "unified") if not controllers else (controller, controllers)
        for mount in mounts:
            base = root / "sys/fs/cgroup" / mount
            inner = base / path.lstrip("/")
            # Within a container the path is often that of the host; then only the mount point exists.
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _used_bytes(group: Path) -> int:
    """Return what a group uses and could not give back by dropping its page cache."""
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    stat = dict(line.split() for line in _text(group / "memory.stat").splitlines() if line.count(" ") == 1)
    prefix = "total_" if "total_active_file" in stat else ""
    cache = int(stat.get(f"{prefix}active_file", 0)) + int(stat.get(f"{prefix}inactive_file", 0))
    return max(0, used - cache)


def _quota(group: Path) -> float | None:
    """Return the number of CPUs that a group may use at once."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    old_quota, old_period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return old_quota / old_period if old_quota and old_period else None


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or it says `max` or -1."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
