"""What models that watch validation users need for that, for their estimates."""

from __future__ import annotations

from recscale.contract import Shape
from recscale.models._validation import BLOCK_BYTES

NDCG_COPIES = 2  # of the scores that are looked at: what made them lies beside them; measured on debian-depends


def judges(shape: Shape, at_most: int | None = None) -> int:
    """Return how many validation users there are: an eighth as many as are trained on, mostly."""
    n_users = shape.n_users // 8
    return n_users if at_most is None else min(at_most, n_users)


def looked_at_bytes(shape: Shape, at_most: int | None = None) -> int:
    """Return the bytes of the scores of validation users that are looked at in one go."""
    return min(BLOCK_BYTES, 4 * shape.n_items * judges(shape, at_most))


def validation_bytes(shape: Shape, at_most: int | None = None) -> int:
    """Return what the NDCG of the validation users takes."""
    return NDCG_COPIES * looked_at_bytes(shape, at_most)
