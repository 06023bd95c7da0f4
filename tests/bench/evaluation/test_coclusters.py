"""Each measure of co-clusters against plain loops over users and items, and on data whose answer is known."""

import dataclasses
import itertools
import json
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import CoClustered
from recscale.contract import HeldOut
from recscale.datasets.planted import PlantedCoClusters
from recscale.errors import DataError, UnknownName, UsageError
from recscale.evaluation import _membership, coclusters
from recscale.evaluation._coclusters import CoOccurrence, Popularity, bootstrap, credit
from recscale.evaluation._membership import Census, Computed
from recscale.evaluation.coclusters import (
    RULES,
    Evidence,
    JudgeOptions,
    judge,
    judge_model,
    recovery,
    stability,
)
from recscale.evaluation.likeliest import likeliest

N_ITEMS, N_USERS, N_CLUSTERS = 240, 90, 7


def _affinities(rng, n_entities, n_clusters, share):
    """Return distinct affinities, a `share` of them positive, some negative, the last co-cluster small."""
    values = rng.random((n_entities, n_clusters)) * (rng.random((n_entities, n_clusters)) < share)
    values -= 0.1 * (rng.random(values.shape) < 0.1)
    values[10:, -1] = 0
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def case():
    """Affinities and interactions without any structure: what a formula gives on them has no round value."""
    rng = np.random.default_rng(3)
    popularity = rng.integers(1, 60, N_ITEMS)
    chance = 0.5 * popularity / popularity.max()
    reference = sp.csr_array((rng.random((N_USERS, N_ITEMS)) < chance).astype(np.float32))
    return SimpleNamespace(
        items=_affinities(rng, N_ITEMS, N_CLUSTERS, 0.4),
        users=_affinities(rng, N_USERS, N_CLUSTERS, 0.5),
        evidence=Evidence(reference, popularity),
        users_of=[set(reference[:, [item]].nonzero()[0].tolist()) for item in range(N_ITEMS)],
    )


@pytest.fixture(scope="module")
def planted():
    """Twenty planted co-clusters: the last third of the users are held out."""
    source = PlantedCoClusters(n_users=2400, n_items=1000, n_interactions=48_000, n_clusters=20, noise=0.1)
    dataset = source.load()
    train, reference = dataset.interactions[:1600], dataset.interactions[1600:]
    popularity = np.asarray(train.sum(axis=0))
    members = dataset.truth["item_membership"].toarray()
    return SimpleNamespace(
        items=members * np.log1p(popularity)[:, None],
        users=dataset.truth["user_membership"].toarray()[1600:],
        evidence=Evidence(reference, popularity),
        truth=dataset.truth,
    )


def _judge(case, seed=0, **options):
    return judge(case.items, case.users, case.evidence, seed, JudgeOptions(**options))


def _members(affinity, rule):
    """Return the members of each co-cluster as sets, one entity after another."""
    values = np.maximum(affinity.astype(np.float64), 0)
    sets = [set() for _ in range(values.shape[1])]
    for e, row in enumerate(values):
        for c, value in enumerate(row):
            column = values[:, c]
            belongs = {
                "positive": True,
                "strong": value >= column.mean() + 2 * column.std() - 1e-7,
                "top1": value >= max(row),
                "top5": value >= sorted(row)[max(0, len(row) - 5)],
            }[rule]
            if value > 0 and belongs:
                sets[c].add(e)
    return sets


def _first(affinity, cluster, n):
    """Return the n items of largest positive affinity, where no two are equal."""
    ranked = sorted(range(len(affinity)), key=lambda item: -affinity[item, cluster])
    return [item for item in ranked[:n] if affinity[item, cluster] > 0]


def _npmi(users_of, i, j, n_users):
    both = len(users_of[i] & users_of[j])
    if both in (0, n_users):
        return -1.0 if both == 0 else 1.0
    p_i, p_j, p_both = ((n + 1 / n_users) / (n_users + 1 / n_users) for n in (len(users_of[i]), len(users_of[j]), both))
    return math.log(p_both / (p_i * p_j)) / -math.log(p_both)


def _cosine(users_of, i, j, n_users):
    both = len(users_of[i] & users_of[j])
    return both / math.sqrt(len(users_of[i]) * len(users_of[j])) if both else 0.0


def _mean_over_pairs(function, items):
    pairs = [(i, j) for place, i in enumerate(items) for j in items[:place]]
    return sum(function(i, j) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("rule", RULES)
def test_non_degenerate_coclusters_are_counted_as_by_one_loop_over_entities(case, rule):
    report = _judge(case, min_items=17, min_users=9)

    items, users = _members(case.items, rule), _members(case.users, rule)

    expected = sum(len(i) >= 17 and len(u) >= 9 for i, u in zip(items, users, strict=True))
    assert report.n_nondegenerate[rule] == expected
    assert np.array_equal(Census.of(case.items, N_CLUSTERS).sizes[rule], [len(s) for s in items])
    assert np.array_equal(Census.of(case.users, N_CLUSTERS).sizes[rule], [len(s) for s in users])


def test_sparsity_effective_number_and_dead_ones_are_those_of_plain_formulas(case):
    items = np.column_stack((case.items, np.zeros(N_ITEMS), case.items[:, 0]))
    users = np.column_stack((case.users, case.users[:, 0], -np.ones(N_USERS)))

    report = judge(items, users, case.evidence)

    mass = [sum(max(float(a), 0) for a in column) for column in items.T]
    shares = [m / sum(mass) for m in mass if m > 0]
    assert report.n_coclusters == N_CLUSTERS + 2
    assert report.top_items.shape == (N_CLUSTERS + 2, 20)
    assert [report.top_items[c, 0] for c in (0, 1)] == [_first(items, c, 1)[0] for c in (0, 1)]
    assert set(report.top_items[N_CLUSTERS]) == {-1}
    assert report.n_dead == 2
    assert report.item_positive_share == pytest.approx((items > 0).mean())
    assert report.user_positive_share == pytest.approx((users > 0).mean())
    assert report.item_effective_number == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


@pytest.mark.parametrize(("mass", "expected"), [([2, 2, 2, 0], 3), ([5, 0], 1), ([0, 0], 0), ([], 0)])
def test_effective_number_of_even_masses_is_their_number(mass, expected):
    assert _membership.effective_number(np.array(mass, float)) == pytest.approx(expected)


def test_a_share_of_one_fifth_of_ones_is_strong_although_rounding_could_say_otherwise():
    affinity = np.zeros((200, 40), np.float32)
    for c in range(40):
        affinity[c : c + 40, c] = 0.1 * (c + 1)  # mean + 2 std is the largest value itself

    assert np.all(_membership.Membership.under("strong", affinity).sizes() == 40)


def test_entities_belong_to_all_of_their_tied_best_coclusters():
    affinity = np.array([[1, 1, 0], [0, 2, 1], [0, 0, 0]], np.float32)

    assert _membership.Membership.under("top1", affinity).sizes().tolist() == [1, 2, 0]
    assert _membership.Membership.under("top5", affinity).sizes().tolist() == [1, 2, 1]


@pytest.mark.parametrize(("association", "oracle"), [("npmi", _npmi), ("cosine", _cosine)])
def test_every_intrusion_question_keeps_the_rules_and_earns_what_a_loop_says(case, association, oracle):
    intrusion = _judge(case, association=association).intrusion

    popularity = case.evidence.popularity
    assert sorted(intrusion.clusters) == list(range(N_CLUSTERS - 1))
    for cluster, shown, earned, window in zip(
        intrusion.clusters, intrusion.shown, intrusion.credits, intrusion.windows, strict=True
    ):
        first = _first(case.items, cluster, 20)
        mean = popularity[shown[:3]].mean()
        outside = [i for i in range(N_ITEMS) if case.items[i, cluster] <= 0]
        near = [i for i in outside if abs(popularity[i] - mean) <= (window + 1e-9) * mean]
        sums = [sum(oracle(case.users_of, i, j, N_USERS) for j in shown if j != i) for i in shown]
        tied = [place for place, total in enumerate(sums) if total <= min(sums) + 1e-9]
        assert shown[:3].tolist() == [first[0], first[9], first[19]]
        assert shown[3] in near
        assert len(near) >= 20
        assert window == 0.1 or sum(abs(popularity[i] - mean) < (window - 1e-9) * mean for i in outside) < 20
        assert earned == pytest.approx((3 in tied) / len(tied))
    assert min(intrusion.windows) == 0.1 < max(intrusion.windows)
    assert intrusion.precision.value == pytest.approx(np.mean(intrusion.credits))
    assert intrusion.precision.low <= intrusion.precision.value <= intrusion.precision.high


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.7}, 1),
        ({(0, 1): 0.9, (0, 3): 0.8, (1, 3): 0.7}, 0),
        ({(0, 1): 0.5}, 1 / 2),
        ({}, 1 / 4),
        ({(0, 1): 0.1, (1, 2): 0.3, (0, 2): 0.2, (0, 3): 0.4}, 1 / 2),
    ],
)
def test_credit_is_what_was_worked_by_hand(pairs, expected):
    association = np.eye(4)
    for (i, j), value in pairs.items():
        association[i, j] = association[j, i] = value

    assert credit(association) == expected


def test_intruders_of_soft_affinities_come_from_beyond_the_first_items(case):
    soft = np.abs(case.items) + 0.01 + np.arange(N_ITEMS)[:, None] * 1e-6
    users = np.abs(case.users) + 0.01

    for options, depth in ((JudgeOptions(), N_ITEMS // 2), (JudgeOptions(soft_rank=50), 50)):
        places = []
        for seed in range(20):
            intrusion = judge(soft, users, case.evidence, seed, options).intrusion
            for cluster, shown in zip(intrusion.clusters, intrusion.shown, strict=True):
                places.append(_first(soft, cluster, N_ITEMS).index(shown[3]))

        assert len(places) == 20 * N_CLUSTERS
        assert depth <= min(places) < depth + 15


def test_what_cannot_be_shown_is_skipped_and_counted_by_reason(case):
    few = _judge(case, min_items=5, min_users=1).intrusion
    none = _judge(case, min_candidates=200, soft_rank=60).intrusion
    some = _judge(case, n_groups=2).intrusion

    assert few.skipped == {"too_few_items": 1, "no_outsider": 0}
    assert none.skipped == {"too_few_items": 0, "no_outsider": N_CLUSTERS - 1}
    assert none.clusters.size == 0
    assert math.isnan(none.precision.value)
    assert some.clusters.size == 2


def test_coherence_is_that_of_a_loop_over_users_and_pairs(case, monkeypatch):
    drawn, draw = [], Popularity.matched
    monkeypatch.setattr(Popularity, "matched", lambda *given: drawn.append(draw(*given)) or drawn[-1])

    report = _judge(case, n_random=2)

    def npmi(i, j):
        return _npmi(case.users_of, i, j, N_USERS)

    for k in (5, 10, 20):
        found = [_mean_over_pairs(npmi, _first(case.items, c, k)) for c in range(N_CLUSTERS - 1)]
        random = [_mean_over_pairs(npmi, items[:k].tolist()) for items in drawn if items.size == 20]
        coherence = report.coherence[k]
        assert np.allclose(coherence.per_cluster, found)
        assert coherence.value == pytest.approx(np.mean(found))
        assert coherence.random == pytest.approx(np.mean(random))
        assert coherence.excess.value == pytest.approx(np.mean(found) - np.mean(random))
    assert sum(items.size == 20 for items in drawn) == 2 * (N_CLUSTERS - 1)


def test_random_sets_hold_different_items_of_the_bins_asked_for():
    rng = np.random.default_rng(0)
    popularity = Popularity.of(rng.integers(0, 5, 205), 205, 10)
    items = rng.choice(205, 20, replace=False)

    drawn = popularity.matched(items, rng)

    assert popularity.bin[drawn].tolist() == popularity.bin[items].tolist()
    assert np.unique(drawn).size == 20
    assert not np.array_equal(drawn, items)
    assert {bin.size for bin in popularity.bins} == {20, 21}
    for low, high in itertools.pairwise(popularity.bins):
        assert popularity.counts[low].max() <= popularity.counts[high].min()


def test_npmi_has_the_values_worked_by_hand():
    rows = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    together = CoOccurrence.of(sp.csr_array(np.vstack([rows] * 50), dtype=np.float64))

    npmi = together.npmi(np.arange(5))

    assert npmi[0, 1] == pytest.approx(0, abs=1e-4)  # everybody has item 0
    assert npmi[1, 2] == pytest.approx(0, abs=1e-4)  # 1/2 and 1/2 give 1/4
    assert npmi[1, 3] == pytest.approx(math.log(2) / math.log(4), abs=1e-4)
    assert npmi[0, 0] == 1  # all users have both
    assert npmi[3, 3] == pytest.approx(1)  # one never without the other
    assert npmi[1, 4] == -1  # no user has both
    assert together.cosine(np.arange(5))[1].tolist() == pytest.approx([0.5**0.5, 1, 0.5, 0.5**0.5, 0])


def test_overlap_is_that_of_a_loop_over_pairs_of_lists(case):
    overlap = _judge(case).overlap

    lists = [set(_first(case.items, c, 20)) for c in range(N_CLUSTERS - 1)]
    pairs = [len(a & b) / len(a | b) for place, a in enumerate(lists) for b in lists[:place]]
    assert overlap.mean_jaccard == pytest.approx(np.mean(pairs))
    assert overlap.distinct_share == pytest.approx(len(set.union(*lists)) / sum(map(len, lists)))


def test_lists_that_are_all_the_same_overlap_wholly(case):
    items, users = np.repeat(case.items[:, :1], 4, axis=1), np.repeat(case.users[:, :1], 4, axis=1)

    report = judge(items, users, case.evidence)

    assert report.overlap.mean_jaccard == pytest.approx(1)
    assert report.overlap.distinct_share == 1 / 4


@pytest.mark.parametrize("rule", RULES)
def test_lift_is_that_of_a_loop_over_interactions(case, rule):
    rng = np.random.default_rng(8)
    other = sp.csr_array((rng.random((N_USERS, N_ITEMS)) < 0.05).astype(np.float32))
    evidence = dataclasses.replace(case.evidence, interactions=other)

    report = judge(case.items, case.users, evidence, options=JudgeOptions(rule=rule, min_items=5, min_users=2))

    items, users = _members(case.items, rule), _members(case.users, rule)
    entries = list(zip(*(axis.tolist() for axis in other.nonzero()), strict=True))
    inside, expected = [], []
    for c in range(N_CLUSTERS):
        if len(items[c]) >= 5 and len(users[c]) >= 2:
            inside.append(sum(u in users[c] and i in items[c] for u, i in entries))
            n_of_users = sum(u in users[c] for u, _ in entries)
            expected.append(n_of_users * sum(i in items[c] for _, i in entries) / len(entries))
    assert report.n_judged == len(inside)
    assert report.lift.value == pytest.approx(np.mean(np.divide(inside, expected)))
    assert report.pooled_lift == pytest.approx(sum(inside) / sum(expected))


def test_stability_is_that_of_a_loop_over_lists(case):
    other = _affinities(np.random.default_rng(4), N_ITEMS, 5, 0.2)

    value = stability(case.items, other, n_top=15)

    left = [set(_first(case.items, c, 15)) for c in range(N_CLUSTERS)]
    right = [set(_first(other, c, 15)) for c in range(5)]
    forth = [max(len(a & b) / len(a | b) for b in right) for a in left]
    back = [max(len(a & b) / len(a | b) for a in left) for b in right]
    assert value == pytest.approx((np.mean(forth) + np.mean(back)) / 2)
    assert stability(other, case.items, n_top=15) == pytest.approx(value)


def test_the_same_fit_is_stable_in_any_order_and_fits_without_common_items_are_not(case):
    shuffled = case.items[:, np.random.default_rng(0).permutation(N_CLUSTERS)] * 3
    halves = np.zeros((2, N_ITEMS, 3), np.float32)
    halves[0, :100], halves[1, 100:] = 1, 1

    assert stability(case.items, shuffled) == 1
    assert stability(*halves) == 0
    assert math.isnan(stability(case.items, np.zeros((N_ITEMS, 2))))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_recovery_is_that_of_a_loop_over_pairs_of_sets(case, rule, form):
    truth = np.random.default_rng(2).random((N_ITEMS, 4)) < 0.2
    truth[:, 3] = False
    items = np.column_stack((case.items, np.zeros(N_ITEMS, np.float32)))

    result = recovery(items, form(truth.astype(np.float32)), rule)

    true = [set(np.flatnonzero(column)) for column in truth.T[:3]]
    found = [members for members in _members(items, rule) if members]
    f1 = [[2 * len(a & b) / (len(a) + len(b)) for b in found] for a in true]
    assert result.of_truth == pytest.approx(np.max(f1, axis=1).mean())
    assert result.of_found == pytest.approx(np.max(f1, axis=0).mean())
    assert result.f1 == pytest.approx((result.of_truth + result.of_found) / 2)


def test_the_baseline_of_recovery_is_that_of_random_sets_of_the_same_sizes(case):
    rng = np.random.default_rng(0)
    truth = rng.random((N_ITEMS, 4)) < 0.2

    baselines = [recovery(case.items, truth, seed=seed).baseline for seed in range(30)]

    expected = []
    for _ in range(30):
        shuffled = np.column_stack([rng.permutation(column) for column in case.items.T])
        expected.append(recovery(shuffled, truth).f1)
    error = np.std(expected) * math.sqrt(2 / 30)
    assert abs(np.mean(baselines) - np.mean(expected)) < 4 * error
    assert len(set(baselines)) > 1


def test_planted_coclusters_are_coherent_dense_and_recovered(planted):
    report = _judge(planted)
    recovered = [
        recovery(planted.items, planted.truth["item_membership"]),
        recovery(planted.truth["user_membership"].toarray(), planted.truth["user_membership"], "top5"),
    ]

    assert report.n_judged == 20
    assert report.intrusion.precision.low > 0.6
    assert report.intrusion.random < 0.5
    for k in (5, 10, 20):
        assert report.coherence[k].value > 0.2
        assert report.coherence[k].excess.low > 0.3
    assert report.lift.low > 3
    assert report.overlap.mean_jaccard < 0.05
    for result in recovered:
        assert result.f1 > 0.95
        assert result.baseline < 0.25


def test_random_affinities_are_worth_what_chance_is(planted):
    rng = np.random.default_rng(0)
    items = rng.random((1000, 150)) * (rng.random((1000, 150)) < 0.1)
    users = rng.random((800, 150)) * (rng.random((800, 150)) < 0.1)

    report = judge(items, users, planted.evidence, options=JudgeOptions(n_groups=150))
    recovered = recovery(items, planted.truth["item_membership"])

    assert report.intrusion.clusters.size == 150
    assert abs(report.intrusion.precision.value - report.intrusion.random) < 3 * math.sqrt(2) * 0.43 / math.sqrt(150)
    assert report.intrusion.precision.value == pytest.approx(coclusters.CHANCE, abs=0.1)
    for k in (5, 10, 20):
        error = (report.coherence[k].excess.high - report.coherence[k].excess.low) / 4
        assert abs(report.coherence[k].excess.value) < 3 * error
    assert report.lift.value == pytest.approx(1, abs=0.05)
    assert recovered.f1 == pytest.approx(recovered.baseline, abs=0.02)


def test_lists_by_popularity_alone_are_worth_little_where_the_match_is_close():
    rng = np.random.default_rng(0)
    n_items, chance = 1500, 0.9 / np.arange(1, 1501)
    reference = sp.csr_array((rng.random((2000, n_items)) < chance).astype(np.float32))
    popularity = 10_000 * chance
    items = np.zeros((n_items, 60))
    for c in range(60):
        chosen = rng.choice(n_items, 40, replace=False, p=chance / chance.sum())
        items[chosen, c] = popularity[chosen]
    evidence = Evidence(reference, popularity)

    deciles, close = (judge(items, np.ones((2000, 60)), evidence, options=JudgeOptions(n_bins=n)) for n in (10, 300))

    assert deciles.coherence[20].excess.low > 0.1  # independent items: all of it comes from the coarse bins
    assert abs(close.coherence[20].excess.value) < deciles.coherence[20].excess.low / 2
    assert close.intrusion.precision.value < 0.4


def test_the_order_of_items_changes_nothing_but_what_is_drawn(case):
    order = np.random.default_rng(1).permutation(N_ITEMS)
    evidence = Evidence(case.evidence.reference[:, order], case.evidence.popularity[order])

    before, after = _judge(case), judge(case.items[order], case.users, evidence)

    _assert_same_apart_from_draws(before, after)
    assert np.allclose(before.coherence[20].per_cluster, after.coherence[20].per_cluster)


def test_the_order_of_coclusters_changes_nothing_but_what_is_drawn(case):
    order = np.random.default_rng(1).permutation(N_CLUSTERS)

    before, after = _judge(case), judge(case.items[:, order], case.users[:, order], case.evidence)

    _assert_same_apart_from_draws(before, after)


def _assert_same_apart_from_draws(before, after):
    first, second = before.as_record(), after.as_record()
    drawn = ("intrusion_precision", "npmi_random", "npmi_excess", "_low", "_high")
    kept = [name for name in first if not any(part in name for part in drawn)]
    assert first.keys() == second.keys()
    assert len(kept) >= 20
    assert [second[name] for name in kept] == pytest.approx([first[name] for name in kept])


def test_the_same_seed_gives_the_same_report_and_another_draws_anew(case):
    first, second, other = (_judge(case, seed) for seed in (5, 5, 6))

    assert first.as_record() == second.as_record()
    assert np.array_equal(first.intrusion.shown, second.intrusion.shown)
    assert not np.array_equal(first.intrusion.shown, other.intrusion.shown)


def test_the_size_of_a_block_changes_nothing(case, monkeypatch):
    truth = np.random.default_rng(2).random((N_ITEMS, 4)) < 0.2
    whole, stable, found = _judge(case), stability(case.items, case.items[:, 2:]), recovery(case.items, truth, "strong")

    monkeypatch.setattr(_membership, "BLOCK_BYTES", 2000)

    assert _judge(case).as_record() == pytest.approx(whole.as_record())
    assert stability(case.items, case.items[:, 2:]) == pytest.approx(stable)
    assert recovery(case.items, truth, "strong").f1 == pytest.approx(found.f1)


def test_memory_stays_within_a_few_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    items = rng.random((20_000, 60), dtype=np.float32) - np.float32(0.5)
    users = rng.random((300, 60), dtype=np.float32)
    reference = sp.random_array((300, 20_000), density=0.002, rng=rng, dtype=np.float32, format="csr")
    evidence = Evidence(reference, np.arange(20_000))
    monkeypatch.setattr(_membership, "BLOCK_BYTES", 1 << 20)
    judge(items[:100, :2], users[:, :2], Evidence(reference[:, :100], np.ones(100)), options=JudgeOptions(min_items=90))

    tracemalloc.start()
    judge(items, users, evidence, options=JudgeOptions(n_groups=5, n_random=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 12 << 20  # an array (I, I) of bytes would be 381 MiB


def test_the_input_is_left_as_it_was(case):
    arrays = (case.items, case.users, case.evidence.reference.data, case.evidence.reference.indices)
    before = [array.copy() for array in arrays]

    _judge(case)

    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize(
    ("items", "users", "n_dead"),
    [
        (np.zeros((N_ITEMS, 0)), np.zeros((N_USERS, 0)), 0),
        (np.zeros((N_ITEMS, 3)), np.zeros((N_USERS, 3)), 3),
        (-np.ones((N_ITEMS, 3)), np.ones((N_USERS, 3)), 3),
        (np.eye(N_ITEMS, 3), np.eye(N_USERS, 3), 0),
    ],
    ids=["none", "all zero", "all negative", "one member each"],
)
def test_no_usable_cocluster_is_a_result_without_the_figures_that_need_one(case, items, users, n_dead):
    report = judge(items, users, case.evidence)

    record = report.as_record()
    assert report.n_dead == n_dead
    assert report.n_judged == 0
    assert record["cocluster.n_intrusion_groups"] == 0
    assert not {"cocluster.intrusion_precision", "cocluster.npmi@5", "cocluster.lift"} & record.keys()
    json.dumps(record, allow_nan=False)


def test_items_that_nobody_had_in_training_can_be_asked_about(case):
    report = judge(case.items, case.users, Evidence(case.evidence.reference, np.zeros(N_ITEMS)))

    assert report.intrusion.clusters.size == N_CLUSTERS - 1
    assert set(report.intrusion.windows) == {0.1}


def test_a_record_is_one_level_of_numbers(case):
    record = _judge(case).as_record()

    assert all(type(value) is float and math.isfinite(value) for value in record.values())
    assert {f"cocluster.n_nondegenerate_{rule}" for rule in RULES} <= record.keys()
    for name in ("intrusion_precision", "npmi_excess@5", "npmi_excess@10", "npmi_excess@20", "lift"):
        low, value, high = (record[f"cocluster.{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high
    assert record["cocluster.intrusion_chance"] == 0.25


def test_a_model_is_judged_by_its_own_affinities_and_the_lift_by_targets_alone(case, monkeypatch):
    reference = case.evidence.reference
    is_target = np.random.default_rng(0).random(reference.nnz) < 0.3
    parts = []
    for keep in (~is_target, is_target):
        part = reference.copy()
        part.data = keep.astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    train = sp.random_array((150, N_ITEMS), density=0.1, rng=np.random.default_rng(1), dtype=np.float32, format="csr")
    asked = []

    class Given:
        def item_affinity(self):
            return case.items

        def user_affinity(self, history):
            asked.append(history.shape[0])
            return (history @ case.items).astype(np.float32)

    model = Given()
    monkeypatch.setattr(_membership, "BLOCK_BYTES", 4000)

    report = judge_model(model, train, HeldOut(*parts), seed=2, options=JudgeOptions(min_users=60))

    popularity = (train != 0).sum(axis=0)
    evidence = Evidence(reference, popularity, interactions=parts[1], members=train @ case.items)
    expected = judge(case.items, parts[0] @ case.items, evidence, 2, JudgeOptions(min_users=60))
    assert isinstance(model, CoClustered)
    assert asked == [N_USERS] + 2 * [35, 35, 35, 35, 10]
    assert report.as_record() == pytest.approx(expected.as_record())
    assert report.n_judged > 0


@pytest.mark.parametrize("rule", RULES)
def test_the_users_who_count_are_the_members_and_the_others_are_measured(case, rule):
    more = _affinities(np.random.default_rng(6), 200, N_CLUSTERS, 0.6)
    evidence = dataclasses.replace(case.evidence, members=more)

    report = judge(case.items, case.users, evidence, options=JudgeOptions(rule=rule, min_items=8, min_users=8))

    items, users = _members(case.items, rule), _members(more, rule)
    good = [c for c in range(N_CLUSTERS) if min(len(items[c]), len(users[c])) >= 8]
    assert report.n_nondegenerate[rule] == report.n_judged == len(good)
    assert report.user_positive_share == pytest.approx((more > 0).mean())
    measured = _members(case.users, rule)
    if rule == "strong":
        thresholds = more.clip(0).mean(axis=0) + 2 * more.clip(0).std(axis=0)
        measured = [set(np.flatnonzero(column)) for column in (case.users >= thresholds).T]
    entries = list(zip(*(axis.tolist() for axis in case.evidence.reference.nonzero()), strict=True))
    inside = sum(u in measured[c] and i in items[c] for c in good for u, i in entries)
    by_chance = sum(
        sum(u in measured[c] for u, _ in entries) * sum(i in items[c] for _, i in entries) / len(entries) for c in good
    )
    assert report.pooled_lift == pytest.approx(inside / by_chance)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (np.ones((5, 3)), "5 users have affinities of the shape .5, 3.; expected 7 co-clusters"),
        (Computed(lambda rows: rows[:, :2], np.ones((5, 7))), "5 users have affinities of the shape .5, 2."),
        (Computed(lambda rows: rows * np.nan, np.ones((5, 7))), "affinities of users hold NaN"),
        (["many"], "no dense array of real numbers"),
    ],
)
def test_members_that_cannot_be_counted_are_refused(case, members, message):
    with pytest.raises(DataError, match=message):
        judge(case.items, case.users, dataclasses.replace(case.evidence, members=members))


def test_the_interval_of_a_mean_has_the_width_that_theory_gives():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)

    interval = bootstrap(values, np.random.default_rng(1), n_resamples=2000)

    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_likeliest_coclusters_of_a_user_come_with_their_first_items():
    user = [0.0, 3.0, -1.0, 5.0]
    items = np.array([[9, 1, 9, 0], [9, 2, 9, 4], [9, 0, 9, -3], [9, 8, 9, 6]])

    second, third = likeliest(user, items, n_clusters=3, n_items=2)

    assert (second.cluster, second.affinity, third.cluster, third.affinity) == (3, 5.0, 1, 3.0)
    assert (second.items.tolist(), second.item_affinity.tolist()) == ([3, 1], [6, 4])
    assert (third.items.tolist(), third.item_affinity.tolist()) == ([3, 1], [8, 2])
    assert [entry.items.size for entry in likeliest(user, items, 2, 10)] == [2, 3]
    assert likeliest([0, 0, -1, 0], items) == ()
    assert len(likeliest(user, items, n_clusters=1)) == 1


def _with(array, value):
    changed = array.copy()
    changed[3, 2] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: (_with(c.items, np.nan), c.users, c.evidence), "items hold NaN"),
        (lambda c: (c.items, _with(c.users, np.inf), c.evidence), "users hold NaN or infinite"),
        (lambda c: (_with(c.items.astype(np.float64), 1e300), c.users, c.evidence), "infinite"),
        (lambda c: (c.items[0], c.users, c.evidence), r"shape \(7,\)"),
        (lambda c: (sp.csr_array(c.items), c.users, c.evidence), "sparse"),
        (lambda c: (c.items * 1j, c.users, c.evidence), "complex"),
        (lambda c: ([["a"] * 7] * N_ITEMS, c.users, c.evidence), "no dense array of real numbers"),
        (lambda c: (c.items[:, :4], c.users, c.evidence), "4 co-clusters and users 7"),
        (lambda c: (c.items[1:], c.users, c.evidence), "the reference has the shape"),
        (lambda c: (c.items, c.users[1:], c.evidence), "89 users have affinities and the reference has 90"),
        (
            lambda c: (c.items, c.users[1:], dataclasses.replace(c.evidence, interactions=c.evidence.reference)),
            "the matrix of interactions has the shape",
        ),
        (
            lambda c: (c.items, c.users, dataclasses.replace(c.evidence, reference=sp.csr_array((N_USERS, N_ITEMS)))),
            "no interactions",
        ),
        (
            lambda c: (c.items, c.users[:0], dataclasses.replace(c.evidence, reference=c.evidence.reference[:0])),
            "no interactions",
        ),
        (lambda c: (c.items, c.users, Evidence(c.evidence.reference, np.ones(3))), "popularity has the shape"),
        (lambda c: (c.items, c.users, Evidence(c.evidence.reference, -np.ones(N_ITEMS))), "negative"),
        (lambda c: (c.items, c.users, Evidence(c.evidence.reference, np.full(N_ITEMS, np.nan))), "NaN"),
        (lambda c: (c.items, c.users, Evidence(c.evidence.reference, ["many"] * N_ITEMS)), "no array of counts"),
    ],
)
def test_input_that_cannot_be_judged_is_refused_with_the_reason(case, change, message):
    with pytest.raises(DataError, match=message):
        judge(*change(case))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: stability(c.items, c.items[1:]), DataError, "240 items and the other 239"),
        (lambda c: stability(c.items, c.items, n_top=0), UsageError, "at least 1"),
        (lambda c: recovery(c.items, np.ones((3, 2))), DataError, r"\(3, 2\) does not go with 240"),
        (lambda c: recovery(c.items, np.ones(N_ITEMS)), DataError, "does not go with 240"),
        (lambda c: recovery(c.items, np.zeros((N_ITEMS, 2))), DataError, "no co-cluster with a member"),
        (lambda c: recovery(c.items, np.ones((N_ITEMS, 2)), "stong"), UnknownName, "did you mean 'strong'"),
        (lambda c: recovery(_with(c.items, np.nan), np.ones((N_ITEMS, 2))), DataError, "NaN"),
        (lambda c: likeliest(c.users[0], c.items[:, :3]), DataError, "do not go with 7 co-clusters"),
        (lambda c: likeliest(_with(c.users, np.nan)[3], c.items), DataError, "NaN"),
        (lambda c: likeliest(c.users[0], c.items, n_clusters=0), UsageError, "at least 1"),
        (lambda c: JudgeOptions(rule="top2"), UsageError, "top2"),
        (lambda c: JudgeOptions(min_items=0), UsageError, "min_items"),
        (lambda c: JudgeOptions(soft_rank=10), UsageError, "soft_rank"),
    ],
)
def test_the_other_functions_refuse_what_they_cannot_use(case, call, error, message):
    with pytest.raises(error, match=message):
        call(case)
