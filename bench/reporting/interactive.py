"""What the interactive figure of a page is drawn from: every configuration with all that was measured of it.

The drawing is done in the reader's browser by plotly.js (MIT licence), which the extra `report` brings and which is
packed into the page. No name reaches it unescaped, and nothing of it is fetched or evaluated.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from markupsafe import Markup

from recscale.errors import MissingExtra
from recscale.records.record import rises_with_quality
from recscale.reporting.axes import BYTES, MEMORY, PARAMETERS, SECONDS, THROUGHPUT, Axis
from recscale.reporting.canvas import label_of
from recscale.reporting.comparisons import Comparison, Configuration, text
from recscale.reporting.palette import Style
from recscale.reporting.rendering import script_hash
from recscale.reporting.runs import Anchors
from recscale.reporting.tables import fit_device_bytes, phase_of
from recscale.reporting.units import duration, energy, size

HINT = 'the figures of the page are still; with pip install "recscale[report]" its axes can be chosen and models hidden'
_DIGITS = 7
_MOST_REASON_LETTERS = 300

LATENCY = Axis(
    "latency", "latency of one user", lambda r: r.latency_median_seconds, lambda r: r.latency_median_seconds, duration,
    smallest=1e-7, depends_on_machine=True,
)  # fmt: skip
UPDATE = Axis(
    "update", "latency of one more item", lambda r: r.update_median_seconds, lambda r: r.update_median_seconds,
    duration, smallest=1e-7, depends_on_machine=True,
)  # fmt: skip
DEVICE_MEMORY = Axis("device-memory", "peak GPU memory of the fit", fit_device_bytes, fit_device_bytes, size)
ENERGY = Axis(
    "energy", "energy of the fit", phase_of("fit", lambda p: p.energy_joules),
    phase_of("fit", lambda p: p.energy_joules), energy, smallest=1e-3, depends_on_machine=True,
)  # fmt: skip
# With the way in which the page writes their values: it cannot call ours.
_COSTS: tuple[tuple[Axis, str], ...] = (
    (PARAMETERS, "count"),
    (BYTES, "size"),
    (MEMORY, "size"),
    (DEVICE_MEMORY, "size"),
    (SECONDS, "duration"),
    (LATENCY, "duration"),
    (UPDATE, "duration"),
    (THROUGHPUT, "rate"),
    (ENERGY, "energy"),
)
_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
    "<": "triangle-left",
}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", ":": "dot"}


@dataclass(frozen=True)
class Library:
    """The plotting library as it stands in a page: packed, and the hash of what comes out of it."""

    packed: Markup  # base64 of gzip: 2.0 MB, where the script itself has 4.8 MB
    hash: str


def is_there() -> bool:
    """Tell whether the plotting library is installed."""
    return find_spec("plotly") is not None


@cache
def library() -> Library:
    """Return the plotting library. Raises MissingExtra if it is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtra("plotly", "report") from None
    script = get_plotlyjs().encode()
    packed = base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()
    return Library(Markup(packed), script_hash(script))


def as_script(value: Any) -> Markup:
    """Return a value as JSON that may stand in a script element: ASCII, and no character that HTML could obey."""
    found = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        found = found.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(found)


def chart(comparison: Comparison, looks: Mapping[str, Style], names: Anchors) -> Markup:
    """Return what the figure of a comparison is drawn from, as JSON: measures, models, and a row a configuration.

    Columns of values, standard errors and expected places (of failures) are in the order of the measures; what was
    not measured is null.
    """
    costs = [(axis, kind) for axis, kind in _COSTS if _is_known(axis, comparison)]
    models = sorted({c.model for c in comparison.configurations})
    place = {model: index for index, model in enumerate(models)}
    return as_script(
        {
            "title": comparison.title,
            "metric": comparison.metric,
            "measures": [_metric(name, comparison) for name in comparison.metrics]
            + [_cost(axis, kind, comparison) for axis, kind in costs],
            "models": [_model(model, looks[model]) for model in models],
            "rows": [
                {"model": place[c.model]} | _row(c, comparison, [axis for axis, _ in costs], names)
                for c in comparison.configurations
            ],
        }
    )


def _is_known(axis: Axis, comparison: Comparison) -> bool:
    return any(axis.value(c) is not None for c in comparison.succeeded)


def _metric(name: str, comparison: Comparison) -> dict[str, Any]:
    rises = comparison.higher_is_better if name == comparison.metric else rises_with_quality(name)
    return {"name": name, "label": name, "kind": "score", "rises": rises, "isMetric": True}


def _cost(axis: Axis, kind: str, comparison: Comparison) -> dict[str, Any]:
    label = label_of(axis, comparison).replace(" (more is better)", "")
    return {"name": axis.name, "label": label, "kind": kind, "rises": not axis.lower_is_better, "isMetric": False}


def _model(name: str, look: Style) -> dict[str, str]:
    return {"name": name, "colour": look.colour, "symbol": _SYMBOLS[look.marker], "dash": _DASHES[look.line]}


def _row(configuration: Configuration, comparison: Comparison, costs: list[Axis], names: Anchors) -> dict[str, Any]:
    """Return a configuration: its words, its values, where a failure would stand, and its runs in the page."""
    first = configuration.records[0]
    found: dict[str, Any] = {
        "details": ", ".join(configuration.details),
        "size": text(configuration.knob_value),
        "settings": [f"{name}={text(value)}" for name, value in sorted(first.parameters.items())]
        + [f"{first.n_threads} thread{'s' if first.n_threads > 1 else ''} on {first.device_used or 'no device'}"]
        + [f"machine {configuration.machine}"],
        "runs": [names[id(record)] for record in configuration.records],
    }
    if configuration.succeeded:
        quantities = [configuration.quantity(name) for name in comparison.metrics]
        found["values"] = [_rounded(q.mean if q else None) for q in quantities]
        found["values"] += [_rounded(axis.value(configuration)) for axis in costs]
        found["errors"] = [_rounded(q.standard_error if q else None) for q in quantities]
        return found
    nowhere: list[float | None] = [None] * len(comparison.metrics)
    return found | {
        "outcome": configuration.outcome,
        "word": configuration.word,
        "reason": configuration.reason[:_MOST_REASON_LETTERS],
        "expected": nowhere + [_rounded(axis.expected(configuration)) for axis in costs],
    }


def _rounded(value: float | None) -> float | None:
    """Return a value in as many digits as a drawing needs; None for what is no finite number."""
    return float(f"{value:.{_DIGITS}g}") if value is not None and math.isfinite(value) else None
