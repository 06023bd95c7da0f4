"""What co-clusters are worth and what they hold: the tables beside figure 5, and table 4, of the ELFM paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recscale.records.record import RunRecord
from recscale.reporting import units
from recscale.reporting.comparisons import Comparison, Configuration
from recscale.reporting.tables import NOTHING, Cell, Column, Grid, named, written

RULES = ("positive", "strong", "top1", "top5")  # of membership, in the order of the records
CLUSTERING = " clustering"  # behind the name of a model whose vectors were clustered
PROXY = (
    "These measures are automated proxies for the study with people in the ELFM paper (Yang et al. 2021); automated "
    "coherence can disagree with people (Hoyle et al. 2021, Is Automated Topic Model Evaluation Broken?)."
)
_PREFIX = "cocluster."
_CUTOFFS = (5, 10, 20)
_MEANING = (
    "A member has an affinity above 0 (positive), two standard deviations over the mean of its co-cluster (strong), or "
    "has the co-cluster among its one or five likeliest (top1, top5); non-degenerate is one with enough users and "
    "items, 20 of each unless asked otherwise. The intrusion task is to find, of four items, the one that does not "
    "belong. Random sets are of the same popularity; the number with a sign is the NPMI over theirs. Lift is density "
    "over that expected by chance. Stability is the mean, over co-clusters, of the best Jaccard index of the 20 first "
    "items with those of a co-cluster of another seed. Brackets are 95 % intervals over co-clusters."
)
_EXAMPLES_MEANING = (
    "The likeliest co-clusters of some test users and the first items of each, in the manner of table 4 of the ELFM "
    "paper, by the best configuration of each model. A user is a row of the test part."
)
Write = Callable[[float], str]
Stability = Callable[[Sequence[RunRecord]], tuple[float | None, int]]


def not_known(records: Sequence[RunRecord]) -> tuple[None, int]:
    """Know no stability: the default where there is no store to look into."""
    return None, 0


@dataclass(frozen=True)
class Judged:
    """The best configuration of a model that has co-clusters of one source, its own or those of its vectors."""

    name: str  # ELFM, WRMF clustering
    configuration: Configuration

    def read(self, name: str) -> float | None:
        """Return a measure of the co-clusters, the mean over runs; None if it was not measured or is not finite."""
        value = self.configuration.mean(lambda record: record.coclusters.get(_PREFIX + name))
        return value if value is not None and math.isfinite(value) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the ends of the interval of a measure, the means over runs."""
        low, high = self.read(f"{name}_low"), self.read(f"{name}_high")
        return None if low is None or high is None else (low, high)


def judged(comparison: Comparison) -> list[Judged]:
    """Return the models whose co-clusters were measured, in the order of the table."""
    return _with(comparison, lambda record: bool(record.coclusters))


def cocluster_table(comparison: Comparison, stability: Stability = not_known) -> Grid | None:
    """Return a row for each model with co-clusters; None if there is none.

    `stability` says how alike the co-clusters of the runs of a configuration are, and of how many of them it knows.
    """
    rows = judged(comparison)
    if not rows:
        return None
    headings = (
        "co-clusters", "dead", *(f"non-degenerate, {rule}" for rule in RULES), "intrusion precision",
        "intrusion precision of random sets", *(f"NPMI@{k}, excess" for k in _CUTOFFS), "mean Jaccard of lists",
        "distinct items in lists", "stability over seeds", "lift", "items above 0", "users above 0",
    )  # fmt: skip
    return Grid(
        title="Co-clusters",
        columns=(Column("model", is_number=False), *map(Column, headings)),
        rows=tuple(_row(row, stability) for row in rows),
        note=f"{PROXY} {_MEANING}",
        is_sortable=True,
    )


def example_table(comparison: Comparison) -> Grid | None:
    """Return the co-clusters of some users and their first items; None if no record has any."""
    rows = []
    for place, found in enumerate(_with(comparison, lambda record: bool(record.cocluster_examples))):
        examples = next(r.cocluster_examples for r in found.configuration.records if r.cocluster_examples)
        for example in examples:
            cells = (
                Cell(str(example.user)),
                Cell(found.name),
                Cell(str(example.cluster)),
                Cell(_three(example.affinity)),
                Cell(" · ".join(example.items) or NOTHING),
            )
            rows.append(((example.user, place, -example.affinity), cells))
    if not rows:
        return None
    headings = (Column("user"), Column("model", is_number=False), Column("co-cluster"), Column("affinity"))
    return Grid(
        title="Example co-clusters",
        columns=(*headings, Column("first items", is_number=False, is_long=True)),
        rows=tuple(cells for _, cells in sorted(rows, key=lambda row: row[0])),
        note=_EXAMPLES_MEANING,
    )


def _with(comparison: Comparison, has: Callable[[RunRecord], bool]) -> list[Judged]:
    """Return for each model and source the best configuration of which a record has what is asked for."""
    found: dict[tuple[str, bool], Judged] = {}
    for configuration in comparison.succeeded:  # the best come first
        record = next(filter(has, configuration.records), None)
        if record is not None:
            is_clustering = record.cocluster_source == "clustering"
            name = configuration.title + (CLUSTERING if is_clustering else "")
            found.setdefault((configuration.model, is_clustering), Judged(name, configuration))
    return list(found.values())


def _row(row: Judged, stability: Stability) -> tuple[Cell, ...]:
    counts = ["n_coclusters", "n_dead", *(f"n_nondegenerate_{rule}" for rule in RULES)]
    groups = row.read("n_intrusion_groups")
    return (
        named(row.configuration, row.name),
        *(written(row.read(name), _count) for name in counts),
        _bounded(row, "intrusion_precision", _three, f", {_count(groups)} shown" if groups else ""),
        written(row.read("intrusion_precision_random"), _three),
        *(_npmi(row, k) for k in _CUTOFFS),
        written(row.read("mean_jaccard@20"), _three),
        written(row.read("distinct_share@20"), _percent),
        _stability(row, stability),
        _bounded(row, "lift", units.count),
        written(row.read("item_positive_share"), _percent),
        written(row.read("user_positive_share"), _percent),
    )


def _bounded(row: Judged, name: str, write: Write, more: str = "") -> Cell:
    """Return a measure with its interval as the note."""
    ends = row.interval(name)
    return written(row.read(name), write, f"{_brackets(ends, write)}{more}" if ends else "")


def _npmi(row: Judged, k: int) -> Cell:
    """Return the coherence of the first k items, and its excess over random sets with its interval as the note."""
    excess, ends = row.read(f"npmi_excess@{k}"), row.interval(f"npmi_excess@{k}")
    parts = [f"{excess:+.3f}" if excess is not None else "", _brackets(ends, _three) if ends else ""]
    return written(row.read(f"npmi@{k}"), _three, " ".join(filter(None, parts)))


def _stability(row: Judged, stability: Stability) -> Cell:
    """Return how alike the co-clusters of two seeds are, with the number of seeds as the note."""
    value, n_seeds = stability(row.configuration.records)
    return written(value, _three, "" if value is None else f"{n_seeds} seeds")


def _brackets(ends: tuple[float, float], write: Write) -> str:
    return f"[{write(ends[0])}, {write(ends[1])}]"


def _three(value: float) -> str:
    """Return a number with three decimals, or three digits where it is large."""
    return f"{value:.3f}" if abs(value) < 100 else units.count(value)


def _count(value: float) -> str:
    """Return a whole number, or a mean over runs with one decimal."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
