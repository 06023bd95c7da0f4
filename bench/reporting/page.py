"""The report: Markdown, one self-contained HTML page, and the figures beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from recscale.errors import UnknownName, UsageError
from recscale.records.record import RunRecord
from recscale.records.scaling import Family
from recscale.reporting import interactive, sections
from recscale.reporting.axes import COVERAGE
from recscale.reporting.canvas import FORMATS as FIGURE_FORMATS
from recscale.reporting.canvas import render
from recscale.reporting.coclusters import Stability, cocluster_table, example_table, judged, not_known
from recscale.reporting.comparisons import Comparison, Configuration, compare
from recscale.reporting.figures import draw_costs, draw_overview, draw_sizes
from recscale.reporting.files import plain_name, write_all
from recscale.reporting.inference import inference_table
from recscale.reporting.intrusion import draw_coclusters
from recscale.reporting.latex import latex_files
from recscale.reporting.matrix import matrices
from recscale.reporting.palette import Style, styles
from recscale.reporting.rendering import (
    inline_svg,
    page_script,
    page_style,
    render_template,
    script_hash,
)
from recscale.reporting.runs import Anchors, Facts, Run, anchors, runs
from recscale.reporting.scaling import ScalingView, divided, scaling_views
from recscale.reporting.significance import PerUser, UserFigures, activity_table, best_against_second, duel_table
from recscale.reporting.sizes import SizeTable, draw_by_size, size_panels, size_tables
from recscale.reporting.sweeps import draw_sweep, sweeps
from recscale.reporting.tables import Grid, Table, build_table
from recscale.reporting.tuning_curves import TuningCurves, tuning_section

FORMATS = ("md", "html", "tex", *FIGURE_FORMATS)
USUAL_FORMATS = ("md", "html", "svg", "png")
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


@dataclass
class Drawn:
    """A figure in all the formats that are needed: its file name without ending, its words, its bytes by format."""

    name: str
    alternative: str
    caption: str
    content: dict[str, bytes]
    is_replaced: bool = False  # the interactive figure shows the same

    @property
    def inline(self) -> Markup:
        """The SVG as it stands in the page."""
        return inline_svg(self.content["svg"], self.name)


@dataclass(frozen=True)
class Tuning:
    """What was tuned on the split of a comparison: the ledger, and where there are some the scores by effort."""

    table: Grid
    figure: Drawn | None


@dataclass(frozen=True)
class Scaled:
    """How models scale on a data set, and that as a figure."""

    view: ScalingView
    figure: Drawn | None


@dataclass
class Section:
    """All that the page says of one comparison.

    Above the table stands `chart`, what the interactive figure is drawn from, or the first figure where there is none.
    """

    anchor: str
    comparison: Comparison
    table: Table
    size_tables: list[SizeTable]
    cost_table: Grid | None
    user_tables: list[Grid]
    cocluster_tables: list[Grid]
    figures: list[Drawn]
    cocluster_figure: Drawn | None
    tuning: list[Tuning]
    facts: Facts
    headline: str
    remarks: list[str]
    commands: list[str]
    names: Anchors
    chart: Markup | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def leading_figures(self) -> list[Drawn]:
        """The figure above the table, where there is no interactive one."""
        return [] if self.chart else self.figures[:1]

    @property
    def other_figures(self) -> list[Drawn]:
        """The figures below the table that show what nothing above it does."""
        return [figure for figure in self.figures if not figure.is_replaced] if self.chart else self.figures[1:]

    def run_anchor(self, configuration: Configuration) -> str:
        """Return the id of the first run of a configuration."""
        return self.names[id(configuration.records[0])]

    @property
    def all_figures(self) -> list[Drawn]:
        """The figures of the section in the order of the page."""
        tuning = [one.figure for one in self.tuning if one.figure]
        return [*self.figures, *([self.cocluster_figure] if self.cocluster_figure else []), *tuning]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a report is to be.

    `metric` is the one to sort and draw by (default: the first of each protocol); `formats` are among md, html, tex,
    svg, png and pdf. `stability` says how alike the co-clusters of some runs are (`running.stability`), `vectors` (a
    store) what the figures of each user are; without, nothing is said of either. `trials` are those of tuning, shown
    with the comparison on their split; those of a split on which nothing was run for test users are not. `interactive`
    figures are in the page where the extra is installed (None), always, or never. A page with a `version` is served: it
    asks for the current one and loads itself again.
    """

    metric: str | None = None
    formats: Sequence[str] = USUAL_FORMATS
    higher_is_better: bool | None = None
    stability: Stability = not_known
    vectors: PerUser | None = None
    trials: Sequence[RunRecord] = ()
    interactive: bool | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        """Check the formats."""
        for name in self.formats:
            if name not in FORMATS:
                raise UnknownName("report format", name, FORMATS)
        if not self.formats:
            raise UsageError(f"no format to write the report in; expected some of: {', '.join(FORMATS)}")

    @property
    def has_charts(self) -> bool:
        """Whether the page has interactive figures."""
        wanted = interactive.is_there() if self.interactive is None else self.interactive
        return wanted and "html" in self.formats


def write_report(
    records: Iterable[RunRecord],
    folder: str | Path,
    *,
    metric: str | None = None,
    formats: Sequence[str] = USUAL_FORMATS,
    higher_is_better: bool | None = None,
    stability: Stability = not_known,
    vectors: PerUser | None = None,
    interactive: bool | None = None,
) -> list[Path]:
    """Write the report of `records` into `folder` and return the files, the pages last.

    The options are those of `Options`. Each file is moved into place when complete.
    Raises UsageError if there are no records or no formats, UnknownName for a metric or format that does not exist,
    MissingExtra for interactive figures without their library, StoreError if the folder cannot be written.
    """
    options = Options(
        metric=metric,
        formats=formats,
        higher_is_better=higher_is_better,
        stability=stability,
        vectors=vectors,
        interactive=interactive,
    )
    return write_all(Path(folder), build_report(records, options))


def build_report(records: Iterable[RunRecord], options: Options) -> dict[str, bytes]:
    """Return the files of a report by name, the pages last; raises what `write_report` raises, but StoreError."""
    found = list(records)
    formats = options.formats
    families, single = divided(found)
    comparisons = (
        compare(single, metric=options.metric, higher_is_better=options.higher_is_better)
        if single or not families
        else []
    )
    figures = UserFigures(options.vectors)
    looks = styles(r.model for r in (*found, *options.trials))
    making = _Making(options, figures, looks, anchors(comparisons), tuning_section(options.trials, found, looks))
    overview = _overview(comparisons, making)
    parts = [_section(c, a, making) for c, a in zip(comparisons, _anchors(comparisons), strict=True)]
    tables = matrices(comparisons, best_against_second(comparisons, figures))
    scaled = _scaled(families, making)
    drawn = [*([overview] if overview else []), *(figure for part in parts for figure in part.all_figures)]
    drawn += [one.figure for one in scaled if one.figure]
    files = {f"{d.name}.{form}": d.content[form] for d in drawn for form in FIGURE_FORMATS if form in d.content}
    files = {name: content for name, content in files.items() if name.rpartition(".")[2] in formats}
    context = _context(found, parts, overview) | {"matrices": tables, "scaled": scaled}
    if "tex" in formats:
        files |= latex_files(
            {part.anchor: (part.table, [*part.user_tables, *part.size_tables]) for part in parts}, tables
        )
    if "md" in formats:
        image_format = next((form for form in ("svg", "png") if form in formats), None)
        files["report.md"] = render_template("report.md.jinja", context | {"image_format": image_format})
    if "html" in formats:
        files["report.html"] = render_template("page.html.jinja", context | _page_context(options))
    return files


@dataclass(frozen=True)
class _Making:
    """What the parts of a report are made with: options, figures by user, looks of models, ids of runs."""

    options: Options
    figures: UserFigures
    looks: Mapping[str, Style]
    names: Anchors
    tuning: Sequence[TuningCurves]

    @property
    def beside(self) -> set[str]:
        """The formats of figures that are written beside the pages."""
        return {name for name in FIGURE_FORMATS if name in self.options.formats}

    @property
    def inline(self) -> set[str]:
        """These, and the one that stands in the page."""
        return self.beside | ({"svg"} if "html" in self.options.formats else set())

    def has_chart(self, comparison: Comparison) -> bool:
        """Tell whether a comparison has an interactive figure: where nothing finished there is no axis."""
        return self.options.has_charts and bool(comparison.succeeded)

    def replaced(self, comparison: Comparison) -> set[str]:
        """Return the formats of figures that the interactive one would replace in the page."""
        return self.beside if self.has_chart(comparison) else self.inline


def _overview(comparisons: Sequence[Comparison], making: _Making) -> Drawn | None:
    """Return the figure of all comparisons, where there are some, but not too many to be read."""
    if not making.inline or not 2 <= len(comparisons) <= _MOST_IN_OVERVIEW:
        return None
    alternative = "Accuracy against parameters: " + ", ".join(c.title for c in comparisons)
    return _drawn("overview", alternative, _OVERVIEW_CAPTION, draw_overview(comparisons, making.looks), making.inline)


def _section(comparison: Comparison, anchor: str, making: _Making) -> Section:
    figures = _figures(comparison, anchor, making)
    name = plain_name(f"{anchor}-coclusters", [drawn.name for drawn in figures])
    return Section(
        anchor=anchor,
        comparison=comparison,
        table=build_table(comparison),
        size_tables=size_tables(comparison),
        cost_table=inference_table(comparison),
        user_tables=[
            t for t in (duel_table(comparison, making.figures), activity_table(comparison, making.figures)) if t
        ],
        cocluster_tables=[
            t for t in (cocluster_table(comparison, making.options.stability), example_table(comparison)) if t
        ],
        figures=figures,
        cocluster_figure=_cocluster_figure(comparison, name, making.looks, making.inline),
        tuning=_tuning(comparison, anchor, making),
        facts=sections.facts(comparison),
        headline=sections.headline(comparison),
        remarks=sections.remarks(comparison),
        commands=sections.commands(comparison),
        names=making.names,
        chart=interactive.chart(comparison, making.looks, making.names) if making.has_chart(comparison) else None,
        runs=runs(comparison, making.names),
    )


def _figures(comparison: Comparison, anchor: str, making: _Making) -> list[Drawn]:
    """Return the figures of a section: accuracy against size, against other costs, then what its sizes allow."""
    found = _replaced_figures(comparison, anchor, making) if making.replaced(comparison) else []
    if not making.inline:
        return []
    for sweep in sweeps(comparison):
        name = plain_name(f"{anchor}-{sweep.model}-{sweep.option}", [drawn.name for drawn in found])
        alternative = f"{comparison.title}: {sweep.words}"
        found.append(_drawn(name, alternative, f"{sweep.words}.", draw_sweep(sweep), making.inline))
    return found


def _replaced_figures(comparison: Comparison, anchor: str, making: _Making) -> list[Drawn]:
    """Return the figures of what the interactive one shows too."""
    title, metric, looks = comparison.title, comparison.metric or "accuracy", making.looks
    wanted = making.replaced(comparison)
    sizes, costs = draw_sizes(comparison, looks), draw_costs(comparison, looks)
    found = [
        _drawn(f"{anchor}-parameters", f"{title}: {metric} against parameters", _SIZES_CAPTION, sizes, wanted),
        _drawn(f"{anchor}-costs", f"{title}: {metric} against other costs", _COSTS_CAPTION, costs, wanted),
    ]
    if panels := size_panels(comparison, looks):
        words = " and ".join(panel.upright.label for panel in panels if panel.upright)
        caption = _BY_SIZE_CAPTION.format(words.replace(COVERAGE.label, _COVERAGE_MEANING))
        by_size = draw_by_size(panels)
        found.append(_drawn(f"{anchor}-by-size", f"{title}: {words} against parameters", caption, by_size, wanted))
    for drawn in found:
        drawn.is_replaced = True
    return found


def _cocluster_figure(comparison: Comparison, name: str, looks: Mapping[str, Style], wanted: set[str]) -> Drawn | None:
    """Return the figure of co-clusters under a name; None where there are none."""
    rows = judged(comparison)
    if not rows or not wanted:
        return None
    alternative = f"{comparison.title}: intrusion precision and non-degenerate co-clusters of each model"
    return _drawn(name, alternative, _COCLUSTERS_CAPTION, draw_coclusters(comparison, rows, looks), wanted)


def _tuning(comparison: Comparison, anchor: str, making: _Making) -> list[Tuning]:
    """Return what was tuned on the split of a comparison."""
    found: list[Tuning] = []
    for curves in (one for one in making.tuning if one.belongs_to(comparison)):
        name = plain_name(f"{anchor}-tuning", [one.figure.name for one in found if one.figure])
        figure = None
        if curves.figure is not None and making.inline:
            figure = _drawn(name, curves.alternative, curves.caption, curves.figure, making.inline)
        found.append(Tuning(curves.table, figure))
    return found


def _scaled(families: Sequence[Family], making: _Making) -> list[Scaled]:
    """Return how models scale on each data set and protocol that was subsampled."""
    found: list[Scaled] = []
    for view in scaling_views(families, making.looks, making.options.metric):
        name = plain_name(f"{view.title}-scaling", [one.figure.name for one in found if one.figure])
        words = f"{view.title}: {view.alternative}"
        figure = _drawn(name, words, view.caption, view.figure, making.inline) if making.inline else None
        found.append(Scaled(view, figure))
    return found


def _drawn(name: str, alternative: str, caption: str, figure: Figure, wanted: set[str]) -> Drawn:
    return Drawn(name, alternative, caption, {form: render(figure, form) for form in sorted(wanted)})


def _anchors(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a different file name for each comparison: small letters, digits and hyphens, whatever the data's name."""
    found: list[str] = []
    for comparison in comparisons:
        found.append(plain_name(comparison.title, found))
    return found


def _context(records: Sequence[RunRecord], parts: Sequence[Section], overview: Drawn | None) -> dict[str, Any]:
    return {
        "summary": sections.summary(records),
        "any_succeeded": any(record.status == "ok" for record in records),
        "sections": parts,
        "overview": overview,
        "machines": sections.machines(records),
        "versions": sections.versions(records),
    }


def _page_context(options: Options) -> dict[str, Any]:
    """Return what the page alone needs: scripts, the hashes that let them run, style."""
    library = interactive.library() if options.has_charts else None
    script = page_script(has_charts=library is not None, is_live=options.version is not None)
    hashes = [script_hash(script.encode()), *([library.hash] if library else [])]
    return {
        "library": library,
        "hint": interactive.HINT if options.interactive is None else None,
        "script": script,
        "script_policy": Markup(" ").join(Markup("'{}'").format(one) for one in hashes),
        "style": page_style(),
        "version": options.version,
    }
