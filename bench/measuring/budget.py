"""Budgets of a job: how they are written, how they are enforced, and what a failure says about them."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import psutil

from recscale.errors import DeviceUnavailable, RecscaleError, UsageError
from recscale.measuring._cgroup import cgroup_limits
from recscale.measuring.size import format_bytes

Failure: TypeAlias = Literal["refused", "skipped", "out_of_memory", "out_of_gpu_memory", "timeout", "error"]

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d{1,2})?"
_BYTES = re.compile(rf"({_NUMBER})\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(ms|min|d|h|m|s|)\s*", re.IGNORECASE)
_SECONDS_OF: Mapping[str, float] = {"d": 86_400, "h": 3_600, "min": 60, "m": 60, "s": 1, "ms": 1e-3, "": 1}
_LARGEST = 2**63 - 1  # what setrlimit takes

_GPU_MEMORY = re.compile(
    r"\b(?:cuda|hip)\w*\b[^\n]*\bout of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|CU(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc|cannot allocate memory"
    r"|OpenBLAS: malloc failed|OpenBLAS blas_thread_init|OpenBLAS error: Memory allocation"
    r"|LLVM ERROR: out of memory|CHOLMOD error: out of memory|memory error in scipy|SIGKILL\(-9\)"
    r"|^[\w.]*MemoryError\b",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one job may use; None is no limit. Raises UsageError for a limit that is not positive."""

    timeout_seconds: float | None = None
    max_memory_bytes: int | None = None
    max_gpu_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"budget: {name}={value!r} is no limit; give a number above 0, or none at all")

    def of_each(self, n_processes: int) -> Budget:
        """Return the budget of each process of a job: the time of all, and its part of the memory."""
        memory = (self.max_memory_bytes, self.max_gpu_memory_bytes)
        return Budget(
            self.timeout_seconds, *(None if limit is None else max(1, limit // n_processes) for limit in memory)
        )


def parse_bytes(text: str | float) -> int:
    """Return the bytes that '8GB' (10^9), '8GiB' (2^30), '500M' or a plain number mean. Raises UsageError."""
    match = None if isinstance(text, bool) else _BYTES.fullmatch(str(text).strip())
    if match:
        number, prefix, binary = match.groups()
        step = Decimal(1024 if binary else 1000)
        n_bytes = round(Decimal(number) * step ** " kmgtp".index(prefix.lower() or " "))
        if 0 < n_bytes <= _LARGEST and (prefix or not binary):
            return n_bytes
    raise UsageError(
        f"{text!r} is no amount of memory; expected a positive number with a unit, as in 8GB, 8GiB or 500M"
    )


def parse_seconds(text: str | float) -> float:
    """Return the seconds that '90', '10m', '1h30m' or a plain number mean. Raises UsageError."""
    plain = "" if isinstance(text, bool) else str(text).strip()
    seconds, position, left = 0.0, 0, math.inf
    while match := _DURATION_PART.match(plain, position):
        unit = _SECONDS_OF[match[2].lower()]
        if unit >= left or (position and not match[2]):  # 5m1h is a slip, 1h30 could mean two things
            break
        seconds, position, left = seconds + float(match[1]) * unit, match.end(), unit if match[2] else 0
    if plain and position == len(plain) and 0 < seconds < math.inf:
        return seconds
    raise UsageError(f"{text!r} is no duration; expected a positive number with a unit, as in 90, 90s, 10m or 1h30m")


def machine_memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that can be used now: physical memory available, or what the container has left if less."""
    available = int(psutil.virtual_memory().available)
    free_bytes = cgroup_limits(root).free_bytes
    return available if free_bytes is None else min(available, free_bytes)


def refusal(estimate_bytes: int | None, limit_bytes: int | None, *, what: str = "") -> str | None:
    """Return why a job that needs `estimate_bytes` is not started, in one line; None if it fits or neither is known.

    `what` names the memory that is meant, as in 'GPU memory'.
    """
    if estimate_bytes is None or limit_bytes is None or estimate_bytes <= limit_bytes:
        return None
    needed, limit = format_bytes(estimate_bytes), format_bytes(limit_bytes)
    if needed == limit:
        needed, limit = f"{estimate_bytes:,} bytes", f"{limit_bytes:,} bytes"
    return f"needs about {needed}{' of ' + what if what else ''}, the limit is {limit}"


def apply_memory_limit(n_bytes: int) -> None:
    """Limit the data memory of this process (RLIMIT_DATA, soft and hard) for good, what it holds already included.

    Counted are private writable pages as they are asked for, touched or not; files and programs that are mapped are
    not. RLIMIT_AS would count every library: importing torch takes gigabytes of address space.
    Raises UsageError where the system does not enforce it.
    """
    if not sys.platform.startswith("linux"):
        raise UsageError(f"a limit on memory needs Linux, and this is {sys.platform}; run without --max-memory")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def data_bytes() -> int:
    """Return what of a memory limit this process has taken already: its data memory, touched or not. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def limit_gpu_memory(n_bytes: int, device: str, torch: Any = None) -> None:
    """Limit what torch's allocator may take on `device` in this process; the driver's own context comes on top.

    Raises DeviceUnavailable if torch is not imported yet or cannot use the device.
    """
    torch = torch or sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        raise DeviceUnavailable(f"no limit on GPU memory can be set: torch cannot use {device!r} here")
    total = int(torch.cuda.get_device_properties(device).total_memory)
    torch.cuda.set_per_process_memory_fraction(min(1.0, n_bytes / total), device)


def die_with_parent(parent_pid: int | None = None) -> bool:
    """Have the kernel kill this process (SIGKILL) when the one that started it ends; return False off Linux.

    `parent_pid` is the parent as it knows itself: if it is gone already, this process ends at once.
    The kernel means the thread that started this process: it must live as long as the work.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_parent_death_signal = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def classify(exception: BaseException) -> Failure:
    """Return the status of a job that ended with `exception`, whichever library's way of saying it."""
    for error in _causes(exception):
        if (status := _status_of(error)) != "error":
            return status
    return "error"


def _causes(exception: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from."""
    seen: set[int] = set()
    error: BaseException | None = exception
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _status_of(error: BaseException) -> Failure:
    """Return the status that one exception stands for, its cause left aside."""
    if isinstance(error, RecscaleError):
        return cast(Failure, error.status)
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    # First the GPU: CuPy's and implicit's errors are MemoryErrors as well.
    if kinds & {("torch", "OutOfMemoryError"), ("cupy", "OutOfMemoryError")} or _GPU_MEMORY.search(str(error)):
        return "out_of_gpu_memory"
    if isinstance(error, MemoryError) or any(name == "CholmodOutOfMemoryError" for _, name in kinds):
        return "out_of_memory"
    if (isinstance(error, OSError) and error.errno == errno.ENOMEM) or _MEMORY.search(str(error)):
        return "out_of_memory"
    # Python says no more than this; under a memory limit the stack of a thread, 8 MB, is what did not fit.
    if "can't start new thread" in str(error) and resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY:
        return "out_of_memory"
    return "error"


def classify_exit(return_code: int, log_tail: Sequence[str] = ()) -> tuple[Failure, str]:
    """Return the status and the one-line reason of a worker that died without a word.

    `return_code` is as subprocess has it (minus the signal) or as a shell has it (128 plus the signal);
    `log_tail` are the last lines that the worker wrote.
    """
    log = "\n".join(log_tail)
    for status, pattern in (("out_of_gpu_memory", _GPU_MEMORY), ("out_of_memory", _MEMORY)):
        if match := pattern.search(log):
            start, end = log.rfind("\n", 0, match.start()) + 1, log.find("\n", match.end())
            line = log[start : end if end >= 0 else None].strip()
            return cast(Failure, status), f"{_ending(return_code)}, having said: {line}"
    if _signal_of(return_code) == signal.SIGKILL:
        return "out_of_memory", "killed by SIGKILL, which is how the kernel ends a process when memory runs out"
    last = next((line.strip() for line in reversed(log_tail) if line.strip()), "")
    return "error", _ending(return_code) + (f", last line of the log: {last}" if last else ", nothing in the log")


def _ending(return_code: int) -> str:
    """Say how a process ended."""
    number = _signal_of(return_code)
    if number is None:
        return f"ended without a result (exit code {return_code})"
    known = {s.value: s.name for s in signal.Signals}
    return f"died by {known.get(number, f'signal {number}')}"


def _signal_of(return_code: int) -> int | None:
    """Return the signal that a return code stands for."""
    if return_code < 0:
        return -return_code
    return return_code - 128 if 128 < return_code < 128 + signal.NSIG else None
