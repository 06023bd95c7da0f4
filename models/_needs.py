"""What models that watch validation users need for that, for their estimates."""

from __future__ import annotations

from recscale.contract import Shape
from recscale.models._validation import BLOCK_BYTES


def validation_bytes(shape: Shape) -> int:
    """Return what the NDCG of the validation users takes: four copies of the scores that are looked at in one go.

    There is about one of them for eight that are trained on. Measured on debian-depends and ml-1m, where they are 45
    and 7 MB.
    """
    return 4 * min(BLOCK_BYTES, 4 * shape.n_items * (shape.n_users // 8))
