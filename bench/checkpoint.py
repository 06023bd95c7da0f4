"""Where a long training keeps what it needs to go on after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


def _nothing() -> None:
    """Do nothing: the default of `Checkpoint.after_write`."""


@dataclass
class Checkpoint:
    """A file that a training writes now and then, and goes on from if it is there.

    `path` lies in a folder that exists; whoever names the file deletes it. At least `interval_seconds` pass between
    two writes, so that short epochs are not spent on writing. `after_write` is called when a file is complete.
    """

    path: Path
    interval_seconds: float = 0.0
    after_write: Callable[[], None] = _nothing
    _last: float = field(default_factory=time.monotonic, repr=False)

    def is_due(self) -> bool:
        """Tell whether the interval has passed since the last write, or since the beginning."""
        return time.monotonic() - self._last >= self.interval_seconds

    def written(self) -> None:
        """Say that the file is complete."""
        self._last = time.monotonic()
        self.after_write()
