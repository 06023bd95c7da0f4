"""The files of figures and pages: names that any system takes, and writing that leaves nothing half done."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from recscale.errors import StoreError

_LONGEST_NAME = 80


def plain_name(text: str, taken: Collection[str] = ()) -> str:
    """Return text as a file name of small letters, digits and hyphens, with a number behind it if it is taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "data"
    found, number = plain, 1
    while found in taken:
        number += 1
        found = f"{plain}-{number}"
    return found


def write_all(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files by name, each beside its place first and moved there when complete; return them.

    Raises StoreError.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            try:
                temporary.write_bytes(content)
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
            written.append(folder / name)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}; choose another folder") from None
    return written
