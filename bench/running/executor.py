"""Where jobs run: what the runner asks of an executor, and of each job that it has started there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from recscale.errors import MissingExtra
from recscale.running.job import Request

if TYPE_CHECKING:
    from recscale.running.suite import Suite

ExecutorName = Literal["local", "ray"]
TICK_SECONDS = 0.1  # between two looks at a running job


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a job began: the machine's fingerprint and speed, and the time (ISO 8601, UTC)."""

    machine: dict[str, Any]
    calibration: dict[str, float]
    at: str


class Worker(Protocol):
    """One job that an executor was asked to run."""

    @property
    def start(self) -> Start | None:
        """What is known since it began; None while it waits for room."""

    @property
    def folder(self) -> Path:
        """The folder on this machine that holds its files once it is done."""

    @property
    def peak_rss_bytes(self) -> int:
        """The highest memory seen so far."""

    @property
    def wall_seconds(self) -> float | None:
        """How long its process has run, or ran; None if there was none."""

    def is_done(self) -> bool:
        """Tell whether it has ended; its process is killed if its time is up."""

    def events(self) -> list[dict[str, Any]]:
        """Return the events that arrived since the last call."""

    def outcome(self) -> dict[str, Any]:
        """Return what it wrote, or what its end says about a job that wrote nothing."""

    def kill(self) -> None:
        """End it, if it still runs, and everything that it started."""

    def close(self) -> None:
        """Free what it holds, its files on this machine too; kill it if it still runs."""


class Executor(Protocol):
    """Runs jobs, each in a fresh process under hard limits. Raises RecscaleError where that cannot be."""

    @property
    def shares_fits(self) -> bool:
        """Whether a job can read the file of a fit that another one has left."""

    @property
    def n_cores(self) -> int:
        """The cores that the jobs of one machine divide."""

    @property
    def memory_bytes(self) -> int:
        """The memory that they divide where the suite sets no limit."""

    def device(self, requested: str, allowed: tuple[str, ...]) -> str:
        """Return the device that a job runs on, as `torch_device` does. Raises UsageError or DeviceUnavailable."""

    def has_room(self, n_running: int) -> bool:
        """Tell whether one more job may be started beside `n_running`."""

    def launch(self, request: Request) -> Worker:
        """Start the job of a request, or have it wait for room."""

    def wait(self, workers: Sequence[Any]) -> None:
        """Wait for news of these workers of its own, at most `TICK_SECONDS`."""

    def close(self) -> None:
        """Free what it holds itself."""


def load_ray() -> Any:
    """Return Ray. Raises MissingExtra."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here reports to nobody
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    return ray


def open_executor(suite: Suite, work_folder: Path) -> Executor:
    """Return the executor that a suite asks for; files of running jobs lie in `work_folder`.

    Raises MissingExtra without Ray, and UsageError for a cluster that cannot be reached.
    """
    if suite.executor == "ray":
        from recscale.running.ray_pool import RayExecutor

        return RayExecutor(suite, work_folder)
    from recscale.running.local_pool import LocalExecutor

    return LocalExecutor(suite, work_folder)
