"""What a person sees while a suite runs: live bars on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from recscale.measuring.size import format_bytes, format_count, format_seconds
from recscale.records.record import RunRecord
from recscale.running.job import Data, Job, Prepared
from recscale.running.runner import Display

LINE_INTERVAL_SECONDS = 10.0


class Writable(Protocol):
    """What lines can be written to."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...


def display_for(*, quiet: bool) -> Display:
    """Return the display that suits where standard error goes: none, bars or lines."""
    if quiet:
        return Silent()
    in_notebook = "ipykernel" in sys.modules
    return Bars() if in_notebook or sys.stderr.isatty() else Lines(sys.stderr)


def summary(record: RunRecord) -> str:
    """Return one line on what came of a job."""
    if record.status != "ok":
        return f"{record.status.replace('_', ' ')}: {record.reason}"
    name, value = next(iter(record.metrics.items()), ("", float("nan")))
    parts = [
        f"{name} {value:.4f}",
        f"{format_count(record.n_parameters)} parameters",
        f"{format_bytes(record.n_bytes)}",
    ]
    if "fit" in record.phases:
        fit = record.phases["fit"]
        shared = " (shared)" if record.shrunk_from else ""
        parts.append(f"fit {format_seconds(fit.wall_seconds)}{shared} at {format_bytes(fit.peak_rss_bytes)}")
    parts.append(f"{format_count(record.users_per_second)} users/s")
    return ", ".join([*parts, *record.warnings])


class _Logged:
    """The phase of each running job, and the last value of each series that its model logs in it."""

    def __init__(self) -> None:
        self._phase: dict[str, str] = {}
        self._values: dict[str, dict[str, float]] = {}

    def take(self, job: Job, event: dict[str, Any]) -> None:
        """Take in an event."""
        if event.get("event") == "phase":
            self._phase[job.key], self._values[job.key] = str(event.get("name")), {}
        elif event.get("name") != "progress" and isinstance(event.get("value"), int | float):
            self._values.setdefault(job.key, {})[str(event.get("name"))] = event["value"]

    def phase(self, job: Job) -> str:
        """Return the phase of a job."""
        return self._phase.get(job.key, "")

    def note(self, job: Job) -> str:
        """Return the phase and all values in one line, such as "fit: loss 4.54, validation mrr 0.163"."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in self._values.get(job.key, {}).items())
        return f"{self.phase(job)}: {values}" if values else self.phase(job)


class Silent:
    """Shows nothing."""

    def preparing(self, data: Data) -> None: ...
    def prepared(self, data: Data, prepared: Prepared) -> None: ...
    def planned(self, n_jobs: int | None, n_settled: int, told: str = "", name: str = "job") -> None: ...
    def started(self, job: Job) -> None: ...
    def event(self, job: Job, event: dict[str, Any]) -> None: ...
    def finished(self, job: Job, record: RunRecord) -> None: ...
    def waiting(self, job: Job) -> None: ...
    def note(self, text: str) -> None: ...
    def closed(self) -> None: ...


class Lines:
    """One line for each thing that happens, and one every ten seconds while a job is busy."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._n_done = 0
        self._of = ""
        self._spoke = time.monotonic()
        self._logged = _Logged()

    def preparing(self, data: Data) -> None:
        """Say that a data set is being prepared."""
        self._say(f"preparing {data.text} for {data.protocol_text} ...")

    def prepared(self, data: Data, prepared: Prepared) -> None:
        """Say what a prepared data set holds."""
        self._say(f"{data.text}, {data.protocol_text}: {figures(prepared)}")

    def planned(self, n_jobs: int | None, n_settled: int, told: str = "", name: str = "job") -> None:
        """Say how much there is to do, where that is known, and what for."""
        self._of, self._n_done = "" if n_jobs is None else f"/{n_jobs}", n_settled
        kept = f", {n_settled} of them finished before" if n_settled else ""
        amount = f"{name}s" if n_jobs is None else f"{n_jobs} {name}{'' if n_jobs == 1 else 's'}"
        self._say(f"{amount} {told}".rstrip() + kept)

    def started(self, job: Job) -> None:
        """Say that a job starts."""
        self._say(f"  started  {job.label}")

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """Say now and then how far a job has come."""
        self._logged.take(job, event)
        if time.monotonic() - self._spoke > LINE_INTERVAL_SECONDS and event.get("name") == "progress":
            done, total = event.get("step", 0), event.get("value", 0)
            values = self._logged.note(job).partition(": ")[2]
            told = f" ({values})" if values else ""
            self._say(f"  {self._logged.phase(job)} {done:g} of {total:g}{told}  {job.label}")

    def finished(self, job: Job, record: RunRecord) -> None:
        """Say what came of a job."""
        self._n_done += 1
        self._say(f"[{self._n_done}{self._of}] {job.label}: {summary(record)}")

    def waiting(self, job: Job) -> None:
        """Say, at most every ten seconds, that another runner has what is left."""
        if time.monotonic() - self._spoke > LINE_INTERVAL_SECONDS:
            self._say(f"  waiting for another runner: {job.label}")

    def note(self, text: str) -> None:
        """Say what concerns no job alone, or went wrong and is tried again."""
        self._say(text)

    def closed(self) -> None:
        """Do nothing: every line is out already."""

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._stream.write(line + "\n")
        self._stream.flush()


class Bars:
    """A bar over all jobs and one for each running job; finished jobs scroll above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._overall: Any = None
        self._bars: dict[str, Any] = {}
        self._lines = Lines(_Above(self._progress))
        self._logged = _Logged()

    def preparing(self, data: Data) -> None:
        """Show that a data set is being prepared."""
        self._progress.start()
        self._bars[data.text] = self._progress.add_task(f"preparing {data.text}", total=None, note="")

    def prepared(self, data: Data, prepared: Prepared) -> None:
        """Show what a prepared data set holds."""
        bar = self._bars.pop(data.text, None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._lines.prepared(data, prepared)

    def planned(self, n_jobs: int | None, n_settled: int, told: str = "", name: str = "job") -> None:
        """Show how much there is to do, in place of what was shown before."""
        self._progress.start()
        self._lines.planned(n_jobs, n_settled, told, name)
        if self._overall is not None:
            self._progress.remove_task(self._overall)
        self._overall = self._progress.add_task(f"all {name}s", total=n_jobs, completed=n_settled, note="")
        self._note(n_settled, n_jobs)

    def started(self, job: Job) -> None:
        """Give a job a bar of its own."""
        self._bars[job.key] = self._progress.add_task(job.label, total=None, note="starting")

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """Move the bar of a job."""
        bar = self._bars.get(job.key)
        if bar is None:
            return
        self._logged.take(job, event)
        if event.get("event") == "phase":
            self._progress.update(bar, total=None, completed=0, note=self._logged.note(job))
        elif event.get("name") == "progress":
            self._progress.update(bar, completed=event.get("step"), total=event.get("value"))
        else:
            self._progress.update(bar, note=self._logged.note(job))

    def finished(self, job: Job, record: RunRecord) -> None:
        """Take the bar of a job away and say what came of it."""
        self._lines.finished(job, record)
        bar = self._bars.pop(job.key, None)
        if bar is not None:
            self._progress.remove_task(bar)
        if self._overall is not None:
            self._progress.advance(self._overall)
            task = next(t for t in self._progress.tasks if t.id == self._overall)
            self._note(int(task.completed), task.total)

    def waiting(self, job: Job) -> None:
        """Say that another runner has what is left."""
        self._lines.waiting(job)

    def note(self, text: str) -> None:
        """Say something above the bars."""
        self._lines.note(text)

    def closed(self) -> None:
        """Take the bars off the screen."""
        self._progress.stop()

    def _note(self, done: int, total: float | None) -> None:
        self._progress.update(self._overall, note=f"{done}" if total is None else f"{done} of {total:g}")


class _Above:
    """A text stream that writes above the bars."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        self._progress.console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
        return len(text)

    def flush(self) -> None: ...


def figures(prepared: Prepared) -> str:
    """Return one line on the size of a split."""
    dropped = f" ({prepared.dropped_users} dropped: nothing left to find)" if prepared.dropped_users else ""
    return (
        f"{prepared.n_users:,} users, {prepared.n_interactions:,} interactions; train {prepared.n_train_users:,} x"
        f" {prepared.n_items:,} with {prepared.n_train_interactions:,}; {prepared.n_valid_users:,} validation and"
        f" {prepared.n_test_users:,} test users{dropped}"
    )
