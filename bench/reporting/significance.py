"""How sure a table is: each model against the best, user by user, and by how active the users are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recscale.records.record import RunRecord, rises_with_quality
from recscale.records.statistics import (
    ByUser,
    Paired,
    activity_slices,
    averaged,
    can_be_paired,
    holm,
    paired,
    stars,
)
from recscale.reporting import units
from recscale.reporting.comparisons import Comparison, Configuration
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, named

_DUELS_MEANING = (
    "The best configuration of each model by {metric}, compared with that of the first row over the same {n_users:,} "
    "users. Behind: the mean difference, its 95 % bootstrap interval, and its share of the best. p: two-sided paired "
    "t-test after Holm's correction over this table; *** below .001, ** below .01, * below .05. Effect: the difference "
    "in standard deviations of the users' own differences. Configurations that were chosen by these same users look a "
    "little better than they are; recscale tune chooses by others."
)
_SEEDS_MEANING = " Seeds: the standard deviation of the mean over runs that differ in the seed alone."
_ACTIVITY_MEANING = (
    "{metric} of the best configuration of each model, by how many items the user's history has. Groups are of about "
    "equal numbers; users of one length are never parted."
)
STARS_MEANING = (
    " Stars: the best against the second by a paired t-test over users, corrected by Holm's method over the table (*** "
    "below .001, ** below .01, * below .05)."
)
_LEAST_ROWS = 2


class PerUser(Protocol):
    """Where the vectors over test users are: a store."""

    def by_user(self, record: RunRecord) -> Mapping[str, ByUser]:
        """Return what a record has of each user, by the name of the metric."""
        ...

    def history_sizes(self, record: RunRecord) -> NDArray[np.int32] | None:
        """Return how many items the history of each user (U,) has; None if that is not known."""
        ...


@dataclass(frozen=True)
class UserFigures:
    """Reads the vectors of records, each once; without a source none is known."""

    source: PerUser | None = None
    _kept: dict[tuple[str, str], Mapping[str, ByUser]] = field(default_factory=dict)

    def vector(self, configuration: Configuration, metric: str) -> ByUser | None:
        """Return a metric by user, the mean over runs; None if it is not known of all of them."""
        found = [self._of(record).get(metric) for record in configuration.records]
        known = [vector for vector in found if vector is not None]
        if not known or len(known) < len(found) or len({vector.n_users for vector in known}) > 1:
            return None
        return averaged(known)

    def why_unknown(self, configuration: Configuration, metric: str) -> str:
        """Return why a metric by user is not known of all runs of a configuration."""
        n_runs = len(configuration.records)
        n_known = sum(metric in self._of(record) for record in configuration.records)
        if n_known == n_runs:
            return "its runs are over different users"
        return f"{n_known} of {n_runs} runs have figures by user" if n_known else "no figures by user"

    def history_sizes(self, comparison: Comparison) -> NDArray[np.int32] | None:
        """Return the length of each user's history (U,), the same for all runs of a comparison; None if unknown."""
        if self.source is None:
            return None
        found = (self.source.history_sizes(r) for c in comparison.succeeded for r in c.records[:1])
        return next((sizes for sizes in found if sizes is not None), None)

    def _of(self, record: RunRecord) -> Mapping[str, ByUser]:
        if self.source is None:
            return {}
        run = record.key, record.started_at  # a key is of a job, which several machines may have run
        if run not in self._kept:
            self._kept[run] = self.source.by_user(record)
        return self._kept[run]


def duel_table(comparison: Comparison, figures: UserFigures) -> Grid | None:
    """Return a row for the best configuration of each model, against the best of all; None without vectors of two."""
    metric = comparison.metric
    known = _contenders(comparison, figures)
    if metric is None or len(known) < _LEAST_ROWS:
        return None
    (best, first), *rest = known
    duels = paired(first, [vector for _, vector in rest], higher_is_better=comparison.higher_is_better)
    spreads = any(_spread(configuration, metric) is not None for configuration, _ in known)
    columns = (
        "behind",
        "of the best",
        "p",
        "effect",
        "users better",
        "level",
        "worse",
        *(["seeds"] if spreads else []),
    )
    rows = [(named(best), _mean(first, is_best=True), *[Cell(NOTHING)] * 7)]
    rows += [
        (named(configuration), _mean(vector), *_cells(duel, first.mean()))
        for (configuration, vector), duel in zip(rest, duels, strict=True)
    ]
    if spreads:
        rows = [(*row, _seeds(configuration, metric)) for row, (configuration, _) in zip(rows, known, strict=True)]
    return Grid(
        title="Against the best, user by user",
        columns=(Column("model", is_number=False), Column(metric), *map(Column, columns)),
        rows=tuple(rows),
        note=_DUELS_MEANING.format(metric=metric, n_users=first.n_users)
        + (_SEEDS_MEANING if spreads else "")
        + _left_out(comparison, known, figures),
        is_sortable=True,
    )


def activity_table(comparison: Comparison, figures: UserFigures) -> Grid | None:
    """Return the main metric of each model by the users' activity; None where it is not known, or one group is all."""
    known, sizes = _contenders(comparison, figures), figures.history_sizes(comparison)
    if sizes is None or len(known) < _LEAST_ROWS:
        return None
    known = [(configuration, vector) for configuration, vector in known if vector.n_users == len(sizes)]
    slices = activity_slices(sizes)
    if len(known) < _LEAST_ROWS or len(slices) < _LEAST_ROWS:
        return None
    means = np.array([[vector.mean(s.users) for s in slices] for _, vector in known])  # (models, slices)
    order = np.argsort(-means if comparison.higher_is_better else means, axis=0, kind="stable")
    rows = tuple(
        (
            named(configuration),
            *(
                Cell(units.score(value), float(value), is_best=order[0, j] == i, is_second=order[1, j] == i)
                if np.isfinite(value)
                else Cell(NOTHING)
                for j, value in enumerate(means[i])
            ),
        )
        for i, (configuration, _) in enumerate(known)
    )
    headings = [f"{_span(s.least, s.most)} ({s.n_users:,} users)" for s in slices]
    return Grid(
        title="By the users' activity",
        columns=(Column("model", is_number=False), *map(Column, headings)),
        rows=rows,
        note=_ACTIVITY_MEANING.format(metric=comparison.metric) + _left_out(comparison, known, figures),
        is_sortable=True,
        ranks_columns=True,
    )


def best_against_second(comparisons: Sequence[Comparison], figures: UserFigures) -> dict[tuple[str, str], str]:
    """Return the marks of the best against the second, by comparison title and headline metric, as one family."""
    places, p_values = [], []
    for comparison in comparisons:
        for metric in comparison.headlines:
            duel = _of_the_two_best(comparison, metric, figures)
            if duel is not None:
                places.append((comparison.title, metric))
                p_values.append(duel.p_value)
    adjusted = holm(p_values)
    return {place: stars(p) for place, p in zip(places, adjusted, strict=True)}


def _of_the_two_best(comparison: Comparison, metric: str, figures: UserFigures) -> Paired | None:
    """Return the two best models by a metric, compared; None if there are no two with vectors."""
    rises = rises_with_quality(metric)
    scored = [(c.score(metric), c) for c in _best_of_each(comparison) if c.score(metric) is not None]
    scored.sort(key=lambda pair: pair[0] or 0.0, reverse=rises)
    vectors = [figures.vector(c, metric) for _, c in scored[:2]]
    known = [vector for vector in vectors if vector is not None]
    if len(known) < _LEAST_ROWS or not can_be_paired(*known):
        return None
    return paired(known[0], known[1:], higher_is_better=rises, n_resamples=1)[0]


def _contenders(comparison: Comparison, figures: UserFigures) -> list[tuple[Configuration, ByUser]]:
    """Return the best configuration of each model with its vector, those without left out, the best first."""
    metric = comparison.metric
    if metric is None:
        return []
    found = [(c, figures.vector(c, metric)) for c in _best_of_each(comparison)]
    known = [(c, vector) for c, vector in found if vector is not None]
    return [(c, vector) for c, vector in known if can_be_paired(vector, known[0][1])]


def _best_of_each(comparison: Comparison) -> list[Configuration]:
    """Return the best configuration of each model that finished, the best first."""
    best = [next((c for c in members if c.succeeded), None) for members in comparison.by_model().values()]
    return [c for c in best if c is not None]


def _left_out(comparison: Comparison, known: Sequence[tuple[Configuration, ByUser]], figures: UserFigures) -> str:
    """Return a sentence about the models that finished and are not among those `known`; empty without any."""
    metric, told = comparison.metric or "", []
    for configuration in _best_of_each(comparison):
        if any(configuration is other for other, _ in known):
            continue
        vector = figures.vector(configuration, metric)
        if vector is None:
            reason = figures.why_unknown(configuration, metric)
        elif vector.n_users != known[0][1].n_users:
            reason = f"figures of {vector.n_users:,} users"
        else:
            reason = "fewer than two users in common"
        told.append(f"{configuration.model} ({reason})")
    return f" Left out: {', '.join(told)}." if told else ""


def _cells(duel: Paired, best: float) -> tuple[Cell, ...]:
    share = f"{100 * duel.difference / abs(best):.2g} %" if best else NOTHING
    interval = f"{units.score(duel.low)} to {units.score(duel.high)}"
    return (
        Cell(units.score(duel.difference), duel.difference, note=interval),
        Cell(share, duel.difference / abs(best) if best else None),
        Cell(_probability(duel.adjusted_p_value), duel.adjusted_p_value, note=duel.stars),
        Cell(f"{duel.effect_size:.2f}", duel.effect_size if np.isfinite(duel.effect_size) else None),
        *(Cell(f"{count:,}", count) for count in (duel.losses, duel.ties, duel.wins)),
    )


def _mean(vector: ByUser, *, is_best: bool = False) -> Cell:
    value = vector.mean()
    return Cell(units.score(value), value, is_best=is_best)


def _seeds(configuration: Configuration, metric: str) -> Cell:
    spread = _spread(configuration, metric)
    if spread is None:
        return Cell(NOTHING)
    return Cell(units.score(spread), spread, note=f"{len(configuration.records)} seeds")


def _spread(configuration: Configuration, metric: str) -> float | None:
    quantity = configuration.quantity(metric)
    return quantity.spread if quantity else None


def _probability(p_value: float) -> str:
    return "< .001" if p_value < 0.001 else f"{p_value:.3f}".removeprefix("0")


def _span(least: int, most: int) -> str:
    noun = "item" if most == 1 else "items"
    return f"{least:,} {noun}" if least == most else f"{least:,} to {most:,} {noun}"
