"""SANSA: the weights of EASE from a sparse approximate inverse of a Cholesky factor, never dense."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import FitWarning, NumericalError
from recscale.models._inputs import checked_history

if TYPE_CHECKING:
    from recscale.models._sparse_gram import Interactions, Measure
    from recscale.models._triangular_inverse import Columns

Factor = TypeVar("Factor")

SHIFT_STEP = 1e-3  # of the diagonal, and twice, four times, ... that
MOST_SHIFTS = 20
LEAST_NEIGHBORS, AUTO_ENTRIES = 200, 10_000_000  # of an item, and of all together, with neighbors = auto
BUFFERS = 100_000_000  # bytes of what is found before it is packed, where there is so much
TOLERANCE = 0.3  # of the level of the kept entries; with 0 to 1 NDCG@100 on debian-depends stays within .0005


@dataclass
class SANSA(Model):
    """Score an item by EASE with a sparse approximate inverse: s_u = (x_u W') W2, W2 = -D^-1 W / diag(W' D^-1 W).

    A = X'X + l2 I = Pi' L D L' Pi about, with unit lower triangular L; M is about L^-1, W = M Pi, so A^-1 is about
    W' D^-1 W (Spisak et al. 2023, RecSys, section 3). Of A every item keeps its nearest `neighbors` by
    G_ij / sqrt((G_ii + l2) (G_jj + l2)), and those that it is one of; the rest is dropped while X'X is summed. The
    authors keep all of X'X. L, and then M, are thinned out to the k I entries of largest magnitude, the diagonal
    always among them. The diagonal of the weights ends as -1, which only moves items of the history.
    The authors store W' and W2; here one matrix E = W' D^-1/2 and a vector w are stored, half of that, since
    W2 = D^-1/2 E' diag(w): s_u = (x_u E) E' diag(w), w = -1 / diag(E E').
    Where the factorisation breaks down the diagonal of A is raised by .001, .002, .004, ... of itself, with a
    FitWarning (the authors add such numbers to a matrix that they have scaled, and do not scale back).
    Peak of a fit: about 50 bytes for each entry of the thresholded A, of which there are at most 2 neighbors I.

    l2: weight of the squared norm of the weights, in interactions, above 0.
    k: mean number of entries that are stored for each item, at least 1; None keeps all there are.
    neighbors: of each item in A, at least 1; None keeps all, and `auto` the larger of 200 and 10^7 / I.
    factorization: `incomplete`, without fill, in the order of ascending number of entries in A; or `cholmod`, exact in
        a fill-reducing order (needs the extra of that name). Or `local`, neither factor nor inversion, and not by the
        authors: row i of D^-1/2 W from the inverse of the block of A, whole, around item i and the k - 1 nearest that
        are more popular (Kolotilina and Yeremin 1993, SIAM J. Matrix Anal. 14); nothing breaks down.
    inversion: `substitution` solves for the columns of M one by one, without the numbers that are too small to matter,
        which comes closer to L^-1; or `residual`, the authors' uniform minimal residuals.
    scans: passes of `residual` over all columns, at least 0.
    finetune_steps: further steps of `residual`, each on the k columns with the largest residuals, at least 0.
    max_fill: entries of the factor before it is thinned out, at least 1; for cholmod. Where there would be more, the
        weakest of A are left out, with a FitWarning.
    Raises NumericalError where no shift helps; DataError for input that is no matrix of finite numbers, or a history
    over another number of items; for cholmod MissingExtra and OutOfMemory; DeadlineExceeded.
    """

    # NDCG@100 on validation parts at k = 100, incomplete with neighbors 100/200/more: debian-depends at l2 = 20 .679/
    # .684/.684 (ease .683; residual .665/-/-), ml-1m at 500 .233/.297/.459 (ease .488; the shift is 16 to 33 times the
    # diagonal, and none with all), gowalla at 50 .185/-/.234. local with 200: .675, .486, .244
    l2: Annotated[float, Meta(gt=0)] = 500.0
    k: Annotated[int, Meta(ge=1)] | None = 200
    # and with 200/1000/all at l2 = 500: ml-1m .297/.364/.459, ml-100k .340/.451/.451, so small ones keep all by default
    neighbors: Annotated[int, Meta(ge=1)] | Literal["auto"] | None = "auto"
    factorization: Literal["incomplete", "cholmod", "local"] = "incomplete"
    inversion: Literal["substitution", "residual"] = "substitution"
    scans: Annotated[int, Meta(ge=0)] = 1
    finetune_steps: Annotated[int, Meta(ge=0)] = 10
    max_fill: Annotated[int, Meta(ge=1)] = 60_000_000

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Factor the thresholded Gram matrix of `train` (U, I), and invert the factor."""
        if self.factorization == "cholmod":
            from recscale.models import _cholmod

            _cholmod.require_cholmod()
        train = canonical(train)
        gram, data, nearness = self._gram(train, context)
        if self.factorization == "local":
            return self._set(self._local_embeddings(gram, data, nearness, context))
        del data
        n_items = train.shape[1]
        n_kept = n_items * n_items if self.k is None else (min(self.k, n_items) - 1) * n_items  # below the diagonal
        if self.k is not None and self.k >= n_items:
            warnings.warn(f"k={self.k} prunes nothing of {n_items} items: all is kept", FitWarning, stacklevel=2)
        lower, diagonal, order = self._factor(_regularised(gram, self.l2), n_kept, context)
        del gram
        inverse = self._inverse(lower, n_kept, context)
        del lower
        return self._set(_embeddings_of(inverse, diagonal, order))

    def _gram(self, train: sp.csr_array, context: FitContext) -> tuple[sp.csr_array, Interactions, Measure]:
        """Return the thresholded X'X (I, I), with the data and the measure by which it was thresholded."""
        from recscale.models._sparse_gram import Keep, Measure, interactions, sparse_gram

        n_items = train.shape[1]
        squares = np.bincount(train.indices, train.data.astype(np.float64) ** 2, minlength=n_items)
        nearness = Measure(1.0 / np.sqrt(squares + self.l2), np.zeros(n_items))
        keep = Keep(_n_neighbors(self.neighbors, n_items), union=True)
        data = interactions(train)
        return sparse_gram(data, nearness, keep, context), data, nearness

    def _local_embeddings(
        self, gram: sp.csr_array, data: Interactions, nearness: Measure, context: FitContext
    ) -> dict[str, Array]:
        from recscale.models._local_inverse import local_factor, preceding

        order = np.argsort(-gram.diagonal(), kind="stable").astype(np.int32)
        pattern = preceding(gram, nearness, order, self.k)
        del gram
        factor = local_factor(data, pattern, self.l2, context)
        del pattern
        return _weighted(sp.csr_array(factor.T.tocsr()))

    def _factor(
        self, matrix: sp.csr_array, n_kept: int, context: FitContext
    ) -> tuple[Columns, NDArray[np.float64], NDArray[np.int32]]:
        """Return unit L by columns and D (I,) with A[order][:, order] = L D L' about, and the order (I,)."""
        from recscale.models import _cholmod
        from recscale.models._triangular_inverse import Columns, thinned

        if self.factorization == "cholmod":
            by_rank, order = _exact(_cholmod.within_fill(matrix, self.max_fill, context), context)
        else:
            lengths = np.diff(matrix.indptr)
            order = np.lexsort((matrix.diagonal(), lengths)).astype(np.int32)
            by_rank = _incomplete(matrix, order, context)
        pivots = by_rank.data[by_rank.indptr[1:] - 1].astype(np.float64)
        by_rank.data[by_rank.indptr[1:] - 1] = 0
        by_rank.eliminate_zeros()
        columns = by_rank.tocsc()
        lower = thinned(
            Columns(columns.indptr.astype(np.int64), columns.indices, columns.data.astype(np.float32)), n_kept
        )
        lower.values[:] /= np.repeat(pivots, np.diff(lower.ptr))
        return lower, pivots**2, order

    def _inverse(self, lower: Columns, n_kept: int, context: FitContext) -> Columns:
        from recscale.models import _triangular_inverse as triangular

        if self.inversion == "substitution":
            return triangular.substitution(lower, n_kept, TOLERANCE, context)
        worst = lower.ptr.size - 1 if self.k is None else self.k
        how = triangular.MinimalResidual(self.scans, self.finetune_steps, worst)
        return triangular.minimal_residual(lower, n_kept, how, context)

    def _set(self, state: Mapping[str, Array]) -> Self:
        from recscale.models import _embeddings as kernels

        self.state_ = dict(state)
        self.prepared_: Any = kernels.prepared(self.state_["embeddings"], self.state_["weights"])
        return self

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return (x E) E' diag(w) (B, I) for each row x of `history`."""
        from recscale.models import _embeddings as kernels
        from recscale.models._neighbours import rows_of

        rows = checked_history(history, self.state_["weights"].size)
        return kernels.scores(rows_of(rows), self.prepared_)

    def state(self) -> Mapping[str, Array]:
        """Return sparse `embeddings` E (I, I) and `weights` w (I,)."""
        return self.state_

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        return self._set(state)


def _incomplete(matrix: sp.csr_array, order: NDArray[np.int32], context: FitContext) -> sp.csr_array:
    """Return the incomplete factor (I, I) by rank, of `matrix` or where that breaks down with a larger diagonal."""
    from recscale.models import _incomplete as kernels

    n_items = order.size
    ranks = np.empty_like(order)
    ranks[order] = np.arange(n_items, dtype=order.dtype)
    rows = np.repeat(np.arange(n_items, dtype=np.int32), np.diff(matrix.indptr))
    lower = ranks[matrix.indices] <= ranks[rows]
    parts = (matrix.data[lower], (ranks[rows[lower]], ranks[matrix.indices[lower]]))
    triangle = sp.csr_array(sp.coo_array(parts, shape=matrix.shape))
    triangle.sort_indices()
    del parts, rows, lower
    indptr, last = triangle.indptr.astype(np.int64), triangle.indptr[1:] - 1

    def attempt(shift: float) -> NDArray[np.float64] | None:
        data = triangle.data.copy()
        data[last] *= 1.0 + shift
        workspace = np.zeros(n_items)
        for first in range(0, n_items, kernels.SPAN):
            until = min(first + kernels.SPAN, n_items)
            if kernels._factor(indptr, triangle.indices, data, workspace, (first, until)) >= 0:
                return None
            context.progress(until, n_items)
        return data

    triangle.data = _least_shifted(attempt, context)
    return triangle


def _exact(matrix: sp.csr_array, context: FitContext) -> tuple[sp.csr_array, NDArray[np.int32]]:
    """Return CHOLMOD's factor (I, I) by rank and its order (I,), with a larger diagonal where need be."""
    from recscale.models import _cholmod

    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    on_diagonal = rows == matrix.indices
    del rows

    def attempt(shift: float) -> sp.csr_array | None:
        data = np.where(on_diagonal, matrix.data * (1.0 + shift), matrix.data)
        try:
            return _cholmod.factor_rows(
                sp.csr_array((data, matrix.indices, matrix.indptr), matrix.shape), None, context
            )
        except NumericalError:
            return None

    factor = _least_shifted(attempt, context)  # by item; the diagonal is the last of a row
    factor.sort_indices()
    order = np.argsort(factor.indices[factor.indptr[1:] - 1]).astype(np.int32)
    return sp.csr_array(factor[order]), order


def _least_shifted(attempt: Callable[[float], Factor | None], context: FitContext) -> Factor:
    """Return what `attempt` gives for the least shift of 0, .001, .002, .004, ... with which it does not break down.

    Found by bisection: a factor that breaks down takes as long as one that does not, and on gowalla 12 shifts fail.
    """
    factor = attempt(0.0)
    if factor is not None:
        return factor
    fails, holds = 0, MOST_SHIFTS + 1
    while holds - fails > 1:
        middle = (fails + holds) // 2
        tried = attempt(SHIFT_STEP * 2.0 ** (middle - 1))
        fails, holds = (middle, holds) if tried is None else (fails, middle)
        factor = factor if tried is None else tried
        context.progress(MOST_SHIFTS - (holds - fails), MOST_SHIFTS)
    shift = SHIFT_STEP * 2.0 ** (holds - 1)
    if factor is None:
        raise NumericalError(f"the factorisation breaks down even with a diagonal raised by {shift / 2:g} of itself")
    warnings.warn(
        f"the factorisation breaks down; the diagonal of the thresholded Gram was raised by {shift:.1%} of itself",
        FitWarning,
        stacklevel=2,
    )
    return factor


def _n_neighbors(asked: int | str | None, n_items: int) -> int:
    """Return how many neighbours each item keeps."""
    if asked is None:
        return n_items
    return min(n_items, max(LEAST_NEIGHBORS, AUTO_ENTRIES // max(1, n_items)) if isinstance(asked, str) else asked)


def _embeddings_of(inverse: Columns, diagonal: NDArray[np.float64], order: NDArray[np.int32]) -> dict[str, Array]:
    """Return E = W' D^-1/2 (I, I) with W = M Pi, and w = -1 / diag(E E')."""
    from recscale.models._neighbours import Rows, csr

    n_items = order.size
    root = (1.0 / np.sqrt(diagonal)).astype(np.float32)
    transposed = csr(Rows(inverse.ptr, inverse.rows, inverse.values), n_items)  # M'
    by_rank = sp.csr_array(transposed + sp.eye_array(n_items, dtype=np.float32, format="csr"))
    by_rank.data *= root[by_rank.indices]
    ranks = np.empty_like(order)
    ranks[order] = np.arange(n_items, dtype=order.dtype)
    embeddings = sp.csr_array(by_rank[ranks])
    embeddings.sort_indices()
    return _weighted(embeddings)


def _weighted(embeddings: sp.csr_array) -> dict[str, Array]:
    """Return the state: E (I, I), and w (I,)."""
    n_items = embeddings.shape[0]
    rows = np.repeat(np.arange(n_items), np.diff(embeddings.indptr))
    squares = np.bincount(rows, embeddings.data.astype(np.float64) ** 2, minlength=n_items)
    return {"embeddings": embeddings, "weights": (-1.0 / squares).astype(np.float32)}


def _regularised(gram: sp.csr_array, l2: float) -> sp.csr_array:
    """Return the matrix with l2 on the diagonal, in float64; on the same indices."""
    data = gram.data.astype(np.float64)
    data[np.repeat(np.arange(gram.shape[0]), np.diff(gram.indptr)) == gram.indices] += l2
    return sp.csr_array((data, gram.indices, gram.indptr), shape=gram.shape)


def estimate(model: SANSA, shape: Shape) -> Estimate:
    """The thresholded Gram matrix with its copies, or the factor and its inverse.

    The factors are those that 60 fits of seven data sets took, with 3 to 427 thousand items: memory mostly within 15 %,
    time within a factor of 2.2 (on two cores).
    """
    n_items = shape.n_items
    k = n_items if model.k is None else min(model.k, n_items)
    pattern = min(min(2 * _n_neighbors(model.neighbors, n_items), n_items) * n_items, shape.n_pairs)
    filled = model.max_fill if model.factorization == "cholmod" else 0
    kept = 8 * k * n_items + 8 * n_items
    return Estimate(
        peak_bytes=max(
            40 * filled + 3 * kept + BUFFERS * bool(filled),
            21 * pattern + min(BUFFERS, shape.n_pairs),
            int(4.3 * kept) + min(BUFFERS, 14 * kept),
        ),
        model_bytes=kept,
        fit_seconds=None if filled else 5e-7 * pattern + 1.3e-6 * k * n_items,
    )


SPEC = ModelSpec(
    model=SANSA,
    title="SANSA",
    cite="Spisak et al. Scalable Approximate NonSymmetric Autoencoder for Collaborative Filtering. RecSys 2023.",
    size_knob="k",
    sizes=(20, 50, 100, 200, 400),
    space={"l2": Range(1.0, 10_000.0, log=True)},
    estimate=estimate,
)
