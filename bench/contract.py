"""The contract between the harness and its plug-ins: models, data sets, splits and metrics.

Axes are written U users, I items, B a batch of users, D factors, K the length of a ranked list. Interaction
matrices are `scipy.sparse.csr_array`, float32, with sorted indices and no duplicates; `canonical` makes them so.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale import _state
from recscale._parameters import convert_fields
from recscale.checkpoint import Checkpoint
from recscale.errors import DataError, DeadlineExceeded, ModelError, NotFitted

if TYPE_CHECKING:
    import torch

    Scores: TypeAlias = NDArray[np.float32] | torch.Tensor
else:
    Scores: TypeAlias = Any

Array: TypeAlias = Any  # numpy.ndarray, scipy.sparse.csr_array or torch.Tensor
Judged: TypeAlias = Literal["ranking", "rated ranking", "ratings"]  # what metrics judge


def canonical(matrix: Any, *, keep_zeros: bool = False) -> sp.csr_array:
    """Return `matrix` as (U, I) float32 csr_array with sorted indices, no duplicates and no stored zeros.

    A matrix that already is all of that is returned as it is; the caller's matrix is never changed. With `keep_zeros`
    stored zeros stay: among ratings, 0 is one. Raises DataError for what is no matrix, has no items, or is not finite.
    """
    try:
        if np.iscomplexobj(matrix):
            raise TypeError("its numbers are complex")
        result = sp.csr_array(matrix, dtype=np.float32)
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"this {type(matrix).__name__} is no matrix of interactions: {error}") from None
    if result.ndim != 2:
        raise DataError(f"an interaction matrix has two dimensions (users, items), not {result.ndim}")
    if not result.shape[1]:
        raise DataError("an interaction matrix has at least one item; this one has none")
    if not (result.has_canonical_format and (keep_zeros or np.all(result.data))):
        result = result.copy() if _state.share_memory(matrix, result) else result
        result.sum_duplicates()
        if not keep_zeros:
            result.eliminate_zeros()
    if not np.isfinite(result.data).all():
        raise DataError("an interaction matrix holds NaN or infinite numbers")
    return result


@dataclass(frozen=True, slots=True)
class Size:
    """What a model needs in order to score: stored numbers, and the bytes that they and their indices take."""

    n_parameters: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures of a training matrix from which memory and time are estimated."""

    n_users: int
    n_items: int
    n_interactions: int
    n_pairs: int  # sum over users of |I_u|^2: the multiplications of a sparse Gram matrix

    @classmethod
    def of(cls, train: sp.csr_array) -> Shape:
        lengths = np.diff(train.indptr).astype(np.int64)
        return cls(train.shape[0], train.shape[1], int(train.nnz), int((lengths**2).sum()))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a fit is expected to need beyond the data, before it starts."""

    peak_bytes: int
    model_bytes: int
    fit_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out users: what is known of them, and what is to be found. Same users, disjoint entries.

    `disliked` are the items that they rated too low for an interaction, where the protocol asks for them.
    """

    history: sp.csr_array  # (B, I)
    target: sp.csr_array  # (B, I)
    disliked: sp.csr_array | None = None  # (B, I)

    @property
    def n_users(self) -> int:
        return int(self.history.shape[0])

    def some(self, rows: slice) -> HeldOut:
        """Return the users in `rows`."""
        disliked = None if self.disliked is None else self.disliked[rows]
        return HeldOut(self.history[rows], self.target[rows], disliked)


@dataclass(frozen=True, eq=False)
class Split:
    """Training rows and held-out users under one protocol.

    `items` are the columns of the data set that make up the vocabulary; `users` the rows of the test users.
    `dropped_users` counts held-out users without a target left.
    """

    train: sp.csr_array  # (U, I)
    valid: HeldOut  # no users where the protocol has no validation part
    test: HeldOut
    protocol: str
    fingerprint: str
    items: NDArray[np.int64]
    users: NDArray[np.int64]
    dropped_users: int = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions of users with items, as they were read, before any filter.

    The arrays `timestamps`, `ratings`, `parts` and `sequence` have one entry for each stored entry of
    `interactions`, in the order of its `data`. `parts` is a published split: 0 train, 1 test, 2 validation;
    `sequence` is the row in the source, which breaks ties of time. `sources` are the files that were read.
    """

    name: str
    interactions: sp.csr_array  # (U, I) float32, binary
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    fingerprint: str
    timestamps: NDArray[np.int64] | None = None
    sequence: NDArray[np.int64] | None = None
    ratings: NDArray[np.float32] | None = None
    parts: NDArray[np.int8] | None = None
    item_titles: NDArray[Any] | None = None
    truth: Mapping[str, Array] | None = None
    sources: tuple[Path, ...] = ()


def _no_log(name: str, step: int, value: float) -> None:
    """Log nothing: the default of `FitContext.log`."""


@dataclass(frozen=True)
class FitContext:
    """All that a model may know of its surroundings.

    `deadline` is a reading of `time.monotonic()`; `checkpoint` keeps what a long training needs to go on after a kill.
    """

    device: str = "cpu"
    seed: int = 0
    n_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    deadline: float | None = None
    log: Callable[[str, int, float], None] = _no_log
    validation: HeldOut | None = None
    checkpoint: Checkpoint | None = None

    def rng(self) -> np.random.Generator:
        """Return a new generator, always the same for the same seed."""
        return np.random.default_rng(self.seed)

    def progress(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are finished, and stop if the time is up.

        Raises DeadlineExceeded.
        """
        self.log("progress", done, total)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded(f"the time budget ran out after step {done} of {total}")


class Options:
    """Base of a dataclass of options whose annotations carry the ranges; checked when an instance is made.

    Raises UsageError for a value of the wrong type or out of range, UnknownName for an unknown option.
    """

    def __post_init__(self) -> None:
        convert_fields(self)


class Model(Options, ABC):
    """A recommender: a dataclass of hyper-parameters that is fitted once and then scores unseen users.

    Hyper-parameters are dataclass fields with `Annotated[..., msgspec.Meta(gt=0)]` ranges; what `fit` learns
    is set on attributes that end in an underscore.
    """

    def __getattr__(self, name: str) -> Any:
        """Say that a model was not fitted, where an attribute that `fit` sets is asked for. Raises NotFitted."""
        if name.endswith("_") and not name.startswith("_"):
            raise NotFitted(f"this {type(self).__name__} is not fitted: call fit, or load_state, first")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @abstractmethod
    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Learn from `train` (U, I); return self. Never prints; reports through `context`."""

    @abstractmethod
    def score(self, history: sp.csr_array) -> Scores:
        """Return (B, I) float32 scores for users that were never seen, given their `history` (B, I)."""

    @abstractmethod
    def state(self) -> Mapping[str, Array]:
        """Return exactly the arrays that `score` reads: dense arrays, csr_arrays or torch tensors."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave (as numpy and scipy arrays); return self, ready to score."""

    def size(self) -> Size:
        """Count the parameters and bytes of `state()`.

        Parameters are the floating-point entries of dense arrays and the stored entries of sparse ones;
        dense integers and booleans (assignments, look-ups) count in bytes alone.
        """
        parts = [_state.count(value) for value in self.state().values()]
        return Size(sum(p for p, _ in parts), sum(b for _, b in parts))

    def parameters(self) -> dict[str, Any]:
        """Return the hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def save(self, path: str | Path) -> int:
        """Write an uncompressed npz (no pickle) to `path`; return the bytes on disk."""
        arrays: dict[str, Any] = {}
        for name, value in self.state().items():
            arrays.update(_state.flatten(name, value))
        header = {"class": type(self).__name__, "parameters": self.parameters()}
        arrays["recscale"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return Path(path).stat().st_size

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ModelError if the file holds another class of model."""
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(bytes(file["recscale"]))
            if header["class"] != cls.__name__:
                raise ModelError(f"{path} holds a {header['class']}, not a {cls.__name__}")
            model = cls(**header["parameters"])
            return model.load_state(_state.unflatten(file))


@dataclass(frozen=True, slots=True)
class Choice:
    """A hyper-parameter that takes one of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A hyper-parameter between two bounds, both included; integer if both bounds are."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """The registry entry of a model: what it is, what it can run on, and how it is tuned.

    `size_knob` names the hyper-parameter that sets the size, `sizes` its values from small to large; `space` is the
    search space of the others. `extra` names the optional dependency group that it needs. `estimate` predicts the
    needs of a fit by formula, without heavy imports. With `is_parallel` several processes can train one together.
    """

    model: type[Model]
    title: str
    cite: str
    size_knob: str | None = None
    sizes: tuple[Any, ...] = ()
    space: Mapping[str, Choice | Range] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    extra: str | None = None
    estimate: Estimating | None = None
    is_parallel: bool = False


class Source(Options, ABC):
    """A data set that can be read: a dataclass of options with one method."""

    @abstractmethod
    def load(self) -> Dataset:
        """Read the whole data set. Raises DataError with the remedy in the message."""

    def is_here(self) -> bool:
        """Tell whether `load` needs no download, without reading anything. A source that downloads overrides this."""
        return True


@dataclass(frozen=True)
class Filter:
    """Which interactions count: part of the identity of a data set.

    Ratings below `min_rating` are dropped first, then the `drop_top_items` most popular items, then items with fewer
    than `min_item_users` users and users with fewer than `min_user_items` items, in `order`, once or repeated.
    """

    min_rating: float | None = None
    min_user_items: int = 0
    min_item_users: int = 0
    order: Literal["items-first", "users-first"] = "items-first"
    repeat: bool = False
    drop_top_items: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """The published figures of a data set, against which a loaded one is held."""

    n_users: int
    n_items: int
    n_interactions: int


@dataclass(frozen=True)
class DatasetSpec:
    """The registry entry of a data set.

    `filter` names the filter used by the protocols that split by user, unless another is asked for; `statistics`
    are the published figures after each named filter; `has_fixed_split` says whether a split was published.
    """

    source: type[Source]
    title: str
    cite: str
    url: str = ""
    licence: str = ""
    filter: str = "none"
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    has_fixed_split: bool = False


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ranked lists of B users, and what a metric needs to know of the whole catalogue.

    Ranks start at 1. A user's history is never ranked. A fixed random permutation of the items breaks ties;
    `first_rank` is the best target's rank over the full catalogue, and the two bounds that with all ties won or lost.
    """

    items: NDArray[np.int32]  # (B, K), -1 where fewer than K items can be ranked
    hits: NDArray[np.bool_]  # (B, K)
    n_targets: NDArray[np.int64]  # (B,)
    first_rank: NDArray[np.int64]  # (B,)
    first_rank_optimistic: NDArray[np.int64]  # (B,)
    first_rank_pessimistic: NDArray[np.int64]  # (B,)
    n_nonzero: NDArray[np.int64]  # (B,) items with a non-zero score, history included
    n_items: int
    disliked: NDArray[np.bool_] | None = None  # (B, K) listed items that the user rated too low, where that is known


@dataclass(frozen=True)
class Metric:
    """A figure of merit that owns its label, its bounds and its direction.

    `compute` maps a Ranking to one number a user (B,) where `per_user`, and otherwise the (I,) counts of how often
    each item was recommended within the cut-off to one number. A metric of `ratings` maps Predictions to (B,), or the
    mean square of all errors to one number. `weigh` maps the same to the weights of users in the mean (B,).
    """

    name: str
    label: str
    cutoff: int | None
    compute: Callable[[Any], Any]
    per_user: bool = True
    higher_is_better: bool | None = True  # None: neither
    bounds: tuple[float, float] = (0.0, 1.0)
    judges: Judged = "ranking"
    weigh: Callable[[Any], Any] | None = None
    is_kept: bool = True  # by user in the store, not only its mean


class Estimating(Protocol):
    """Predicts the needs of a fit from the hyper-parameters and the shape of the data, by formula."""

    def __call__(self, model: Any, shape: Shape) -> Estimate: ...
