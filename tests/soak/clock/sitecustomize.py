"""A wall clock that can be set back: what recscale is told of the time is shifted by the seconds in $SOAK_CLOCK.

Python imports this module at its start where its folder is on PYTHONPATH. `time.time` is shifted for everyone,
`datetime.now` for recscale alone: compiled code knows the class and bears no other in its place. `time.monotonic`, by
which all that takes time has to be measured, is left alone, as when a real clock is set. Files have the kernel's times.
"""

import builtins
import datetime
import os
import time
import types
from pathlib import Path

_CLOCK = Path(os.environ["SOAK_CLOCK"])
_import, _time, _time_ns = builtins.__import__, time.time, time.time_ns


def _shift() -> int:
    return int(_CLOCK.read_text())


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=_shift())


_SHIFTED = types.ModuleType("datetime")
_SHIFTED.__dict__.update(datetime.__dict__ | {"datetime": _Datetime})


def _import_shifted(name, importer=None, *others, **named):
    if name == "datetime" and importer and str(importer.get("__name__")).startswith("recscale"):
        return _SHIFTED
    return _import(name, importer, *others, **named)


time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + _shift() * 10**9
builtins.__import__ = _import_shifted
