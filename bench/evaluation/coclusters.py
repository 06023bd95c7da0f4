"""The quality of overlapping co-clusters, measured without people.

Co-cluster c has affinities a_ci of items and a_cu of users: larger means more a member, 0 means not one, and negative
numbers count as 0. Every coherence here is a proxy for what people would find in the lists, and automated coherence
can disagree with people (Hoyle et al. 2021, Is Automated Topic Model Evaluation Broken? The Incoherence of Coherence).

Membership rules: `positive` a > 0; `strong` a >= mean + 2 std of that co-cluster's affinities over all entities;
`top1` and `top5` each entity in the co-clusters of its largest, or five largest, affinities, ties included. All of
them ask for a > 0. Members are counted among the users of training, as many as there are; what they are worth is
measured by users that the model never saw.

Axes: I items, U training users, B users with affinities, H held-out users, N co-clusters, G judged (non-degenerate)
co-clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.abilities import CoClustered
from recscale.contract import HeldOut, Options, canonical
from recscale.errors import DataError, UsageError
from recscale.evaluation._coclusters import (
    N_TOP,
    CoOccurrence,
    Interval,
    Popularity,
    best_f1,
    best_jaccard,
    bootstrap,
    credit,
    inside_and_expected,
    mean_jaccard,
    mean_npmi,
    outsiders,
    pattern,
    top_items,
)
from recscale.evaluation._membership import (
    RULES,
    Census,
    Computed,
    Membership,
    Rule,
    checked_affinity,
    non_degenerate,
    ratio,
)

__all__ = [
    "CHANCE", "CUTOFFS", "N_TOP", "POSITIONS", "RULES", "CoClusterReport", "Coherence", "Computed", "Evidence",
    "Interval", "Intrusion", "JudgeOptions", "Overlap", "Recovery", "Rule", "judge", "judge_model", "recovery",
    "stability", "stability_of_lists",
]  # fmt: skip

POSITIONS = (1, 10, 20)
CUTOFFS = (5, 10, 20)
CHANCE = 1 / (len(POSITIONS) + 1)


@dataclass(frozen=True)
class JudgeOptions(Options):
    """How co-clusters are judged.

    A co-cluster is non-degenerate with at least `min_users` users and `min_items` items. Those that are so under
    `rule` are judged. The intrusion task shows `n_groups` of them at most, finds intruders among at least
    `min_candidates` items and, where fewer than that have no affinity, outside the `soft_rank` first items, or the
    first half of a small catalogue. `association` is its oracle; `n_random` the random sets for each co-cluster.

    Random sets hold items of the same of `n_bins` bins of the catalogue by popularity; None: bins of ten items. Deciles
    would be wide where the head is steep: on debian-depends sets drawn and ranked by popularity alone have an excess
    NPMI at 5 of 0.92 with 10 bins, 0.42 with 400 and 0.01 with 1,000, of 9 items each.
    """

    rule: Rule = "positive"
    min_users: Annotated[int, Meta(ge=1)] = 20
    min_items: Annotated[int, Meta(ge=1)] = 20
    n_groups: Annotated[int, Meta(ge=1)] = 100
    association: Literal["npmi", "cosine"] = "npmi"
    min_candidates: Annotated[int, Meta(ge=1)] = 20
    soft_rank: Annotated[int, Meta(ge=N_TOP)] = 1000
    n_random: Annotated[int, Meta(ge=1)] = 3
    n_bins: Annotated[int, Meta(ge=1)] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What co-clusters are judged by.

    `reference` holds users that the model never saw; who occurs with whom is read from it. `popularity` counts each
    item in training. `interactions` are those of the users with affinities; None: they are the users of `reference`.
    `members` are the affinities of the users who are counted, as an array or, for many, `Computed` block by block;
    None: they are the users with affinities.
    """

    reference: sp.csr_array  # (H, I)
    popularity: NDArray[Any]  # (I,)
    interactions: sp.csr_array | None = None  # (B, I)
    members: Any = None  # (U, N)


@dataclass(frozen=True, eq=False)
class Intrusion:
    """The intrusion task: which of four items does not belong to the other three?

    After Chang et al. 2009 (Reading Tea Leaves), the answer being a machine's (Lau, Newman and Baldwin 2014). `shown`
    has the items at positions 1, 10 and 20 of a co-cluster and then the intruder, of about their mean popularity:
    within the share `windows` of it, 0.1 or, where that holds too few candidates, that of the nearest. The answer is
    the item least associated with the others; `credits` is 1 if that is the intruder, 1/t if it is one of t tied.
    `random` is the precision where the three are random items of their popularity bins. It need not be CHANCE: the
    mean of three skewed popularities is above most, and rare items have less association (0.23, measured).
    """

    precision: Interval  # 0 to 1; CHANCE is 0.25
    random: float
    skipped: Mapping[str, int]  # reason -> co-clusters that were drawn and could not be shown
    clusters: NDArray[np.int64]  # (n_groups,)
    shown: NDArray[np.int64]  # (n_groups, 4)
    credits: NDArray[np.float64]  # (n_groups,)
    windows: NDArray[np.float64]  # (n_groups,)


@dataclass(frozen=True, eq=False)
class Coherence:
    """NPMI among the first k items (Bouma 2009; for topics Lau, Newman and Baldwin 2014), -1 to 1.

    Means over pairs, then over co-clusters with k items. `random` is that of sets of the same popularity bins.
    """

    value: float
    random: float
    excess: Interval  # value - random
    per_cluster: NDArray[np.float64]  # (G,) NaN where there are not k items


@dataclass(frozen=True)
class Overlap:
    """How much the lists of the 20 first items are alike; NaN where there are too few lists."""

    mean_jaccard: float  # over all pairs of lists, 0 to 1
    distinct_share: float  # different items over listed items, 0 to 1


@dataclass(frozen=True)
class Recovery:
    """Best-match F1 of found and planted sets, 0 to 1 (Yang and Leskovec 2013).

    `of_truth` is the mean over true sets of the F1 with the best found one, `of_found` the other way round over found
    sets that are not empty, `f1` the mean of both; `baseline` the `f1` of random sets of the sizes of the found ones.
    """

    f1: float
    of_truth: float
    of_found: float
    baseline: float


@dataclass(frozen=True, eq=False)
class CoClusterReport:
    """What the co-clusters of a model are worth; NaN for what could not be measured.

    A dead co-cluster has no item or no user with a positive affinity. The effective numbers are exp(entropy) of the
    shares that co-clusters have in the sum of all affinities. `lift` is, inside a co-cluster, the number of
    interactions over that expected under the configuration model, k_u k_i / m, as in Barber's modularity of bipartite
    networks (2007): above 1 is denser than chance; mean over co-clusters, and `pooled_lift` the ratio of the sums.
    """

    n_coclusters: int
    n_dead: int
    n_judged: int
    n_nondegenerate: Mapping[Rule, int]
    item_positive_share: float
    user_positive_share: float
    item_effective_number: float
    user_effective_number: float
    intrusion: Intrusion
    coherence: Mapping[int, Coherence]  # by cut-off
    overlap: Overlap
    lift: Interval
    pooled_lift: float
    top_items: NDArray[np.int64]  # (N, 20) the first items of every co-cluster, -1 for none

    def as_record(self) -> dict[str, float]:
        """Return one level of numbers by name; what could not be measured is left out."""
        row: dict[str, float] = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        row |= {f"n_nondegenerate_{rule}": count for rule, count in self.n_nondegenerate.items()}
        row |= self.intrusion.precision.named("intrusion_precision") | {"intrusion_chance": CHANCE}
        row["intrusion_precision_random"] = self.intrusion.random
        row["n_intrusion_groups"] = self.intrusion.clusters.size
        row |= {f"n_intrusion_skipped_{reason}": count for reason, count in self.intrusion.skipped.items()}
        for k, coherence in self.coherence.items():
            row |= {f"npmi@{k}": coherence.value, f"npmi_random@{k}": coherence.random}
            row |= coherence.excess.named(f"npmi_excess@{k}")
        row[f"mean_jaccard@{N_TOP}"] = self.overlap.mean_jaccard
        row[f"distinct_share@{N_TOP}"] = self.overlap.distinct_share
        row |= self.lift.named("lift")
        return {f"cocluster.{name}": float(value) for name, value in row.items() if not np.isnan(value)}


@dataclass(frozen=True, eq=False)
class _Case:
    """Checked input: which co-clusters are judged, and by what."""

    items: NDArray[np.float32]  # (I, N)
    judged: NDArray[np.int64]  # (G,)
    tops: NDArray[np.int64]  # (G, 20) the first items of the judged, -1 for none
    popularity: Popularity
    together: CoOccurrence
    options: JudgeOptions


def judge(
    item_affinity: Any,
    user_affinity: Any,
    evidence: Evidence,
    seed: int = 0,
    options: JudgeOptions = JudgeOptions(),
) -> CoClusterReport:
    """Measure co-clusters given by `item_affinity` (I, N) and `user_affinity` (B, N).

    The same `seed` gives the same report. Beyond the input (affinities that are not float32 are copied), memory is
    about twice that of the evidence and a few blocks of 64 MiB.
    Raises DataError for NaN or infinite affinities, shapes that do not match, a reference without interactions and
    popularities that are negative or not finite. No co-cluster at all, or only degenerate ones, is a result.
    """
    items, users = checked_affinity(item_affinity, "items"), checked_affinity(user_affinity, "users")
    if items.shape[1] != users.shape[1]:
        raise DataError(f"items have {items.shape[1]} co-clusters and users {users.shape[1]}; expected as many")
    reference = pattern(evidence.reference, "the reference", (None, len(items)))
    interactions = _interactions(evidence, reference, (len(users), len(items)))
    members = users if evidence.members is None else evidence.members
    members = members if isinstance(members, Computed) else checked_affinity(members, "users")
    of_items, of_users = Census.of(items, items.shape[1]), Census.of(members, items.shape[1])
    good = non_degenerate(of_items, of_users, options.min_items, options.min_users)
    judged = good[options.rule]
    every_top = top_items(items, np.arange(items.shape[1]), N_TOP)
    tops = every_top[judged]
    listed = tops[tops >= 0]
    popularity = Popularity.of(evidence.popularity, len(items), options.n_bins or max(1, len(items) // 10))
    case = _Case(items, judged, tops, popularity, CoOccurrence.of(reference), options)
    streams = np.random.default_rng(seed).spawn(3)  # one for each measure, so that none depends on another
    item_sets = Membership.under(options.rule, items, of_items.strong)
    user_sets = Membership.under(options.rule, users, of_users.strong)
    inside, expected = inside_and_expected(item_sets, user_sets, judged, interactions)
    dead = (of_items.sizes["positive"] == 0) | (of_users.sizes["positive"] == 0)
    return CoClusterReport(
        n_coclusters=items.shape[1],
        n_dead=int(np.count_nonzero(dead)),
        n_judged=judged.size,
        n_nondegenerate={rule: clusters.size for rule, clusters in good.items()},
        item_positive_share=of_items.positive_share,
        user_positive_share=of_users.positive_share,
        item_effective_number=of_items.effective_number,
        user_effective_number=of_users.effective_number,
        intrusion=_intrusion(case, streams[0]),
        coherence=_coherence(case, streams[1]),
        overlap=Overlap(mean_jaccard(tops), ratio(np.unique(listed).size, listed.size)),
        lift=bootstrap(inside[expected > 0] / expected[expected > 0], streams[2]),
        pooled_lift=ratio(inside.sum(), expected.sum()),
        top_items=every_top,
    )


def judge_model(
    model: CoClustered,
    train: sp.csr_array,
    held_out: HeldOut,
    seed: int = 0,
    options: JudgeOptions = JudgeOptions(),
) -> CoClusterReport:
    """Judge the co-clusters of a fitted model by users that it never saw.

    The users of co-clusters who are counted are those of `train` (U, I), folded in as any user is. What occurs together
    is read from histories and targets of the held-out ones, the lift from their targets alone, which no affinity has
    seen; popularity from `train`. Raises DataError as `judge` does.
    """
    known = canonical(train)
    evidence = held_out_evidence(known, held_out, Computed(model.user_affinity, known))
    return judge(model.item_affinity(), model.user_affinity(held_out.history), evidence, seed, options)


def held_out_evidence(train: sp.csr_array, held_out: HeldOut, members: Any) -> Evidence:
    """Return what held-out users (B, I) show of co-clusters with those `members`; popularity is that of `train`."""
    popularity = np.bincount(train.indices, minlength=train.shape[1])
    return Evidence(canonical(held_out.history + held_out.target), popularity, held_out.target, members)


def _interactions(evidence: Evidence, reference: sp.csr_array, shape: tuple[int, int]) -> sp.csr_array:
    """Return the interactions of the users with affinities. Raises DataError if the users do not match."""
    if evidence.interactions is not None:
        return pattern(evidence.interactions, "the matrix of interactions", shape)
    if reference.shape[0] != shape[0]:
        raise DataError(
            f"{shape[0]} users have affinities and the reference has {reference.shape[0]} users; expected the same "
            "ones, or the interactions of the former as well: Evidence(..., interactions=...)"
        )
    return reference


def _intrusion(case: _Case, rng: np.random.Generator) -> Intrusion:
    """Show judged co-clusters in random order until there are `n_groups`, or none is left."""
    options, skipped = case.options, {"too_few_items": 0, "no_outsider": 0}
    associate = case.together.npmi if options.association == "npmi" else case.together.cosine
    clusters: list[int] = []
    lists, credits, windows, random = [], [], [], []
    for g in rng.permutation(case.judged.size):
        if len(clusters) == options.n_groups:
            break
        if case.tops[g, -1] < 0:
            skipped["too_few_items"] += 1
            continue
        inside = case.tops[g, np.array(POSITIONS) - 1]
        outside = outsiders(case.items[:, case.judged[g]], options.min_candidates, options.soft_rank)
        if outside.size < options.min_candidates:
            skipped["no_outsider"] += 1
            continue
        shown, window = case.popularity.question(inside, outside, options.min_candidates, rng)
        clusters.append(int(case.judged[g]))
        lists.append(shown)
        credits.append(credit(associate(shown)))
        windows.append(window)
        others = case.popularity.matched(inside, rng)
        outside = np.delete(np.arange(len(case.items)), others)
        shown, _ = case.popularity.question(others, outside, options.min_candidates, rng)
        random.append(credit(associate(shown)))
    return Intrusion(
        precision=bootstrap(np.array(credits), rng),
        random=ratio(sum(random), len(random)),
        skipped=skipped,
        clusters=np.array(clusters, np.int64),
        shown=np.array(lists, np.int64).reshape(-1, len(POSITIONS) + 1),
        credits=np.array(credits),
        windows=np.array(windows),
    )


def _coherence(case: _Case, rng: np.random.Generator) -> dict[int, Coherence]:
    """Measure NPMI at each cut-off, and that of random sets of the same popularity."""
    found = np.full((case.judged.size, len(CUTOFFS)), np.nan)
    random = np.full_like(found, np.nan)
    for g, top in enumerate(case.tops):
        items = top[top >= 0]
        found[g] = mean_npmi(case.together, items, CUTOFFS)
        drawn = (case.popularity.matched(items, rng) for _ in range(case.options.n_random))
        random[g] = np.mean([mean_npmi(case.together, other, CUTOFFS) for other in drawn], axis=0)
    result = {}
    for column, k in enumerate(CUTOFFS):
        known = ~np.isnan(found[:, column])
        value, baseline = found[known, column], random[known, column]
        means = (ratio(value.sum(), value.size), ratio(baseline.sum(), baseline.size))
        result[k] = Coherence(*means, bootstrap(value - baseline, rng), found[:, column].copy())
    return result


def stability(one: Any, other: Any, n_top: int = N_TOP) -> float:
    """Return how far two fits found the same co-clusters, 0 to 1.

    The item affinities (I, N) of two fits give lists of the `n_top` first items; the mean of the best Jaccard index of
    each list with one of the other fit, both ways. NaN if a fit has no positive affinity. Raises DataError, UsageError.
    """
    if n_top < 1:
        raise UsageError(f"n_top={n_top!r} does not fit: expected at least 1")
    fits = checked_affinity(one, "items"), checked_affinity(other, "items")
    if len(fits[0]) != len(fits[1]):
        raise DataError(f"one fit has {len(fits[0])} items and the other {len(fits[1])}; expected as many")
    return stability_of_lists(*(top_items(fit, np.arange(fit.shape[1]), n_top) for fit in fits))


def stability_of_lists(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Return the stability of two fits from the first items (N, n) of their co-clusters; NaN if one has no item."""
    left, right = (lists[lists[:, 0] >= 0] for lists in (one, other))
    return best_jaccard(left, right) if len(left) and len(right) else float("nan")


def recovery(affinity: Any, truth: Any, rule: Rule = "positive", seed: int = 0) -> Recovery:
    """Hold co-clusters of items, or of users, found as `affinity` (E, N), against `truth` (E, T), dense or sparse.

    Entities belong to a true co-cluster where `truth` is positive, and to a found one under `rule`; empty sets are
    left out. Raises DataError if there is no true co-cluster or the entities differ, UnknownName for the rule.
    """
    found = Membership.under(rule, checked_affinity(affinity, "entities"))
    if np.ndim(truth) != 2 or truth.shape[0] != len(found.affinity):
        raise DataError(f"a truth of the shape {np.shape(truth)} does not go with {len(found.affinity)} entities")
    planted = sp.csr_array(sp.csr_array(truth) > 0).astype(np.float32).T.tocsr()  # (T, E)
    planted = planted[np.diff(planted.indptr) > 0]
    if not planted.shape[0]:
        raise DataError("the truth holds no co-cluster with a member; expected one at least")
    of_truth, of_found = best_f1(found, planted)
    baseline = sum(best_f1(found, planted, np.random.default_rng(seed))) / 2
    return Recovery((of_truth + of_found) / 2, of_truth, of_found, baseline)
