from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.grid import Grid, dequantize, pack, quantize, relative_error, unpack

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "grid_by_hand.json").read_text())
Array = np.ndarray[Any, Any]
GRIDS = [
    Grid(bits, group, symmetric) for bits in (2, 3, 4, 5, 8) for group in (16, 32, None) for symmetric in (True, False)
]


def gaussian(rows: int, width: int, *, seed: int = 0, scale: float = 0.05) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale


def reference(weight: Array, grid: Grid) -> Array:
    """The specification's formulas in float64 with Python loops; scales pass through float16, as stored."""
    result = np.empty_like(weight)
    size = grid.group or weight.shape[1]
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            x = weight[row, start : start + size]
            if grid.symmetric:
                scale = float(np.float16(np.abs(x).max() / (2 ** (grid.bits - 1) - 1)))
                q = np.clip(np.rint(x / scale), -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1)
            else:
                low, high = min(x.min(), 0.0), max(x.max(), 0.0)
                scale = float(np.float16((high - low) / (2**grid.bits - 1)))
                zero = np.rint(-low / scale)
                q = np.clip(np.rint(x / scale) + zero, 0, 2**grid.bits - 1) - zero
            result[row, start : start + size] = q * scale
    return result


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['bits']}-bit")
def test_golden_by_hand(case: dict[str, Any]) -> None:
    quantized = quantize(torch.tensor(case["weight"]), Grid(case["bits"], case["group"], case["symmetric"]))
    assert quantized.codes.tolist() == case["codes"]
    assert quantized.scale.tolist() == case["scale"]
    assert (quantized.zero is None) == case["symmetric"]
    assert quantized.zero is None or quantized.zero.tolist() == case["zero"]
    assert dequantize(quantized).tolist() == case["dequantized"]


@pytest.mark.parametrize("case", GOLDEN["packing"], ids=lambda case: f"{case['bits']}-bit")
def test_packing_by_hand(case: dict[str, Any]) -> None:
    packed = pack(torch.tensor(case["codes"]), case["bits"])
    assert packed.dtype == torch.uint8
    assert packed.tolist() == case["bytes"]
    assert unpack(packed, case["bits"], len(case["codes"]), signed=True).tolist() == case["codes"]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_agrees_with_a_float64_reimplementation(grid: Grid) -> None:
    weight = gaussian(24, 96)
    ours = dequantize(quantize(weight, grid)).numpy()
    np.testing.assert_allclose(ours, reference(weight.double().numpy(), grid), rtol=0, atol=1e-7)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_stays_within_half_a_step(grid: Grid) -> None:
    weight = gaussian(32, 128, seed=3)
    quantized = quantize(weight, grid)
    steps = quantized.scale.float().repeat_interleave(128 // quantized.scale.shape[1], dim=1)
    # A float16 scale may be short by one part in 2**11, so the outermost of `highest` steps by that many steps more.
    slack = 1 + 2 * grid.highest / 2**11
    assert ((weight - dequantize(quantized)).abs() <= steps / 2 * slack + 1e-9).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_stay_on_the_grid_and_zero_stays_exact(grid: Grid) -> None:
    weight = gaussian(8, 64, seed=4)
    weight[:, ::5] = 0.0
    quantized = quantize(weight, grid)
    assert quantized.codes.min() >= grid.lowest
    assert quantized.codes.max() <= grid.highest
    assert (dequantize(quantized)[:, ::5] == 0).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_twice_changes_nothing_more(grid: Grid) -> None:
    once = dequantize(quantize(gaussian(8, 64, seed=5), grid))
    assert relative_error(once, dequantize(quantize(once, grid))) < 2e-3


def test_more_bits_and_smaller_groups_err_less() -> None:
    weight = gaussian(64, 128, seed=6)

    def error(bits: int, group: int | None) -> float:
        return relative_error(weight, dequantize(quantize(weight, Grid(bits, group))))

    assert error(2, 32) > error(3, 32) > error(4, 32) > error(5, 32) > error(8, 32) > 0
    assert error(4, None) > error(4, 64) > error(4, 16)


def test_asymmetric_grids_suit_one_sided_weights_better() -> None:
    weight = gaussian(16, 64, seed=7).abs()
    errors = [relative_error(weight, dequantize(quantize(weight, Grid(4, 32, kind)))) for kind in (True, False)]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_dtype_is_computed_in_float32(dtype: torch.dtype) -> None:
    weight = gaussian(4, 32).to(dtype)
    untouched = weight.clone()
    low, exact = quantize(weight, Grid()), quantize(weight.float(), Grid())
    assert torch.equal(low.codes, exact.codes)
    assert torch.equal(weight, untouched)
    assert dequantize(low).dtype == torch.float32


def test_tiny_weights_keep_a_usable_scale() -> None:
    quantized = quantize(torch.full((1, 4), 1e-9), Grid(4, None))
    assert quantized.scale.item() == 2.0**-14
    assert dequantize(quantized).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e9])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_without_a_scale_are_refused(bad: float, symmetric: bool) -> None:
    with pytest.raises(ValueError, match="not finite, or too large"):
        quantize(torch.tensor([[1.0, bad]]), Grid(4, None, symmetric))


def test_a_group_that_does_not_divide_the_width_is_refused() -> None:
    with pytest.raises(InvalidOption, match="group=32 does not divide an input width of 48"):
        quantize(torch.zeros(2, 48), Grid(4, 32))


@given(st.integers(2, 8), st.booleans(), st.integers(0, 33), st.integers(0, 2**31))
def test_packing_is_undone_at_any_width(bits: int, signed: bool, width: int, seed: int) -> None:
    grid = Grid(bits, None, symmetric=signed)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(grid.lowest, grid.highest + 1, (3, width), generator=generator, dtype=torch.int16)
    packed = pack(codes, bits)
    assert packed.shape == (3, (width * bits + 7) // 8)
    assert torch.equal(unpack(packed, bits, width, signed=signed), codes)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_reported_size_is_the_size_of_the_packed_parts(grid: Grid) -> None:
    quantized = quantize(gaussian(24, 96), grid)
    parts = [pack(quantized.codes, grid.bits), quantized.scale]
    if quantized.zero is not None:
        parts.append(quantized.zero.to(torch.uint8))
    assert grid.packed_bytes(24, 96) == sum(part.numel() * part.element_size() for part in parts)


def test_the_published_size_of_a_four_bit_decoder_is_reproduced() -> None:
    # Specification 5.5: LLaVA-1.5-7B's 6,476,005,376 decoder weights, 4 bits in groups of 128.
    block = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    size = 32 * sum(Grid(4, 128).packed_bytes(rows, width) for rows, width in block)
    assert size == 6_476_005_376 // 2 + 6_476_005_376 // 128 * 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": 1}, "bits=1"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 4.0}, "bits=4.0"),
        ({"bits": True}, "bits=True"),
        ({"group": 0}, "group=0"),
        ({"group": "32"}, "group='32'"),
        ({"group": True}, "group=True"),
        ({"symmetric": 1}, "symmetric=1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        Grid(**options)


def test_the_error_of_nothing_is_nothing() -> None:
    assert relative_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0.0
