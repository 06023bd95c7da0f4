"""The report of a store, for the command line and for Python: records, the figures of users, stability over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recscale.reporting.page import Options
    from recscale.reporting.serving import LivePage

Warn = Callable[[str], None]


def write_report(store: Path, out: Path | None, options: Options, warn: Warn) -> list[Path]:
    """Write the report of a store (into its folder `report`) and return the files, the pages last.

    `warn` gets a line for each file that holds no record, and one if the page could have been interactive.
    Raises StoreError, UsageError, UnknownName or MissingExtra.
    """
    from recscale.reporting import interactive
    from recscale.reporting.files import write_all

    written = write_all(out or store / "report", _build(store, options, warn))
    if options.interactive is None and "html" in options.formats and not interactive.is_there():
        warn(interactive.HINT)
    return written


def live_page(store: Path, options: Options, warn: Warn) -> LivePage:
    """Return the page of a store, to be served; of the formats of `options` it is HTML alone."""
    from recscale.reporting.serving import LivePage

    def build(version: str) -> bytes:
        return _build(store, replace(options, formats=("html",), version=version), warn)["report.html"]

    return LivePage(store, build)


def _build(store: Path, options: Options, warn: Warn) -> dict[str, bytes]:
    from recscale.records.store import Store
    from recscale.reporting.page import build_report
    from recscale.running.stability import StabilityOverSeeds

    opened = Store(store)
    found = []
    for read in (opened.records, opened.trials):
        found.append(read())
        for unreadable in opened.unreadable:
            warn(f"left out {unreadable.path}: {unreadable.reason}")
    records, trials = found
    return build_report(records, replace(options, stability=StabilityOverSeeds(opened), vectors=opened, trials=trials))


def options_of(metric: str | None, formats: Sequence[str], interactive: bool | None) -> Options:
    """Return the options of a report; no formats are the usual ones. Raises UnknownName for a format."""
    from recscale.reporting.page import USUAL_FORMATS, Options

    return Options(metric=metric, formats=tuple(formats) or USUAL_FORMATS, interactive=interactive)
