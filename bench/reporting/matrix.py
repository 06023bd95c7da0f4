"""Models by data sets: the best of each model on every data set of a protocol, as in table 3 of the ELFM paper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recscale.records.record import rises_with_quality
from recscale.reporting.comparisons import Comparison, Configuration
from recscale.reporting.significance import STARS_MEANING
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, scored

_NOTE = "The best configuration of each model on each data set, by the main metric, which stands first."
Marks = Mapping[tuple[str, str], str]  # by the title of a comparison and a metric
Found = dict[str, list[Configuration]]  # by model, the best first


@dataclass(frozen=True)
class _Contest:
    """One metric on one data set: the best score and the second, None where there is no contest."""

    comparison: Comparison
    metric: str
    best: float | None
    second: float | None
    mark: str = ""  # of the best: how sure it is that it is


def matrices(comparisons: Sequence[Comparison], marks: Marks | None = None) -> list[Grid]:
    """Return a table for each protocol under which a model was run on two data sets at least.

    `marks` stand beside the best of a column: how sure it is that it is better than the second.
    """
    by_protocol: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_protocol[comparison.first.protocol].append(comparison)
    return [
        _matrix(protocol, members, marks or {})
        for protocol, members in by_protocol.items()
        if len(members) > 1 and any(len(places) > 1 for places in _places(members).values())
    ]


def _matrix(protocol: str, comparisons: Sequence[Comparison], marks: Marks) -> Grid:
    found = [comparison.by_model() for comparison in comparisons]
    contests = [
        [_contest(comparison, metric, members, marks) for metric in _metrics(comparison)]
        for comparison, members in zip(comparisons, found, strict=True)
    ]
    places = _places(comparisons)
    last = max(len(members) for members in found)
    order = sorted(places, key=lambda m: (sum(places[m].values()) + last * (len(found) - len(places[m])), m))
    rows = []
    for model in order:
        cells = [_cells(members.get(model, []), those) for members, those in zip(found, contests, strict=True)]
        rows.append((Cell(model), *(cell for group in cells for cell in group)))
    headings = [f"{contest.comparison.data} {contest.metric}".rstrip() for those in contests for contest in those]
    return Grid(
        title=f"Models by data set · {protocol}",
        columns=(Column("model", is_number=False), *map(Column, headings)),
        rows=tuple(rows),
        note=_NOTE + (STARS_MEANING if any(c.mark for those in contests for c in those) else ""),
        is_sortable=True,
        ranks_columns=True,
    )


def _metrics(comparison: Comparison) -> tuple[str, ...]:
    """Return the columns of a data set: its headline metrics; one without a name where nothing finished."""
    return comparison.headlines or ("",)


def _places(comparisons: Sequence[Comparison]) -> dict[str, dict[int, int]]:
    """Return for each model its place among the models of each data set, by the number of the data set."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for index, comparison in enumerate(comparisons):
        for place, model in enumerate(comparison.by_model()):
            found[model][index] = place
    return dict(found)


def _contest(comparison: Comparison, metric: str, members: Found, marks: Marks) -> _Contest:
    """Return the two best of a column; none where it goes the other way than the main metric, of which the best are."""
    scores = [_score(found, metric) for found in members.values()]
    known = sorted({score for score in scores if score is not None}, reverse=comparison.higher_is_better)
    goes_along = metric == comparison.metric or rises_with_quality(metric) == comparison.higher_is_better
    is_contest = len(members) > 1 and goes_along
    best, second = (*known, None, None)[:2] if is_contest else (None, None)
    return _Contest(comparison, metric, best, second, marks.get((comparison.title, metric), ""))


def _score(found: Sequence[Configuration], metric: str) -> float | None:
    """Return the score of the best configuration of a model; None if it failed or has no finite one."""
    best = next((c for c in found if c.succeeded), None)
    return best.score(metric) if best else None


def _cells(found: Sequence[Configuration], contests: Sequence[_Contest]) -> list[Cell]:
    """Return the cells of a model on one data set: scores, the word of a failure, or dashes where it was not run."""
    best = next((c for c in found if c.succeeded), None)
    if best is None:
        word = ", ".join(dict.fromkeys(c.word for c in found))
        first = Cell(word, is_failure=True) if found else Cell(NOTHING)
        return [first, *(Cell(NOTHING) for _ in contests[1:])]
    return [_ranked(best, contest) for contest in contests]


def _ranked(configuration: Configuration, contest: _Contest) -> Cell:
    """Return a score, marked if it is the best or the second of its column."""
    quantity = configuration.quantity(contest.metric)
    cell = scored(quantity, contest.best, with_note=False)
    is_second = cell.value is not None and cell.value == contest.second
    return Cell(cell.text, cell.value, cell.is_best, is_second, note=contest.mark if cell.is_best else "")
