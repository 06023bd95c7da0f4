"""uCML: collaborative metric learning with uniformly drawn negatives, and CML, with its rank weights, by an option."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Self

import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Choice, FitContext, ModelSpec, Range
from recscale.models._entries import KeptNumbers, Tables
from recscale.models._entries_needs import estimate
from recscale.models._entry_trainer import Drawn, DrawnInPlace
from recscale.models._latent_factors import Inference, LatentFactors

if TYPE_CHECKING:
    import torch

    from recscale.models._frozen_items import Objective


@dataclass
class UCML(LatentFactors):
    """Score an item by how near it lies to the user: the order of -|x_u - y_i|^2, all vectors in the unit ball.

    Lowers the mean over entries (u, i), each with items j that u does not have, of
    mean_j max(0, margin + |x_u - y_i|^2 - |x_u - y_j|^2) / 2 + lambda / 2 (|x_u|^2 + |y_i|^2 + sum_j |y_j|^2), and
    brings each vector back into the ball after each step (Hsieh et al. 2017, WWW, equations 1 and 3; they have no
    lambda). As the ELFM paper's uCML: negatives drawn evenly, neither rank weights nor features nor the penalty of
    covariance. Without item biases, which are no distances. With `rank_weights` it is CML without the latter two: of
    the hinges of an entry the largest alone counts, times ln(1 + rank), the rank estimated as I times the share of the
    negatives that lie within the margin (their section 3.2).
    With s_ui = x_u . y_i - |y_i|^2 / 2 the difference of two squared distances is 2 (s_ui - s_uj): s is what is
    returned as the score.

    margin: above 0.
    rank_weights: whether it is CML.
    negatives: 16, since most of a few lie beyond the margin and teach nothing.
    fold_in_regularization: as for `EntryTrained`.
    The other options, the inference and the errors are those of `EntryTrained`.
    """

    margin: Annotated[float, Meta(gt=0)] = field(default=0.5, kw_only=True)
    rank_weights: bool = field(default=False, kw_only=True)
    # NDCG@100 of validation users of debian-depends with 1, 4 and 16: .478 .518 .562, after 170, 269 and 712 s of fit
    negatives: Annotated[int, Meta(ge=1)] = field(default=16, kw_only=True)
    # NDCG@100 of validation users with 1e-6, .01, .03 and .1: debian-depends .588 .599 .543 .484, lastfm-2k .390 .400
    # .403 .405
    fold_in_regularization: Annotated[float, Meta(ge=0)] = field(default=0.01, kw_only=True)

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train as `EntryTrained` does."""
        self.n_items_ = train.shape[1]
        return super().fit(train, context)

    def scores_of(self, tables: Tables, drawn: Drawn | DrawnInPlace) -> torch.Tensor:
        """Return x . y - |y|^2 / 2, which is as far from -|x - y|^2 / 2 for all items."""
        return drawn.products(drawn.users) - 0.5 * drawn.squares()

    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return half the means of max(0, margin + the positive's squared distance - the negative's).

        With rank weights half the largest, times ln(1 + I share of those above 0).
        """
        hinges = (0.5 * self.margin - scores[:, :1] + scores[:, 1:]).relu()
        if not self.rank_weights:
            return hinges.mean(1)
        ranks = self.n_items_ * (hinges > 0).float().mean(1)
        return ranks.log1p() * hinges.amax(1)

    def project(self, tables: Tables) -> None:
        """Shorten the vectors that are longer than 1."""
        for name in ("user", "item"):
            tables[name].div_(tables[name].norm(dim=1, keepdim=True).clamp(min=1))

    def kept(self, tables: Tables) -> dict[str, torch.Tensor]:
        """Return y as `items` (I, D)."""
        return {"items": tables["item"]}

    def ready(self, kept: Tables) -> Tables:
        """Add -|y|^2 / 2 as `biases` (I,), and what all have."""
        return super().ready({**kept, "biases": -0.5 * kept["items"].square().sum(1)})

    def kept_numbers(self) -> KeptNumbers:
        """Return the size of `items` and the first vector of a user."""
        return super().kept_numbers()._replace(item=0)

    def inference(self) -> Inference:
        """Return the same hinge, in the ball."""
        objective: Objective = "ranked hinge" if self.rank_weights else "hinge pairs"
        return Inference(objective, weight=0.5 * self.margin, radius=1.0)


SPEC = ModelSpec(
    model=UCML,
    title="uCML",
    cite="Hsieh et al. Collaborative Metric Learning. WWW 2017.",
    size_knob="factors",
    sizes=(16, 32, 64, 128),
    space={
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "margin": Range(0.1, 2.0, log=True),
        "regularization": Range(1e-6, 1.0, log=True),
        "negatives": Choice((1, 4, 16)),
        "rank_weights": Choice((False, True)),
        "fold_in_steps": Range(10, 200, log=True),
        "fold_in_rate": Range(0.01, 0.3, log=True),
        "fold_in_regularization": Range(1e-6, 1.0, log=True),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
