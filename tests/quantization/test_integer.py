from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization import grid
from steadyvlm.quantization.integer import (
    dequantize_groups,
    fake_groups,
    fake_rows,
    fake_weight,
    quantize_groups,
    quantize_rows,
    quantize_weight,
)
from steadyvlm.quantization.state import Clip

Array = np.ndarray[Any, Any]
BITS = (2, 3, 4, 8)
CLIPS = (Clip(), Clip(0.9, 0.9), Clip(0.6, 0.95), Clip(1.0, 0.5))
F = np.float32


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adversarial(width: int = 9) -> dict[str, Tensor]:
    """Rows that quantisers stumble over; none of them beyond what float16 scales can span."""
    ramp = torch.linspace(-1, 1, width)
    outlier = ramp.clone() / 100
    outlier[3] = 300.0
    return {
        "zeros": torch.zeros(width),
        "constant": torch.full((width,), 3.3),
        "negative constant": torch.full((width,), -0.7),
        "huge offset": 50_000 + ramp,
        "huge negative offset": -50_000 + ramp,
        "denormal": ramp * 1e-40,
        "tiny": ramp * 1e-7,
        "one outlier": outlier,
        "negative outlier": -outlier,
        "all but one zero": torch.eye(width)[2] * 1e-3,
        "ties": torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5, -7.0]),
        "unlike magnitudes": 10.0 ** torch.linspace(-30, 3, width),
        "large": ramp * 9e4,  # two bits reach 3 * 65504
    }


def symmetric_by_hand(row: Array, bits: int, clip: Clip) -> tuple[Array, np.float32]:
    """The specification, number by number; float32 divisions as the definition of a code."""
    highest = 2 ** (bits - 1) - 1
    top, bottom = max(row.max(), F(0)) * F(clip.high), min(row.min(), F(0)) * F(clip.low)
    reach = max(top, -bottom)
    scale = F(1) if reach == 0 else max(F(reach) / F(highest), F(2.0**-126))
    return np.array([min(max(int(np.rint(x / scale)), -highest - 1), highest) for x in row]), scale


def asymmetric_by_hand(row: Array, bits: int, clip: Clip) -> tuple[Array, float, int]:
    highest = 2**bits - 1
    top, bottom = max(row.max(), F(0)) * F(clip.high), min(row.min(), F(0)) * F(clip.low)
    exact = (top - bottom) / F(highest)
    if top == bottom:
        scale = F(1)
    else:
        scale = F(np.float16(max(exact, F(2.0**-24))))
        if scale < exact:
            scale = F(np.nextafter(np.float16(scale), np.float16(np.inf)))
    zero = min(max(int(np.rint(-bottom / scale)), 0), highest)
    codes = [min(max(int(np.rint(x / scale)) + zero, 0), highest) for x in row]
    return np.array(codes), float(scale), zero


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_rows_follow_the_specification_number_by_number(bits: int, clip: Clip) -> None:
    rows = torch.stack([*numbers(20, 9), *adversarial().values()])
    codes, scale = quantize_rows(rows, bits, clip)
    assert (codes.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (len(rows), 1))
    for index, row in enumerate(rows.numpy()):
        expected, step = symmetric_by_hand(row, bits, clip)
        assert codes[index].tolist() == expected.tolist(), row
        assert scale[index].item() == step


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_groups_follow_the_specification_number_by_number(bits: int, clip: Clip) -> None:
    rows = torch.stack([*numbers(20, 9), *adversarial().values()])
    codes, scale, zero = quantize_groups(rows, bits, clip)
    assert (codes.dtype, scale.dtype, zero.dtype) == (torch.uint8, torch.float16, torch.uint8)
    for index, row in enumerate(rows.numpy()):
        expected, step, origin = asymmetric_by_hand(row, bits, clip)
        assert (scale[index].item(), zero[index].item()) == (step, origin), row
        assert codes[index].tolist() == expected.tolist(), row


@pytest.mark.parametrize("bits", BITS)
def test_weights_lie_on_the_grid_of_round_to_nearest(bits: int) -> None:
    weight = numbers(6, 33) * 0.05
    weight[2] = 0
    codes, scale = quantize_weight(weight, bits)
    expected = grid.quantize(weight, grid.Grid(bits, None))
    assert (codes.dtype, scale.dtype) == (torch.int8, torch.float16)
    assert torch.equal(codes.to(torch.int16), expected.codes)
    assert torch.equal(scale, expected.scale.squeeze(-1))


def test_weight_scales_are_rounded_before_codes_are_made() -> None:
    weight = torch.tensor([[1.0, 0.2139]])  # 1/7 as float16 is 0.14282; 0.2139 lies between 1.5 steps of the two
    half, exact = quantize_weight(weight, 4), quantize_weight(weight, 4, scale_dtype=torch.float32)
    assert (float(half[1]), float(exact[1])) == (float(np.float16(1 / 7)), float(np.float32(1) / np.float32(7)))
    steps = weight / half[1].float()
    assert torch.equal(half[0], torch.round(steps).to(torch.int8))


def test_weights_take_a_clip_per_row_and_side() -> None:
    weight = torch.tensor([[-10.0, 2.0, 1.0], [-10.0, 2.0, 1.0], [4.0, 7.0, -1.0]])
    clip = Clip(high=torch.tensor([[1.0], [1.0], [0.5]]), low=torch.tensor([[1.0], [0.35], [1.0]]))
    codes, scale = quantize_weight(weight, 4, clip, torch.float32)
    assert scale.tolist() == [F(10) / F(7), 0.5, 0.5]
    assert codes.tolist() == [[-7, 1, 1], [-8, 4, 2], [7, 7, -2]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e6])
def test_weights_that_no_scale_can_hold_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite, or too large"):
        quantize_weight(torch.tensor([[1.0], [bad]]), 4)


def test_weight_scales_may_not_be_stored_in_any_dtype() -> None:
    with pytest.raises(InvalidOption, match=r"bfloat16.*float16 or torch\.float32"):
        quantize_weight(torch.ones(1, 1), 4, scale_dtype=torch.bfloat16)


def fake_cases() -> list[tuple[int, Clip]]:
    return [(bits, clip) for bits in BITS for clip in CLIPS]


@pytest.mark.parametrize(("bits", "clip"), fake_cases(), ids=str)
def test_fake_quantisers_return_the_real_numbers_bit_for_bit(bits: int, clip: Clip) -> None:
    rows = torch.stack([*numbers(40, 9), *adversarial().values()])
    shares = {"high": torch.tensor(clip.high, requires_grad=True), "low": torch.tensor(clip.low, requires_grad=True)}
    learning = rows.clone().requires_grad_()
    codes, scale = quantize_rows(rows, bits, clip)
    assert torch.equal(fake_rows(learning, bits, **shares), codes * scale)
    assert torch.equal(fake_rows(rows, bits, clip.high, clip.low), codes * scale)
    groups = dequantize_groups(*quantize_groups(rows, bits, clip))
    assert torch.equal(fake_groups(learning, bits, **shares), groups)
    for dtype in (torch.float16, torch.float32):
        codes, scale = quantize_weight(rows / 100, bits, clip, dtype)
        assert torch.equal(
            fake_weight(learning / 100, bits, scale_dtype=dtype, **shares), codes * scale.float().unsqueeze(1)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_dtype_is_taken_and_kept_by_the_fake_quantisers(dtype: torch.dtype) -> None:
    rows = numbers(5, 8).to(dtype)
    codes, scale = quantize_rows(rows, 4)
    assert scale.dtype == torch.float32
    assert torch.equal(fake_rows(rows, 4), (codes * scale).to(dtype)) or dtype == torch.float64
    for fake in (fake_rows, fake_weight, fake_groups):
        assert fake(rows, 4).dtype == dtype
        assert (fake(rows, 8).double() - rows.double()).abs().max() < 0.02


def test_gradients_pass_straight_through_and_reach_what_is_cut_off_through_the_share() -> None:
    x = torch.tensor([[14.0, 1.2, -2.6, 0.4]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = fake_rows(x, 4, high, 1.0)  # scale 1: 14 is cut to 7
    assert y.tolist() == [[7.0, 1.0, -3.0, 0.0]]
    weights = torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=torch.float64)
    (y * weights).sum().backward()
    assert x.grad is not None
    assert high.grad is not None
    # With s = 14 high / 7, y = s q: the cut entry moves with s alone, others by q - x / s (their rounding errors).
    by_scale = 7 * 1 + (1 - 1.2) * 10 + (-3 + 2.6) * 100 + (0 - 0.4) * 1000
    assert high.grad.item() == pytest.approx(by_scale * 2)
    assert x.grad[0, 1:].tolist() == pytest.approx([10.0, 100.0, 1000.0])
    assert x.grad[0, 0].item() == pytest.approx(by_scale * 0.5 / 7)


def test_a_group_moves_with_its_low_share_through_scale_and_zero_point() -> None:
    x = torch.tensor([[-10.0, 10.0, 0.0, 3.3]], dtype=torch.float64)
    low = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = fake_groups(x, 4, 1.0, low)  # from -5 to 10: scale 1, zero 5; -10 is cut to -5
    assert y.tolist() == [[-5.0, 10.0, 0.0, 3.0]]
    for index, expected in ((0, -10.0), (3, (3 - 3.3) * 10 / 15)):
        low.grad = None
        y[0, index].backward(retain_graph=True)
        assert low.grad is not None
        # The cut entry stays at low * min x; a rounded one moves by its rounding error times the scale's change.
        assert low.grad.item() == pytest.approx(expected)


def test_a_share_is_learned_by_descending_the_error() -> None:
    x = numbers(8, 64)
    x[:, 0] = 12.0
    logit = torch.tensor(4.0, requires_grad=True)
    optimizer = torch.optim.Adam([logit], lr=0.1)
    errors = []
    for _ in range(60):
        error = (fake_rows(x, 4, torch.sigmoid(logit), 1.0) - x)[:, 1:].square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_stay_visible_and_in_their_row(bad: float) -> None:
    rows = numbers(3, 4)
    good = rows.clone()
    rows[1, 2] = bad
    for numbers_back, expected in (
        (fake_rows(rows, 4), fake_rows(good, 4)),
        (fake_weight(rows, 4), fake_weight(good, 4)),
        (fake_groups(rows, 4), fake_groups(good, 4)),
        (dequantize_groups(*quantize_groups(rows, 4)), fake_groups(good, 4)),
    ):
        assert torch.equal(numbers_back[[0, 2]], expected[[0, 2]])
        assert numbers_back[1].isnan().all()
    scale = quantize_rows(rows, 4)[1]
    assert scale.isnan().flatten().tolist() == [False, True, False]


def assert_within_half_a_step(rows: Tensor, bits: int) -> None:
    codes, scale, zero = quantize_groups(rows, bits)
    back = dequantize_groups(codes, scale, zero)
    error = (rows.double() - back.double()).abs() / scale.double()
    assert error.max() <= 0.5 + 2.0**-18 * (2**bits / 16), (rows, back)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", adversarial())
def test_groups_come_back_within_half_a_step(bits: int, name: str) -> None:
    assert_within_half_a_step(adversarial()[name], bits)


@pytest.mark.parametrize("bits", BITS)
def test_groups_of_many_shapes_come_back_within_half_a_step(bits: int) -> None:
    rows = numbers(2000, 16) * 10.0 ** torch.linspace(-9, 2, 2000)[:, None]
    offsets = numbers(2000, 1, seed=1) * rows.abs().amax(dim=1, keepdim=True) * 30
    assert_within_half_a_step(rows, bits)
    assert_within_half_a_step(rows + offsets, bits)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=6))
def test_any_group_comes_back_within_half_a_step(row: list[float]) -> None:
    assert_within_half_a_step(torch.tensor(row), 4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_any_row_comes_back_within_half_a_step(row: list[float]) -> None:
    rows = torch.tensor(row)
    codes, scale = quantize_rows(rows, 4)
    assert codes.min() >= -8
    assert codes.max() <= 7
    error = (rows.double() - codes.double() * scale.double()).abs() / scale.double()
    assert error.max() <= 0.5 + 2.0**-20


def test_a_group_beyond_the_largest_scale_is_cut_there() -> None:
    codes, scale, zero = quantize_groups(torch.tensor([[-3e6, 3e6, 1e5]]), 4)
    assert (scale.item(), zero.item(), codes.tolist()) == (65504.0, 15, [[0, 15, 15]])


def test_scales_are_rounded_up_to_the_next_float16_and_no_further() -> None:
    every = torch.arange(1, 0x7C00, dtype=torch.int16).view(torch.float16).to(torch.float32)
    above = torch.nextafter(every[:-1], torch.tensor(float("inf")))
    exact = quantize_groups((every * 15).unsqueeze(1), 4)[1].squeeze(1).to(torch.float32)
    raised = quantize_groups(above.double().mul(15).unsqueeze(1), 4)[1].squeeze(1).to(torch.float32)
    assert torch.equal(exact, every)
    assert torch.equal(raised, every[1:])
