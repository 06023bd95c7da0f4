"""Metrics of ranked lists, each under the name of one published definition.

`recall@k` divides by min(k, targets), as Liang et al. 2018 and the CHOL paper do, and `recall_all@k` by all targets,
as the tables of LightGCN and BARS do. With one target a user the two and `hr@k` are the same. Under the protocol
`ratings` there are no lists: its metrics are errors of predicted ratings.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.contract import Metric, Ranking
from recscale.errors import UnknownName, UsageError
from recscale.evaluation.predicting import Predictions
from recscale.evaluation.protocols import ProtocolOptions, protocol_text

Vector = NDArray[np.float64]


def _n_hits(ranking: Ranking, k: int) -> NDArray[np.int64]:
    n_hits: NDArray[np.int64] = np.count_nonzero(ranking.hits[:, :k], axis=1)
    return n_hits


def _recall(ranking: Ranking, k: int) -> Vector:
    return _n_hits(ranking, k) / np.minimum(k, ranking.n_targets)


def _recall_all(ranking: Ranking, k: int) -> Vector:
    return _n_hits(ranking, k) / ranking.n_targets


def _precision(ranking: Ranking, k: int) -> Vector:
    return _n_hits(ranking, k) / k


def _n_rated(ranking: Ranking, k: int) -> NDArray[np.int64]:
    """Return how many of the k items listed first the user has rated. Raises UsageError if that is not known."""
    if ranking.disliked is None:
        raise UsageError("rated_precision needs HeldOut.disliked; use the protocol fold-in[liked=4]")
    n_disliked: NDArray[np.int64] = np.count_nonzero(ranking.disliked[:, :k], axis=1)
    return n_disliked + _n_hits(ranking, k)


def _rated_precision(ranking: Ranking, k: int) -> Vector:
    return _n_hits(ranking, k) / np.maximum(_n_rated(ranking, k), 1)


def _has_rated(ranking: Ranking, k: int) -> NDArray[np.bool_]:
    return _n_rated(ranking, k) > 0


def _hit_rate(ranking: Ranking, k: int) -> Vector:
    return (ranking.first_rank <= k).astype(np.float64)


@functools.lru_cache(maxsize=16)
def _discounts(n: int) -> Vector:
    """Return 1 / log2(r + 1) of the ranks r = 1 to n."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def _ndcg(ranking: Ranking, k: int) -> Vector:
    n_ideal = np.minimum(k, ranking.n_targets)
    ideal = np.cumsum(_discounts(int(n_ideal.max(initial=1))))
    hits = ranking.hits[:, :k]
    gains: Vector = (hits * _discounts(hits.shape[1])).sum(axis=1)  # by BLAS, its threads would wake up and spin
    gains /= ideal[n_ideal - 1]
    return gains


def _average_precision(ranking: Ranking, k: int) -> Vector:
    hits = ranking.hits[:, :k]
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    total: Vector = np.sum(precisions, axis=1, where=hits)
    return total / np.minimum(k, ranking.n_targets)


def _prediction_coverage(ranking: Ranking) -> Vector:
    return ranking.n_nonzero / ranking.n_items


def _catalogue_coverage(counts: NDArray[np.int64]) -> float:
    return float(np.count_nonzero(counts) / counts.size)


def _gini(counts: NDArray[np.int64]) -> float:
    """Return the Gini index of the counts: 0 if all are equal (or there are none), 1 - 1/I if one item has all."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    n_items = counts.size
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ np.sort(counts) / (n_items * total))


def _mean_square(predictions: Predictions) -> Vector:
    return predictions.means(predictions.errors**2)


def _mean_absolute(predictions: Predictions) -> Vector:
    return predictions.means(np.abs(predictions.errors))


_OF_RATINGS: dict[str, Any] = {"judges": "ratings", "higher_is_better": False, "bounds": (0.0, math.inf)}

# name before the @ -> label, formula, options of the Metric
_WITH_CUTOFF: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "recall": ("Recall@{k}", _recall, {}),
    "recall_all": ("Recall@{k} (over all targets)", _recall_all, {}),
    "precision": ("Precision@{k}", _precision, {}),
    "rated_precision": (
        "Precision@{k} over rated items",
        _rated_precision,
        {"judges": "rated ranking", "weigh": _has_rated},
    ),
    "hr": ("HR@{k}", _hit_rate, {}),
    "ndcg": ("NDCG@{k}", _ndcg, {}),
    "map": ("MAP@{k}", _average_precision, {}),
    "catalogue_coverage": ("Catalogue coverage@{k}", _catalogue_coverage, {"per_user": False}),
    "gini": ("Gini@{k}", _gini, {"per_user": False, "higher_is_better": False}),
}
_WITHOUT_CUTOFF: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "mrr": ("MRR", lambda ranking: 1.0 / ranking.first_rank, {}),
    "mrr_optimistic": ("MRR, ties won", lambda ranking: 1.0 / ranking.first_rank_optimistic, {}),
    "mrr_pessimistic": ("MRR, ties lost", lambda ranking: 1.0 / ranking.first_rank_pessimistic, {}),
    "prediction_coverage": ("Prediction coverage", _prediction_coverage, {"is_kept": False}),
    "mse": ("MSE", _mean_square, _OF_RATINGS | {"weigh": Predictions.counts}),
    "rmse": ("RMSE", math.sqrt, _OF_RATINGS | {"per_user": False}),
    "mae": ("MAE", _mean_absolute, _OF_RATINGS | {"weigh": Predictions.counts}),
}

METRIC_NAMES: tuple[str, ...] = (*(f"{name}@k" for name in _WITH_CUTOFF), *_WITHOUT_CUTOFF)

_ALWAYS = ("mrr", "prediction_coverage", "catalogue_coverage@100", "gini@100")

DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "fold-in": ("ndcg@100", "recall@20", "recall@50", *_ALWAYS),
    "hold-one-out": ("mrr", "hr@10", "hr@50", "ndcg@10", "ndcg@100", *_ALWAYS[1:]),
    "fixed": ("recall_all@20", "ndcg@20", "hr@20", "recall_all@50", "ndcg@50", *_ALWAYS),
    "ratings": ("mse", "rmse", "mae"),
}


@functools.cache
def metric(name: str) -> Metric:
    """Return the metric called `name`, such as `ndcg@100` or `mrr`.

    With r_u the rank of the best-placed target, T_u the targets and rel_r whether rank r is one of them:
    `recall@k` sum rel / min(k, |T_u|); `recall_all@k` sum rel / |T_u|; `precision@k` sum rel / k; `hr@k` [r_u <= k];
    `ndcg@k` sum rel / log2(r + 1), over that of a list with all targets first; `map@k` sum rel * precision@r over
    min(k, |T_u|); `mrr` 1 / r_u over the whole catalogue; `prediction_coverage` the share of items with a non-zero
    score; `catalogue_coverage@k` the share of items in any list; `gini@k` how unequally often items are listed;
    `rated_precision@k` the targets in the list over the rated items in it, targets and disliked ones, in the mean over
    users with any; `mse`, `rmse` and `mae` of predicted ratings, over all ratings alike, whosever they are.
    Raises UnknownName, or UsageError for a cut-off that is missing, misplaced or below 1.
    """
    base, _, cutoff = name.partition("@")
    if base in _WITHOUT_CUTOFF and "@" not in name:
        label, compute, options = _WITHOUT_CUTOFF[base]
        return Metric(name=name, label=label, cutoff=None, compute=compute, **options)
    if base in _WITHOUT_CUTOFF:
        raise UsageError(f"metric {name!r}: {base} takes no cut-off; write {base}")
    if base not in _WITH_CUTOFF:
        raise UnknownName("metric", name, METRIC_NAMES)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", cutoff):
        raise UsageError(f"metric {name!r}: {base} needs a cut-off of at least 1; write {base}@20, for example")
    k = int(cutoff)
    label, compute, options = _WITH_CUTOFF[base]
    if options.get("per_user", True):
        compute = functools.partial(compute, k=k)
    if "weigh" in options:
        options = options | {"weigh": functools.partial(options["weigh"], k=k)}
    return Metric(name=name, label=label.format(k=k), cutoff=k, compute=compute, **options)


def check_metrics(names: Iterable[str], options: ProtocolOptions) -> None:
    """Check that a protocol with these options has what the metrics judge. Raises UnknownName or UsageError."""
    for name in names:
        judges = metric(name).judges
        if judges in options.judged:
            continue
        known = ", ".join(DEFAULT_METRICS[options.name])
        if judges == "ratings":
            reason = f"is of predicted ratings, and {options.name} ranks items; use --protocol ratings, or {known}"
        elif "ratings" in options.judged:
            reason = f"is of ranked items, and {protocol_text(options)} predicts ratings; it has {known}"
        else:
            reason = "needs to know what was rated too low to be liked; use --protocol 'fold-in[liked=4]'"
        raise UsageError(f"the metric {name} {reason}")
