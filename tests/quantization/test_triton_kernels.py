"""The fused kernels against int64 and one float32 operation at a time, written out in NumPy.

They run in Triton's interpreter here, and on the GPU where there is one; `-m gpu` adds the shapes of 7B models.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.quantization import integer
from steadyvlm.quantization.backends import multiply
from steadyvlm.quantization.low_bit_weight import LowBitWeight, Rounding
from steadyvlm.quantization.nibbles import pack4
from steadyvlm.quantization.state import Clip

pytest.importorskip("triton")
from steadyvlm.quantization import triton_kernels as kernels

DEVICE = "cpu" if kernels.interpreted() else "cuda"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FLOAT32 = np.float32


def slow_codes(x: Tensor, high: float, low: float, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, I] int64 and scales [N] float32 of the quantiser, row by row."""
    largest = 2 ** (bits - 1) - 1
    codes, scales = [], []
    for row in x.to(torch.float32).cpu().numpy():
        top, bottom = FLOAT32(high) * max(row.max(), FLOAT32(0)), FLOAT32(low) * min(row.min(), FLOAT32(0))
        reach = max(top, -bottom)
        scale = FLOAT32(1) if reach == 0 else max(FLOAT32(reach / FLOAT32(largest)), FLOAT32(2.0**-126))
        codes.append([max(-largest - 1, min(largest, round(float(FLOAT32(value / scale))))) for value in row])
        scales.append(scale)
    return np.array(codes, dtype=np.int64).reshape(x.shape), np.array(scales, dtype=FLOAT32)


def slow_linear(
    x: Tensor, weight: Tensor, scale: Tensor, high: float, low: float, bias: Tensor | None, bits: int = 4
) -> Tensor:
    """The linear in int64, then float32 products and sums, each rounded by itself."""
    codes, row_scale = slow_codes(x, high, low, bits)
    total = (codes @ weight.cpu().numpy().astype(np.int64).T).astype(FLOAT32)
    result = total * row_scale[:, None] * scale.cpu().to(torch.float32).numpy()[None, :]
    if bias is not None:
        result = result + bias.cpu().to(torch.float32).numpy()
    return torch.from_numpy(result)


def codes_for(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """Random 4-bit codes."""
    return torch.randint(-8, 8, (outputs, inputs), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def rows_for(count: int, inputs: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Random activations, a few of them far out."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, inputs, generator=generator)
    return torch.where(torch.rand(count, inputs, generator=generator) < 0.02, 20 * normal, normal).to(dtype)


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(DEVICE) for tensor in tensors]


def linear(x: Tensor, weight: Tensor, scale: Tensor, *clips: float, bias: Tensor | None = None, **options) -> Tensor:
    packed = pack4(weight)
    bias = None if bias is None else bias.to(DEVICE)
    return kernels.w4a4_linear(*on_device(x, packed, scale), *clips, bias=bias, **options).cpu()


# One row takes a path of its own, but not where a row of weights is no whole number of words; up to 16 rows, up to 64
# and more take different tiles; widths are odd, even, a multiple of a tile and not.
SHAPES = ((1, 64, 8), (1, 1, 1), (1, 2056, 3), (1, 63, 40), (2, 6, 5), (5, 256, 33), (17, 301, 40))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_bit_is_that_of_whole_numbers(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, inputs, outputs = shape
    x, weight = rows_for(rows, inputs, dtype), codes_for(outputs, inputs)
    scale, bias = torch.rand(outputs, dtype=torch.float16), torch.randn(outputs).to(dtype)
    expected = slow_linear(x, weight, scale, 0.9, 0.7, bias)
    result = linear(x, weight, scale, 0.9, 0.7, bias=bias)
    assert result.dtype == dtype
    assert torch.equal(result, expected.to(dtype))
    unclipped = slow_linear(x, weight, scale, 1.0, 1.0, None)
    assert torch.equal(linear(x, weight, scale, dtype=torch.float32), unclipped)


def test_more_rows_than_a_tile() -> None:
    x, weight, scale = rows_for(130, 40, torch.bfloat16), codes_for(9, 40), torch.rand(9)
    assert torch.equal(linear(x, weight, scale), slow_linear(x, weight, scale, 1.0, 1.0, None).to(torch.bfloat16))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("inputs", [18944, 18943])
def test_the_largest_sums_are_exact(rows: int, inputs: int) -> None:
    # With the maximum cut to almost nothing every activation is beyond -8 steps.
    x, weight = torch.full((rows, inputs), -1.0), torch.full((2, inputs), -8, dtype=torch.int8)
    x[:, 0] = 0.5
    weight[1] = codes_for(1, inputs)
    result = linear(x, weight, torch.ones(2), 1.0, 0.25)
    assert torch.equal(result, slow_linear(x, weight, torch.ones(2), 1.0, 0.25, None))
    assert torch.equal(result[:, 0] / FLOAT32(0.5 / 7), torch.full((rows,), 64.0 * (inputs - 1) - 8 * 7))


@pytest.mark.parametrize("rows", [1, 2])
def test_halves_are_rounded_to_even(rows: int) -> None:
    x = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 6.5]]).repeat(rows, 1)
    result = linear(x, torch.eye(8, dtype=torch.int8), torch.ones(8))
    assert result.tolist() == [[7.0, 0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 6.0]] * rows


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e30, 1e36], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
def test_rows_of_any_size(size: float, rows: int) -> None:
    x, weight, scale = size * rows_for(rows, 48).clamp(-1, 1), codes_for(6, 48), torch.full((6,), 2.0**-9)
    assert torch.equal(linear(x, weight, scale), slow_linear(x, weight, scale, 1.0, 1.0, None))


def test_bad_numbers_stay_in_their_row() -> None:
    x, weight = rows_for(5, 24), codes_for(9, 24)
    expected = slow_linear(x, weight, torch.ones(9), 1.0, 1.0, None)
    x[1, 3], x[2, 5], x[4] = torch.nan, -torch.inf, 0.0
    result = linear(x, weight, torch.ones(9))
    assert result[1].isnan().all()
    assert result[2].isnan().all()
    assert torch.equal(result[[0, 3]], expected[[0, 3]])
    assert torch.equal(result[4], torch.zeros(9))
    assert linear(x[1:2], weight, torch.ones(9)).isnan().all()
    assert torch.equal(linear(x[4:], weight, torch.ones(9)), torch.zeros(1, 9))


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("rows", [1, 4])
def test_other_widths_of_activations(bits: int, rows: int) -> None:
    x, weight, scale = rows_for(rows, 72), codes_for(10, 72), torch.rand(10)
    expected = slow_linear(x, weight, scale, 1.0, 0.8, None, bits)
    assert torch.equal(linear(x, weight, scale, 1.0, 0.8, activation_bits=bits), expected)


def test_rows_and_weights_may_lie_anywhere_in_memory() -> None:
    x, weight, scale = rows_for(6, 40), codes_for(12, 40), torch.rand(12)
    bias = torch.randn(12)
    expected = slow_linear(x, weight, scale, 1.0, 1.0, bias)
    strided = torch.empty(40, 2 * 6)[:, ::2].to(DEVICE)
    strided.copy_(x.t())
    wide = torch.empty(12, 23, dtype=torch.uint8, device=DEVICE)
    wide[:, 2:22] = pack4(weight).to(DEVICE)
    shifted = torch.empty(1 + 12 * 20, dtype=torch.uint8, device=DEVICE)
    shifted[1:] = pack4(weight).flatten().to(DEVICE)
    scale, bias = (torch.stack((values, values), dim=1).to(DEVICE)[:, 0] for values in (scale, bias))
    for rows in (strided.t(), strided.t()[2:3]):
        for packed in (wide[:, 2:22], shifted[1:].view(12, 20)):
            result = kernels.w4a4_linear(rows, packed, scale, bias=bias).cpu()
            assert torch.equal(result, expected if len(rows) == 6 else expected[2:3])


def test_nothing_is_written_to_what_is_read() -> None:
    for rows in (1, 3):
        given = on_device(rows_for(rows, 16), pack4(codes_for(4, 16)), torch.rand(4))
        before = [tensor.clone() for tensor in given]
        kernels.w4a4_linear(*given)
        assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


def test_no_rows_and_no_outputs() -> None:
    assert linear(torch.zeros(0, 8), codes_for(3, 8), torch.ones(3), dtype=torch.float16).shape == (0, 3)
    assert linear(torch.zeros(2, 8), codes_for(0, 8), torch.ones(0)).shape == (2, 0)


def test_tiles_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, scale = rows_for(35, 70), codes_for(20, 70), torch.rand(20)
    expected = slow_linear(x, weight, scale, 1.0, 1.0, None)
    for tile in ((16, 16, 32, 2, 4), (32, 32, 64, 2, 4), (16, 64, 16, 2, 4)):
        monkeypatch.setattr(kernels, "TILES", {2**31: (tile,)})
        kernels._multiply.cache_clear()
        assert torch.equal(linear(x, weight, scale), expected), tile
    kernels._multiply.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_the_other_back_ends(dtype: torch.dtype, bits: int) -> None:
    x = rows_for(7, 5001, dtype)
    codes, scales = kernels.quantize_rows(x.to(DEVICE), 0.95, 0.6, bits)
    expected, expected_scales = integer.quantize_rows(x, bits, Clip(0.95, 0.6))
    half = codes.shape[1] // 2
    assert half % kernels.PADDING == 0
    assert torch.equal(codes[:, :2501].cpu(), expected[:, 0::2])
    assert torch.equal(codes[:, half : half + 2500].cpu(), expected[:, 1::2])
    assert not codes[:, 2501:half].any()
    assert not codes[:, half + 2500 :].any()
    assert torch.equal(scales.cpu(), expected_scales[:, 0])


@pytest.mark.parametrize("rows", [1, 9])
def test_agrees_with_the_reference_back_end(rows: int) -> None:
    x, weight, scale = rows_for(rows, 130, torch.bfloat16), codes_for(21, 130), torch.rand(21, dtype=torch.float16)
    held = LowBitWeight(pack4(weight), scale, width=130, bits=4)
    assert torch.equal(linear(x, weight, scale, 0.9, 1.0), multiply("reference", x, held, Rounding(4, Clip(0.9, 1.0))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": torch.zeros(2, 9)},
        {"x": torch.zeros(8)},
        {"x": torch.zeros(2, 8, dtype=torch.float64)},
        {"packed": torch.zeros(3, 4, dtype=torch.int8)},
        {"packed": torch.zeros(12, dtype=torch.uint8)},
        {"weight_scale": torch.ones(4)},
        {"bias": torch.ones(1)},
        {"activation_bits": 1},
        {"activation_bits": 16},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    right = {"x": torch.zeros(2, 8), "packed": torch.zeros(3, 4, dtype=torch.uint8), "weight_scale": torch.ones(3)}
    with pytest.raises(InvalidOption, match="w4a4_linear"):
        kernels.w4a4_linear(**{**right, **wrong})


def test_sums_beyond_32_bits_are_refused() -> None:
    x, packed = torch.zeros(1, 2**17), torch.zeros(1, 2**16, dtype=torch.uint8)
    with pytest.raises(Unsupported, match="32 bits hold the sums of at most 131071"):
        kernels.w4a4_linear(x, packed, torch.ones(1), activation_bits=8)


def test_a_cpu_is_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    with pytest.raises(Unsupported, match="needs a GPU"):
        kernels.w4a4_linear(torch.zeros(2, 8), torch.zeros(3, 4, dtype=torch.uint8), torch.ones(3))


def test_all_tiles_are_tried_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    assert kernels._tried([1, 2]) == [1, 2]
    assert kernels._assembly() is (torch.version.hip is None)
    monkeypatch.setattr(kernels, "interpreted", lambda: True)
    assert kernels._tried([1, 2]) == [1]
    assert not kernels._assembly()


LARGE = ((4096, 4096), (11008, 4096), (4096, 11008), (3584, 18944), (512, 3584), (3420, 1280))
"""(O, I) of LLaVA-1.5-7B and Qwen2.5-VL-7B."""


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 2, 16, 33, 636])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_accumulators_at_the_size_of_7b_models(shape: tuple[int, int], rows: int) -> None:
    outputs, inputs = shape
    weight = codes_for(outputs, inputs)
    # From -7 to 7, both reached, so that every scale is one, and the result the sum itself.
    x = torch.randint(-7, 8, (rows, inputs), generator=torch.Generator().manual_seed(2)).to(torch.float16)
    x[:, 0], weight[0] = 7.0, -8
    result = linear(x, weight, torch.ones(outputs), dtype=torch.float32)
    assert torch.equal(result, torch._int_mm(x.to(torch.int8), weight.t()).to(torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 636])
def test_answers_at_the_size_of_7b_models(rows: int, dtype: torch.dtype) -> None:
    x, weight = rows_for(rows, 4096, dtype), codes_for(11008, 4096)
    scale, bias = torch.rand(11008, dtype=torch.float16), torch.randn(11008)
    held = LowBitWeight(pack4(weight), scale, width=4096, bits=4)
    expected = multiply("int8", x, held, Rounding(4, Clip(0.9, 0.95)), bias)
    assert torch.equal(linear(x, weight, scale, 0.9, 0.95, bias=bias), expected)


@pytest.mark.gpu
def test_every_tile_gives_the_same_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, scale = rows_for(140, 1710), codes_for(300, 1710), torch.rand(300)
    expected = slow_linear(x, weight, scale, 1.0, 1.0, None)
    for tile in (tile for tiles in kernels.TILES.values() for tile in tiles):
        monkeypatch.setattr(kernels, "TILES", {2**31: (tile,)})
        kernels._multiply.cache_clear()
        assert torch.equal(linear(x, weight, scale), expected), tile
    kernels._multiply.cache_clear()
    for tile in kernels.ONE_ROW_TILES:
        monkeypatch.setattr(kernels, "ONE_ROW_TILES", (tile,))
        kernels._one_row.cache_clear()
        assert torch.equal(
            linear(x[:1, :1704], weight[:, :1704], scale),
            slow_linear(x[:1, :1704], weight[:, :1704], scale, 1.0, 1.0, None),
        ), tile
    kernels._one_row.cache_clear()
