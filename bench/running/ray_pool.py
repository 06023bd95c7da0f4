"""The executor `ray`: each job asks a Ray cluster for its CPUs, memory and GPU, and runs where there is room.

Ray decides where and when; the driver alone writes to the store, once a job. A job whose Ray worker or node is lost is
asked for again, `RETRIES` times, and is a failure after that.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from recscale.errors import DeviceUnavailable, RecscaleError, UsageError
from recscale.measuring.budget import machine_memory_limit
from recscale.measuring.machine import each_device, kind_of, torch_device, usable_cores
from recscale.measuring.size import format_bytes
from recscale.records.owners import owner_mark
from recscale.running.executor import TICK_SECONDS, Start, load_ray
from recscale.running.job import Job, Request, Source
from recscale.running.ray_node import News, Order, serve

if TYPE_CHECKING:
    from recscale.running.suite import Suite

RETRIES = 2
MOST_ASKED = 100  # jobs that Ray is asked for at a time, most of which wait
OBJECT_STORE_BYTES = 200 * 10**6  # of a Ray that is started here: results pass through it, splits lie in the cache
PATIENCE_SECONDS = 60.0  # for a node that has room for a job to come back
MEMORY_SHARE = 0.95  # of the memory of a node that its jobs divide where the suite sets no limit
REACH_SECONDS = 10.0
CANCEL_SECONDS = 5.0  # for a Ray worker to end its process and clear up, before it is killed


class RayWorker:
    """A job that Ray was asked for: it waits, runs, and may be lost and asked for again."""

    def __init__(self, executor: RayExecutor, request: Request, folder: Path) -> None:
        self._executor, self._request = executor, request
        self.folder = folder
        self.start: Start | None = None  # of the last time that it began
        self.peak_rss_bytes = 0
        self.wall_seconds: float | None = None
        self.is_waiting = True
        self._phase = "start"
        self._n_lost = 0
        self._is_killed = False
        self._events: list[dict[str, Any]] = []
        self._outcome: dict[str, Any] | None = None
        self.stream, self.needs = executor.submit(request)

    def is_done(self) -> bool:
        """Tell whether it has ended, by the news that have arrived. Raises RecscaleError if no node can run it."""
        while self._outcome is None and self._executor.has_news(self.stream):
            self._take()
        return self._outcome is not None

    def events(self) -> list[dict[str, Any]]:
        """Return the events that arrived since the last call."""
        events, self._events = self._events, []
        return events

    def outcome(self) -> dict[str, Any]:
        """Return what its process wrote, or how it was lost."""
        return self._outcome or {"status": "error", "reason": "ended before it had a result"}

    def kill(self) -> None:
        """Have its Ray worker end it; `close` waits for that."""
        self._is_killed = True
        self._executor.cancel(self.stream)

    def close(self) -> None:
        """Remove its files; end it if it still runs."""
        if self._outcome is None:
            self.kill()
            deadline = time.monotonic() + CANCEL_SECONDS
            while not self.is_done() and time.monotonic() < deadline:
                self._executor.wait([self])
            if self._outcome is None:
                self._executor.cancel(self.stream, force=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self) -> None:
        """Take one piece of news, or the end of the stream."""
        from ray.exceptions import RayError, RayTaskError

        try:
            text, files = self._executor.get(next(self.stream))
        except (RayError, StopIteration) as error:
            if self._is_killed:
                self._outcome = {"status": "error", "reason": "ended by its driver", "failed_phase": self._phase}
            elif isinstance(error, RayTaskError):
                self._fail(error)
            else:
                self._lose(error)
            return
        news = msgspec.json.decode(text, type=News)
        if news.needs_files:
            self.stream, self.needs = self._executor.submit(self._request, with_files=True)
            return
        if news.start is not None:
            self.start, self.is_waiting = news.start, False
        self._events += news.events
        phases = [str(event.get("name")) for event in news.events if event.get("event") == "phase"]
        self._phase = phases[-1] if phases else self._phase
        self.peak_rss_bytes = max(self.peak_rss_bytes, news.peak_rss_bytes)
        self.wall_seconds = news.wall_seconds
        if news.outcome is not None:
            self.folder.mkdir()
            for name, content in files.items():
                (self.folder / name).write_bytes(content)
            self._outcome = news.outcome

    def _fail(self, error: Any) -> None:
        """Keep what the Ray worker raised; before a job began, that is the cluster's fault and none of the job's."""
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        reason = f"{type(cause).__name__}: {_last_line(cause)}"
        self._outcome = {"status": "error", "reason": f"on its Ray node, {reason}", "failed_phase": self._phase}
        if isinstance(cause, RecscaleError):
            raise UsageError(str(cause))
        if self.is_waiting:
            raise RecscaleError(f"the Ray cluster cannot run jobs: {reason}")

    def _lose(self, error: Exception) -> None:
        """Ask again for a job whose Ray worker was lost, unless that has happened too often."""
        from ray.exceptions import OutOfMemoryError

        self._n_lost += 1
        reason = f"its Ray worker was lost in phase {self._phase}: {type(error).__name__}"
        if self._n_lost <= RETRIES:
            self._events.append({"event": "lost", "reason": reason})
            self._phase, self.is_waiting, self.wall_seconds = "start", True, None
            self.stream, self.needs = self._executor.submit(self._request)
            return
        self._outcome = {
            "status": "out_of_memory" if isinstance(error, OutOfMemoryError) else "error",
            "reason": f"{reason}, the last of {self._n_lost} times",
            "failed_phase": self._phase,
            "peak_rss_bytes": self.peak_rss_bytes or None,
        }


class RayExecutor:
    """Runs jobs on a Ray cluster: the one at `ray_address`, or one that is started here and ended with the run.

    Raises MissingExtra, and UsageError if there is no cluster.
    """

    shares_fits = False  # a fit lies on the node that made it, and jobs wait for no other

    def __init__(self, suite: Suite, work_folder: Path) -> None:
        self._ray = load_ray()
        self._owns = not self._ray.is_initialized()  # else it is that of the program that called us
        if self._owns:
            connect(self._ray, suite.ray_address)
        elif suite.ray_address is not None:
            raise UsageError(f"this program is connected to Ray already: leave out the address {suite.ray_address}")
        self._task = self._ray.remote(max_retries=0, num_returns="streaming")(serve)
        self._folder = Path(tempfile.mkdtemp(dir=work_folder, prefix=f"{owner_mark()}-"))
        self._run = uuid.uuid4().hex
        self._contents: dict[str, list[Any]] = {}  # by path of the split: its files, in the object store
        self._had_room = time.monotonic()

    @property
    def n_cores(self) -> int:
        """The CPUs of the largest node."""
        return int(self._most("CPU"))

    @property
    def memory_bytes(self) -> int:
        """The memory that every node of that many CPUs has: no two have the same to the byte, nor has one twice."""
        largest = [node.get("memory", 0) for node in self._nodes() if node.get("CPU", 0) >= self.n_cores]
        return int(min(largest, default=0) * MEMORY_SHARE)

    def device(self, requested: str, allowed: tuple[str, ...]) -> str:
        """Return the device of a job, to which Ray shows its own GPUs alone. Raises UsageError or DeviceUnavailable."""
        n_gpus = len(each_device(requested))
        first = f"cuda:{','.join(map(str, range(n_gpus)))}"
        if requested.startswith("cuda:") and (n_gpus == 1 or requested != first):
            several = f", or for {first}, which are any {n_gpus} of a node" if n_gpus > 1 else ""
            raise UsageError(f"{requested} was asked for, but Ray chooses the GPUs of a job; ask for cuda{several}")
        if kind_of(requested) not in ("auto", "cuda") or "cuda" not in allowed:
            return torch_device("cpu" if requested == "auto" else requested, allowed)
        if any(node.get("GPU", 0) >= n_gpus for node in self._nodes()):
            return first
        if requested == "auto" and "cpu" in allowed:
            return "cpu"
        raise DeviceUnavailable(
            f"no GPU for this job: no node of the Ray cluster has {'one' if n_gpus == 1 else n_gpus}"
        )

    def has_room(self, n_running: int) -> bool:
        """Tell whether Ray, which has the jobs wait, may be asked for one more."""
        return n_running < MOST_ASKED

    def launch(self, request: Request) -> RayWorker:
        """Ask Ray for a job."""
        name = request.job.key if request.job else uuid.uuid4().hex
        return RayWorker(self, request, self._folder / name)

    def wait(self, workers: Sequence[RayWorker]) -> None:
        """Wait for news of the workers, a moment at most.

        Raises UsageError if there has long been no node with room for one of them.
        """
        self._ray.wait([worker.stream for worker in workers], timeout=TICK_SECONDS, fetch_local=False)
        homeless = [worker for worker in workers if worker.is_waiting and not self._has_place(worker.needs)]
        if not homeless:
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > PATIENCE_SECONDS:
            needs = homeless[0].needs
            raise UsageError(
                f"no node of the Ray cluster has {needs['CPU']:g} CPUs, {format_bytes(int(needs['memory']))} of memory"
                f" and {needs['GPU']:g} GPUs for a job; add one, or lower --threads or --max-memory, and run the same"
                " command again: finished jobs are kept"
            )

    def close(self) -> None:
        """Remove what was put into the object store; end the Ray that was started here."""
        self._contents.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._owns:
            self._ray.shutdown()

    def submit(self, request: Request, *, with_files: bool = False) -> tuple[Any, dict[str, float]]:
        """Ask Ray for a job; return the stream of its news, and what it needs.

        The files of its split go along by reference once a node has asked for them `with_files`: a node that shares
        the file system, or has them in its cache, never fetches them.
        """
        job = _job(request)
        folder = Path(job.prepared.split_path).parent
        files = self.files_in(folder)
        if with_files and str(folder) not in self._contents:
            self._contents[str(folder)] = [self._ray.put(np.fromfile(file.path, np.uint8)) for file in files]
        order = Order(request=request, run=self._run, mark=str(self._folder), files=files)
        limit = job.limits.max_memory_bytes or self.memory_bytes
        n_gpus = len(each_device(job.device)) if job.device and kind_of(job.device) == "cuda" else 0
        memory = min(limit, int(self._most("memory")))  # more than any node has could never be met
        task = self._task.options(num_cpus=job.n_threads, memory=memory, num_gpus=n_gpus, name=job.label)
        stream = task.remote(msgspec.json.encode(order), self._contents.get(str(folder), []))
        return stream, {"CPU": job.n_threads, "memory": memory, "GPU": n_gpus}

    def files_in(self, folder: Path) -> list[Source]:
        """Return the files of a prepared split as they are here."""
        return [Source.of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]

    def has_news(self, stream: Any) -> bool:
        """Tell whether a stream has something to take."""
        return bool(self._ray.wait([stream], timeout=0, fetch_local=False)[0])

    def get(self, reference: Any) -> Any:
        """Return what lies behind a reference. Raises what the Ray worker raised, or RayError where it was lost."""
        return self._ray.get(reference)

    def cancel(self, stream: Any, *, force: bool = False) -> None:
        """End a job that waits or runs: by an interrupt, or by killing its Ray worker."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._ray.cancel(stream, force=force)

    def _nodes(self) -> list[dict[str, float]]:
        """Return what each living node has in all."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _most(self, resource: str) -> float:
        return max((node.get(resource, 0) for node in self._nodes()), default=0)

    def _has_place(self, needs: dict[str, float]) -> bool:
        return any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in self._nodes())


def connect(ray: Any, address: str | None) -> None:
    """Start a Ray on this machine, or reach the one at `address`. Raises UsageError."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        own = {
            "num_cpus": usable_cores(),
            "_memory": machine_memory_limit(),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        with _own_signals():
            ray.init("local", **own, **quiet)
        return
    if address.startswith("ray://"):
        raise UsageError(
            f"{address} is a Ray client, which keeps no stream of news; run this on a node of the cluster with"
            " --ray-address auto, or by ray job submit"
        )
    try:
        _reach(address)
        with _own_signals():
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise UsageError(
            f"no Ray cluster at {address}: {_last_line(error)}; start one on this machine with ray start --head, give"
            " the token of one that asks for it by RAY_AUTH_TOKEN, or leave out --ray-address"
        ) from None


def _reach(address: str) -> None:
    """Make sure that something listens at host:port: Ray itself goes on trying for minutes. Raises OSError."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("expected auto or host:port, as in 10.0.0.1:6379")
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our own answer to SIGTERM, in place of which Ray puts one that ends the process at once."""
    own = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, own)


def _job(request: Request) -> Job:
    if request.job is None:
        raise RecscaleError(f"Ray runs jobs alone, and this is a request to {request.task}")
    return request.job


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
