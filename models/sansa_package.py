"""SANSA as its authors' package `sansa` computes it: a peer of the adapter `sansa`, of the extra `peers`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Range, Shape, canonical
from recscale.errors import FitWarning, MissingExtra, NumericalError, OutOfMemory
from recscale.models._inputs import checked_history


@dataclass
class SANSAPackage(Model):
    """Score by the two sparse matrices of the package `sansa`: s_u = (x_u W1) W2 (Spisak et al. 2023, RecSys).

    Fit, weights and scoring are the package's own (`SANSA.fit`, `SANSA.forward`); both matrices are stored, as there.
    It works in one thread, builds all of X'X for `icf`, and reports no progress; the time limit is looked at before.
    Peak of a fit with `icf`: about 20 bytes for each entry of X'X, of which there are at most sum of |I_u|^2.

    l2: weight of the squared norm of the weights, above 0. `icf` first divides the columns of X by the fourth root of
        the squared norm of those of X'X, and does not scale back, so there l2 counts in units of a scaled diagonal of
        at most 1; with `cholmod` in interactions.
    k: mean number of entries of each row of either matrix, at least 1; the package's `weight_matrix_density` is k / I,
        and it takes 1 as 2.
    factorization: `icf`, incomplete, or `cholmod`, exact and then thinned out.
    scans: passes of the uniform minimal residual algorithm over all columns, at least 0.
    finetune_steps: further steps on the columns with the largest residuals, at least 0.
    Raises MissingExtra without the package; OutOfMemory; NumericalError for weights that are not finite; DataError for
    input that is no matrix of finite numbers, or a history over another number of items; DeadlineExceeded.
    """

    l2: Annotated[float, Meta(gt=0)] = 20.0
    k: Annotated[int, Meta(ge=1)] = 200
    factorization: Literal["icf", "cholmod"] = "icf"
    scans: Annotated[int, Meta(ge=0)] = 1
    finetune_steps: Annotated[int, Meta(ge=0)] = 10

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Fit the package's model on `train` (U, I)."""
        from threadpoolctl import threadpool_limits

        package = _package()
        train = canonical(train)
        context.progress(0, 1)
        factorizers = {
            "icf": package.ICFGramianFactorizerConfig,
            "cholmod": package.CHOLMODGramianFactorizerConfig,
        }
        config = package.SANSAConfig(
            l2=self.l2,
            weight_matrix_density=min(1.0, self.k / max(1, train.shape[1])),
            gramian_factorizer_config=factorizers[self.factorization](),
            lower_triangle_inverter_config=package.UMRUnitLowerTriangleInverterConfig(
                scans=self.scans, finetune_steps=self.finetune_steps
            ),
        )
        model = package.SANSA(config)
        taken = np.unique(train.indices)  # the package fails on items without interactions; theirs are empty rows here
        if not taken.size:
            nothing = sp.csr_array((train.shape[1], train.shape[1]), dtype=np.float32)
            return self.load_state({"left": nothing, "right": nothing})
        with threadpool_limits(context.n_threads, user_api="blas"), _listening():
            _translated(lambda: model.fit(sp.csr_matrix(train[:, taken])))
        left, right = (_spread(weights, taken, train.shape[1]) for weights in model.weights)
        if not (np.isfinite(left.data).all() and np.isfinite(right.data).all()):
            raise NumericalError("the package's weights are not finite; raise l2")
        context.progress(1, 1)
        return self.load_state({"left": left, "right": right})

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return (x W1) W2 (B, I) for each row x of `history`, by the package's product of sparse matrices."""
        rows = sp.csr_matrix(checked_history(history, self.left_.shape[0]))
        return np.asarray(self.model_.forward(rows).toarray(), dtype=np.float32)

    def state(self) -> Mapping[str, Array]:
        """Return `left` W1 and `right` W2, both (I, I) and sparse."""
        return {"left": self.left_, "right": self.right_}

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back `left` and `right`."""
        package = _package()
        self.left_, self.right_ = state["left"], state["right"]
        config = package.SANSAConfig(
            self.l2, 1.0, package.ICFGramianFactorizerConfig(), package.UMRUnitLowerTriangleInverterConfig()
        )
        self.model_: Any = package.SANSA(config).load_weights((sp.csr_matrix(self.left_), sp.csr_matrix(self.right_)))
        return self


def _package() -> Any:
    """Return the package. Raises MissingExtra."""
    root, quiet = logging.getLogger(), logging.NullHandler()
    root.addHandler(quiet)  # the package would set up logging for the whole process
    try:
        import sansa
    except ImportError as error:
        raise MissingExtra((error.name or "sansa").partition(".")[0], "peers") from None
    finally:
        root.removeHandler(quiet)
    return sansa


class _Shifts(logging.Handler):
    """Keeps the last message in which the package says that it raised the diagonal; all others are dropped."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        self.last = message if "insufficient positive-definiteness" in message else self.last


@contextmanager
def _listening() -> Iterator[None]:
    """Turn what the package logs of a raised diagonal into a FitWarning; let it log nothing else."""
    logger, shifts = logging.getLogger("sansa"), _Shifts()
    before = logger.level, logger.propagate
    logger.addHandler(shifts)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(shifts)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    if shifts.last:
        warnings.warn(shifts.last, FitWarning, stacklevel=3)


def _spread(weights: Any, items: NDArray[np.int32], n_items: int) -> sp.csr_array:
    """Return (I, I) with `weights` in the rows and columns of `items`, which ascend."""
    from recscale.models._neighbours import Rows, csr

    lengths = np.zeros(n_items + 1, np.int64)
    lengths[items + 1] = np.diff(weights.indptr)
    spread = csr(Rows(np.cumsum(lengths), items[weights.indices], weights.data), n_items)
    spread.sort_indices()
    return spread


def _translated(fit: Callable[[], Any]) -> None:
    """Run the package's fit; raise its failures as ours."""
    from sksparse import cholmod

    try:
        fit()
    except cholmod.CholmodNotPositiveDefiniteError as error:
        raise NumericalError(f"CHOLMOD: the matrix is not positive definite ({error}); raise l2") from None
    except cholmod.CholmodTooLargeError as error:
        raise OutOfMemory(f"CHOLMOD's factor is too large for its indices ({error}); use factorization=icf") from None
    except cholmod.CholmodOutOfMemoryError as error:
        raise OutOfMemory(f"CHOLMOD ran out of memory ({error}); use factorization=icf") from None
    except IndexError as error:  # of numpy's reduceat, where the last columns of a matrix are empty
        raise NumericalError(f"the package cannot take a matrix that it has thinned out so far ({error})") from None


def estimate(model: SANSAPackage, shape: Shape) -> Estimate:
    """All of X'X under way, or the copies and residuals of its inversion.

    That took 28 to 40 times the two matrices, and up to 100 bytes for each pair of interactions of a user.
    """
    n_items = shape.n_items
    k = min(model.k, n_items)
    gram = min(shape.n_pairs, n_items**2)
    kept = 16 * k * n_items + 8 * n_items
    inverting = min(33 * kept, 16 * n_items**2, 100 * shape.n_pairs)
    return Estimate(
        peak_bytes=max(12 * gram + 2**25, inverting) + 24 * shape.n_interactions,
        model_bytes=kept,
        fit_seconds=shape.n_pairs * 1e-8 + n_items * k * 3e-5,
    )


SPEC = ModelSpec(
    model=SANSAPackage,
    title="SANSA (package)",
    cite="Spisak et al. Scalable Approximate NonSymmetric Autoencoder for Collaborative Filtering. RecSys 2023.",
    size_knob="k",
    sizes=(20, 50, 100, 200, 400),
    space={"l2": Range(0.1, 1_000.0, log=True), "factorization": Choice(("icf", "cholmod"))},
    extra="peers",
    estimate=estimate,
)
