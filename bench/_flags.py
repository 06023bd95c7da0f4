"""The flags that verbs of the command line share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Group, Parameter

from recscale.errors import UsageError

DEFAULT_STORE = Path("results")
Plugins: TypeAlias = Annotated[tuple[str, ...], Parameter(help="Python file with a SPEC of your own, repeatable")]
_own_file = Group("A file of your own")
_executor = Group("Where jobs run")


@Parameter(name="*")
@dataclass(frozen=True)
class OwnFile:
    """The flags for a file of one's own."""

    data: Annotated[
        Path | None, Parameter(group=_own_file, help="csv, tsv, parquet or npz, gzip too, or a YAML entry")
    ] = None
    user_column: Annotated[str | None, Parameter(group=_own_file, help="column of the user")] = None
    item_column: Annotated[str | None, Parameter(group=_own_file, help="column of the item")] = None
    rating_column: Annotated[str | None, Parameter(group=_own_file, help="column of the rating")] = None
    time_column: Annotated[str | None, Parameter(group=_own_file, help="column of the timestamp")] = None
    min_rating: Annotated[float | None, Parameter(group=_own_file, help="drop lower ratings")] = None
    separator: Annotated[str | None, Parameter(group=_own_file, help="one letter, or tab; else by the suffix")] = None
    encoding: Annotated[str | None, Parameter(group=_own_file, help="encoding, if not utf-8")] = None
    no_header: Annotated[
        bool, Parameter(negative="", group=_own_file, help="the file has no header: columns are numbers from 0")
    ] = False

    def reference(self) -> dict[str, dict[str, Any]] | None:
        """Return the data set that these flags describe, or None without --data. Raises UsageError."""
        columns = {
            "user": self.user_column,
            "item": self.item_column,
            "rating": self.rating_column,
            "timestamp": self.time_column,
            "min_rating": self.min_rating,
            "separator": self.separator,
            "encoding": self.encoding,
            "header": False if self.no_header else None,
        }
        given = {name: value for name, value in columns.items() if value is not None}
        if self.data is None:
            if given:
                raise UsageError(
                    "columns, --min-rating and the like describe a file of your own: give it by --data FILE"
                )
            return None
        return {"file": {"path": str(self.data), **given}}


@Parameter(name="*")
@dataclass(frozen=True)
class RunFlags:
    """The flags of `run`, `run-all`, `tune`, `plan` and `prepare`."""

    suite: Annotated[Path | None, Parameter(help="a YAML suite; flags override its keys")] = None
    dataset: Annotated[tuple[str, ...], Parameter(name=["--dataset", "-d"], help="data set, repeatable")] = ()
    model: Annotated[
        tuple[str, ...], Parameter(name=["--model", "-m"], help='model, repeatable; "ease[k=50,200]" is a grid')
    ] = ()
    protocol: Annotated[tuple[str, ...], Parameter(help="fold-in, hold-one-out, fixed or ratings, repeatable")] = ()
    seeds: Annotated[tuple[int, ...], Parameter(help="seeds of the models", consume_multiple=True)] = ()
    metric: Annotated[tuple[str, ...], Parameter(help="metric such as ndcg@100, repeatable")] = ()
    profile: Annotated[
        Literal["quick", "standard", "full"] | None,
        Parameter(help="run models over their sizes"),
    ] = None
    device: Annotated[str | None, Parameter(help="auto (default), cpu, cuda, cuda:N; several: cuda:0,1")] = None
    timeout: Annotated[str | None, Parameter(help="hard limit a job: seconds, or 10m, 2h (none)")] = None
    max_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 8GB (what is free)")] = None
    max_gpu_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 16GB")] = None
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"], help="jobs at a time; cores are divided")] = None
    threads: Annotated[int | None, Parameter(help="threads a job (the cores, divided by --jobs)")] = None
    executor: Annotated[
        Literal["local", "ray"] | None, Parameter(group=_executor, help="local (default): this machine; or ray")
    ] = None
    ray_address: Annotated[
        str | None, Parameter(group=_executor, help="auto or host:port of a Ray cluster (a Ray of its own, here)")
    ] = None
    plugin: Plugins = ()
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    overwrite: Annotated[
        Literal["never", "failed", "always"], Parameter(help="which finished jobs to repeat (never)")
    ] = "never"
    any_machine: Annotated[
        bool, Parameter(negative="", help="what other machines finished counts, too: for accuracy and sizes, not times")
    ] = False
    json: Annotated[bool, Parameter(negative="", help="print the records as JSON lines")] = False
    strict: Annotated[bool, Parameter(negative="", help="exit with 1 if a job failed")] = False
    own_file: OwnFile = field(default_factory=OwnFile)


@Parameter(name="*")
@dataclass(frozen=True)
class TuneFlags:
    """The flags of `tune`, beside those of `run`; they override the key `tune` of a suite."""

    trials: Annotated[int | None, Parameter(help="trials of each model (20; with --time any number)")] = None
    time: Annotated[str | None, Parameter(help="begin no trial once those of the model took so long, as 30m")] = None
    by: Annotated[str | None, Parameter(help="metric that decides (the first of --metric, or of the protocol)")] = None
    sampler: Annotated[Literal["tpe", "random"] | None, Parameter(help="how options are drawn (tpe)")] = None
    pruner: Annotated[
        Literal["none", "median"] | None, Parameter(help="end trials that others were better than at that epoch (none)")
    ] = None
    sampler_seed: Annotated[int | None, Parameter(help="another seed draws other trials (0)")] = None
    workers: Annotated[int | None, Parameter(help="processes that can share a study, the same in each (4)")] = None

    def over(self, suite: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of `tune` in a suite with the flags that are given laid over them."""
        keys = {
            "trials": self.trials,
            "time": self.time,
            "metric": self.by,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.sampler_seed,
            "workers": self.workers,
        }
        given = {name: value for name, value in keys.items() if value is not None}
        kept = {name: value for name, value in suite.items() if not (name == "seconds" and "time" in given)}
        return kept | given


@Parameter(name="*")
@dataclass(frozen=True)
class ScaleFlags:
    """The flags of `scale`, beside those of `run`."""

    by: Annotated[
        tuple[Literal["users", "items", "interactions"], ...],
        Parameter(help="what a share is kept of, repeatable (users, items and interactions)"),
    ] = ()
    shares: Annotated[
        tuple[float, ...], Parameter(help="sizes, as shares up to 1 (0.125 0.25 0.5 1)", consume_multiple=True)
    ] = ()

    def given(self) -> dict[str, Any]:
        """Return the flags that are given, as ScaleOptions has them."""
        return {name: value for name, value in (("by", self.by), ("shares", self.shares)) if value}


@Parameter(name="*")
@dataclass(frozen=True)
class CompareFlags:
    """The flags of `compare`."""

    level: Annotated[float, Parameter(help="of the paired tests of accuracy, after Holm's correction (.01)")] = 0.01
    memory: Annotated[float, Parameter(help="share by which memory may grow (.15)")] = 0.15
    time: Annotated[float, Parameter(help="share by which a calibrated time may grow (.3)")] = 0.3
    repeats: Annotated[int, Parameter(help="runs (seeds) of each side before a time is judged (3)")] = 3
    all: Annotated[bool, Parameter(negative="", help="show what is level, too")] = False
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False
    markdown: Annotated[Path | None, Parameter(help="also write a summary for a pull request, as to summary.md")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class HistoryFlags:
    """The flags of `history`."""

    out: Annotated[Path | None, Parameter(help="folder to draw the figures in, as SVG and PNG")] = None
    model: Annotated[
        tuple[str, ...], Parameter(name=["--model", "-m"], help="model, or a job as the table names it; repeatable")
    ] = ()
    dataset: Annotated[tuple[str, ...], Parameter(name=["--dataset", "-d"], help="data set, repeatable")] = ()
    metric: Annotated[str | None, Parameter(help="metric to follow (the first of each record)")] = None
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ReproFlags:
    """The flags of `repro`."""

    list: Annotated[bool, Parameter(negative="", help="the papers, their tables, and what can run here")] = False
    table: Annotated[tuple[str, ...], Parameter(help="table of the paper, repeatable (all)")] = ()
    column: Annotated[tuple[str, ...], Parameter(help="column of the tables, repeatable (all)")] = ()
    row: Annotated[tuple[str, ...], Parameter(help="row of the tables, repeatable (all)")] = ()
    plan: Annotated[bool, Parameter(negative="", help="show the jobs and what will become of them; run none")] = False
    stored: Annotated[bool, Parameter(negative="", help="the tables from the records that are there; run none")] = False
    download: Annotated[bool, Parameter(negative="", help="fetch data sets that are not here")] = False
    device: Annotated[str, Parameter(help="auto (default), cpu, cuda, cuda:N; several: cuda:0,1")] = "auto"
    timeout: Annotated[str | None, Parameter(help="hard limit a job: seconds, or 10m, 2h (none)")] = None
    max_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 8GB (what is free)")] = None
    max_gpu_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 16GB")] = None
    jobs: Annotated[int, Parameter(name=["--jobs", "-j"], help="jobs at a time; cores are divided")] = 1
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    overwrite: Annotated[
        Literal["never", "failed", "always"], Parameter(help="which finished jobs to repeat (never)")
    ] = "never"
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False
    markdown: Annotated[Path | None, Parameter(help="also write the tables, as to repro.md")] = None
    strict: Annotated[
        bool, Parameter(negative="", help="exit with 1 if a cell is outside of its tolerance, or failed")
    ] = False

    def limits(self) -> dict[str, Any]:
        """Return the budgets and the device under the keys of a suite."""
        return {
            "device": self.device,
            "timeout": self.timeout,
            "max_memory": self.max_memory,
            "max_gpu_memory": self.max_gpu_memory,
            "jobs": self.jobs,
        }

    def asked(self, paper: str | None) -> dict[str, Any]:
        """Return what is asked of the tables themselves."""
        return {
            "command": self._command(paper or ""),
            "list_only": self.list or paper is None,
            "tables": self.table,
            "columns": self.column,
            "rows": self.row,
            "store": self.store,
            "overwrite": self.overwrite,
            "download": self.download,
            "plan": self.plan,
            "stored": self.stored,
            "as_json": self.json,
            "markdown": self.markdown,
        }

    def _command(self, paper: str) -> str:
        """Return the command that gives the same tables from the same store."""
        parts = ["recscale", "repro", paper]
        for flag, values in (("--table", self.table), ("--column", self.column), ("--row", self.row)):
            parts += [word for value in values for word in (flag, value)]
        device = None if self.device == "auto" else self.device
        limits = {"--timeout": self.timeout, "--max-memory": self.max_memory, "--max-gpu-memory": self.max_gpu_memory}
        for flag, value in {**limits, "--device": device}.items():
            parts += [] if value is None else [flag, value]
        return shlex.join([*parts, "--store", str(self.store)])


@Parameter(name="*")
@dataclass(frozen=True)
class EstimateFlags:
    """The flags of `estimates`."""

    model: Annotated[tuple[str, ...], Parameter(name=["--model", "-m"], help="model, repeatable (all)")] = ()
    plugin: Plugins = ()
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ExplainFlags:
    """The flags of `explain`."""

    top: Annotated[int, Parameter(help="recommendations (5)")] = 5
    clusters: Annotated[int, Parameter(help="co-clusters of each, and of the user (3)")] = 3
    items: Annotated[int, Parameter(help="first items of each co-cluster (10)")] = 10
    plugin: Plugins = ()
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ReportFlags:
    """The flags of `report`."""

    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    out: Annotated[Path | None, Parameter(help="folder to write to (report, in the store)")] = None
    metric: Annotated[str | None, Parameter(help="metric to sort and draw by (the first of each protocol)")] = None
    format: Annotated[
        tuple[str, ...], Parameter(help="md, html, tex, svg, png or pdf, repeatable (md, html, svg and png)")
    ] = ()
    static: Annotated[bool, Parameter(negative="", help="no interactive figures: a smaller page of still ones")] = False
    serve: Annotated[bool, Parameter(negative="", help="serve the page to this machine; it follows the store")] = False
    port: Annotated[int | None, Parameter(help="port of --serve (8765; 0: any that is free)")] = None

    def __post_init__(self) -> None:
        """Check that what is given goes together. Raises UsageError."""
        if self.serve and (self.out is not None or self.format):
            raise UsageError("--serve writes no files; leave out --out and --format, or run report once more for them")
        if self.port is not None and not self.serve:
            raise UsageError(f"--port {self.port} is that of --serve; add --serve, or leave it out")
