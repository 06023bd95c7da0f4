"""What a piece of code prints, whether Python or compiled code does it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], str]]:
    """Catch what Python and what compiled code print; yield a function that returns it afterwards."""
    text, kept = io.StringIO(), [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        _flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield lambda: text.getvalue() + raw[0]
        finally:
            _flush()
            for descriptor, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
            file.seek(0)
            raw = [file.read().decode(errors="replace")]


def _flush() -> None:
    """Empty the buffers of Python and of the C library."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
