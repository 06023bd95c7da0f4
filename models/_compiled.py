"""Numba's decorator with types, and its threads. Imported lazily, for numba takes half a second to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(*, parallel: bool = False, fastmath: bool = False) -> Callable[[Function], Function]:
    """Return the decorator that compiles a function at its first call and keeps the machine code on disk."""
    decorator: Callable[[Function], Function] = numba.njit(cache=True, parallel=parallel, fastmath=fastmath)
    return decorator


@contextmanager
def numba_threads(n_threads: int) -> Iterator[None]:
    """Run parallel loops on `n_threads` threads, at most as many as numba was started with."""
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(n_threads, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)
