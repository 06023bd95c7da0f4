"""The machine: what it is, how fast it is right now, and which of its devices a model may use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from recscale.errors import DeviceUnavailable, UsageError
from recscale.measuring._cgroup import cgroup_limits
from recscale.measuring.gpu import all_gpus, visible_gpus

_PACKAGES = ("recscale", "numpy", "scipy", "torch", "implicit", "numba", "scikit-learn", "scikit-sparse", "pandas")
_GEMM_SIZE = 1536  # 7.2 GFLOP: 35 ms at 200 GFLOP/s
_READ_BYTES_A_CORE, _READ_BYTES_LEAST, _READ_BYTES_MOST = 2**24, 2**27, 2**29
_DEVICE = re.compile(r"auto|cpu(,cpu)*|cuda(:\d+(,\d+)*)?")
_COMMIT_LETTERS = 10  # always as many, so that one commit has one name everywhere
_COMMIT_SECONDS = 5.0  # git compares every tracked file, which takes long on a slow disk


def fingerprint() -> dict[str, Any]:
    """Return what distinguishes this machine for measurements: no name of host or user, and no path."""
    limits = cgroup_limits()
    memory_bytes = int(psutil.virtual_memory().total)
    return {
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": min(memory_bytes, limits.memory_bytes or memory_bytes),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in all_gpus()],
        "os": _system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def usable_cores(root: Path = Path("/")) -> int:
    """Return the logical cores that this process may keep busy: its affinity, and its container's quota if less."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_limits(root).cpus
    return own if quota is None else max(1, min(own, int(quota)))


def machine_name() -> str:
    """Return a short name for machines of this kind, fit for a folder: `amd-epyc-2c-24g`."""
    facts = fingerprint()
    # The name alone, without the clock, the cores and the trade marks that vendors add to it.
    model = re.sub(r"\(.*?\)|@.*|\bwith .*|\b\d+-core\b|\b(?:cpu|processor)\b", " ", facts["cpu"].lower())
    parts = [model, f"{facts['usable_cores']}c", f"{round(facts['memory_bytes'] / 2**30)}g"]
    for name, count in Counter(gpu["name"].lower() for gpu in facts["gpus"]).items():
        parts.append(name if count == 1 else f"{count}x {name}")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts)).strip("-")


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that decide about results and speed; nothing is imported."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    build: dict[str, Any] = np.show_config(mode="dicts") or {}  # type: ignore[assignment]
    blas = build.get("Build Dependencies", {}).get("blas", {})
    if blas.get("name"):
        found["blas"] = f"{blas['name']} {blas.get('version', '')}".strip()
    return found


def source_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the git repository that `folder` (the working directory) lies in, as 10 letters of its hash.

    A `+` behind it says that tracked files differ from it. None where there is no git, no repository or no commit, and
    where git takes longer than 5 seconds.
    """
    words = ["git", "describe", "--always", "--exclude=*", f"--abbrev={_COMMIT_LETTERS}", "--dirty=+"]
    # Without the optional locks nothing is written to the repository, where another git may be at work.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_COMMIT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def calibrate(seconds: float = 1.0, *, n_threads: int | None = None) -> dict[str, float]:
    """Return the speed of this machine now, in about so many seconds, on `n_threads` (all usable cores if None).

    The number of threads of numpy's BLAS is set before the process starts; `n_threads` is to say the same.

    `gemm_gflops` is a float32 matrix product of fixed size, `read_gb_per_second` the largest element of an array
    beyond the caches, a part of it on each core (both medians); `first_touch_gb_per_second` is one thread's first
    write to fresh memory, on virtual machines often a hundredth of the speed of reading.
    """
    started = time.perf_counter()
    n_cores = n_threads or usable_cores()
    n_bytes = min(max(n_cores * _READ_BYTES_A_CORE, _READ_BYTES_LEAST), _READ_BYTES_MOST)
    buffer = np.empty(n_bytes // 4, dtype=np.float32)
    touch_seconds = _seconds_of(lambda: buffer.fill(1.0))
    left = max(0.0, seconds - (time.perf_counter() - started))
    n = _GEMM_SIZE
    a, b, c = (buffer[i * n * n : (i + 1) * n * n].reshape(n, n) for i in range(3))
    gemm_seconds = _median_seconds(lambda: np.matmul(a, b, out=c), left / 2)
    parts = np.array_split(buffer, n_cores)
    with ThreadPoolExecutor(n_cores) as pool:
        # The maximum reads 34 GB/s on one Zen 4 core, where the sum reads 20 and OpenBLAS's dot product 16.
        read_seconds = _median_seconds(lambda: list(pool.map(np.max, parts)), left / 2)
    return {
        "gemm_gflops": 2 * n**3 / gemm_seconds / 1e9,
        "read_gb_per_second": n_bytes / read_seconds / 1e9,
        "first_touch_gb_per_second": n_bytes / touch_seconds / 1e9,
    }


def _seconds_of(function: Callable[[], object]) -> float:
    """Return the duration of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _median_seconds(function: Callable[[], object], seconds: float) -> float:
    """Return the median duration of calls, after one that warms up; at least three are counted."""
    function()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < 3 or time.perf_counter() < end:
        durations.append(_seconds_of(function))
    return statistics.median(durations)


def torch_device(requested: str, allowed: tuple[str, ...]) -> str:
    """Return the device that a job runs on, `cpu` or `cuda:N`, decided without importing torch.

    Several devices, one process on each, are `cuda:0,1` or `cpu,cpu`. `allowed` are the kinds that a model can use.
    `auto` is the first GPU if the model and this machine have it, else the processor; any other request is met or
    refused. Raises UsageError for a request that is none, and DeviceUnavailable with the reason.
    """
    if not _DEVICE.fullmatch(requested):
        raise UsageError(
            f"no device named {requested!r}; expected auto, cpu, cuda, cuda:N, or several as in cuda:0,1 and cpu,cpu"
        )
    kind = kind_of(requested)
    if kind != "auto" and kind not in allowed:
        raise DeviceUnavailable(f"{requested} was asked for, but this model runs on {' or '.join(allowed)} alone")
    if kind == "cpu":
        return requested
    places = [int(place) for place in requested.partition(":")[2].split(",") if place] or [0]
    if len(set(places)) < len(places):
        raise UsageError(f"{requested} names a GPU twice; a process needs one of its own")
    reason = _why_no_cuda(max(places)) if "cuda" in allowed else "this model does not use one"
    if reason is None:
        return f"cuda:{','.join(map(str, places))}"
    if kind == "auto" and "cpu" in allowed:
        return "cpu"
    raise DeviceUnavailable(f"no GPU for this job: {reason}")


def each_device(device: str) -> list[str]:
    """Return the devices of a job one by one: `cuda:0,1` are `cuda:0` and `cuda:1`."""
    kind, _, places = device.partition(":")
    return [f"{kind}:{place}" for place in places.split(",")] if places else device.split(",")


def kind_of(device: str) -> str:
    """Return whether a device, or several, are a `cpu` or `cuda`; `auto` stays as it is."""
    return re.split("[:,]", device, maxsplit=1)[0]


def confirm_device(device: str, torch: Any = None) -> None:
    """Check with torch, once it is imported, that it can use `device`. Raises DeviceUnavailable."""
    torch = torch or sys.modules.get("torch")
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return
    if torch is None or not torch.cuda.is_available():
        version = "not imported" if torch is None else torch.__version__
        raise DeviceUnavailable(f"{device} was chosen, but torch ({version}) cannot use CUDA here")
    if int(index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"{device} was chosen, but torch sees {torch.cuda.device_count()} GPUs")


def _why_no_cuda(index: int) -> str | None:
    """Return why there is no GPU of this index for torch; None if there is."""
    if not all_gpus():
        return "no NVIDIA driver with a GPU was found"
    n_visible = len(visible_gpus())
    if n_visible == 0:
        return f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r} hides all"
    if index >= n_visible:
        return f"cuda:{index} was asked for, and the last one is cuda:{n_visible - 1}"
    version = versions().get("torch", "none")
    return f"the installed torch ({version}) is built without CUDA" if version.endswith("+cpu") else None


def _cpu_model() -> str:
    """Return the processor's name as its vendor writes it, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    if name := facts.get("model name"):
        return " ".join(name.split())
    part = " ".join(facts[key] for key in ("CPU implementer", "CPU part") if key in facts)  # how ARM tells it
    return f"{platform.machine()} {part}".strip()


def _system() -> str:
    """Return the name and version of the operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
