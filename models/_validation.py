"""How well a model that is still being trained ranks the validation users: one number, wherever the scores lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from recscale.contract import HeldOut, Scores
from recscale.errors import NumericalError

if TYPE_CHECKING:
    import torch

Measure: TypeAlias = Literal["ndcg", "mrr"]
CUTOFF = 100
BLOCK_BYTES = 2**26  # scores looked at in one go


def validation_value(score: Callable[[sp.csr_array], Scores], held_out: HeldOut, measure: Measure) -> float:
    """Return the mean NDCG@100 or MRR of the users that have targets; 0 if there are none. See `validation_sum`."""
    total, n_users = validation_sum(score, held_out, measure)
    return total / max(n_users, 1)


def validation_sum(score: Callable[[sp.csr_array], Scores], held_out: HeldOut, measure: Measure) -> tuple[float, int]:
    """Return the sum of NDCG@100 or MRR over the users that have targets, their history left out, and their number.

    NDCG is divided by the ideal at min(100, targets); MRR is that of the best target, ties counted half. It decides
    between epochs only: the figures of a record come from the harness.
    Raises NumericalError for scores that are NaN or infinite.
    """
    total, n_users = 0.0, 0
    n_rows = max(1, BLOCK_BYTES // (4 * held_out.history.shape[1]))
    for first in range(0, held_out.n_users, n_rows):
        known, wanted = (part[first : first + n_rows] for part in (held_out.history, held_out.target))
        lengths = np.diff(wanted.indptr)
        if not lengths.any():
            continue
        total += _sum(score(known), known, wanted, measure)
        n_users += int(np.count_nonzero(lengths))
    return total, n_users


def _sum(scores: Scores, known: sp.csr_array, wanted: sp.csr_array, measure: Measure) -> float:
    """Return the sum of the measure over the users of a block."""
    import torch

    scores = torch.as_tensor(scores)
    if scores.device.type == "cpu":
        from recscale.models._target_ranks import ndcg, reciprocal_ranks

        places = known.indptr, known.indices, wanted.indptr, wanted.indices
        ranked = scores.detach().numpy()
        values, is_finite = ndcg(ranked, *places) if measure == "ndcg" else reciprocal_ranks(ranked, *places)
        if is_finite:
            return float(values.sum(dtype=np.float64))
    elif torch.isfinite(scores).all():
        return float((_ndcg if measure == "ndcg" else _mrr)(*_masked(scores, known, wanted)).double().sum())
    raise NumericalError("the validation scores are not finite; lower the learning rate")


def _masked(scores: torch.Tensor, known: sp.csr_array, wanted: sp.csr_array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores without the history, and which items are targets, (B, I) each, on the device of the scores."""
    import torch

    rows, items = (torch.as_tensor(part, device=scores.device) for part in known.nonzero())
    scores = scores.index_put((rows, items), scores.new_tensor(-torch.inf))
    rows, items = (torch.as_tensor(part, device=scores.device) for part in wanted.nonzero())
    targets = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    targets[rows, items] = True
    return scores, targets


def _ndcg(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the NDCG@100 of each user, (B,)."""
    import torch

    k = min(CUTOFF, scores.shape[1])
    hits = targets.gather(1, scores.topk(k, dim=1).indices)  # (B, k)
    discounts = 1.0 / torch.log2(torch.arange(2.0, k + 2, device=scores.device))
    ideal = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])[targets.sum(1).clamp(max=k)]
    return (hits * discounts).sum(1) / ideal.clamp(min=1e-9)


def _mrr(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 1 / rank of the best target of each user, (B,), and 0 for one without targets."""
    import torch

    best = torch.where(targets, scores, -torch.inf).amax(1, keepdim=True)  # (B, 1)
    rank = 0.5 + (scores > best).sum(1) + 0.5 * (scores == best).sum(1)
    return targets.any(1) / rank
