"""GMF: generalised matrix factorisation, the part of NeuMF that the ELFM paper compares with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from recscale.contract import Choice, ModelSpec, Range
from recscale.models._entries import Tables
from recscale.models._entries_needs import estimate
from recscale.models._entry_trainer import Drawn, DrawnInPlace
from recscale.models._latent_factors import Inference, LatentFactors

if TYPE_CHECKING:
    import torch


@dataclass
class GMF(LatentFactors):
    """Score an item by the weighted product of its vector with the user's: s_ui = h . (x_u o y_i) + b_i.

    The logit of GMF (He et al. 2017, WWW, equations 8 and 9), and an item bias, as the ELFM paper's baseline has it.
    Lowers the mean over entries (u, i) of -ln sigma(s_ui) - sum_j ln(1 - sigma(s_uj)) over the items j drawn for the
    entry, plus lambda / 2 times the squared lengths of all these vectors (equation 7), by Adam. The biases and h are
    not penalised. Scores need x and h o y alone, and h o y is what is kept of the items.

    negatives: items j drawn for an entry; 4 in the paper.
    fold_in_regularization: as for `EntryTrained`.
    The other options, the inference and the errors are those of `EntryTrained`.
    """

    negatives: Annotated[int, Meta(ge=1)] = field(default=4, kw_only=True)
    # NDCG@100 of validation users with 1e-6, .1, .3 and 1: lastfm-2k .385 .393 .398 .391, debian-depends .608 .616 .620
    # .605, ml-1m .438 .457 .461 .421; the loss adds up over the negatives
    fold_in_regularization: Annotated[float, Meta(ge=0)] = field(default=0.3, kw_only=True)

    def extra(self) -> Tables:
        """Return h (D,), ones at the start: matrix factorisation."""
        import torch

        return {"weight": torch.ones(self.factors)}

    def scores_of(self, tables: Tables, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return h . (x o y) + b."""
        return drawn.products(drawn.users * tables["weight"]) + drawn.biases

    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the cross entropies with the drawn items."""
        from torch.nn.functional import softplus

        return softplus(-scores[:, 0]) + softplus(scores[:, 1:]).sum(1)

    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return h o y as `items` (I, D), and `biases` (I,)."""
        return {**super().kept(tables), "items": tables["item"] * tables["weight"]}

    def inference(self) -> Inference:
        """Return the cross entropy against as many items as in training."""
        return Inference("logistic", weight=float(self.negatives))


SPEC = ModelSpec(
    model=GMF,
    title="GMF",
    cite="He et al. Neural Collaborative Filtering. WWW 2017.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "regularization": Range(1e-6, 1.0, log=True),
        "negatives": Choice((1, 4, 16)),
        "fold_in_steps": Range(10, 200, log=True),
        "fold_in_rate": Range(0.01, 0.3, log=True),
        "fold_in_regularization": Range(1e-6, 1.0, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
