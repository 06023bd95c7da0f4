"""What NVIDIA's driver tells about GPUs, without torch: through NVML where nvidia-ml-py is installed."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver lists it. `memory_bytes` is None without NVML, which alone tells it."""

    name: str
    index: int  # in the order of the PCI bus
    uuid: str = ""
    memory_bytes: int | None = None


@functools.cache
def _nvml() -> Any | None:
    """Return pynvml, initialised; None if it is not installed or finds no driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _query(function: str, *arguments: Any) -> Any | None:
    """Return what a function of NVML answers; None where this driver or GPU does not know it."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None


def all_gpus() -> list[Gpu]:
    """Return every GPU of the machine, hidden ones too."""
    count = _query("nvmlDeviceGetCount")
    if count is None:
        return _gpus_of_driver()
    gpus = []
    for index in range(count):
        handle = _query("nvmlDeviceGetHandleByIndex", index)
        memory = _query("nvmlDeviceGetMemoryInfo", handle)
        name = _as_text(_query("nvmlDeviceGetName", handle)) or "unknown GPU"
        uuid = _as_text(_query("nvmlDeviceGetUUID", handle))
        gpus.append(Gpu(name, index, uuid, None if memory is None else int(memory.total)))
    return gpus


def _gpus_of_driver() -> list[Gpu]:
    """Return the GPUs that the kernel driver lists, for machines without NVML's Python package."""
    gpus = []
    for index, path in enumerate(sorted(PROC_DRIVER.glob("*/information"))):
        lines = (line.partition(":") for line in path.read_text().splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
        gpus.append(Gpu(facts.get("Model", "unknown GPU"), index, facts.get("GPU UUID", "")))
    return gpus


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA shows to this process, in its order, as CUDA_VISIBLE_DEVICES has it.

    An entry that names no GPU hides all that follow it.
    """
    gpus = all_gpus()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return gpus
    visible = []
    for entry in (text.strip() for text in wanted.split(",")):
        by_index = [gpu for gpu in gpus if entry == str(gpu.index)]
        by_uuid = [gpu for gpu in gpus if entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry)]
        found = by_index or by_uuid or ([_slice(entry)] if gpus and entry.startswith("MIG-") else [])
        if not found:
            break
        visible.append(found[0])
    return visible


def _slice(uuid: str) -> Gpu:
    """Return a slice of a GPU (MIG), which the driver knows by its UUID alone."""
    handle = _query("nvmlDeviceGetHandleByUUID", uuid)
    memory = _query("nvmlDeviceGetMemoryInfo", handle) if handle is not None else None
    return Gpu("MIG slice", -1, uuid, None if memory is None else int(memory.total))


def gpu_of(device: str) -> Gpu | None:
    """Return the GPU behind `cuda` or `cuda:N`; None if it cannot be told which one that is.

    CUDA counts from the fastest GPU unless CUDA_DEVICE_ORDER=PCI_BUS_ID, so where GPUs differ, an index says nothing.
    """
    kind, _, index = device.partition(":")
    gpus = visible_gpus() if kind == "cuda" else []
    if not gpus or int(index or 0) >= len(gpus):
        return None
    differ = len({gpu.name for gpu in all_gpus()}) > 1
    if differ and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return None
    return gpus[int(index or 0)]


def energy_millijoules(gpu: Gpu) -> int | None:
    """Return what a GPU used since its driver was loaded; None before the Volta generation and for slices."""
    used = _query("nvmlDeviceGetTotalEnergyConsumption", _handle(gpu))
    return None if used is None else int(used)


def _handle(gpu: Gpu) -> Any:
    """Return NVML's handle of a GPU."""
    return _query("nvmlDeviceGetHandleByUUID", gpu.uuid) or _query("nvmlDeviceGetHandleByIndex", gpu.index)


class DeviceMemory:
    """The highest device memory of this process between `start` and `stop`, from torch and from the driver.

    `method` says how the driver's figure was taken: `nvml-process`, or, where the driver does not list this process
    (process ids differ within containers), `nvml-device`: what the whole GPU holds above its level at the start.
    """

    interval_seconds = 0.02  # torch keeps what it once took, so a short spike stays visible

    def __init__(self, device: str) -> None:
        self.device = device
        self.gpu = gpu_of(device)
        self.method: str | None = None
        self._handle = _handle(self.gpu) if self.gpu else None
        self._level = self._device_used() or 0
        self._process_peak: int | None = None
        self._device_peak: int | None = None

    def start(self) -> None:
        """Begin a phase: forget the peaks so far, and give back what torch keeps of the phase before."""
        self._process_peak = self._device_peak = None
        if cuda := self._cuda():
            cuda.synchronize(self.device)
            cuda.empty_cache()
            cuda.reset_peak_memory_stats(self.device)
        self.sample()

    def synchronize(self) -> None:
        """Wait for the kernels in flight, so that they count, and fail, in the phase that started them."""
        if cuda := self._cuda():
            cuda.synchronize(self.device)

    def sample(self) -> None:
        """Take in what the driver says now."""
        if self._handle is None:
            return
        if (process := self._process_used()) is not None:
            self._process_peak = max(process, self._process_peak or 0)
        elif (device := self._device_used()) is not None:
            self._device_peak = max(device - self._level, self._device_peak or 0)

    def stop(self) -> tuple[int | None, int | None]:
        """Return the peak bytes of torch's allocator and of the process."""
        self.sample()
        cuda = self._cuda()
        allocated = int(cuda.max_memory_allocated(self.device)) if cuda else None
        if self._process_peak is not None:
            self.method = "nvml-process"
            return allocated, self._process_peak
        if self._device_peak is not None:
            self.method = "nvml-device"
        return allocated, self._device_peak

    def _cuda(self) -> Any | None:
        """Return torch.cuda if this process has imported torch and uses CUDA; measuring starts neither."""
        torch = sys.modules.get("torch") if self.device.startswith("cuda") else None
        return torch.cuda if torch is not None and torch.cuda.is_initialized() else None

    def _process_used(self) -> int | None:
        """Return the bytes that the driver books on this process; None if it does not list it."""
        processes = _query("nvmlDeviceGetComputeRunningProcesses", self._handle) or []
        own = [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory is not None]
        return int(sum(own)) if own else None

    def _device_used(self) -> int | None:
        """Return the bytes in use on the whole GPU."""
        memory = _query("nvmlDeviceGetMemoryInfo", self._handle) if self._handle is not None else None
        return None if memory is None else int(memory.used)


def _as_text(value: Any) -> str:
    """Return NVML's text, which its older versions give as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value or "")
