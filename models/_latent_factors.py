"""What MF-BPR, GMF and uCML share: an item scores x . y_i + b_i, x the vector of a user."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.models._entries import EntryTrained, KeptNumbers, Tables
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    import torch

    from recscale.models._frozen_items import Objective
_FROZEN = "items", "biases", "negatives", "pool", "pool_biases", "start"


class Inference(NamedTuple):
    """What a user's vector is trained for when the items are frozen, as `_frozen_items.train_users` takes it."""

    objective: Objective
    weight: float = 0.0
    radius: float | None = None


@dataclass(kw_only=True)
class LatentFactors(EntryTrained):
    """A model whose scores are linear in the vector of the user."""

    needs_products_alone: ClassVar[bool] = True

    @abstractmethod
    def inference(self) -> Inference:
        """Return what the vectors of unseen users are trained for."""

    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return `items` y (I, D) and `biases` b (I,)."""
        return {"items": tables["item"], "biases": tables["bias"][:, 0]}

    def ready(self, kept: Tables) -> Tables:
        """Add the vectors and biases of the `negatives` as `pool` (S, M, D) and `pool_biases` (S, M)."""
        drawn = kept["negatives"].long().to(kept["items"].device)
        return {**kept, "pool": kept["items"][drawn], "pool_biases": kept["biases"][drawn]}

    def folded_in(self, kept: Tables, rows: sp.csr_array) -> torch.Tensor:
        """Return the vectors (B, D) of the users in `rows`, trained on the CPU wherever the items lie."""
        import torch

        from recscale.models._frozen_items import OBJECTIVES, UNBOUNDED, Frozen, train_users

        goal = self.inference()
        frozen = Frozen(
            **{name: kept[name].cpu().numpy() for name in _FROZEN},
            objective=OBJECTIVES[goal.objective],
            weight=goal.weight,
            n_nearest=self.negatives,
            regularization=float(self.fold_in_regularization),
            rate=float(self.fold_in_rate),
            radius=goal.radius or UNBOUNDED,
        )
        return torch.as_tensor(train_users(rows.indptr, rows.indices, frozen), device=kept["items"].device)

    def score_users(self, kept: Tables, users: torch.Tensor) -> torch.Tensor:
        """Return x . y_i + b_i (B, I)."""
        import torch

        return torch.addmm(kept["biases"], users, kept["items"].T)  # (B, D) @ (D, I) -> (B, I)

    def kept_numbers(self) -> KeptNumbers:
        """Return the size of `items`, `biases` and the first vector of a user."""
        return KeptNumbers(self.factors, 1, self.factors)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return y (I, D) without the biases, which raise an item for all users alike: they are no place."""
        vectors: NDArray[np.float32] = self.kept_["items"].cpu().numpy()
        return vectors

    def user_vectors(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return x (B, D)."""
        rows = checked_history(history, self.kept_["items"].shape[0])
        vectors: NDArray[np.float32] = self.folded_in(self.kept_, rows).cpu().numpy()
        return vectors
