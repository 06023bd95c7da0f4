"""What the tests of measuring share: code that runs in a process of its own, and a machine with two GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

FAKE_PYNVML = """
import os
from types import SimpleNamespace

class NVMLError(Exception):
    pass

used = [3_000_000_000, 1_000_000_000]
own = 0
millijoules = 500_000

def nvmlInit():
    pass

def nvmlDeviceGetCount():
    return 2

def nvmlDeviceGetHandleByIndex(index):
    return f"handle-{index}"

def nvmlDeviceGetHandleByUUID(uuid):
    if uuid not in ("GPU-a", "GPU-b"):
        raise NVMLError(uuid)
    return "handle-0" if uuid == "GPU-a" else "handle-1"

def nvmlDeviceGetName(handle):
    return b"NVIDIA H100 80GB HBM3"

def nvmlDeviceGetUUID(handle):
    return "GPU-a" if handle == "handle-0" else "GPU-b"

def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=80_000_000_000, used=used[int(handle[-1])])

def nvmlDeviceGetComputeRunningProcesses(handle):
    stranger = SimpleNamespace(pid=1, usedGpuMemory=7_000_000_000)
    return [stranger, SimpleNamespace(pid=os.getpid(), usedGpuMemory=own)] if own else [stranger]

def nvmlDeviceGetTotalEnergyConsumption(handle):
    if handle == "handle-1":
        raise NVMLError("not supported")
    return millijoules
"""


@pytest.fixture
def run_fresh(tmp_path: Path) -> Run:
    """Return a function that runs code in a new Python process and returns how it ended."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        env = os.environ | environment
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def run_with_gpus(run_fresh: Run, tmp_path: Path) -> Run:
    """Return the same for a machine whose driver tells of two GPUs."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "pynvml.py").write_text(FAKE_PYNVML)

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_fresh(code, PYTHONPATH=str(folder), **environment)

    return run
