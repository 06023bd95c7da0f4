"""What the training on entries takes, estimated before it: decides no result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recscale.contract import Estimate, Shape
from recscale.models._entries import N_NEGATIVES
from recscale.models._entry_trainer import AT_ONCE, SAMPLE
from recscale.models._needs import validation_bytes

if TYPE_CHECKING:
    from recscale.models._entries import EntryTrained


def estimate(model: EntryTrained, shape: Shape) -> Estimate:
    """Return tables with gradients, moments and the best epoch, a step, entries with keys, and what clusters take."""
    n_drawn, kept = 1 + model.negatives, model.kept_numbers()
    n_rows = min(model.clusters or shape.n_items, shape.n_items)
    tables = 4 * ((shape.n_users + n_rows) * model.width() + shape.n_items + kept.beside)
    drawn = min(model.batch_size, shape.n_interactions) * (n_drawn + 1) * (model.width() + 1)
    seen = model.epochs * shape.n_interactions
    seconds = seen * n_drawn * kept.score_seconds + seen / model.batch_size * tables * 4e-10
    looks, assignment = 0, 0
    if model.clusters is not None:
        tried = model.growth_epochs * min(SAMPLE, shape.n_interactions) * n_rows
        seconds += tried * (kept.score_seconds + n_drawn**2 * 1e-9)
        looks = 32 * AT_ONCE + 8 * shape.n_items * n_rows
        assignment = shape.n_items * np.min_scalar_type(n_rows - 1).itemsize
    numbers = n_rows * kept.row + shape.n_items * kept.item + kept.beside + min(N_NEGATIVES, shape.n_items)
    return Estimate(
        peak_bytes=6 * tables + 40 * drawn + looks + 64 * shape.n_interactions + validation_bytes(shape),
        model_bytes=4 * numbers + assignment,
        fit_seconds=seconds,
    )
