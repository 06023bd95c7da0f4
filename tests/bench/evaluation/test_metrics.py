"""Each metric on a list worked by hand, and all of them against another library."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.contract import Ranking
from recscale.errors import UnknownName, UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS, METRIC_NAMES, check_metrics, metric
from recscale.evaluation.protocols import resolve_protocol
from recscale.evaluation.ranking import rank
from recscale.records.record import rises_with_quality

LOG3 = math.log2(3)


def _ranking(hits, n_targets, first_rank, *, n_nonzero=10, n_items=20, disliked=(0, 0, 0, 0, 0)):
    """Return the ranking of one user from a list of 0 and 1."""
    first = np.array([first_rank])
    return Ranking(
        items=np.arange(len(hits), dtype=np.int32)[None],
        hits=np.array([hits], dtype=bool),
        n_targets=np.array([n_targets]),
        first_rank=first,
        first_rank_optimistic=first - 1,
        first_rank_pessimistic=first + 2,
        n_nonzero=np.array([n_nonzero]),
        n_items=n_items,
        disliked=np.array([disliked], dtype=bool),
    )


# A user with four targets, found at ranks 2 and 3 of the five that are listed.
TWO_OF_FOUR = _ranking([0, 1, 1, 0, 0], n_targets=4, first_rank=2)
# A user with one target, at rank 7, beyond the list.
MISSED = _ranking([0, 0, 0, 0, 0], n_targets=1, first_rank=7)
ALL_FIRST = _ranking([1, 1, 0, 0, 0], n_targets=2, first_rank=1)
ONE_DISLIKED = _ranking([0, 1, 1, 0, 0], n_targets=4, first_rank=2, disliked=[1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "ranking", "expected"),
    [
        ("recall@1", TWO_OF_FOUR, 0),
        ("recall@2", TWO_OF_FOUR, 1 / 2),
        ("recall@3", TWO_OF_FOUR, 2 / 3),
        ("recall@5", TWO_OF_FOUR, 2 / 4),
        ("recall@5", MISSED, 0),
        ("recall_all@2", TWO_OF_FOUR, 1 / 4),
        ("recall_all@3", TWO_OF_FOUR, 2 / 4),
        ("precision@2", TWO_OF_FOUR, 1 / 2),
        ("precision@5", TWO_OF_FOUR, 2 / 5),
        ("rated_precision@1", ONE_DISLIKED, 0),
        ("rated_precision@2", ONE_DISLIKED, 1 / 2),
        ("rated_precision@5", ONE_DISLIKED, 2 / 3),
        ("rated_precision@5", MISSED, 0),
        ("hr@1", TWO_OF_FOUR, 0),
        ("hr@2", TWO_OF_FOUR, 1),
        ("hr@6", MISSED, 0),
        ("hr@7", MISSED, 1),
        ("ndcg@2", TWO_OF_FOUR, (1 / LOG3) / (1 + 1 / LOG3)),
        ("ndcg@3", TWO_OF_FOUR, (1 / LOG3 + 1 / 2) / (1 + 1 / LOG3 + 1 / 2)),
        ("ndcg@5", TWO_OF_FOUR, (1 / LOG3 + 1 / 2) / (1 + 1 / LOG3 + 1 / 2 + 1 / math.log2(5))),
        ("ndcg@5", ALL_FIRST, 1),
        ("ndcg@5", MISSED, 0),
        ("map@2", TWO_OF_FOUR, (1 / 2) / 2),
        ("map@5", TWO_OF_FOUR, (1 / 2 + 2 / 3) / 4),
        ("map@5", ALL_FIRST, 1),
        ("mrr", TWO_OF_FOUR, 1 / 2),
        ("mrr", MISSED, 1 / 7),
        ("mrr_optimistic", TWO_OF_FOUR, 1),
        ("mrr_pessimistic", TWO_OF_FOUR, 1 / 4),
        ("prediction_coverage", TWO_OF_FOUR, 10 / 20),
    ],
)
def test_metric_is_what_was_worked_by_hand(name, ranking, expected):
    value = metric(name).compute(ranking)

    assert value.shape == (1,)
    assert value[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        ("catalogue_coverage@10", [3, 0, 0, 1], 2 / 4),
        ("catalogue_coverage@10", [0, 0, 0, 0], 0),
        ("gini@10", [2, 2, 2, 2], 0),
        ("gini@10", [0, 8, 0, 0], 3 / 4),
        ("gini@10", [1, 3], 1 / 4),
        ("gini@10", [0, 0], 0),
    ],
)
def test_metric_of_the_catalogue_is_what_was_worked_by_hand(name, counts, expected):
    value = metric(name).compute(np.array(counts))

    assert value == pytest.approx(expected, abs=1e-12)
    assert not metric(name).per_user


@pytest.mark.parametrize("base", [n for n in METRIC_NAMES if n.endswith("@k") and metric(n[:-1] + "9").per_user])
def test_a_cutoff_beyond_the_list_counts_what_is_listed(base):
    cutoff = 1000

    value = metric(f"{base[:-1]}{cutoff}").compute(ALL_FIRST)[0]

    assert value == pytest.approx(2 / cutoff if base == "precision@k" else 1)


@pytest.mark.parametrize(
    ("name", "written", "reason"),
    [
        ("mse", "fold-in", "the metric mse is of predicted ratings, and fold-in ranks items; use --protocol ratings"),
        ("recall@9", "ratings", "the metric recall@9 is of ranked items, and ratings predicts ratings; it has mse"),
        ("rated_precision@5", "fold-in", r"needs to know what was rated too low .* 'fold-in\[liked=4\]'"),
        ("rated_precision@5", "hold-one-out", r"use --protocol 'fold-in\[liked=4\]'"),
        ("rated_precision@5", "ratings", "is of ranked items"),
    ],
)
def test_a_metric_of_what_a_protocol_does_not_judge_is_refused(name, written, reason):
    with pytest.raises(UsageError, match=reason):
        check_metrics([name], resolve_protocol(written))


def test_a_protocol_takes_its_own_metrics_and_fold_in_with_liked_those_of_rated_items_too():
    for name, metrics in DEFAULT_METRICS.items():
        check_metrics(metrics, resolve_protocol(name))
    check_metrics(["rated_precision@5", "recall@20"], resolve_protocol("fold-in", {"liked": 4}))
    with pytest.raises(UnknownName, match="mse"):
        check_metrics(["mze"], resolve_protocol("ratings"))


def test_reports_know_of_every_metric_which_way_is_better():
    for written in METRIC_NAMES:
        name = written.replace("@k", "@5")
        assert rises_with_quality(name) == metric(name).higher_is_better, name


def test_the_name_the_label_and_the_cutoff_agree():
    found = metric("ndcg@100")

    assert (found.name, found.label, found.cutoff) == ("ndcg@100", "NDCG@100", 100)
    assert metric("mrr").cutoff is None
    assert metric("gini@5").higher_is_better is False


def test_an_unknown_metric_names_the_nearest_one():
    with pytest.raises(UnknownName, match=r"no metric named 'ndgc@10'.*did you mean 'ndcg@k'.*Known: .*recall_all@k"):
        metric("ndgc@10")


@pytest.mark.parametrize("name", ["recall", "recall@", "recall@0", "recall@-3", "recall@ten", "recall@1.5", "ndcg@010"])
def test_a_cutoff_that_is_missing_or_below_one_is_refused(name):
    with pytest.raises(UsageError, match="needs a cut-off of at least 1"):
        metric(name)


def test_a_cutoff_where_none_belongs_is_refused():
    with pytest.raises(UsageError, match="takes no cut-off; write mrr"):
        metric("mrr@10")


def test_the_default_metrics_of_every_protocol_exist():
    names = {name for names in DEFAULT_METRICS.values() for name in names}

    assert set(DEFAULT_METRICS) == {"fold-in", "hold-one-out", "fixed", "ratings"}
    assert {metric(name).name for name in names} == names


def test_metrics_agree_with_ranx_on_random_lists():
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(0)
    n_users, n_items, k = 40, 200, 30
    scores = rng.standard_normal((n_users, n_items)).astype(np.float32)
    wanted = rng.random((n_users, n_items)) < 0.05
    wanted[np.arange(n_users), rng.integers(0, n_items, n_users)] = True
    history = sp.csr_array((n_users, n_items), dtype=np.float32)
    ranking = rank(scores, history, sp.csr_array(wanted.astype(np.float32)), k=k)
    names = {
        "recall_all@30": "recall@30",
        "precision@10": "precision@10",
        "hr@10": "hit_rate@10",
        "ndcg@30": "ndcg@30",
        "ndcg@5": "ndcg@5",
        "map@30": "map@30",
        "mrr": "mrr",
    }
    qrels = {f"u{u:03}": {f"i{i}": 1 for i in np.flatnonzero(wanted[u])} for u in range(n_users)}
    run = {f"u{u:03}": {f"i{i}": float(scores[u, i]) for i in range(n_items)} for u in range(n_users)}

    expected = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(names.values()), return_mean=False)

    assert ranking.n_targets.max() <= k  # where ranx's recall and average precision are the same as ours
    for ours, theirs in names.items():
        np.testing.assert_allclose(metric(ours).compute(ranking), expected[theirs], rtol=1e-9, err_msg=ours)


def test_hit_rate_is_recall_for_a_single_target():
    rng = np.random.default_rng(0)
    target = sp.csr_array(np.eye(30, 90, dtype=np.float32))
    ranking = rank(rng.random((30, 90), dtype=np.float32), sp.csr_array((30, 90), dtype=np.float32), target, k=40)

    for name in ("recall@40", "recall_all@40"):
        np.testing.assert_array_equal(metric(name).compute(ranking), metric("hr@40").compute(ranking))
