from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear, describe, refuse_misfits, to_codes


def make(bits: int, group: int | None, *, symmetric: bool, dtype: torch.dtype = torch.float32) -> CalibratedLinear:
    generator = torch.Generator().manual_seed(bits)
    limit, groups = 1 << (bits - 1), 1 if group is None else 48 // group
    codes = torch.randint(-limit, limit, (6, 48), generator=generator)
    scale = (torch.rand(6, groups, generator=generator) + 0.01).to(dtype)
    zero = None if symmetric else torch.randint(-limit, limit, (6, groups), generator=generator)
    return CalibratedLinear(codes, scale, zero, torch.zeros(6, dtype=dtype), Grid(bits, group, symmetric))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_held_weight_is_written_out_by_hand_and_gives_its_codes_back(
    bits: int, group: int | None, symmetric: bool
) -> None:
    linear = make(bits, group, symmetric=symmetric)
    limit, size = 1 << (bits - 1), group or 48
    codes = torch.randint(-limit, limit, (6, 48), generator=torch.Generator().manual_seed(bits))
    for row in range(6):
        for column in range(48):
            zero = 0.0 if linear.zero is None else float(linear.zero[row, column // size])
            step = linear.scale[row, column // size]
            assert linear.weight[row, column] == (codes[row, column] - zero) * step
    assert torch.equal(linear.codes(), codes.to(torch.int8))
    assert torch.equal(to_codes(linear.weight, linear.scale, linear.zero, bits), codes.to(torch.int8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_come_back_from_half_precision_too(dtype: torch.dtype) -> None:
    linear = make(4, 16, symmetric=False, dtype=dtype)
    codes = torch.randint(-8, 8, (6, 48), generator=torch.Generator().manual_seed(4))
    assert linear.weight.dtype == linear.scale.dtype == dtype
    assert torch.equal(linear.codes(), codes.to(torch.int8))
    twin = copy.deepcopy(linear)
    inputs = torch.ones(2, 48, dtype=dtype)
    assert torch.equal(twin(inputs), linear(inputs))


def test_a_weight_outside_the_grid_goes_to_its_edge() -> None:
    scale, zero = torch.tensor([[0.5]]), torch.tensor([[3.0]])
    assert to_codes(torch.tensor([[100.0, -100.0, 0.0, 0.26]]), scale, zero, 4).tolist() == [[7, -8, 3, 4]]


def test_the_report_counts_words_scales_and_zero_points() -> None:
    plain = describe("a", make(4, 16, symmetric=True), 0.25)
    assert (plain.name, plain.shape, plain.bits, plain.relative_error) == ("a", (6, 48), 4, 0.25)
    assert plain.original_bytes == 6 * 48 * 4
    assert plain.packed_bytes == 6 * 24 + 6 * 3 * 4
    assert plain.held_bytes == 6 * 48 * 4 + 6 * 3 * 4
    shifted = describe("a", make(3, 16, symmetric=False, dtype=torch.bfloat16), 0.25)
    assert shifted.packed_bytes == 6 * 5 * 4 + 6 * 3 * 2 + 3 * 4  # 144 bits are 5 words, 18 bits of zeros are one
    assert shifted.held_bytes == 6 * 48 * 2 + 2 * 6 * 3 * 2


def test_a_group_that_does_not_fit_is_refused_with_those_that_would() -> None:
    linears = {"a": nn.Linear(64, 8), "b": nn.Linear(48, 8)}
    with pytest.raises(
        InvalidOption, match=r"^gptq: .*1 of 2 linears \(first: b, width 48; .*48, 64\).*group=16, None"
    ):
        refuse_misfits("gptq", 32, linears)
    refuse_misfits("gptq", 16, linears)
    refuse_misfits("gptq", None, linears)
    assert "grid=4 bits, group 16" in repr(make(4, 16, symmetric=True))
