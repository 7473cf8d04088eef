"""`auto` takes the best device and the precision that pays there; what does not exist is refused."""

from __future__ import annotations

import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.models.placement import device_name, resolve_device, resolve_dtype


def machine(
    monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, capability: tuple[int, int] = (8, 0), mps: bool = False
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Some GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1, mps=True)
    assert resolve_device("auto") == torch.device("cuda")
    machine(monkeypatch, mps=True)
    assert resolve_device("auto") == torch.device("mps")
    assert resolve_device("mps") == torch.device("mps")
    machine(monkeypatch)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta"])
def test_a_device_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch)
    with pytest.raises(InvalidOption, match="not available on this machine"):
        resolve_device(name)


def test_the_second_gpu_needs_two(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1)
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(InvalidOption):
        resolve_device("cuda:1")


def test_an_unknown_device_or_dtype_is_refused() -> None:
    with pytest.raises(InvalidOption, match="device 'gpu' is unknown"):
        resolve_device("gpu")
    with pytest.raises(InvalidOption, match="dtype 'int8' is unknown"):
        resolve_dtype("int8", torch.device("cpu"))


def test_auto_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1)
    assert resolve_dtype("auto", torch.device("cuda")) is torch.bfloat16
    machine(monkeypatch, cuda=1, capability=(7, 5))
    assert resolve_dtype("auto", torch.device("cuda")) is torch.float32
    assert resolve_dtype("auto", torch.device("cpu")) is torch.float32
    assert resolve_dtype("auto", torch.device("mps")) is torch.float32
    assert resolve_dtype("float16", torch.device("cpu")) is torch.float16


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1)
    assert device_name(torch.device("cuda")) == "cuda (Some GPU)"
    assert device_name(torch.device("cpu")) == "cpu"
