from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.base import Quantizer
from steadyvlm.quantization.grid import Grid, dequantize, pack, quantize, unpack
from steadyvlm.quantization.linear import RoundedLinear
from steadyvlm.quantization.rtn import RTN


def make_root(*, width: int = 64, dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, dict[str, nn.Linear]]:
    torch.manual_seed(0)
    root = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, 8, bias=False)).to(dtype)
    return root, {name: module for name, module in root.named_modules() if isinstance(module, nn.Linear)}


def weight_of(root: nn.Sequential, index: int) -> torch.Tensor:
    weight: torch.Tensor = root.state_dict()[f"{index}.weight"]
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [16, 32, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_are_the_dequantised_codes_in_the_compute_dtype(
    dtype: torch.dtype, group: int | None, symmetric: bool
) -> None:
    root, linears = make_root(dtype=dtype)
    original = copy.deepcopy(root)
    RTN(bits=4, group=group, symmetric=symmetric).quantize(linears, root)
    for index in (0, 2):
        grid = Grid(4, group, symmetric)
        quantized = quantize(weight_of(original, index), grid)
        # The packed bytes alone, with the scales, give the very weights that are held.
        codes = unpack(pack(quantized.codes, 4), 4, 64, signed=symmetric)
        assert torch.equal(codes, quantized.codes)
        assert torch.equal(weight_of(root, index), dequantize(quantized).to(dtype))
    assert torch.equal(root.state_dict()["0.bias"], original.state_dict()["0.bias"])
    assert "2.bias" not in root.state_dict()


def test_the_linears_themselves_stay_as_they_were() -> None:
    root, linears = make_root()
    before = {name: linear.weight.clone() for name, linear in linears.items()}
    RTN(bits=2).quantize(linears, root)
    assert all(torch.equal(linear.weight, before[name]) for name, linear in linears.items())
    assert all(isinstance(root.get_submodule(name), RoundedLinear) for name in linears)
    assert not torch.equal(weight_of(root, 0), before["0"])


def test_the_report_states_sizes_errors_and_that_storage_is_simulated() -> None:
    root, linears = make_root(dtype=torch.bfloat16)
    report = RTN(bits=4, group=32).quantize(linears, root)
    assert [layer.name for layer in report.layers] == ["0", "2"]
    assert [layer.shape for layer in report.layers] == [(64, 64), (8, 64)]
    assert report.original_bytes == report.held_bytes == (64 + 8) * 64 * 2
    assert report.packed_bytes == (64 + 8) * 64 * 9 // 16  # 4.5 bits per weight
    assert report.simulated
    assert "held in the compute dtype" in report.notes[0]
    assert all(0.03 < layer.relative_error < 0.15 for layer in report.layers)
    coarse = RTN(bits=2, group=32).quantize(*make_root()[::-1])
    assert coarse.layers[0].relative_error > 2 * report.layers[0].relative_error


def test_quantising_again_skips_what_is_quantised() -> None:
    root, linears = make_root()
    RTN(bits=4).quantize({"0": linears["0"]}, root)
    again = {name: module for name, module in root.named_modules() if isinstance(module, nn.Linear)}
    report = RTN(bits=4).quantize(again, root)
    assert [layer.name for layer in report.layers] == ["2"]
    assert [(layer.name, layer.reason) for layer in report.skipped] == [
        ("0", "it is a RoundedLinear, not a plain linear")
    ]


def test_a_group_that_does_not_fit_every_linear_is_refused_before_any_work() -> None:
    root, linears = make_root(width=48)
    with pytest.raises(InvalidOption, match=r"1 of 2 linears \(first: 2, width 48; .*48, 64\).*group=16, None\."):
        RTN(bits=4, group=32).quantize(linears, root)
    assert all(root.get_submodule(name) is linear for name, linear in linears.items())
    assert len(RTN(bits=4, group=None).quantize(linears, root).layers) == 2


def test_options_are_checked_and_put_in_order_on_construction() -> None:
    assert RTN(modules=("vision", "language")).modules == ("language", "vision")
    assert isinstance(RTN(), Quantizer)
    RTN().check_available()
    with pytest.raises(InvalidOption, match="rtn: bits=1"):
        RTN(bits=1)
    with pytest.raises(InvalidOption, match="rtn: modules="):
        RTN(modules=("head",))
