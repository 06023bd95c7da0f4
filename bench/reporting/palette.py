"""A colour and a marker for each model: the same in every figure of a report, and readable on white and on black."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

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
LINES = ("-", "--", ":")  # for the first ten models, the second ten, ...
# For what has an order: hue and lightness change together, lightness only upwards (L* 44 to 63), so that the order is
# seen in grey and by the colour-blind too; each colour has 2.8 : 1 or more against white and against #0d1117.
RAMP = ("#6f4be0", "#b141b0", "#d9536f", "#db8420")
INK = "#737b87"  # 4.3 : 1 against white, 4.5 : 1 against #0d1117


@dataclass(frozen=True, slots=True)
class Style:
    """How a model is drawn."""

    colour: str
    marker: str
    line: str = "-"


def styles(models: Iterable[str]) -> dict[str, Style]:
    """Return a style for each model, by its place among the sorted names; all different up to 70 models."""
    return {
        model: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i // len(COLOURS) % len(LINES)])
        for i, model in enumerate(sorted(set(models)))
    }


def ramp(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name in the order given: colours evenly along the ramp, both of its ends in use."""
    ordered = list(dict.fromkeys(names))
    last = max(1, len(ordered) - 1)
    return {name: Style(_along_ramp(index / last), MARKERS[index % len(MARKERS)]) for index, name in enumerate(ordered)}


def _along_ramp(share: float) -> str:
    """Return the colour at a share of the ramp, from 0 to 1."""
    place = share * (len(RAMP) - 1)
    start = min(int(place), len(RAMP) - 2)
    low, high = list(pairwise(RAMP))[start]
    mixed = [a + (b - a) * (place - start) for a, b in zip(_channels(low), _channels(high), strict=True)]
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
