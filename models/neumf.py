"""NeuMF: a product of vectors and a perceptron of vectors, in one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Choice, ModelSpec, Range
from recscale.models._entries import EntryTrained, KeptNumbers, Tables
from recscale.models._entries_needs import estimate
from recscale.models._entry_trainer import Drawn, DrawnInPlace

if TYPE_CHECKING:
    import torch

PIECE = 2**18  # hidden numbers that are worked on at once; 2^16 to 2^20 are level, 2^14 takes five times as long


@dataclass
class NeuMF(EntryTrained):
    """Score an item by h . [x o y, phi(x', y')] + b_i, phi a perceptron, with vectors of their own for each of the two.

    The logit of NeuMF (He et al. 2017, WWW, equation 12): x o y is GMF; phi has `layers` rectified layers, the first
    of D numbers from the 2 D of [x', y'], each further one of half as many. Trained from the start, without the
    pre-training of section 3.4.1, on the loss of `gmf`: the mean over entries of their cross entropy with the items
    drawn for them, plus lambda / 2 times the squared lengths of their vectors, by Adam. An unseen user's [x, x'] is
    trained on the same loss, everything else frozen. 2 (U + I) D numbers and more in training.

    factors: D, of both parts, at least 2^(layers - 1).
    layers: of the perceptron, at least 1.
    negatives: items drawn for an entry; 4 in the paper.
    learning_rate, batch_size, fold_in_regularization: as for `EntryTrained`.
    The other options, the inference and the errors are those of `EntryTrained`.
    """

    layers: Annotated[int, Meta(ge=1, le=6)] = field(default=2, kw_only=True)
    negatives: Annotated[int, Meta(ge=1)] = field(default=4, kw_only=True)
    fold_in_regularization: Annotated[float, Meta(ge=0)] = field(default=0.3, kw_only=True)
    # NDCG@100 of validation users of debian-depends, 16 factors: .518, and .500 in steps of 4,096 entries at .006
    learning_rate: Annotated[float, Meta(gt=0)] = field(default=0.003, kw_only=True)
    batch_size: Annotated[int, Meta(ge=1)] = field(default=1024, kw_only=True)

    def width(self) -> int:
        """Return 2 D: a vector for the product, and one for the perceptron."""
        return 2 * self.factors

    def extra(self) -> Tables:
        """Return the layers, with uniform Xavier weights and no biases, and h."""
        import torch

        drawn, entering = {}, self.width()
        for layer, leaving in enumerate(self._outputs()):
            drawn[f"layer_{layer}"] = torch.nn.init.xavier_uniform_(torch.empty(leaving, entering))
            drawn[f"layer_{layer}_bias"] = torch.zeros(leaving)
            entering = leaving
        return {**drawn, "weight": torch.ones(self.factors), "phi_weight": torch.full((entering,), entering**-0.5)}

    def _outputs(self) -> list[int]:
        """Return the numbers that leave each layer."""
        return [max(1, self.factors >> layer) for layer in range(self.layers)]

    def scores_of(self, tables: Tables, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return h . [x o y, phi] + b."""
        assert isinstance(drawn, Drawn)  # the perceptron needs the vectors themselves
        factors, first = self.factors, tables["layer_0"]
        products = drawn.items[:, :, :factors] @ (drawn.users[:, :factors] * tables["weight"])[:, :, None]
        by_user = drawn.users[:, factors:] @ first[:, :factors].T  # (B, D) @ (D, H)
        by_item = drawn.items[:, :, factors:] @ first[:, factors:].T + tables["layer_0_bias"]
        return products[:, :, 0] + self._phi(tables, by_user[:, None] + by_item) + drawn.biases

    def _phi(self, tables: Tables, hidden: torch.Tensor) -> torch.Tensor:
        """Return h . phi (...,), from what enters the first rectifier (..., H)."""
        for layer in range(1, self.layers):
            hidden = hidden.relu() @ tables[f"layer_{layer}"].T + tables[f"layer_{layer}_bias"]
        return hidden.relu() @ tables["phi_weight"]

    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the cross entropies with the drawn items."""
        from torch.nn.functional import softplus

        return softplus(-scores[:, 0]) + softplus(scores[:, 1:]).sum(1)

    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return `items` (I, 2 D), which are h o y and what an item adds to the first layer, and the rest."""
        import torch

        factors, first = self.factors, tables["layer_0"]
        by_item = tables["item"][:, factors:] @ first[:, factors:].T + tables["layer_0_bias"]
        products = tables["item"][:, :factors] * tables["weight"]
        later = {name: table for name, table in tables.items() if name.startswith("layer_") and "_0" not in name}
        return {
            "items": torch.cat([products, by_item], 1),
            "biases": tables["bias"][:, 0],
            "user_layer": first[:, :factors].clone(),
            "phi_weight": tables["phi_weight"],
            **later,
        }

    def kept_numbers(self) -> KeptNumbers:
        """Return the size of `items`, `biases`, the layers, the last weights and the first vector of a user."""
        outputs = self._outputs()
        later = sum(leaving * (entering + 1) for entering, leaving in pairwise(outputs))
        beside = self.factors**2 + later + outputs[-1] + self.width()
        return KeptNumbers(self.width(), 1, beside)

    def score_users(self, kept: Tables, users: torch.Tensor) -> torch.Tensor:
        """Return h . [x o y, phi] + b (B, I)."""
        import torch

        n_items = max(1, PIECE // self.factors)
        n_users = max(1, PIECE // (self.factors * min(n_items, len(kept["items"]))))
        parts = list(zip(kept["items"].split(n_items), kept["biases"].split(n_items), strict=True))
        rows = [
            torch.cat([self.board({**kept, "items": items, "biases": biases}, some) for items, biases in parts], 1)
            for some in users.split(n_users)
        ]
        return torch.cat(rows) if rows else users.new_empty(0, len(kept["items"]))

    def board(self, kept: Tables, users: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, I) of all `items` for each user, at once."""
        import torch

        factors, items = self.factors, kept["items"]
        by_user = users[:, factors:] @ kept["user_layer"].T  # (B, D) @ (D, H)
        products = torch.addmm(kept["biases"], users[:, :factors], items[:, :factors].T)  # (B, D) @ (D, I)
        return products + self._phi(kept, by_user[:, None] + items[:, factors:])

    def folded_in(self, kept: Tables, rows: sp.csr_array) -> torch.Tensor:
        """Return [x, x'] (B, 2 D) of the users in `rows`, trained on the CPU wherever the items lie."""
        import torch

        from recscale.models._frozen_perceptron import Perceptron, train_users

        arrays = {name: table.cpu().numpy() for name, table in kept.items()}
        between = [part.ravel() for layer in range(1, self.layers) for part in self._between(arrays, layer)]
        frozen = Perceptron(
            **{name: arrays[name] for name in ("items", "biases", "negatives", "start", "user_layer")},
            sizes=np.array(self._outputs()),
            layers=np.concatenate(between) if between else np.empty(0, np.float32),
            head=arrays["phi_weight"],
            weight=float(self.negatives),
            regularization=float(self.fold_in_regularization),
            rate=float(self.fold_in_rate),
        )
        return torch.as_tensor(train_users(rows.indptr, rows.indices, frozen), device=kept["items"].device)

    def _between(self, arrays: Mapping[str, NDArray[np.float32]], layer: int) -> tuple[NDArray[np.float32], ...]:
        """Return the weights (in, out) and biases of a layer."""
        return np.ascontiguousarray(arrays[f"layer_{layer}"].T), arrays[f"layer_{layer}_bias"]


SPEC = ModelSpec(
    model=NeuMF,
    title="NeuMF",
    cite="He et al. Neural Collaborative Filtering. WWW 2017.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "regularization": Range(1e-6, 1.0, log=True),
        "negatives": Choice((1, 4, 16)),
        "layers": Choice((1, 2, 3)),
        "fold_in_steps": Range(10, 200, log=True),
        "fold_in_rate": Range(0.01, 0.3, log=True),
        "fold_in_regularization": Range(1e-6, 1.0, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
