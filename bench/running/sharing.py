"""Fits that several sizes of one model share: the largest size is fitted, kept on disk, and shrunk for the others."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from recscale.errors import StoreError
from recscale.running.job import FIT_FILE, FITTED_FILE, Fitted, Job


def largest_first(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with those of a family together, where the first of them stood, from large to small."""
    families: dict[str, list[Job]] = {}
    for job in jobs:
        families.setdefault(job.family or job.key, []).append(job)
    return [job for members in families.values() for job in sorted(members, key=lambda job: -job.size_rank)]


class SharedFits:
    """The fits of one run that smaller sizes may still ask for, as files in `folder`, which is made when needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fits: dict[str, tuple[float, Fitted]] = {}  # by family: the size, and the fit

    def of(self, job: Job) -> Fitted | None:
        """Return a larger fit of the same family, if there is one."""
        size, fitted = self._fits.get(job.family or "", (0.0, None))
        return fitted if size > job.size_rank else None

    def is_wanted(self, job: Job, later: Iterable[Job]) -> bool:
        """Tell whether smaller sizes of `job` come later, and can be had from it.

        A size above the number of items comes with a warning that is not theirs.
        """
        if job.family is None or (job.size_rank >= job.prepared.n_items and job.size_rank != float("inf")):
            return False
        return any(other.family == job.family and other.size_rank < job.size_rank for other in later)

    def take(self, job: Job, folder: Path) -> None:
        """Take over the fit that the worker of `job` left in its folder, if it left one. Raises StoreError."""
        if job.family is None or not (folder / FITTED_FILE).exists():
            return
        try:
            self._folder.mkdir(exist_ok=True)
            fitted = msgspec.json.decode((folder / FITTED_FILE).read_bytes(), type=Fitted)
            place = (folder / FIT_FILE).replace(self._folder / f"{job.key}.npz")
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be written: {error.strerror or error}") from None
        self._fits[job.family] = (job.size_rank, msgspec.structs.replace(fitted, path=str(place)))

    def keep_only(self, families: Collection[str | None]) -> None:
        """Delete the fits that nobody will ask for any more."""
        for family in [family for family in self._fits if family not in families]:
            Path(self._fits.pop(family)[1].path).unlink(missing_ok=True)

    def close(self) -> None:
        """Delete all of them."""
        self._fits.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
