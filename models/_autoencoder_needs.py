"""What the training of an autoencoder takes, estimated before it: decides no result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from recscale.contract import Estimate, Shape
from recscale.models._multinomial import logits_at_once
from recscale.models._needs import validation_bytes

if TYPE_CHECKING:
    from recscale.models._autoencoder import Autoencoder


def training_estimate(model: Autoencoder, shape: Shape) -> Estimate:
    """Parameters with gradients, moments and the best epoch; the logits of a step, and the scores of a validation."""
    shapes = list(model.shapes(shape.n_items).values())
    weights = sum(n_rows * n_columns for n_rows, n_columns in shapes)
    biases = shape.n_items + sum(n_columns for _, n_columns in shapes[:-1])
    batch = min(model.batch_size, shape.n_users)
    logits = logits_at_once(batch, shape.n_items) * shape.n_items
    steps = model.epochs * math.ceil(shape.n_users / model.batch_size)
    seen = model.epochs * shape.n_users
    inner = sum(n_rows * n_columns for n_rows, n_columns in shapes if shape.n_items not in (n_rows, n_columns))
    # CPU seconds of an epoch, measured and by this: Mult-DAE with 25 and 200 factors, debian-depends .9 .9, 2.6 2.8,
    # ml-1m .24 .19, .7 .5, gowalla 10.8 8.2, 29 29; RecVAE, debian-depends 1.0 .9, 5.4 5.4, gowalla 28 32
    looks = 5e-9 * seen * shape.n_items + 6 * seen * inner / 5e10
    return Estimate(
        peak_bytes=24 * (weights + biases) + 4 * logits + 24 * shape.n_interactions + validation_bytes(shape),
        model_bytes=4 * (weights + biases),
        fit_seconds=3 * seen * shape.n_items * shapes[-1][1] / 3e10 + looks + steps * (3e-3 + weights * 2e-9),
    )
