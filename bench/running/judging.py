"""The co-clusters of a fitted model as fields of its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.abilities import CoClustered, Factored
from recscale.evaluation.coclusters import judge_model
from recscale.evaluation.likeliest import likeliest
from recscale.evaluation.split_file import load_names, load_split
from recscale.running.job import Job

N_EXAMPLE_USERS = 3


def can_be_judged(model: Any) -> bool:
    """Tell whether a model has co-clusters, or vectors that can be clustered."""
    return isinstance(model, CoClustered | Factored)


def judged(model: Any, job: Job) -> tuple[dict[str, Any], NDArray[np.int32]]:
    """Return what the co-clusters of a fitted model are worth, with some of them by name, and the first items of all.

    Users and items of a model that only has vectors are clustered first, as in the paper of ELFM. Raises DataError.
    """
    path = Path(job.prepared.split_path)
    split = load_split(path)
    if not isinstance(model, CoClustered):
        from recscale.evaluation.clustering import EMPTY_MEASURES, judge_factored

        report = judge_factored(model, split.train, split.test, job.seed)
        told = {name: value for name, value in report.as_record().items() if name not in EMPTY_MEASURES}
        return {"coclusters": told, "cocluster_source": "clustering"}, report.top_items.astype(np.int32)
    report = judge_model(model, split.train, split.test, job.seed)
    rng = np.random.default_rng(job.seed)
    users = np.sort(rng.permutation(split.test.n_users)[:N_EXAMPLE_USERS])
    affinity = model.user_affinity(split.test.history[users])
    fields = {
        "coclusters": report.as_record(),
        "cocluster_source": "model",
        "cocluster_examples": _examples(users, affinity, model.item_affinity(), load_names(path)),
    }
    return fields, report.top_items.astype(np.int32)


def _examples(users: Any, user_affinity: Any, item_affinity: Any, names: Any) -> list[dict[str, Any]]:
    """Return the likeliest co-clusters of some users, by the names of their first items."""
    return [
        {
            "user": int(user),
            "cluster": one.cluster,
            "affinity": one.affinity,
            "items": [str(name) for name in names[one.items]],
        }
        for user, row in zip(users, user_affinity, strict=True)
        for one in likeliest(row, item_affinity)
    ]
