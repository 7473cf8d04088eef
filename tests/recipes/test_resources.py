from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steadyvlm.recipes import resources
from steadyvlm.recipes.resources import Energy, EnergyMeter, Memory, memory, reset_peak

CPU = torch.device("cpu")


def test_memory_grows_with_what_is_held() -> None:
    reset_peak()
    before = memory()
    held = torch.ones(8_000_000)
    after = memory()
    assert after.resident - before.resident > 0.9 * held.nbytes
    assert after.peak >= after.resident


def test_memory_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  30 kB\nVmRSS:\t  20 kB\nbroken\n")
    assert memory(tmp_path / "status") == Memory(20_480, 30_720)
    elsewhere = memory(tmp_path / "missing")
    assert elsewhere.resident == elsewhere.peak > 1_000_000


def test_a_peak_that_may_not_be_reset(tmp_path: Path) -> None:
    assert not reset_peak(tmp_path)
    assert reset_peak(tmp_path / "clear_refs")


def package(folder: Path, name: str, energy: int, full: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{full}\n")
    return path


def test_energy_of_all_packages_over_a_counter_that_starts_anew(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 100_000), package(tmp_path, "intel-rapl:1", 900_000)
    package(tmp_path, "intel-rapl:0:0", 5)  # cores, part of the package
    meter = EnergyMeter(CPU, powercap=tmp_path)
    meter.start()
    (first / "energy_uj").write_text("400000")
    (second / "energy_uj").write_text("100000")
    used = meter.stop()
    assert used.joules == pytest.approx(0.3 + 0.2)
    assert used.source == "RAPL, processor packages"
    assert used.watts == pytest.approx(0.5 / used.seconds)


def test_where_nothing_reports_there_is_no_number(tmp_path: Path) -> None:
    for prepared in (False, True):
        if prepared:
            package(tmp_path, "intel-rapl:0", 0)
            (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret")
        meter = EnergyMeter(CPU, powercap=tmp_path)
        meter.start()
        used = meter.stop()
        assert used.joules is used.watts is None
        assert used.source.startswith("not reported by this machine")
    assert Energy(0.0, 1.0, "x").watts is None


class FakeError(Exception):
    pass


def fake_nvml(monkeypatch: pytest.MonkeyPatch, readings: list[int] | None) -> None:
    def total(handle: str) -> int:
        assert handle == "handle of GPU-abc"
        if readings is None:
            raise FakeError("Not Supported")
        return readings.pop(0)

    module: Any = SimpleNamespace(
        NVMLError=FakeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda identity: f"handle of {identity}",
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(resources.torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))


def test_energy_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [1_000, 5_000, 12_500])
    meter = EnergyMeter(torch.device("cuda"))
    meter.start()
    used = meter.stop()
    assert (used.joules, used.source) == (7.5, "NVML, whole GPU")


def test_a_gpu_that_does_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, None)
    assert EnergyMeter(torch.device("cuda")).source == "not reported by this machine: Not Supported"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = EnergyMeter(torch.device("cuda"))
    assert "install nvidia-ml-py" in meter.source
    meter.start()
    assert meter.stop().joules is None
