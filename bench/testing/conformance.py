"""What every model must do, as checks that the author of a plug-in can run too.

`check(...)` runs them all and returns what came of each, `assert_conforms(...)` raises for use in a test. A model is
fitted some seven times on a planted board of 240 users and 81 items, with its default hyper-parameters; a model that
predicts ratings, on a board of ratings. Where only sizes or types of matrices count, an option `epochs` is set to 1.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.abilities import Shrinkable
from recscale.contract import Choice, FitContext, ModelSpec, Range, Shape
from recscale.errors import DeadlineExceeded, ModelError, Skipped, UsageError
from recscale.testing._trial import Trial, as_numpy
from recscale.testing.board import placement, unexplained

# what the rounding of a float32 product may differ by between two shapes of a batch, as a share of the largest score
BATCH_TOLERANCE = 1e-5
# an npz holds two headers of zip and one of npy for each array: below 400 bytes together with the names
HEADER_BYTES_PER_ARRAY = 512
HEADER_BYTES_PER_FILE = 4096  # the hyper-parameters and the end of the archive
LEAST_PLACEMENT = 0.57  # a random ranking reaches this on less than one board in a thousand
MOST_UNEXPLAINED = 0.9  # of the squared error of the mean: what any use of the data brings it below
KNOWN_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one check: `detail` says what was seen, or what was wrong and what was expected."""

    name: str
    passed: bool
    detail: str


class _Broken(Exception):
    """A check that did not hold."""


def check(name_or_spec: str | ModelSpec, *, seed: int = 0) -> list[CheckResult]:
    """Run every check on a model, given by its SPEC or by the name under which it is registered.

    Raises UnknownName for a name that is not known, Skipped where the model cannot run on this machine.
    """
    if isinstance(name_or_spec, ModelSpec):
        spec = name_or_spec
    else:
        from recscale.registry import model_spec

        spec = model_spec(name_or_spec)
    trial = Trial(spec, seed)
    return [_run(name, function, trial) for name, function in _CHECKS.items()]


def assert_conforms(name_or_spec: str | ModelSpec, *, seed: int = 0) -> None:
    """Run every check and raise ModelError with one line for each that failed."""
    failed = [result for result in check(name_or_spec, seed=seed) if not result.passed]
    if failed:
        raise ModelError("\n".join(f"{result.name}: {result.detail}" for result in failed))


def _run(name: str, function: Callable[[Trial], str], trial: Trial) -> CheckResult:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning is a report, not a print; it is for the user of a model to see
            return CheckResult(name, True, function(trial))
    except Skipped:
        raise
    except _Broken as broken:
        return CheckResult(name, False, str(broken))
    except Exception as error:
        return CheckResult(name, False, f"raised {type(error).__name__}: {error}")


def _demand(holds: Any, message: str) -> None:
    if not holds:
        raise _Broken(message)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest difference as a share of the largest score."""
    _demand(one.shape == other.shape, f"scores of shape {one.shape} became {other.shape}")
    largest = max(float(np.abs(one).max(initial=0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(one.astype(np.float64) - other).max(initial=0)) / largest


def _spec_is_sane(trial: Trial) -> str:
    spec = trial.spec
    options = set(spec.model().parameters())
    _demand(spec.title.strip() and spec.cite.strip(), "title and cite must say something")
    unknown = sorted(set(spec.space) - options)
    _demand(not unknown, f"space names {', '.join(unknown)}, which the model does not have; it has {sorted(options)}")
    _demand(spec.devices, "devices is empty; name at least one of cpu and cuda")
    strange = [device for device in spec.devices if device not in KNOWN_DEVICES]
    _demand(not strange, f"devices {strange} are not known; known: {', '.join(KNOWN_DEVICES)}")
    _demand(not spec.sizes or spec.size_knob, "sizes are given without a size_knob")
    _demand(spec.size_knob is None or spec.size_knob in options, f"the model has no size_knob {spec.size_knob!r}")
    _demand(spec.size_knob not in spec.space, f"size_knob {spec.size_knob!r} is in the search space too")
    for size in spec.sizes:
        spec.model(**{str(spec.size_knob): size})
    for name, values in spec.space.items():
        for value in values.values if isinstance(values, Choice) else _ends(values):
            spec.model(**{name: value})
    if spec.estimate is not None:
        needs = spec.estimate(spec.model(), Shape.of(trial.board.train))
        _demand(needs.peak_bytes > 0 and needs.model_bytes > 0, f"the estimate {needs} is not above 0")
    return f"{len(spec.sizes)} sizes and {len(spec.space)} searched hyper-parameters are valid"


def _ends(values: Range) -> tuple[float, float]:
    return values.low, values.high


def _fit_returns_self(trial: Trial) -> str:
    _demand(trial.second.returned_self, "fit must return self")
    return "fit returned self"


def _scores_are_float32(trial: Trial) -> str:
    scores = trial.fitted.score(trial.board.history)
    dtype = str(scores.dtype).rpartition(".")[2]
    _demand(dtype == "float32", f"scores are {dtype}, not float32")
    _demand(tuple(scores.shape) == trial.board.history.shape, f"scores have shape {tuple(scores.shape)}, not (B, I)")
    return f"{tuple(scores.shape)} float32"


def _scores_are_finite(trial: Trial) -> str:
    for rows, title in (
        (slice(0, 1), "an empty history"),
        (slice(1, 2), "a history of one item"),
        (slice(2, None), ""),
    ):
        finite = np.isfinite(trial.scores[rows])
        _demand(finite.all(), f"{(~finite).sum()} scores are NaN or infinite {title and 'for ' + title}".strip())
    return "finite for an empty history, for one item, and for an item that nobody has"


def _repeats_with_its_seed(trial: Trial) -> str:
    same = np.array_equal(trial.scores, trial.second.scores)
    difference = _difference(trial.scores, trial.second.scores)
    _demand(same, f"two fits with one seed differ by {difference:.1e} of the largest score")
    return "two fits with one seed give the same bits"


def _does_not_depend_on_the_batch(trial: Trial) -> str:
    worst = 0.0
    for size in (1, 7):
        parts = [
            as_numpy(trial.fitted.score(trial.board.history[first : first + size])).copy()
            for first in range(0, trial.board.history.shape[0], size)
        ]
        worst = max(worst, _difference(trial.scores, np.concatenate(parts)))
    _demand(worst <= BATCH_TOLERANCE, f"scores in batches of 1 or 7 differ by {worst:.1e} of the largest score")
    return f"batches of 1, 7 and {trial.board.history.shape[0]} differ by {worst:.1e} of the largest score"


def _leaves_its_input_alone(trial: Trial) -> str:
    second, drawn = trial.second, trial.drawn()
    _demand(_same_bytes(second.board.train, drawn.train), "fit changed the training matrix")
    _demand(_same_bytes(second.board.history, drawn.history), "score changed the history")
    second.board.train.data[:] = 7  # the caller's own: a model that kept a view of it would change with it
    again = as_numpy(second.model.score(drawn.history))
    second.board.train.data[:] = drawn.train.data
    _demand(np.array_equal(second.scores, again), "the model kept a view of its input")
    return "the training matrix and the history are the same bytes afterwards"


def _same_bytes(one: sp.csr_array, other: sp.csr_array) -> bool:
    pairs = ((one.data, other.data), (one.indices, other.indices), (one.indptr, other.indptr))
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _keeps_its_hyper_parameters(trial: Trial) -> str:
    before, after = trial.second.parameters_before, trial.second.model.parameters()
    _demand(after == before, f"hyper-parameters became {after}, were {before}")
    return f"{len(before)} hyper-parameters unchanged"


def _survives_the_disk(trial: Trial) -> str:
    with tempfile.TemporaryDirectory() as folder:
        trial.fitted.save(Path(folder) / "model.npz")
        loaded = type(trial.fitted).load(Path(folder) / "model.npz")
    again = as_numpy(loaded.score(trial.board.history))
    same = np.array_equal(trial.scores, again)
    _demand(same, f"scores after save and load differ by {_difference(trial.scores, again):.1e} of the largest score")
    _demand(loaded.size() == trial.fitted.size(), f"its size was {trial.fitted.size()}, is {loaded.size()}")
    return "the same bits after save and load"


def _takes_the_bytes_that_it_counts(trial: Trial) -> str:
    counted = trial.fitted.size().n_bytes
    _demand(counted > 0, "state() is empty, yet score() reads something")
    with tempfile.TemporaryDirectory() as folder:
        written = trial.fitted.save(Path(folder) / "model.npz")
    arrays = sum(4 if sp.issparse(value) else 1 for value in trial.fitted.state().values())
    header = written - counted
    most = HEADER_BYTES_PER_FILE + HEADER_BYTES_PER_ARRAY * arrays
    _demand(0 <= header <= most, f"{written} bytes on disk, {counted} counted: expected 0 to {most} more")
    return f"{written} bytes on disk = {counted} counted + {header} of headers"


def _grows_with_its_knob(trial: Trial) -> str:
    spec = trial.spec
    if spec.size_knob is None or len(spec.sizes) < 2:
        return "it has no size knob"
    knob, sizes = spec.size_knob, []
    values = _scaled(spec)
    for value in values:
        sizes.append(trial.fit(**{knob: value}, **_short(spec)).size().n_bytes)
    growing = all(small < large for small, large in itertools.pairwise(sizes))
    _demand(growing, f"{knob} = {values} gives {sizes} bytes, which does not grow")
    return f"{knob} = {values} gives {sizes} bytes"


def _short(spec: ModelSpec) -> dict[str, int]:
    """Return what makes a fit short where its quality does not count: one epoch, for a model that takes that."""
    if not any(option.name == "epochs" for option in fields(spec.model)):  # type: ignore[arg-type]
        return {}
    options = {"epochs": 1}
    try:
        spec.model(**options)
    except UsageError:
        return {}
    return options


def _shares_a_fit(trial: Trial) -> str:
    spec = trial.spec
    if not issubclass(spec.model, Shrinkable) or spec.size_knob is None:
        return "each size is fitted on its own"
    *smaller, largest = _scaled(spec)
    fitted: Any = trial.fit(**{spec.size_knob: largest})
    for size in reversed(smaller):
        expected, model = trial.fit(**{spec.size_knob: size}), fitted.shrunk(size, trial.context)
        scores, wanted = (as_numpy(m.score(trial.board.history)) for m in (model, expected))
        same = np.array_equal(scores, wanted) and model.size() == expected.size()
        _demand(same and model.parameters() == expected.parameters(), f"shrunk to {size} it is no fit with {size}")
        fitted = model  # and from one smaller size to the next
    return f"{spec.size_knob} = {largest} gives {smaller} to the last bit"


def _scaled(spec: ModelSpec) -> list[Any]:
    """Return up to three sizes that a board of 81 items can tell apart: whole numbers scaled down to 16 at most."""
    ends = list(dict.fromkeys([spec.sizes[0], spec.sizes[len(spec.sizes) // 2], spec.sizes[-1]]))
    largest = max((value for value in ends if type(value) is int), default=0)
    if largest <= 16:
        return ends
    # what is no number, such as None for all, stays as it is and where it is
    scaled = [max(1, round(value * 16 / largest)) if type(value) is int else value for value in ends]
    try:
        for value in scaled:
            spec.model(**{str(spec.size_knob): value})
    except UsageError:
        return ends
    return list(dict.fromkeys(scaled))


def _prints_nothing(trial: Trial) -> str:
    printed = trial.second.printed
    _demand(not printed, f"it printed {printed[:80]!r}; report through context.log instead")
    return "nothing on stdout or stderr"


def _takes_other_matrices(trial: Trial) -> str:
    train, history, short = trial.board.train, trial.board.history, _short(trial.spec)
    expected = as_numpy(trial.fit(**short).score(history)) if short else trial.scores
    for dtype in (np.float64, np.int64):
        model = trial.spec.model(**short).fit(sp.csr_matrix(train, dtype=dtype), trial.context)  # type: ignore[arg-type]
        scores = as_numpy(model.score(_shuffled(sp.csr_matrix(history, dtype=dtype, copy=True))))  # type: ignore[arg-type]
        difference = _difference(expected, scores)
        _demand(difference <= BATCH_TOLERANCE, f"a csr_matrix of {dtype.__name__} moves scores by {difference:.1e}")
    return "csr_matrix of float64 and int64, with unsorted columns, gives the same scores"


def _shuffled(matrix: Any) -> Any:
    """Return the matrix with the entries of each row backwards."""
    for row in range(matrix.shape[0]):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        matrix.indices[entries] = matrix.indices[entries][::-1].copy()
        matrix.data[entries] = matrix.data[entries][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def _heeds_its_deadline(trial: Trial) -> str:
    context = FitContext(
        device=trial.context.device,
        seed=trial.context.seed,
        n_threads=trial.context.n_threads,
        deadline=time.monotonic() - 1.0,
    )
    try:
        trial.spec.model().fit(trial.board.train, context)
    except DeadlineExceeded:
        return "a deadline in the past raises DeadlineExceeded"
    return "a fit without steps finishes although the deadline has passed"


def _takes_a_zero_for_a_rating(trial: Trial) -> str:
    if not trial.predicts_ratings:
        return "it ranks, and takes every stored entry for an interaction"
    board = trial.board
    without = [matrix.copy() for matrix in (board.train, board.history)]
    for matrix in without:
        matrix.eliminate_zeros()
    trained, asked = trial.spec.model().fit(without[0], trial.context), trial.fitted
    for model, history, what in ((trained, board.history, "training"), (asked, without[1], "history")):
        differs = not np.array_equal(trial.scores, as_numpy(model.score(history)))
        _demand(differs, f"ratings of 0 in the {what} change nothing: canonical(..., keep_zeros=True) keeps them")
    return "ratings of 0 are taken for ratings"


def _finds_what_was_planted(trial: Trial) -> str:
    if trial.predicts_ratings:
        left = unexplained(trial.scores, trial.board)
        _demand(left <= MOST_UNEXPLAINED, f"{left:.3f} of the squared error of the mean rating is left, expected .9")
        return f"{left:.3f} of the squared error of the mean rating is left"
    share = placement(trial.scores, trial.board)
    _demand(share >= LEAST_PLACEMENT, f"targets beat {share:.3f} of the other items; a random ranking .5, expected .57")
    return f"targets beat {share:.3f} of the other items, a random ranking .5"


_CHECKS: dict[str, Callable[[Trial], str]] = {
    "its SPEC is sane": _spec_is_sane,
    "fit returns self": _fit_returns_self,
    "scores are (B, I) float32": _scores_are_float32,
    "scores are finite": _scores_are_finite,
    "it repeats with its seed": _repeats_with_its_seed,
    "it does not depend on the batch": _does_not_depend_on_the_batch,
    "it leaves its input alone": _leaves_its_input_alone,
    "it keeps its hyper-parameters": _keeps_its_hyper_parameters,
    "it survives the disk": _survives_the_disk,
    "it takes the bytes that it counts": _takes_the_bytes_that_it_counts,
    "it grows with its knob": _grows_with_its_knob,
    "its sizes can share a fit": _shares_a_fit,
    "it prints nothing": _prints_nothing,
    "it takes other matrices": _takes_other_matrices,
    "it heeds its deadline": _heeds_its_deadline,
    "it takes a zero for a rating": _takes_a_zero_for_a_rating,
    "it finds what was planted": _finds_what_was_planted,
}
