"""Energy that the machine itself counts: RAPL or amd_energy for the processor, NVML for the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recscale.measuring.gpu import Gpu, energy_millijoules

SYSTEM = Path("/sys/class")


@dataclass(frozen=True, slots=True)
class _Zone:
    """One counter of microjoules, and where it starts again at zero."""

    path: Path
    range_microjoules: int | None = None


class EnergyCounter:
    """Adds up the joules used since it was made; None where nothing on this machine counts them.

    `update` must be called before a counter of the processor can wrap twice: 262 kJ, over 5 minutes at 800 W.
    """

    interval_seconds = 60.0

    def __init__(self, gpu: Gpu | None = None, *, system: Path = SYSTEM) -> None:
        self._zones = [zone for zone in _zones(system) if _read(zone.path) is not None]
        self._last = [_read(zone.path) or 0 for zone in self._zones]
        self._microjoules = 0
        self._gpu = gpu
        self._gpu_start = energy_millijoules(gpu) if gpu else None

    @property
    def sources(self) -> tuple[str, ...]:
        """Name the counters that are read: `cpu`, `gpu`, both or none."""
        names = ("cpu",) if self._zones else ()
        return names if self._gpu_start is None else (*names, "gpu")

    def update(self) -> None:
        """Take in what the processor used since the last call."""
        for index, zone in enumerate(self._zones):
            now = _read(zone.path)
            if now is None:
                continue
            used = now - self._last[index]
            if used < 0:
                used += zone.range_microjoules or 0
            self._microjoules += max(0, used)
            self._last[index] = now

    def joules(self) -> float | None:
        """Return the joules used so far, over all sources."""
        self.update()
        total = self._microjoules / 1e6
        if self._gpu is not None and self._gpu_start is not None:
            total += ((energy_millijoules(self._gpu) or self._gpu_start) - self._gpu_start) / 1e3
        return total if self.sources else None


def _zones(system: Path) -> list[_Zone]:
    """Return the counters of whole processor packages and their memory, without the parts that these include.

    AMD's processors appear under the name intel-rapl, too; older kernels have the driver amd_energy instead.
    """
    zones = []
    for folder in sorted(system.glob("powercap/intel-rapl:*")):
        name = _text(folder / "name")
        # `psys` includes the packages, `core` and `uncore` are included in them.
        if name.startswith("package") or name == "dram":
            zones.append(_Zone(folder / "energy_uj", _read(folder / "max_energy_range_uj")))
    if zones:
        return zones
    for folder in sorted(system.glob("hwmon/hwmon*")):
        if _text(folder / "name") == "amd_energy":
            labels = (path for path in folder.glob("energy*_label") if _text(path).startswith("Esocket"))
            zones += [_Zone(path.with_name(path.name.replace("_label", "_input"))) for path in sorted(labels)]
    return zones


def _text(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> int | None:
    """Return the number in a file; None if only root may read it, as most kernels have it."""
    text = _text(path)
    return int(text) if text.isdigit() else None
