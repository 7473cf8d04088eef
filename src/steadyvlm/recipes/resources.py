"""What a process occupies and what a device draws, as the machine itself reports it.

Memory comes from the kernel: what is resident now, and the most that ever was since the start or the last reset. Files
that are mapped into memory count from the moment they are read. Energy comes from counters of the driver: NVML for a
CUDA device (if pynvml is installed), RAPL for processor packages (if the kernel lets it be read). Where neither
reports, there is no number, and the reason is said instead.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_POWERCAP = Path("/sys/class/powercap")
UNREPORTED = "not reported by this machine"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this process: resident now, and its peak."""

    resident: int
    peak: int


def memory(status: Path = _STATUS) -> Memory:
    """Return what this process occupies.

    Args:
        status: where the kernel tells; without such a file (not Linux), both numbers are the peak.

    >>> 0 < memory().resident <= memory().peak
    True
    """
    if not status.is_file():
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        return Memory(peak, peak)
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    resident, peak = (1024 * int(rows[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return Memory(resident, max(resident, peak))


def reset_peak(clear: Path = _CLEAR) -> bool:
    """Let the peak begin anew; return whether the kernel allowed it."""
    try:
        clear.write_text("5")
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Energy:
    """What a stretch of work took.

    Attributes:
        seconds: how long it lasted.
        joules: None where nothing reports it.
        source: which counter, or why there is none.
    """

    seconds: float
    joules: float | None
    source: str

    @property
    def watts(self) -> float | None:
        """Average power; None where nothing reports it."""
        return None if self.joules is None or self.seconds == 0 else self.joules / self.seconds


class EnergyMeter:
    """Reads a counter when work starts and when it stops."""

    def __init__(self, device: torch.device, *, powercap: Path = _POWERCAP) -> None:
        """Find the counter of this device."""
        self._read, self.source = _nvml(device) if device.type == "cuda" else _rapl(powercap)

    def start(self) -> None:
        """Begin."""
        self._began, self._first = time.perf_counter(), self._read()

    def stop(self) -> Energy:
        """Return what was used since `start`."""
        last, seconds = self._read(), time.perf_counter() - self._began
        joules = None if last is None or self._first is None else last - self._first
        return Energy(seconds, joules, self.source)


Counter = Callable[[], float | None]


def _nothing() -> float | None:
    return None


def _nvml(device: torch.device) -> tuple[Counter, str]:
    """Return the counter of a CUDA device, in joules."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return _nothing, f"{UNREPORTED}: install nvidia-ml-py to read the driver's counter"
    try:
        nvml.nvmlInit()
        identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(identity)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return _nothing, f"{UNREPORTED}: {error}"
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000, "NVML, whole GPU"


def _rapl(powercap: Path) -> tuple[Counter, str]:
    """Return the sum of the processor packages' counters, in joules; it goes on where one of them starts anew."""
    packages = [_Package(path) for path in sorted(powercap.glob("*-rapl:*")) if path.name.count(":") == 1]
    try:
        for package in packages:
            package.joules()
    except (OSError, ValueError) as error:
        return _nothing, f"{UNREPORTED}: {error}"
    if not packages:
        return _nothing, UNREPORTED
    return lambda: sum(package.joules() for package in packages), "RAPL, processor packages"


class _Package:
    """One processor's counter, in microjoules, which starts anew when it is full."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._last, self._turns = folder, 0, 0

    def joules(self) -> float:
        """Return the energy since the first reading, plus a constant."""
        found = int((self._folder / "energy_uj").read_text())
        if found < self._last:
            self._turns += int((self._folder / "max_energy_range_uj").read_text())
        self._last = found
        return (found + self._turns) / 1e6
