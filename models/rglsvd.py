"""rGLSVD: a global and local truncated SVDs, weighted by user, with clusters that stay and ranks of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from recscale.contract import Choice, ModelSpec, Range
from recscale.models._glsvd import GLSVD
from recscale.models._glsvd_needs import estimate

if TYPE_CHECKING:
    from recscale.models._local_factors import Recipe


@dataclass
class RGLSVD(GLSVD):
    """Weight a global and a local truncated SVD for each user, in clusters that stay, with ranks of their own.

    The model, the training and the other options are those of `GLSVD`; the ranks f_c vary (Christakopoulou and
    Karypis 2018, KDD, the model called rGLSVD). The paper searches for them on validation users; here f_c is the
    smallest rank whose squared singular values add up to a share of the squares of the cluster's rows, found at the
    start. A user, seen or not, belongs to the nearest of the centres of k-means, which are kept with V_0.
    With one cluster and no more local factors than global ones it is the SVD of X alone: V_c lies within V, all g are 1
    after the first round, nothing is left for V_c in the second, and scores are r V V' with V of X itself.

    energy: that share, above 0 and at most 1; with 1 all ranks are `local_factors`, or what there is.
    """

    energy: Annotated[float, Meta(gt=0, le=1)] = 0.4

    def recipe(self) -> Recipe:
        """Return how the alternation goes: users stay where they are."""
        from recscale.models._local_factors import Recipe

        return Recipe(self.factors, self.local_factors or self.factors, self.epochs, energy=self.energy)


SPEC = ModelSpec(
    model=RGLSVD,
    title="rGLSVD",
    cite="Christakopoulou and Karypis. Local Latent Space Models for Top-N Recommendation. KDD 2018.",
    size_knob="factors",
    sizes=(4, 8, 16, 32, 64, 128),
    space={
        "n_clusters": Choice((2, 4, 8, 16, 32, 64, 100)),
        "energy": Range(0.2, 0.95),
        "local_factors": Choice((None, 64, 128)),
        "cluster_factors": Choice((8, 16, 32, 64)),
    },
    estimate=estimate,
)
