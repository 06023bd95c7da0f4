"""MF-BPR: matrix factorisation by pairwise ranking against items drawn evenly, as the papers compare with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recscale.contract import Choice, ModelSpec, Range
from recscale.models._entries import Tables
from recscale.models._entries_needs import estimate
from recscale.models._entry_trainer import Drawn, DrawnInPlace
from recscale.models._latent_factors import Inference, LatentFactors

if TYPE_CHECKING:
    import torch


@dataclass
class MFBPR(LatentFactors):
    """Score an item by its bias and the product of its vector with the user's: s_ui = x_u . y_i + b_i.

    Lowers the mean over entries (u, i), each with items j that u does not have, of mean_j -ln sigma(s_ui - s_uj)
    + lambda / 2 (|x_u|^2 + |y_i|^2 + sum_j |y_j|^2), j drawn evenly (Rendle et al. 2009, UAI, section 4), by Adam as in
    the ELFM paper. `bpr` is the same objective by implicit, whose negatives are drawn by popularity and whose steps are
    those of plain stochastic gradients. The biases are not penalised.

    The options, the inference and the errors are those of `EntryTrained`.
    """

    def scores_of(self, tables: Tables, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return x . y + b."""
        return drawn.products(drawn.users) + drawn.biases

    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the means of -ln sigma(s_p - s_n)."""
        from torch.nn.functional import softplus

        return softplus(scores[:, 1:] - scores[:, :1]).mean(1)

    def inference(self) -> Inference:
        """Return the same pairs."""
        return Inference("logistic pairs")


SPEC = ModelSpec(
    model=MFBPR,
    title="MF-BPR",
    cite="Rendle et al. BPR: Bayesian Personalized Ranking from Implicit Feedback. UAI 2009.",
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
