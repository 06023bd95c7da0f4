"""How a search of options is made: by the flags of `recscale tune`, and by the key `tune` of a suite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from recscale._parameters import build, option_types
from recscale.contract import Options
from recscale.errors import UnknownName, UsageError
from recscale.measuring.budget import parse_seconds

N_TRIALS = 20


@dataclass(frozen=True)
class TuneOptions(Options):
    """How much to try, and by what.

    A study ends after `trials` (None: 20 where no time is given, else any number), or before the trial that would begin
    once the jobs of those before it have taken `seconds`, whichever is first. `metric` is of the validation users;
    None: the first that the suite asks for, or else of the protocol. `sampler`: `tpe` (Bergstra et al. 2011, after the
    first five trials that come to an end) or `random`; `seed` is that of the sampler. `pruner`: None, or `median`,
    which ends a trial whose best validation figure so far is worse than the median of the trials before it at that
    epoch (Golovin et al. 2017, section 3.2.2). `workers` is how many processes can share a study: each trial is drawn
    without knowing what the `workers` - 1 before it come to, whoever runs them, so that all processes draw the same.
    """

    trials: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0)] | None = None
    metric: str | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median"] | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    workers: Annotated[int, Meta(ge=1)] = 4

    @property
    def most_trials(self) -> float:
        """How many trials a study may have."""
        if self.trials is None:
            return N_TRIALS if self.seconds is None else math.inf
        return self.trials

    @property
    def most_seconds(self) -> float:
        """How long the jobs of a study may have taken when one more begins."""
        return math.inf if self.seconds is None else self.seconds


def tune_options(keys: Mapping[str, Any], owner: str = "tune") -> TuneOptions:
    """Return the options that `keys` give, as a suite writes them: `time` (such as 30m) may stand for `seconds`.

    Raises UnknownName for a key that there is not, UsageError for a value that does not fit, or for a time given twice.
    """
    known = [*option_types(TuneOptions), "time"]
    for name in keys:
        if name not in known:
            raise UnknownName(f"key of {owner}", str(name), known)
    options = {name: value for name, value in keys.items() if name != "time"}
    if keys.get("time") is not None:
        if keys.get("seconds") is not None:
            raise UsageError(f"{owner}: time and seconds say the same; give one of them")
        options["seconds"] = parse_seconds(keys["time"])
    found: TuneOptions = build(TuneOptions, owner, options)
    return found
