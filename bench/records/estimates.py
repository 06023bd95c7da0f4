"""What a fit will take: the formula of its model, corrected by the fits that records tell of.

The logarithm of measured over formula is regressed on the logarithm of the formula, in which a fit counts the more
the nearer its shape is, one far off the line counts less, and the formula itself counts as PRIOR of a fit. The interval
is as wide as the fits scatter about that line, and as the formulas do where there are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recscale.contract import Estimate
from recscale.records.record import RunRecord

PRIOR = 0.2  # of a fit of the same shape; from .1 to .5 as good over results/reference, with intervals as honest
OUTLIER = 0.3  # distance from the line, in logarithms, from which on a fit counts less
ROUNDS = 10  # of weighing the fits by that
NORMAL_90 = 1.645  # standard deviations on each side that hold nine tenths of a normal distribution
CLOSE = 1.25  # a good estimate is off by no more than this factor
_FIT = "fit"


@dataclass(frozen=True, slots=True)
class Resource:
    """What is estimated, from which measured value on it is more than noise, and by how much formulas are off."""

    name: str
    floor: float
    formula_factor: float  # root mean square by which formulas are off: 1.33 and 2.72 over results/reference
    ended_by: tuple[str, ...]  # the statuses of a fit that would have taken more


MEMORY = Resource("memory", 30e6, 1.5, ("out_of_memory", "out_of_gpu_memory"))
TIME = Resource("time", 0.5, 3.0, ("timeout",))


@dataclass(frozen=True, slots=True)
class Case:
    """A fit before it starts: what the formula gives for it (bytes or seconds), and its training matrix."""

    formula: float
    n_users: int
    n_items: int
    n_interactions: int

    def place(self) -> NDArray[np.float64]:
        """Return the logarithms (4,) in which cases are near or far."""
        return np.log(np.maximum([self.formula, self.n_users, self.n_items, self.n_interactions], 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class PastFit:
    """A fit that a record tells of."""

    model: str
    configuration: str
    dataset: str  # its name alone: filters of one data set are no two data sets
    case: Case
    measured: float  # bytes beyond the data, or seconds
    is_bound: bool = False  # it was ended for want of memory or time, and would have taken more


@dataclass(frozen=True, slots=True)
class Corrected:
    """An estimate with the interval that holds nine of ten fits; the formula alone where `n_fits` is 0."""

    value: float
    low: float
    high: float
    n_fits: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A past fit, and what was predicted for it from the fits on other data sets."""

    fit: PastFit
    predicted: Corrected

    @property
    def formula_ratio(self) -> float:
        """Measured over formula."""
        return self.fit.measured / self.fit.case.formula

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.fit.measured / self.predicted.value

    @property
    def is_in_interval(self) -> bool:
        """Tell whether the interval holds what was measured."""
        return self.predicted.low <= self.fit.measured <= self.predicted.high


def is_close(ratio: float, factor: float = CLOSE) -> bool:
    """Tell whether a ratio is off by no more than a factor."""
    return 1 / factor <= ratio <= factor


def past_fit(record: RunRecord, needs: Estimate, resource: Resource, *, scale: float = 1.0) -> PastFit | None:
    """Return the fit of a record, its measured value times `scale`; None if it tells nothing of this resource.

    `needs` is what the formula gives for it. Left out are fits that were shared between sizes or went on after a kill,
    whose costs are those of several, and fits below the floor, where libraries make as much noise.
    """
    cost = record.phases.get(_FIT)
    is_bound = record.status in resource.ended_by and record.failed_phase == _FIT
    formula = needs.peak_bytes if resource is MEMORY else needs.fit_seconds
    if cost is None or not formula or record.shrunk_from or record.n_resumptions:
        return None
    if record.status != "ok" and not is_bound:
        return None
    measured: float | None = cost.wall_seconds
    if resource is MEMORY:
        measured = cost.peak_device_bytes
        if (record.device_used or "cpu").startswith("cpu"):
            both = cost.peak_rss_bytes, cost.start_rss_bytes
            measured = None if both[0] is None or both[1] is None else both[0] - both[1]
    if measured is None or measured < resource.floor:
        return None
    return PastFit(
        model=record.model,
        configuration=record.configuration or record.model,
        dataset=record.dataset_name,
        case=Case(formula, record.n_train_users, record.n_items, record.n_train_interactions),
        measured=measured * scale,
        is_bound=is_bound,
    )


def corrected(case: Case, fits: Sequence[PastFit], resource: Resource) -> Corrected:
    """Return the formula of a case, corrected by past fits of the same model on the same kind of device.

    A fit that was ended counts only where it took more by then than the others predict.
    """
    ended = [fit for fit in fits if not fit.is_bound]
    beyond = [fit for fit in fits if fit.is_bound and fit.measured > _regressed(fit.case, ended, resource).value]
    return _regressed(case, ended + beyond, resource)


def _regressed(case: Case, fits: Sequence[PastFit], resource: Resource) -> Corrected:
    if not fits:
        return Corrected(case.formula, case.formula, case.formula, 0)
    ratios = np.log([fit.measured / fit.case.formula for fit in fits])  # (fits,)
    away = np.array([fit.case.place() for fit in fits]) - case.place()  # (fits, 4)
    near = 1 / (1 + (away**2).sum(1))
    design = np.column_stack((np.ones(len(fits)), away[:, 0]))
    trust = np.ones(len(fits))
    for _ in range(ROUNDS):
        weighted = design * (near * trust)[:, None]
        line = np.linalg.solve(design.T @ weighted + PRIOR * np.eye(2), weighted.T @ ratios)
        residuals = ratios - design @ line
        trust = np.minimum(1.0, OUTLIER / np.maximum(np.abs(residuals), 1e-9))
    counted = near.sum() + PRIOR
    variance = (near @ residuals**2 + PRIOR * math.log(resource.formula_factor) ** 2) / counted
    spread = NORMAL_90 * math.sqrt(variance * (1 + 1 / counted))
    value = case.formula * math.exp(line[0])
    return Corrected(value, value * math.exp(-spread), value * math.exp(spread), len(fits))


def judged(fits: Sequence[PastFit], resource: Resource) -> list[Judged]:
    """Return each fit that came to its end, predicted from the fits of its model on all other data sets."""
    found = []
    for fit in fits:
        if not fit.is_bound:
            others = [other for other in fits if other.model == fit.model and other.dataset != fit.dataset]
            found.append(Judged(fit, corrected(fit.case, others, resource)))
    return found
