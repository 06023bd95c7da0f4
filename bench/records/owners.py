"""Whose a file of a running job is: its name begins with a mark of the process that made it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def owner_mark() -> str:
    """Return a mark that no other process has, of any boot and in any container: space of numbers, number, start."""
    return f"{_space_of_numbers()}-{os.getpid()}-{_start_of(os.getpid()) or 0}"


def remove_abandoned(work_folder: Path) -> None:
    """Remove the files and folders of processes that ended on this machine, or in this container, since it started.

    Whether those of another container or boot still live cannot be told from here: theirs stay.
    """
    for path in work_folder.glob(f"{_space_of_numbers()}-*-*"):
        _, pid, *rest = path.name.split("-")
        if not pid.isdigit():
            continue
        start = _start_of(int(pid))
        if start is not None and (len(rest) == 1 or rest[0] == str(start)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _start_of(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if there is none. Numbers of processes come again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _space_of_numbers() -> str:
    """Return a mark of that in which a process has its number alone: a boot of the kernel, and a namespace of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "unknown"
