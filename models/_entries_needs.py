"""What the training on entries takes, estimated before it: decides no result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from recscale.contract import Estimate, Shape
from recscale.models._entries import N_NEGATIVES
from recscale.models._entry_trainer import AT_ONCE, SAMPLE
from recscale.models._judges import JUDGES
from recscale.models._needs import judges, validation_bytes

if TYPE_CHECKING:
    from recscale.models._entries import EntryTrained

_LAYER_SECONDS = 2.4e-10  # for a weight of a layer, there and back


def estimate(model: EntryTrained, shape: Shape) -> Estimate:
    """Return tables with gradients, moments and the best epoch, a step, entries with keys, and what clusters take."""
    n_drawn, kept, width = 1 + model.negatives, model.kept_numbers(), model.width()
    n_rows = min(model.clusters or shape.n_items, shape.n_items)
    tables = 4 * ((shape.n_users + n_rows) * width + shape.n_items + kept.beside)
    n_vectors, n_entries = 1 if reads_in_place(model) else n_drawn + 1, min(model.batch_size, shape.n_interactions)
    drawn = n_entries * (n_vectors * (width + 1) + 2 * n_drawn)
    epoch = _training_seconds(model, shape) + tables * 5e-10 * math.ceil(shape.n_interactions / model.batch_size)
    seconds = model.epochs * (epoch + judges(shape, JUDGES) * _judge_seconds(model, shape))
    looks, assignment = 0, 0
    if model.clusters is not None:
        tried = model.growth_epochs * min(SAMPLE, shape.n_interactions) * n_rows
        seconds += tried * (2e-9 * width + _LAYER_SECONDS * kept.beside + n_drawn**2 * 1e-9)
        looks = 32 * AT_ONCE + 8 * shape.n_items * n_rows
        assignment = shape.n_items * np.min_scalar_type(n_rows - 1).itemsize
    pools = 8 * model.fold_in_steps * min(N_NEGATIVES, shape.n_items) * (width + 1) if model.needs_products_alone else 0
    numbers = n_rows * kept.row + shape.n_items * kept.item + kept.beside + 1
    return Estimate(
        peak_bytes=6 * tables
        + 40 * drawn
        + pools
        + looks
        + 64 * shape.n_interactions
        + validation_bytes(shape, JUDGES),
        model_bytes=4 * numbers + assignment,
        fit_seconds=seconds,
    )


def reads_in_place(model: EntryTrained) -> bool:
    """Tell whether the vectors of drawn items are never looked up, on the CPU."""
    return model.needs_products_alone and model.clusters is None


def _training_seconds(model: EntryTrained, shape: Shape) -> float:
    """Return what drawing, scores and gradients of all entries take once.

    CPU milliseconds of a step of 4,096 entries of debian-depends, with the optimiser, measured and by this, for 16, 64
    and 128 factors, vectors looked up: MF-BPR 8 14 23, 8 15 23; GMF 13 24 47, 16 27 41; NeuMF 21 75 165, 20 72 194.
    Read in place, on a processor 1.7 times as fast, and by this: MF-BPR 2 4 7, 2 4 7; GMF 4 7 11, 3 6 9; uCML 6 10 15,
    7 10 14.
    """
    n_drawn, kept = 1 + model.negatives, model.kept_numbers()
    if reads_in_place(model):
        return shape.n_interactions * (5e-7 + 1.3e-7 * n_drawn + model.width() * (1.7e-8 + 8e-10 * n_drawn))
    drawn = (n_drawn + 1) * (5e-7 + 7.5e-9 * model.width())
    return shape.n_interactions * (drawn + n_drawn * _LAYER_SECONDS * kept.beside)


def _judge_seconds(model: EntryTrained, shape: Shape) -> float:
    """Return what one validation user takes: a vector trained against frozen items, and the ranking of all items."""
    kept, n_known = model.kept_numbers(), shape.n_interactions / max(1, shape.n_users)
    tried = (N_NEGATIVES + n_known) * (1e-8 + 1.1e-10 * model.width() + 3e-11 * kept.beside)
    ranked = shape.n_items * (1e-8 + 3e-11 * (model.width() + kept.beside))
    return model.fold_in_steps * (tried + 5e-10 * N_NEGATIVES * n_known) + ranked
