"""The weights of Sparse ELSA while they are pruned: a dense table at first, then only what is kept of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import FitContext
from recscale.models._bags import PIECE, Bags
from recscale.models._elsa import NormalisedLoss, fold_in

if TYPE_CHECKING:
    import torch

SPARSE_BELOW = 0.25  # share of entries kept from which the kernels for few entries are faster than dense products


class PrunedWeights:
    """Weights W (I, D) under NAdam that can be pruned row by row; what is pruned is not trained any more.

    On a CPU they are stored as values and places (I, k) once k is at most D / 4; on another device they stay dense.
    """

    def __init__(self, weight: torch.Tensor, learning_rate: float, context: FitContext) -> None:
        import torch

        self.module = torch.nn.ParameterDict({"weight": weight})
        self.optimiser = torch.optim.NAdam(self.module.parameters(), lr=learning_rate)
        self._n_items, self._n_dimensions = weight.shape
        self._context = context
        self._is_compact = False
        self._dense: NormalisedLoss | None = NormalisedLoss(self.weight)
        self._tiles: Any = None

    @property
    def weight(self) -> torch.Tensor:
        """W (I, D), or what is kept of it (I, k)."""
        tensor: torch.Tensor = self.module["weight"]
        return tensor

    def prune(self, k: int) -> None:
        """Keep the k entries of largest magnitude of each row, and what the optimiser knows of them."""
        if self._context.device == "cpu" and k <= SPARSE_BELOW * self._n_dimensions:
            self._compact(k)
        elif k < self._n_dimensions:
            self._mask(k)

    def _mask(self, k: int) -> None:
        """Set all but the k largest entries of each row to zero, and their momentum too."""
        weight = self.weight.detach()
        n_rows = max(1, PIECE // weight.shape[1])
        for first in range(0, weight.shape[0], n_rows):
            part = weight[first : first + n_rows]
            kept = part.abs().topk(k, dim=1, sorted=False).indices
            values = part.gather(1, kept)
            part.zero_().scatter_(1, kept, values)
        for moments in self.optimiser.state.values():
            moments["exp_avg"].mul_(weight != 0)

    def _compact(self, k: int) -> None:
        """Store the k largest entries of each row and their places, in ascending order."""
        import torch

        from recscale.models._pruned_elsa import TileLoss

        before = self.weight
        kept = before.detach().abs().topk(k, dim=1).indices.sort(dim=1).values
        places = self.module.places.gather(1, kept) if self._is_compact else kept.int()
        after = torch.nn.Parameter(before.detach().gather(1, kept))
        moments = self.optimiser.state.pop(before, {})
        if moments:
            taken = {
                name: part.gather(1, kept) if part.shape == before.shape else part for name, part in moments.items()
            }
            self.optimiser.state[after] = taken
        self.optimiser.param_groups[0]["params"] = [after]
        self.module["weight"] = after
        self.module.register_buffer("places", places)
        if not self._is_compact:
            self._tiles, self._dense, self._is_compact = TileLoss(self._n_items, self._n_dimensions), None, True

    def loss(self, rows: sp.csr_array) -> torch.Tensor:
        """Return the mean loss of some rows (B, I), and write its gradient."""
        import torch

        if self._dense is not None:
            loss = self._dense(Bags.of(rows, self._context.device), 1 / rows.shape[0])
            self.weight.grad = self._dense.gradient.mul_(self.weight.detach() != 0)
            return loss
        from recscale.models._compiled import numba_threads

        unit, lengths = self._unit()
        with numba_threads(self._context.n_threads):
            total, by_unit = self._tiles(rows, unit.numpy(), self.module.places.numpy())
        gradient = torch.from_numpy(by_unit)
        gradient.addcmul_(unit, (unit * gradient).sum(1, keepdim=True), value=-1)
        self.weight.grad = gradient.div_(lengths * rows.shape[0])
        return torch.tensor(total / rows.shape[0]) + 0 * lengths.sum()  # NaN once a length is infinite

    def _unit(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of W at length 1, and their lengths (I, 1)."""
        import torch

        weight = self.weight.detach()
        lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-12)
        return weight / lengths, lengths

    def embeddings(self) -> sp.csr_array:
        """Return A (I, D), sparse."""
        from recscale.models._neighbours import Rows, csr

        unit, _ = self._unit()
        if not self._is_compact:
            return sp.csr_array(unit.cpu().numpy())
        k = unit.shape[1]
        starts = np.arange(self._n_items + 1, dtype=np.int64) * k
        places = self.module.places.numpy().reshape(-1)
        return csr(Rows(starts, places, unit.numpy().reshape(-1)), self._n_dimensions)

    def on_device(self) -> torch.Tensor | None:
        """Return A (I, D), dense, if it lies on a device other than the CPU."""
        return None if self._context.device == "cpu" else self._unit()[0]

    def score(self, history: sp.csr_array) -> Any:
        """Return x A A' - x (B, I), for the validation."""
        if not self._is_compact:
            return fold_in(history, self._unit()[0])
        return sparse_fold_in(history, prepared_for_scoring(self.embeddings()))

    def gauges(self) -> dict[str, float]:
        """Return how many entries an item has."""
        import torch

        return {"entries per item": torch.count_nonzero(self.weight).item() / self._n_items}


def prepared_for_scoring(embeddings: sp.csr_array) -> Any:
    """Return sparse embeddings (I, D) ready for `sparse_fold_in`."""
    from recscale.models._embeddings import prepared

    return prepared(embeddings, np.ones(embeddings.shape[0], np.float32))


def sparse_fold_in(history: sp.csr_array, prepared: Any) -> NDArray[np.float32]:
    """Return x A A' - x (B, I) for rows x of `history`."""
    from recscale.models._embeddings import scores
    from recscale.models._neighbours import rows_of

    result = scores(rows_of(history), prepared)
    result[history.nonzero()] -= history.data
    return result
