"""How models scale: memory and time of the fit against users, items and interactions, exponents, and where it ends."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recscale.records import scaling
from recscale.records.power_law import HORIZON, Break
from recscale.records.record import RunRecord, rises_with_quality
from recscale.records.scaling import QUANTITIES, Family, Growth, Line
from recscale.reporting import units
from recscale.reporting.axes import Axis
from recscale.reporting.canvas import Layout, draw, label_of, legend_of, settings, shortened
from recscale.reporting.comparisons import WORDS, Comparison, Configuration, canonical, machine_letters
from recscale.reporting.palette import INK, LINES, Style
from recscale.reporting.panels import Panel
from recscale.reporting.runs import one_line
from recscale.reporting.sections import budget_text
from recscale.reporting.tables import NOTHING, Cell, Column, Grid

_FOOT = 0.01  # of what can be told: what is less is drawn there
_UPRIGHT = (
    Axis(
        scaling.MEMORY.name,
        f"{scaling.MEMORY.name}, beyond what it began with",
        scaling.MEMORY.value,
        lambda r: None,
        units.size,
        smallest=_FOOT * scaling.LEAST_BYTES,
    ),
    Axis(
        scaling.TIME.name,
        scaling.TIME.name,
        scaling.TIME.value,
        lambda r: None,
        units.duration,
        smallest=_FOOT * scaling.LEAST_SECONDS,
        depends_on_machine=True,
    ),
)
_CAPTION = (
    "Memory and time of the fit against the size of the training data, a row for each way of subsampling it. Both axes "
    "are logarithmic: the slope is the exponent. In the grey below nothing can be told, under "
    f"{units.size(scaling.LEAST_BYTES)} and {units.duration(scaling.LEAST_SECONDS)}. Crosses are runs that did not "
    "finish."
)
_NOTE = (
    "Exponents b of y = c x^b with their 95 % intervals, by least squares over the sizes that finished. A limit is "
    "left where the law, and what the process holds beside it, reach the budget of the runs, again with an interval; "
    f"far is more than {HORIZON:,.0f} times the largest size. The ratios are measured / predicted at the largest size, "
    "by the law of all smaller ones. Scores of different sizes are over different users and items."
)
_FAR = "far"
_WRITE: Mapping[str, Callable[[float], str]] = {"bytes": units.size, "seconds": units.duration}
_LIMITED = (scaling.MEMORY.name, scaling.TIME.name)


@dataclass(frozen=True)
class ScalingView:
    """What a report says of one data set and protocol: the figure, the table below it, and what asks for its runs."""

    title: str
    figure: Figure
    table: Grid
    command: str

    alternative = "memory and time of the fit against the size of the data"
    caption = _CAPTION


def divided(records: Sequence[RunRecord]) -> tuple[list[Family], list[RunRecord]]:
    """Return the families of sizes, and the records without the subsamples that these show."""
    found = scaling.families(records)
    shown = {id(r) for family in found for members in family.members.values() for r in members if r.shares}
    # what a family leaves out (another machine, older code) is of a size that it shows, so it needs no table either
    sizes = {(r.dataset, r.protocol) for r in records if id(r) in shown}
    return found, [r for r in records if (r.dataset, r.protocol) not in sizes]


def scaling_views(
    families: Sequence[Family], looks: Mapping[str, Style], metric: str | None = None
) -> list[ScalingView]:
    """Return a view of each data set and protocol."""
    groups: dict[tuple[str, str], list[Family]] = defaultdict(list)
    for family in families:
        groups[family.dataset, family.protocol].append(family)
    return [
        ScalingView(
            f"{dataset} · {protocol}", draw_scaling(members, looks), growth_table(members, metric), _command(members)
        )
        for (dataset, protocol), members in groups.items()
    ]


def _command(families: Sequence[Family]) -> str:
    """Return the command line that asks for the runs of one data set again, under the budget of the newest one."""
    records = [r for family in families for members in family.members.values() for r in members]
    newest = max(records, key=lambda r: r.started_at)
    limits = {
        "--timeout": newest.timeout_seconds,
        "--max-memory": newest.max_memory_bytes,
        "--max-gpu-memory": newest.max_gpu_memory_bytes,
    }
    words = ["recscale", "scale", families[0].dataset, "--protocol", families[0].protocol]
    words += [word for name in sorted({n for f in families for n in f.members}) for word in ("-m", name)]
    words += [word for family in families for word in ("--by", family.by)]
    words += ["--shares", *(f"{share:g}" for share in sorted({scaling.share(r) for r in records}))]
    words += ["--seeds", *map(str, sorted({r.seed for r in records})), "--device", newest.device_requested]
    words += [word for flag, limit in limits.items() if limit is not None for word in (flag, budget_text(limit))]
    return shlex.join(one_line(word) for word in words)


def draw_scaling(families: Sequence[Family], looks: Mapping[str, Style]) -> Figure:
    """Return two panels for each way of subsampling a data set, memory and time of the fit, a line a configuration."""
    records = [r for family in families for members in family.members.values() for r in members]
    letters = machine_letters(records)
    panels = []
    for family in families:
        names, comparison = _names(family), _comparison(family, letters)
        styles = {names[key]: style for key, style in _styles(family, looks).items()}
        count = scaling.WAYS[family.by]
        along = Axis(family.by, f"{family.by} of the training part", count, count, units.count, is_setting=True)
        panels += [Panel(comparison, along, styles, upright=upright) for upright in _UPRIGHT]
    first = families[0]
    heading = (shortened(f"{first.dataset} · {first.protocol}", 70), "what a fit takes as the data grow")
    layout = Layout(columns=2, panel_height=2.1, left=0.72, gap=0.5, head=0.3)
    with settings():
        figure, axes = draw(panels, layout, heading=heading, legend=legend_of(panels))
        for pair, panel in zip(axes, panels, strict=True):
            if panel.upright is not None:
                title = label_of(panel.upright, panel.comparison)
                pair.set_title(title, loc="left", fontsize=9.5, color=INK, pad=7)
                _shade(pair, panel.upright.smallest / _FOOT)
        return figure


def _shade(axes: Axes, least: float) -> None:
    """Shade what is too small to be told."""
    low, high = axes.get_ylim()
    axes.axhspan(low, min(max(least, low), high), facecolor=INK, alpha=0.1, lw=0)
    axes.set_ylim(low, high)


def _names(family: Family) -> dict[str, str]:
    """Return what each configuration is called: the model, where it has no other one."""
    models = Counter(members[0].model for members in family.members.values())
    return {key: members[0].model if models[members[0].model] == 1 else key for key, members in family.members.items()}


def _styles(family: Family, looks: Mapping[str, Style]) -> dict[str, Style]:
    """Return the style of each configuration: that of its model, the line another one for each further of it."""
    met: Counter[str] = Counter()
    found = {}
    for key, members in family.members.items():
        look = looks[members[0].model]
        place = (LINES.index(look.line) + met[members[0].model]) % len(LINES)
        met[members[0].model] += 1
        found[key] = replace(look, line=LINES[place])
    return found


def _comparison(family: Family, letters: Mapping[str, str]) -> Comparison:
    """Return the runs of a family as what panels are drawn from: a configuration a size and outcome."""
    names, found = _names(family), []
    for key, members in family.members.items():
        sizes: dict[tuple[float, str], list[RunRecord]] = defaultdict(list)
        for record in members:
            sizes[scaling.share(record), record.status].append(record)
        for (_, status), runs in sizes.items():
            letter = letters[canonical(runs[0].machine)]
            found.append(Configuration(names[key], runs[0].model_title, tuple(runs), status, letter))
    first = found[0].records[0]
    metrics = tuple(dict.fromkeys(name for c in found for r in c.records for name in r.metrics))
    rises = rises_with_quality(metrics[0]) if metrics else True
    return Comparison(f"{family.dataset} · {family.protocol}", first, tuple(found), metrics, rises)


def growth_table(families: Sequence[Family], metric: str | None = None) -> Grid:
    """Return a row a configuration and way: exponents, where its limits end, predictions, scores, failures."""
    rows = []
    for family in families:
        names, found = _names(family), scaling.scaling(family, metric)
        for line in found.lines:
            growths = {growth.quantity: growth for growth in line.growths}
            rows.append(
                (
                    Cell(names[line.configuration]),
                    Cell(family.by),
                    *(_exponent(growths[quantity.name]) for quantity in QUANTITIES),
                    *(_break(growths[name]) for name in _LIMITED),
                    *(_ratio(growths[name]) for name in _LIMITED),
                    _scores(line),
                    _failures(line),
                )
            )
    score = scaling.scaling(families[0], metric).metric or "score"
    headings = [
        *(quantity.name for quantity in QUANTITIES),
        *(f"limit of {name.partition(' ')[0]} left at" for name in _LIMITED),
        *(f"ratio of {name.partition(' ')[0]}" for name in _LIMITED),
    ]
    return Grid(
        title="How models scale",
        columns=(
            Column("model", is_number=False),
            Column("by", is_number=False),
            *map(Column, headings),
            Column(f"{score}, small to large", is_number=False),
            Column("did not finish", is_number=False),
        ),
        rows=tuple(rows),
        note=_NOTE,
        is_sortable=True,
    )


def _exponent(growth: Growth) -> Cell:
    if growth.exponent is None:
        return Cell(growth.reason or NOTHING)
    note = growth.reason or f"{growth.low:.2f} to {growth.high:.2f}"
    return Cell(f"{growth.exponent:.2f}", growth.exponent, note=note)


def _break(growth: Growth) -> Cell:
    """Return where a limit is left, with the interval and the limit in smaller print."""
    if growth.leaves is None:
        return Cell(NOTHING)
    leaves = growth.leaves
    text = _FAR if leaves.at is None else units.count(leaves.at)
    return Cell(text, leaves.at, note=f"{_between(leaves)}of {_WRITE[growth.unit](leaves.limit)}")


def _between(leaves: Break) -> str:
    if leaves.ran_out_at is not None:
        return "ran out there, "
    if not leaves.has_interval or leaves.low is None:
        return ""
    return f"{units.count(leaves.low)} {'or more' if leaves.high is None else f'to {units.count(leaves.high)}'}, "


def _ratio(growth: Growth) -> Cell:
    return Cell(NOTHING) if growth.largest is None else Cell(f"{growth.largest.ratio:.2f}", growth.largest.ratio)


def _scores(line: Line) -> Cell:
    return Cell(", ".join(NOTHING if run.score is None else f"{run.score:.3f}" for run in line.runs))


def _failures(line: Line) -> Cell:
    """Return the shares that failed, and how."""
    failed = [f"{run.share:g}: {WORDS.get(run.status, run.status)}" for run in line.runs if run.status != "ok"]
    return Cell(", ".join(failed), is_failure=bool(failed))
