"""The sheet that panels are drawn on: layout in inches, heading, legend, and the bytes of a file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recscale.errors import UnknownName
from recscale.reporting.axes import Axis
from recscale.reporting.comparisons import Comparison
from recscale.reporting.palette import INK, Style
from recscale.reporting.panels import Panel, draw_panel, strip_inches

FORMATS = ("svg", "png", "pdf")
WIDTH_INCHES = 7.6
_LEGEND_ROW_INCHES = 0.21
# Nothing of the day, the machine or the user's own settings may reach a file: the same records give the same bytes.
_SETTINGS = {
    "svg.hashsalt": "recscale",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "savefig.dpi": 200,
    "savefig.facecolor": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_PLACE, _LONG_FRACTION, _INDENT = re.compile(rb' [dxy]="[^"]+"'), re.compile(rb"(\.\d\d)\d+"), re.compile(rb"(?m)^ +")
_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Layout:
    """Inches of one figure: panels in a grid, each with a strip for failures, margins around."""

    columns: int
    panel_height: float
    left: float = 0.62
    right: float = 0.2
    gap: float = 0.3
    top: float = 0.62
    head: float = 0.1  # above each panel
    foot: float = 0.52  # below each panel: tick labels and the name of the axis


@contextmanager
def settings() -> Iterator[None]:
    """Put matplotlib's defaults and the settings of these figures in force, and the caller's own back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def render(figure: Figure, form: str) -> bytes:
    """Return a figure as the bytes of a file; the same figure gives the same bytes. Raises UnknownName."""
    if form not in FORMATS:
        raise UnknownName("figure format", form, FORMATS)
    buffer = io.BytesIO()
    with settings():
        figure.savefig(buffer, format=form, metadata=_METADATA[form])
    return _shortened(buffer.getvalue()) if form == "svg" else buffer.getvalue()


def _shortened(svg: bytes) -> bytes:
    """Return a drawing without indents, its places in hundredths of a point: a seventh smaller, no other picture."""
    return _INDENT.sub(b"", _PLACE.sub(lambda place: _LONG_FRACTION.sub(rb"\1", place[0]), svg))


def subtitle(comparison: Comparison) -> str:
    """Return what the vertical axis of a comparison is: the main metric, and over whom it is a mean."""
    n_users = comparison.first.n_test_users
    what = "the ratings of " if comparison.first.protocol.partition("[")[0] == "ratings" else ""
    over = f", mean over {what}{n_users:,} test users" if n_users else ""
    direction = "" if comparison.higher_is_better else " (less is better)"
    return f"{comparison.metric}{direction}{over}" if comparison.metric else ""


def shortened(text: str, limit: int) -> str:
    """Return text of at most `limit` characters, the last an ellipsis where some were left out."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def label_of(axis: Axis, comparison: Comparison) -> str:
    """Return the name of an axis, with a warning where machines are not comparable on it."""
    if axis.depends_on_machine and len(comparison.machines) > 1:
        return f"{axis.label} ({len(comparison.machines)} machines: not comparable)"
    return axis.label


def draw(
    panels: Sequence[Panel], layout: Layout, *, heading: tuple[str, str], legend: Sequence[Line2D] | None
) -> tuple[Figure, list[Axes]]:
    """Lay out and draw panels row by row, the legend below them; return the figure and the axes of the panels."""
    rows = [panels[i : i + layout.columns] for i in range(0, len(panels), layout.columns)]
    strips = [max(map(strip_inches, row)) for row in rows]
    row_inches = [layout.head + layout.panel_height + strip + layout.foot for strip in strips]
    height = layout.top + sum(row_inches) + legend_inches(legend or ())
    figure = Figure(figsize=(WIDTH_INCHES, height))
    FigureCanvasAgg(figure)
    width = (WIDTH_INCHES - layout.left - layout.right - (layout.columns - 1) * _gap(layout)) / layout.columns
    found: list[Axes] = []
    top = height - layout.top
    for row, strip, inches in zip(rows, strips, row_inches, strict=True):
        for column, panel in enumerate(row):
            left = layout.left + column * (width + _gap(layout))
            place = (left, top - layout.head - layout.panel_height, width, layout.panel_height)
            found.append(_draw_one(figure, panel, place, strip, emphasis=len(panels) == 1))
        top -= inches
    write_heading(figure, heading, layout.left)
    if legend:
        write_legend(figure, legend, layout.left)
    return figure, found


def write_heading(figure: Figure, heading: tuple[str, str], left: float) -> None:
    """Write title and subtitle at the head of a figure, `left` inches from its side."""
    title, below = heading
    x, height = left / WIDTH_INCHES, figure.get_figheight()
    figure.text(x, 1 - 0.26 / height, title, fontsize=12.5, weight="bold", color=INK, va="center")
    figure.text(x, 1 - 0.5 / height, below, fontsize=9.5, color=INK, va="center")


def write_legend(figure: Figure, handles: Sequence[Artist], left: float) -> None:
    """Write a legend at the foot of a figure; `legend_inches` is the room that it takes."""
    columns, _ = _legend_grid(handles)
    box = figure.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(left / WIDTH_INCHES, 0.1 / figure.get_figheight()),
        ncols=columns, frameon=False, labelcolor=INK, fontsize=9, borderaxespad=0, borderpad=0, handlelength=1.9,
        columnspacing=1.6,
    )  # fmt: skip
    box.set_in_layout(False)


def legend_inches(handles: Sequence[Artist]) -> float:
    """Return the height that a legend takes; 0 for none."""
    return _legend_grid(handles)[1] * _LEGEND_ROW_INCHES + 0.16 if handles else 0.0


def _gap(layout: Layout) -> float:
    """Return the inches between two columns: the gap and room for the tick labels of the right one."""
    return layout.gap + 0.22


def _draw_one(
    figure: Figure, panel: Panel, place: tuple[float, float, float, float], strip_height: float, *, emphasis: bool
) -> Axes:
    """Draw one panel at a place in inches; all panels of a row leave the same room for the strip of failures."""
    left, bottom, width, height = place
    total = figure.get_figheight()

    def add(y: float, inches: float) -> Axes:
        return figure.add_axes((left / WIDTH_INCHES, y / total, width / WIDTH_INCHES, inches / total))

    axes = add(bottom, height)
    own = strip_inches(panel)
    strip = add(bottom - own, own) if own else None
    draw_panel(axes, strip, panel, emphasis=emphasis)
    label = label_of(panel.axis, panel.comparison)
    (strip or axes).set_xlabel(label, color=INK, fontsize=10 if emphasis else 9, labelpad=4)
    if strip is not None:
        axes.tick_params(labelbottom=False)
    return axes


def legend_of(panels: Sequence[Panel]) -> list[Line2D]:
    """Return the entries of a legend: the models as styled, those that only failed as crosses, the frontier last."""
    drawn = {line.model for panel in panels for line in panel.lines()}
    failed = {row.model for panel in panels for row in panel.failures()} - drawn
    styles: dict[str, Style] = {name: style for panel in panels for name, style in panel.styles.items()}
    handles = []
    for model in (name for name in styles if name in drawn | failed):
        style = styles[model]
        marker, line = (style.marker, style.line) if model in drawn else ("x", "")
        name = shortened(model, 28)
        # A leading underscore hides an entry of a legend; a space of no width in front of it shows it.
        name = f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
        handles.append(Line2D([], [], color=style.colour, marker=marker, ls=line, lw=1.6, ms=5.5, label=name))
    if any(panel.frontier() for panel in panels):
        handles.append(Line2D([], [], color=INK, alpha=0.3, lw=5, label="frontier"))
    return handles


def _legend_grid(handles: Sequence[Artist]) -> tuple[int, int]:
    """Return columns and rows of a legend; a letter at 9 points takes about 0.08 inches."""
    if not handles:
        return 1, 0
    widest = max(len(str(handle.get_label())) for handle in handles) * 0.08 + 0.55
    columns = min(len(handles), max(1, int((WIDTH_INCHES - 0.8) / widest)))
    return columns, math.ceil(len(handles) / columns)
