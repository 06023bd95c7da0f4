"""What `recscale explain` prints: an explanation as tables or JSON, the keys to ask for, and how long it may take."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from recscale.records.record import RunRecord
from recscale.running.display import Lines, Silent
from recscale.running.explain import Explanation, Item, Recommendation, Share
from recscale.running.job import Data, Job, Prepared
from recscale.running.printing import SHOWN_KEY_LETTERS, columns

SHOWN_HISTORY = 10
PATIENCE_SECONDS = 2.0


class Patient(Silent):
    """Shows on standard error what takes more than two seconds: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._timer = threading.Timer(PATIENCE_SECONDS, _nothing)
        self._bar: Any = None
        self._task: Any = None
        self._lines = Lines(sys.stderr)

    def preparing(self, data: Data) -> None:
        """Wait for a data set."""
        self._wait(f"preparing {data.text}", lambda: self._lines.preparing(data))

    def prepared(self, data: Data, prepared: Prepared) -> None:
        """Stop waiting."""
        self.closed()

    def started(self, job: Job) -> None:
        """Wait for a fit."""
        self._wait(f"fitting {job.label}", lambda: self._lines.started(job))

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """Move the bar, or say now and then how far the fit has come."""
        if self._bar is None:
            self._lines.event(job, event)
        elif event.get("name") == "progress":
            self._bar.update(self._task, completed=event.get("step"), total=event.get("value"))

    def closed(self) -> None:
        """Stop waiting, and take the bar off the screen."""
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _wait(self, text: str, say: Callable[[], None]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.closed()
        if sys.stderr.isatty():
            parts = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
            self._bar = Progress(*parts, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(text, total=None)
            say = self._bar.start
        self._timer = threading.Timer(PATIENCE_SECONDS, say)
        self._timer.daemon = True
        self._timer.start()


def _nothing() -> None:
    """Do nothing."""


def print_explainable(records: Sequence[RunRecord], *, as_json: bool) -> None:
    """Print a line a record that can be explained, with the letters of its key that are enough to name it."""
    rows = [
        {
            "key": record.key,
            "model": record.configuration or record.model,
            "dataset": record.dataset,
            "protocol": record.protocol,
            "seed": record.seed,
        }
        for record in records
    ]
    if as_json:
        _out(msgspec.json.encode(rows).decode())
        return
    if not rows:
        _out("no record of this store is of a model with co-clusters, so there is nothing to explain")
        return
    shown = [[str(row["key"])[:SHOWN_KEY_LETTERS], *map(str, list(row.values())[1:])] for row in rows]
    _out(columns(list(rows[0]), shown))


def print_explanation(explanation: Explanation, *, as_json: bool) -> None:
    """Print an explanation: one JSON document for programs, otherwise text and two tables."""
    if as_json:
        _out(msgspec.json.encode(explanation).decode())
        return
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    with console.capture() as page:
        for line in _head(explanation):
            console.print(line)
        console.print(f"\nRecommended, and the co-clusters that it came from (shares of the {explanation.shares_of})")
        console.print(_recommended(explanation.recommendations, console.width // 3))
        console.print(f"\nThe likeliest co-clusters of {explanation.user}")
        console.print(_likeliest(explanation.clusters))
    _out("\n".join(line.rstrip() for line in page.get().splitlines()))  # rich fills up every line with spaces


def _head(explanation: Explanation) -> list[str]:
    """Return what is known of the user, a line each."""
    history, targets = explanation.history, explanation.targets
    lines = [
        f"{explanation.user}, {'a user that was not held out' if targets is None else 'held out for the test'},"
        f" in {explanation.dataset}, {explanation.protocol}",
        f"model: {explanation.model}, record {explanation.key[:SHOWN_KEY_LETTERS]}",
        f"history ({len(history)}): {_listed([item.name for item in history])}",
    ]
    if targets:
        n_found = sum(one.is_target for one in explanation.recommendations)
        told = _listed([f"{target.item.name} (rank {target.rank:,})" for target in targets])
        lines.append(
            f"to be found ({len(targets)}, {n_found} recommended here): {told} of {explanation.n_items:,} items"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_HISTORY} more" if len(names) > SHOWN_HISTORY else ""
    return ", ".join(names[:SHOWN_HISTORY]) + more


def _recommended(recommendations: Sequence[Recommendation], name_width: int) -> Any:
    """Return a table with a block a recommendation and a line a co-cluster: as many of its items as fit."""
    table = _table(("#", "item", "score", "share", "co-cluster"), left="item")
    table.columns[1].max_width, table.columns[1].overflow = name_width, "fold"
    table.add_column("its first items", ratio=1, no_wrap=True, overflow="ellipsis")
    for number, one in enumerate(recommendations, 1):
        name = f"{one.item.name} (to be found)" if one.is_target else one.item.name
        first = [str(number), name, f"{one.score:.3f}"]
        if not one.clusters:
            table.add_row(*first, "", "", "none is shared with the user")
        for share in one.clusters:
            table.add_row(*first, f"{share.share:.0%}", str(share.cluster), _names(share.items))
            first = ["", "", ""]
        table.add_section()
    return table


def _likeliest(clusters: Sequence[Share]) -> Any:
    """Return a table with a row a co-cluster and all its items that were asked for."""
    table = _table(("co-cluster", "affinity", "share"))
    table.add_column("its first items", ratio=1, overflow="fold")
    for one in clusters:
        table.add_row(str(one.cluster), f"{one.affinity:.3f}", f"{one.share:.0%}", _names(one.items))
    return table


def _table(headings: Sequence[str], *, left: str = "") -> Any:
    """Return a table of the whole width without rows; to its columns one is added that takes what they leave."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.show_edge = False
    for heading in headings:
        table.add_column(heading, justify="left" if heading == left else "right")
    return table


def _names(items: Sequence[Item]) -> str:
    return ", ".join(item.name for item in items) or "none has a positive affinity"


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
