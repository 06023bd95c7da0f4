"""The flags that verbs of the command line share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from recscale.errors import UsageError

DEFAULT_STORE = Path("results")
_own_file = Group("A file of your own")


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
    device: Annotated[str | None, Parameter(help="auto (default), cpu, cuda or cuda:N")] = None
    timeout: Annotated[str | None, Parameter(help="hard limit a job, such as 90, 10m or 2h")] = None
    max_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 8GB")] = None
    max_gpu_memory: Annotated[str | None, Parameter(help="hard limit a job, such as 16GB")] = None
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"], help="jobs at a time; cores are divided")] = None
    plugin: Annotated[tuple[str, ...], Parameter(help="Python file with a SPEC of your own, repeatable")] = ()
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    overwrite: Annotated[
        Literal["never", "failed", "always"], Parameter(help="which finished jobs to repeat (never)")
    ] = "never"
    json: Annotated[bool, Parameter(negative="", help="print the records as JSON lines")] = False
    strict: Annotated[bool, Parameter(negative="", help="exit with 1 if a job failed")] = False
    own_file: OwnFile = field(default_factory=OwnFile)


@Parameter(name="*")
@dataclass(frozen=True)
class TuneFlags:
    """The flags of `tune`, beside those of `run`."""

    trials: Annotated[int | None, Parameter(help="trials of each model (20; with --time any number)")] = None
    time: Annotated[str | None, Parameter(help="begin no trial once those of the model took so long, as 30m")] = None
    by: Annotated[str | None, Parameter(help="metric that decides (the first of --metric, or of the protocol)")] = None
    sampler: Annotated[Literal["tpe", "random"], Parameter(help="how options are drawn (tpe)")] = "tpe"
    sampler_seed: Annotated[int, Parameter(help="another seed draws other trials (0)")] = 0


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
class ExplainFlags:
    """The flags of `explain`."""

    top: Annotated[int, Parameter(help="recommendations (5)")] = 5
    clusters: Annotated[int, Parameter(help="co-clusters of each, and of the user (3)")] = 3
    items: Annotated[int, Parameter(help="first items of each co-cluster (10)")] = 10
    plugin: Annotated[tuple[str, ...], Parameter(help="Python file with a SPEC of your own, repeatable")] = ()
    store: Annotated[Path, Parameter(help="folder of the records (results)")] = DEFAULT_STORE
    json: Annotated[bool, Parameter(negative="", help="print one JSON document")] = False
