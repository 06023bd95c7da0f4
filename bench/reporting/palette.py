"""A colour and a marker for each model: the same in every figure of a report, and readable on white and on black."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# The first six are those of Okabe and Ito 2008, without yellow and black and with the light ones darkened, so that all
# stand out from a white and from a black page; the others are told apart by their marker rather than by their hue.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b8559a",
    "#c98a00",
    "#3ea2dd",
    "#7d63c9",
    "#93764f",
    "#6f9a2f",
    "#d9536f",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "<")  # 7 and 10 have no common divisor: 70 different pairs
INK = "#737b87"  # 4.3 : 1 against white, 4.5 : 1 against #0d1117


@dataclass(frozen=True, slots=True)
class Style:
    """How a model is drawn."""

    colour: str
    marker: str


def styles(models: Iterable[str]) -> dict[str, Style]:
    """Return a style for each model, by its place among the sorted names; all different up to 70 models."""
    return {
        model: Style(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, model in enumerate(sorted(set(models)))
    }
