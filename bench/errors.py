"""The one exception tree of recscale.

Whatever a user can cause derives from `RecscaleError`; its message is one line that says what was wrong,
the value, what was expected and what to do. The command line prints it and ends with exit code 2.
Inside a job the subclasses below decide the status of the record.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecscaleError(Exception):
    """Base of every error that recscale raises on purpose."""

    status = "error"


class UsageError(RecscaleError):
    """A flag, key, parameter or combination that makes no sense."""


class UnknownName(UsageError):
    """A model, data set, metric, parameter or key that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        listed = ", ".join(names) if names else "none"
        super().__init__(f"no {kind} named {name!r}{hint} Known: {listed}")
        self.kind, self.name, self.suggestion = kind, name, near[0] if near else None


class DataError(RecscaleError):
    """Input data that cannot be used: missing, malformed, or not what was published."""


class StoreError(RecscaleError):
    """A result store that cannot be read or written."""


class ModelError(RecscaleError):
    """A model broke the contract: wrong shape, NaN scores, a state that does not load."""


class NotFitted(ModelError, AttributeError):
    """A model was asked for what only a fit gives it."""


class FitWarning(UserWarning):
    """What a reader of a result must know of its fit: a hyper-parameter that had to be changed, and to what.

    Models warn with it; the harness keeps the message in the record.
    """


class NumericalError(RecscaleError):
    """A computation whose result could not be trusted, so none is given."""


class Refused(RecscaleError):
    """The job cannot fit the budget; it was not started."""

    status = "refused"


class Skipped(RecscaleError):
    """The job cannot run on this machine."""

    status = "skipped"


class MissingExtra(Skipped):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'recscale[{extra}]'")


class DeviceUnavailable(Skipped):
    """The requested device does not exist here, or the model cannot use it."""


class DeadlineExceeded(RecscaleError):
    """The time budget of the job has run out."""

    status = "timeout"


class OutOfMemory(RecscaleError):
    """Memory ran out where a library reports it in its own way."""

    status = "out_of_memory"
