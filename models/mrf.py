"""MRF: every item is regressed on its neighbours in a Gaussian Markov random field of the items, dense or sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import NumericalError
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._sparse_gram import Measure


@dataclass
class MRF(Model):
    """Score an item by its conditional mean in a Gaussian Markov random field, given the items of the history.

    C = S (X'X - U mu mu') S with S = diag(U var)^(-alpha/2), P = (C + l2 I)^-1, b_ij = -P_ij / P_jj, b_jj = 0,
    B = S b S^-1, s_u = x_u B (Steck 2019, NeurIPS, section 3, and its public code). As in that code the
    history is not centred: the mean term mu - mu B is left out.
    With a threshold or a limit of neighbours, no dense matrix exists: |C_ij| picks the neighbours of item j (section
    3.1), and column j of P is that of the inverse of C on the block of its neighbours (section 3.2). The entries of
    that block come from the data, also where they are below the threshold; as in the paper, pairs that nobody has
    count with their C_ij, and equally near ones in the order of their indices.
    alpha = 0 without centring is EASE. Peak of a dense fit: 1 I*I*4 bytes; of a sparse one: about 20 bytes a kept
    pair, and 1 GiB for the blocks.

    alpha: exponent of the rescaling, from 0 (covariances) to 1 (correlations).
    l2: weight of the squared norm of b, in units of C, above 0.
    threshold: pairs with |C_ij| of at most this are dropped, at least 0.
    max_neighbors: neighbours kept for each item, at least 1; None keeps all (the author's code: 1000).
    overlap: r, the share of a block whose columns are taken from it, 0 to 1: larger is faster and coarser; 0 gives
        every item its own block. Of no effect on a dense fit.
    centred: False leaves mu out of C, and takes the mean square for the variance.
    Raises NumericalError if the inverse cannot be trusted; DataError for input that is no matrix of finite numbers,
    or a history over another number of items; DeadlineExceeded.
    """

    # NDCG@100 on validation parts, 100 neighbours, l2 = 3, 6, 12, 25: gowalla .2409 .2469 .2487 .2446, amazon-cds .1368
    # .1407 .1420 .1417, ml-1m .4775 .4778 .4731 .4642; dense on ml-1m .4716 .4849 .4897 .4879 (EASE .4884 at its best)
    alpha: Annotated[float, Meta(ge=0, le=1)] = 0.75
    l2: Annotated[float, Meta(gt=0)] = 10.0
    threshold: Annotated[float, Meta(ge=0)] = 0.0
    max_neighbors: Annotated[int, Meta(ge=1)] | None = None
    overlap: Annotated[float, Meta(ge=0, le=1)] = 0.0
    centred: bool = True

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Learn the weights from `train` (U, I)."""
        from recscale.models._sparse_gram import rescaled

        train = canonical(train)
        measure = rescaled(train, self.alpha, centred=self.centred)
        n_items = train.shape[1]
        k = n_items - 1 if self.max_neighbors is None else self.max_neighbors
        try:
            if self.threshold == 0 and k >= n_items - 1:
                self.weights_: Any = self._dense(train, measure, context)
            else:
                self.weights_ = self._sparse(train, measure, k, context)
        except NumericalError as error:
            raise NumericalError(f"{error}; l2={self.l2:g} is too small for it: use a larger l2") from None
        return self

    def _dense(self, train: sp.csr_array, measure: Measure, context: FitContext) -> NDArray[np.float32]:
        """Return B (I, I), made where the Gram matrix was."""
        from recscale.models import _gram, _inverse, _sparse_gram
        from recscale.models._compiled import numba_threads

        matrix = _gram.gram(train, context, mirrored=False)
        with numba_threads(context.n_threads):
            _sparse_gram.measure_dense(matrix, measure)
            matrix.reshape(-1)[:: measure.scale.size + 1] += np.float32(self.l2)
            _inverse.invert(matrix, context)
            columns = -_inverted(matrix.diagonal().astype(np.float64) * measure.scale)
            _sparse_gram.scale_dense(matrix, measure.scale, columns)
        return matrix

    def _sparse(self, train: sp.csr_array, measure: Measure, k: int, context: FitContext) -> sp.csr_array:
        """Return B (I, I) on the pattern of the neighbours."""
        from recscale.models._sparse_gram import Keep, interactions, sparse_gram
        from recscale.models._sparse_precision import Blocks, sparse_inverse

        data = interactions(train)
        pattern = sparse_gram(data, measure, Keep(max(k, 1), self.threshold), context)
        by_column = sparse_inverse(data, measure, pattern, Blocks(self.l2, self.overlap, "weights"), context)
        del data, pattern
        scale = measure.scale.astype(np.float32)
        by_column.data *= scale[by_column.indices]
        by_column.data *= np.repeat(_inverted(scale), np.diff(by_column.indptr))
        return by_column.T.tocsr()

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return `history @ weights`: (B, I)."""
        from recscale.models import _item_weights as dense
        from recscale.models import _neighbours as sparse

        rows = checked_history(history, self.weights_.shape[0])
        if isinstance(self.weights_, np.ndarray):
            return dense.dense_scores(sparse.rows_of(rows), self.weights_, np.ones(rows.shape[1], np.float32))
        return sparse.dense_product(sparse.rows_of(rows), sparse.rows_of(self.weights_), rows.shape[1])

    def state(self) -> Mapping[str, Array]:
        """Return `weights` B (I, I), dense or sparse."""
        return {"weights": self.weights_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `weights`."""
        self.weights_ = state["weights"]
        return self


def _inverted(values: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / values, and 0 for 0: an item that does not vary is nobody's neighbour."""
    inverted: NDArray[Any] = np.divide(1, values, out=np.zeros_like(values), where=values != 0)
    return inverted


def estimate(model: MRF, shape: Shape) -> Estimate:
    """Dense: one I*I buffer. Sparse: the kept pairs three times over, local Gram matrices, and the data transposed."""
    n_items = shape.n_items
    extra = shape.n_interactions + 8 * shape.n_users + 256 * n_items + 2**24  # vectors, and the buffers of BLAS
    if model.threshold == 0 and (model.max_neighbors is None or model.max_neighbors >= n_items - 1):
        seconds = n_items**3 / 1.3e11 + shape.n_pairs * 2e-9  # two cores at 130 GFLOP/s
        return Estimate(4 * n_items**2 + extra, 4 * n_items**2, seconds)
    k = min(model.max_neighbors or 1000, n_items)  # a threshold says nothing of how many pairs there are
    n_kept = min(k * n_items, shape.n_pairs)
    model_bytes = 8 * n_kept + 4 * (n_items + 1)
    share = 1.0 / max(1.0, 0.3 * model.overlap * k)  # of the items that have a block of their own
    packed = int(2 * share * n_items * k**2)
    blocks = min(2**30, packed) + 2 * k**2
    seconds = shape.n_pairs * 2e-8 * (1 + packed / 2**30) + share * n_items * k**3 * 3e-11
    return Estimate(3 * model_bytes + blocks + 10 * shape.n_interactions + extra, model_bytes, seconds)


SPEC = ModelSpec(
    model=MRF,
    title="MRF",
    cite="Steck. Markov Random Fields for Collaborative Filtering. NeurIPS 2019.",
    size_knob="max_neighbors",
    sizes=(20, 50, 100, 200, 400, None),
    space={
        "l2": Range(0.1, 100.0, log=True),
        "alpha": Range(0.0, 1.0),
        "overlap": Range(0.0, 0.5),
    },
    estimate=estimate,
)
