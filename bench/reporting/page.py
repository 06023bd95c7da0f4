"""The report: Markdown, one self-contained HTML page, and the figures beside them."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from recscale.errors import StoreError, UnknownName, UsageError
from recscale.records.record import RunRecord
from recscale.reporting import sections
from recscale.reporting.axes import COVERAGE
from recscale.reporting.canvas import FORMATS as FIGURE_FORMATS
from recscale.reporting.canvas import render
from recscale.reporting.coclusters import Stability, cocluster_table, example_table, judged, not_known
from recscale.reporting.comparisons import Comparison, compare
from recscale.reporting.figures import draw_costs, draw_overview, draw_sizes
from recscale.reporting.inference import inference_table
from recscale.reporting.intrusion import draw_coclusters
from recscale.reporting.matrix import matrices
from recscale.reporting.palette import INK, Style, styles
from recscale.reporting.significance import PerUser, UserFigures, activity_table, best_against_second, duel_table
from recscale.reporting.sizes import SizeTable, draw_by_size, size_panels, size_tables
from recscale.reporting.sweeps import draw_sweep, sweeps
from recscale.reporting.tables import Grid, Table, build_table

FORMATS = ("md", "html", *FIGURE_FORMATS)
_MOST_IN_OVERVIEW = 12
_SIZES_CAPTION = (
    "Accuracy against size. The grey band is the frontier: nothing below it is worth its size. Crosses are runs that "
    "did not finish, where they would stand by their estimate, or at the edge where no estimate is known."
)
_COSTS_CAPTION = "The same against bytes, peak memory of the whole process while fitting, fit time and throughput."
_BY_SIZE_CAPTION = "Against the number of parameters: {}, at the best configuration of each size."
_COVERAGE_MEANING = f"{COVERAGE.label} (the share of items with a non-zero score)"
_COCLUSTERS_CAPTION = (
    "Left: the share of intruders that are found, and the level of random sets of the same popularity. Right: how many "
    "co-clusters hold enough users and items."
)
_OVERVIEW_CAPTION = "Accuracy against the number of parameters on every data set and protocol."

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = head.classList.contains("number") ? x - y : x.localeCompare(y, "en", {numeric: true});
      return ascending ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
"""


@dataclass
class Drawn:
    """A figure in all the formats that are needed: its file name without ending, its words, its bytes by format."""

    name: str
    alternative: str
    caption: str
    content: dict[str, bytes]

    @property
    def inline(self) -> Markup:
        """The SVG as it stands in the page."""
        return inline_svg(self.content["svg"], self.name)


@dataclass
class Section:
    """All that the page says of one comparison; the first figure stands above the table, the others below it."""

    anchor: str
    comparison: Comparison
    table: Table
    size_tables: list[SizeTable]
    cost_table: Grid | None
    user_tables: list[Grid]
    cocluster_tables: list[Grid]
    figures: list[Drawn]
    cocluster_figure: Drawn | None
    facts: sections.Facts
    headline: str
    remarks: list[str]
    commands: list[str]
    runs: list[sections.Run] = field(default_factory=list)

    @property
    def all_figures(self) -> list[Drawn]:
        """The figures of the section in the order of the page."""
        return [*self.figures, *([self.cocluster_figure] if self.cocluster_figure else [])]


def write_report(
    records: Iterable[RunRecord],
    folder: str | Path,
    *,
    metric: str | None = None,
    formats: Sequence[str] = ("md", "html", "svg", "png"),
    higher_is_better: bool | None = None,
    stability: Stability = not_known,
    vectors: PerUser | None = None,
) -> list[Path]:
    """Write the report of `records` into `folder` and return the files, the pages last.

    `metric` is the one to sort and draw by (default: the first of each protocol); `formats` are among md, html, svg,
    png and pdf. `stability` says how alike the co-clusters of some runs are (`running.stability`), `vectors` (a store)
    what the figures of each user are; without, nothing is said of either. Each file is moved into place when complete.
    Raises UsageError if there are no records or no formats, UnknownName for a metric or format that does not exist,
    StoreError if the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UnknownName("report format", name, FORMATS)
    if not formats:
        raise UsageError(f"no format to write the report in; expected some of: {', '.join(FORMATS)}")
    found = list(records)
    comparisons = compare(found, metric=metric, higher_is_better=higher_is_better)
    wanted = {name for name in FIGURE_FORMATS if name in formats or (name == "svg" and "html" in formats)}
    sources = _Sources(stability, UserFigures(vectors))
    looks = styles(r.model for r in found)
    overview = _overview(comparisons, looks, wanted)
    anchors = _anchors(comparisons)
    parts = [_section(c, a, (looks, wanted), sources) for c, a in zip(comparisons, anchors, strict=True)]
    drawn = [*([overview] if overview else []), *(figure for part in parts for figure in part.all_figures)]
    files = {f"{d.name}.{form}": d.content[form] for d in drawn for form in FIGURE_FORMATS if form in formats}
    context = _context(found, parts, overview) | {
        "matrices": matrices(comparisons, best_against_second(comparisons, sources.figures))
    }
    if "md" in formats:
        image_format = next((form for form in ("svg", "png") if form in formats), None)
        files["report.md"] = _render("report.md.jinja", context | {"image_format": image_format})
    if "html" in formats:
        files["report.html"] = _render("page.html.jinja", context)
    return _write_all(Path(folder), files)


def inline_svg(content: bytes, prefix: str) -> Markup:
    """Return an SVG of matplotlib's as markup for a page: no prolog, ids of its own, ink in the colour of the page."""
    markup = content.decode()
    markup = markup[markup.index("<svg") :]
    for pattern in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>"):
        markup = re.sub(pattern, "", markup, flags=re.DOTALL)
    for reference in (' id="', "url(#", 'href="#'):
        markup = markup.replace(reference, f"{reference}{prefix}-")
    markup = markup.replace(INK, f"var(--ink, {INK})")
    return Markup(re.sub(r"\n\s*", "\n", markup))


def _overview(comparisons: Sequence[Comparison], looks: Mapping[str, Style], wanted: set[str]) -> Drawn | None:
    """Return the figure of all comparisons, where there are some, but not too many to be read."""
    if not wanted or not 2 <= len(comparisons) <= _MOST_IN_OVERVIEW:
        return None
    alternative = "Accuracy against parameters: " + ", ".join(c.title for c in comparisons)
    return _drawn("overview", alternative, _OVERVIEW_CAPTION, draw_overview(comparisons, looks), wanted)


@dataclass(frozen=True)
class _Sources:
    """What is known beside the records."""

    stability: Stability
    figures: UserFigures


def _section(
    comparison: Comparison, anchor: str, how: tuple[Mapping[str, Style], set[str]], sources: _Sources
) -> Section:
    looks, wanted = how
    figures = _figures(comparison, anchor, looks, wanted) if wanted else []
    name = _distinct(f"{anchor}-coclusters", [drawn.name for drawn in figures])
    return Section(
        anchor=anchor,
        comparison=comparison,
        table=build_table(comparison),
        size_tables=size_tables(comparison),
        cost_table=inference_table(comparison),
        user_tables=[
            t for t in (duel_table(comparison, sources.figures), activity_table(comparison, sources.figures)) if t
        ],
        cocluster_tables=[t for t in (cocluster_table(comparison, sources.stability), example_table(comparison)) if t],
        figures=figures,
        cocluster_figure=_cocluster_figure(comparison, name, looks, wanted),
        facts=sections.facts(comparison),
        headline=sections.headline(comparison),
        remarks=sections.remarks(comparison),
        commands=sections.commands(comparison),
        runs=sections.runs(comparison),
    )


def _figures(comparison: Comparison, anchor: str, looks: Mapping[str, Style], wanted: set[str]) -> list[Drawn]:
    """Return the figures of a section: accuracy against size, against other costs, then what its sizes allow."""
    title, metric = comparison.title, comparison.metric or "accuracy"
    sizes, costs = draw_sizes(comparison, looks), draw_costs(comparison, looks)
    found = [
        _drawn(f"{anchor}-parameters", f"{title}: {metric} against parameters", _SIZES_CAPTION, sizes, wanted),
        _drawn(f"{anchor}-costs", f"{title}: {metric} against other costs", _COSTS_CAPTION, costs, wanted),
    ]
    panels = size_panels(comparison, looks)
    if panels:
        words = " and ".join(panel.upright.label for panel in panels if panel.upright)
        caption = _BY_SIZE_CAPTION.format(words.replace(COVERAGE.label, _COVERAGE_MEANING))
        by_size = draw_by_size(panels)
        found.append(_drawn(f"{anchor}-by-size", f"{title}: {words} against parameters", caption, by_size, wanted))
    for sweep in sweeps(comparison):
        name = _distinct(f"{anchor}-{_plain(sweep.model)}-{_plain(sweep.option)}", [drawn.name for drawn in found])
        found.append(_drawn(name, f"{title}: {sweep.words}", f"{sweep.words}.", draw_sweep(sweep), wanted))
    return found


def _cocluster_figure(comparison: Comparison, name: str, looks: Mapping[str, Style], wanted: set[str]) -> Drawn | None:
    """Return the figure of co-clusters under a name; None where there are none."""
    rows = judged(comparison)
    if not rows or not wanted:
        return None
    alternative = f"{comparison.title}: intrusion precision and non-degenerate co-clusters of each model"
    return _drawn(name, alternative, _COCLUSTERS_CAPTION, draw_coclusters(comparison, rows, looks), wanted)


def _drawn(name: str, alternative: str, caption: str, figure: Figure, wanted: set[str]) -> Drawn:
    return Drawn(name, alternative, caption, {form: render(figure, form) for form in sorted(wanted)})


def _anchors(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a different file name for each comparison: small letters, digits and hyphens, whatever the data's name."""
    found: list[str] = []
    for comparison in comparisons:
        found.append(_distinct(_plain(comparison.title), found))
    return found


def _plain(text: str) -> str:
    """Return text as a part of a file name: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "data"


def _distinct(name: str, taken: Sequence[str]) -> str:
    """Return `name`, with a number behind it if it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _context(records: Sequence[RunRecord], parts: Sequence[Section], overview: Drawn | None) -> dict[str, Any]:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return {
        "summary": sections.summary(records),
        "any_succeeded": any(part.comparison.succeeded for part in parts),
        "sections": parts,
        "overview": overview,
        "machines": sections.machines(records),
        "versions": sections.versions(records),
        "script": Markup(_SCRIPT),
        "script_hash": f"sha256-{digest}",
    }


def _render(template: str, context: Mapping[str, Any]) -> bytes:
    """Return a template filled in; everything in HTML is escaped but what is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recscale.reporting", "."),
        autoescape=template == "page.html.jinja",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = escape_markdown
    # A record may hold a lone surrogate (a file name that is no UTF-8); it is shown, not fatal.
    return environment.get_template(template).render(context).encode(errors="backslashreplace")


def escape_markdown(value: object) -> str:
    """Return text that Markdown shows as it is, on one line, in a table too: no markup, HTML or link comes of it."""
    line = re.sub(r"\s+", " ", str(value)).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$!#])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # within a word it is no markup


def _write_all(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files, each beside its place first and moved there when complete. Raises StoreError."""
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
        raise StoreError(f"the report cannot be written to {folder}: {error.strerror or error}") from None
    return written
