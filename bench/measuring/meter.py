"""Time, memory and energy of the phases of a job, taken from within the process that does the work."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from recscale.measuring.energy import SYSTEM, EnergyCounter
from recscale.measuring.gpu import DeviceMemory

PROCESS = Path("/proc/self")
_SAMPLE_SECONDS = 0.005
_RESET_PEAK = b"5"  # see proc_pid_clear_refs(5)
_RESERVE_BYTES = 2**22
_RESET_SLACK_BYTES = 2**24  # other threads may free memory between the reset and the look at it


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """What one phase cost. Memory is that of the whole process, at its highest within the phase.

    CPU seconds are user and system time of this process and of the children that it has waited for.
    """

    wall_seconds: float
    cpu_seconds: float
    start_rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    peak_device_bytes: int | None = None
    peak_device_process_bytes: int | None = None
    energy_joules: float | None = None


class Meter:
    """Measures phases that follow one another: `with meter.phase("fit"): ...`, then `meter.phases["fit"]`.

    `method` says how memory peaks were taken: `vmhwm` (the kernel's own high-water mark, set back before each
    phase), `sampled` (every 5 ms, where the mark cannot be set back: shorter spikes are missed) or `none`.
    `failed_phase` names the phase whose body raised; its cost, as far as it got, is recorded too.
    """

    def __init__(self, device: str = "cpu", *, process: Path = PROCESS, system: Path = SYSTEM) -> None:
        self.phases: dict[str, PhaseCost] = {}
        self.failed_phase: str | None = None
        self._memory = _ResidentMemory(process)
        self._device = DeviceMemory(device)
        self._system = system
        self._watch: _Watch | None = None
        self._energy_sources: tuple[str, ...] = ()
        # Given up when a body raises: after a MemoryError there is otherwise no room to say so. Never touched, so it
        # counts under a memory limit, but not as resident.
        self._reserve = mmap.mmap(-1, _RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    @property
    def method(self) -> str:
        """Say how memory peaks are taken."""
        return self._memory.method

    @property
    def device_method(self) -> str | None:
        """Say how `peak_device_process_bytes` was taken: `nvml-process`, `nvml-device` or not at all."""
        return self._device.method

    @property
    def energy_sources(self) -> tuple[str, ...]:
        """Name what `energy_joules` covers: `cpu`, `gpu`, both or none."""
        return self._energy_sources

    def so_far(self) -> PhaseCost | None:
        """Return what the running phase has cost until now, without energy; None between phases."""
        return None if self._watch is None else self._watch.so_far()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the body as phase `name`, also if it raises. Raises ValueError for a phase within a phase."""
        if self._watch is not None or name in self.phases:
            raise ValueError(f"phase {name!r} cannot start: phases follow one another, and each is measured once")
        self._watch = watch = _Watch(self._memory, self._device, self._system)
        self._energy_sources = watch.energy.sources
        try:
            yield
            self._device.synchronize()
        except BaseException:
            self._reserve.close()
            self.failed_phase = name
            raise
        finally:
            self.phases[name] = watch.stop()
            self._watch = None


class _Watch:
    """All that runs while one phase does; made last before its body, stopped first after it."""

    def __init__(self, memory: _ResidentMemory, device: DeviceMemory, system: Path) -> None:
        self.memory, self.device = memory, device
        gc.collect()
        _trim_heap()
        device.start()
        self.start_rss_bytes = memory.start()
        self.energy = EnergyCounter(device.gpu, system=system)
        self._sampler = _Sampler(self._probes())
        self._cpu_start, self._wall_start = _cpu_seconds(), time.perf_counter()

    def _probes(self) -> list[tuple[float, Callable[[], None]]]:
        """Return what must be looked at while the phase runs: (seconds between looks, function)."""
        probes: list[tuple[float, Callable[[], None]]] = []
        if self.memory.method == "sampled":
            probes.append((_SAMPLE_SECONDS, self.memory.sample))
        if self.device.gpu is not None:
            probes.append((self.device.interval_seconds, self.device.sample))
        if "cpu" in self.energy.sources:
            probes.append((self.energy.interval_seconds, self.energy.update))
        return probes

    def so_far(self) -> PhaseCost:
        """Return what the phase has cost until now, bar its energy: the counters belong to the sampler's thread."""
        peak_device_bytes, peak_device_process_bytes = self.device.stop()
        return PhaseCost(
            wall_seconds=time.perf_counter() - self._wall_start,
            cpu_seconds=_cpu_seconds() - self._cpu_start,
            start_rss_bytes=self.start_rss_bytes,
            peak_rss_bytes=self.memory.stop(),
            peak_device_bytes=peak_device_bytes,
            peak_device_process_bytes=peak_device_process_bytes,
        )

    def stop(self) -> PhaseCost:
        """Return what the phase cost."""
        wall_seconds, cpu_seconds = time.perf_counter() - self._wall_start, _cpu_seconds() - self._cpu_start
        peak_rss_bytes = self.memory.stop()
        own_cpu_seconds = self._sampler.stop()
        peak_device_bytes, peak_device_process_bytes = self.device.stop()
        return PhaseCost(
            wall_seconds=wall_seconds,
            cpu_seconds=max(0.0, cpu_seconds - own_cpu_seconds),
            start_rss_bytes=self.start_rss_bytes,
            peak_rss_bytes=peak_rss_bytes,
            peak_device_bytes=peak_device_bytes,
            peak_device_process_bytes=peak_device_process_bytes,
            energy_joules=self.energy.joules(),
        )


class _ResidentMemory:
    """The resident memory of this process and its peak since `start`."""

    def __init__(self, process: Path) -> None:
        self._process = process
        self._sampled_peak = 0
        self.method = "vmhwm" if self._resets() else ("none" if _resident_bytes() is None else "sampled")

    def start(self) -> int | None:
        """Forget the peak so far; return the resident bytes now."""
        if self.method == "vmhwm":
            self._reset()
            return self._status()["VmRSS"]
        self._sampled_peak = 0
        self.sample()
        return self._sampled_peak or None

    def sample(self) -> None:
        """Take in the resident bytes of this moment."""
        self._sampled_peak = max(self._sampled_peak, _resident_bytes() or 0)

    def stop(self) -> int | None:
        """Return the highest resident bytes since `start`."""
        if self.method == "vmhwm":
            return self._status()["VmHWM"]
        self.sample()
        return self._sampled_peak or None

    def _reset(self) -> bool:
        """Ask the kernel to set the high-water mark back to the present; tell whether it could be asked."""
        try:
            descriptor = os.open(self._process / "clear_refs", os.O_WRONLY)
        except OSError:
            return False
        try:
            os.write(descriptor, _RESET_PEAK)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _resets(self) -> bool:
        """Tell whether the high-water mark can be set back here, by doing it."""
        if not self._reset():
            return False
        try:
            status = self._status()
        except OSError:
            return False
        return "VmHWM" in status and status["VmHWM"] <= status.get("VmRSS", 0) + _RESET_SLACK_BYTES

    def _status(self) -> dict[str, int]:
        """Return the memory lines of the kernel's status of this process, in bytes."""
        lines = (line.split() for line in (self._process / "status").read_text().splitlines())
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}


class _Sampler:
    """A thread that calls probes while a phase runs; no thread where there is nothing to probe."""

    def __init__(self, probes: Sequence[tuple[float, Callable[[], None]]]) -> None:
        self._probes = probes
        self._done = threading.Event()
        self._cpu_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="recscale-meter", daemon=True) if probes else None
        if self._thread:
            self._thread.start()

    def stop(self) -> float:
        """End the thread; return the CPU seconds that it used itself."""
        self._done.set()
        if self._thread:
            self._thread.join()
        return self._cpu_seconds

    def _run(self) -> None:
        due = [time.monotonic() + interval for interval, _ in self._probes]
        while not self._done.wait(max(0.0, min(due) - time.monotonic())):
            for index, (interval, probe) in enumerate(self._probes):
                if time.monotonic() >= due[index]:
                    probe()
                    due[index] = time.monotonic() + interval
        self._cpu_seconds = time.thread_time()


def peak_rss_of(pid: int) -> int | None:
    """Return the peak resident bytes of a running process since its last phase began; None if it cannot be told.

    A parent that asks now and then knows how far a child got that dies without a word.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _resident_bytes() -> int | None:
    """Return the resident bytes of this process; None where the system does not tell."""
    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return None


def _trim_heap() -> None:
    """Give freed memory back to the system, so that it does not count in the next phase (glibc alone can)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
