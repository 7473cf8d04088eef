from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization import backends
from steadyvlm.quantization.integer import fake_rows, quantize_rows, quantize_weight
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.state import Clip

BACKENDS = ("fake", "reference", "int8", "auto")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_of(outputs: int = 6, width: int = 9, *, bias: bool = True, bits: int = 4, **options: Any) -> LowBitLinear:
    codes, scale = quantize_weight(numbers(outputs, width), bits)
    return LowBitLinear.from_codes(
        codes, scale, numbers(outputs, seed=1) if bias else None, weight_bits=bits, **options
    )


class Turn(nn.Module):
    """Reverses the inputs, and notes their shape."""

    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sign", torch.tensor(-1.0))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.shapes.append(tuple(inputs.shape))
        return inputs.flip(-1) * self.sign


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_rounded_activations_times_rounded_weights(backend: str, bits: int, bias: bool) -> None:
    linear = linear_of(bits=bits, bias=bias, backend=backend, activation_clip=Clip(0.9, 0.8), activation_bits=5)
    x = numbers(2, 3, 9, seed=2)
    codes, scale = quantize_weight(numbers(6, 9), bits)
    weight = codes * scale.float().unsqueeze(1)
    assert torch.equal(linear.weight_dequantized(), weight)
    expected = fake_rows(x, 5, 0.9, 0.8).double() @ weight.double().t()
    expected = expected + (numbers(6, seed=1).double() if bias else 0)
    y = linear(x)
    assert (y.shape, y.dtype) == ((2, 3, 6), torch.float32)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9,), (0, 9), (1, 9), (17, 9), (2, 0, 9), (2, 3, 4, 9)])
def test_any_shape_and_dtype_comes_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for bits in (4, 16):
        linear = linear_of(activation_bits=bits)
        y = linear(numbers(*shape).to(dtype))
        assert (y.shape, y.dtype) == ((*shape[:-1], 6), dtype)


def test_exact_backends_agree_bit_for_bit_on_what_is_not_contiguous_too() -> None:
    x = numbers(9, 5, 4).permute(2, 1, 0)[:, ::2]
    results = [linear_of(backend=backend)(x) for backend in ("reference", "int8", "auto")]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[0], linear_of()(x.contiguous()))


@pytest.mark.parametrize("bits", [4, 8])
def test_weight_only_leaves_activations_alone(bits: int) -> None:
    for bias in (True, False):
        linear = linear_of(width=64, bits=bits, bias=bias, activation_bits=16, tile_bytes=8)
        x = numbers(5, 64, seed=3)
        expected = nn.functional.linear(x, linear.weight_dequantized(), linear.bias)
        torch.testing.assert_close(linear(x), expected)
        assert linear(x.half()).dtype == torch.float16
        assert torch.equal(linear.activation_error(x), torch.zeros(5))


def test_the_transform_comes_first_and_in_the_input_shape() -> None:
    turn = Turn()
    linear, plain = linear_of(transform=turn), linear_of()
    x = numbers(2, 3, 9, seed=4)
    assert torch.equal(linear(x), plain(-x.flip(-1)))
    assert turn.shapes == [(2, 3, 9)]
    assert dict(linear.named_modules())["transform"] is turn
    rows = x[0]
    assert torch.equal(linear.activation_error(rows), plain.activation_error(-rows.flip(-1)))


def test_activation_error_is_what_rounding_loses() -> None:
    linear = linear_of(width=4, activation_clip=Clip(0.5, 1.0))
    x = torch.tensor([[14.0, 1.25, -2.5, 3.0], [7.0, 0.0, 0.0, 0.0]])
    # Scale 1: 14 is cut to 7, 1.25 loses a quarter, -2.5 goes to -2 (even). Scale 0.5: 7 is cut to 3.5.
    assert linear.activation_error(x).tolist() == pytest.approx([(7**2 + 0.25**2 + 0.5**2) ** 0.5, 3.5])
    half = linear.activation_error(x.to(torch.bfloat16))
    assert (half.dtype, half.shape) == (torch.float32, (2,))


def test_no_gradients_are_kept() -> None:
    assert not linear_of()(numbers(2, 9).requires_grad_()).requires_grad


def test_weights_are_held_in_half_a_byte_each() -> None:
    linear = linear_of(outputs=8, width=33)
    assert {name: (tuple(part.shape), part.dtype) for name, part in linear.named_buffers()} == {
        "packed": ((8, 17), torch.uint8),
        "scale": ((8,), torch.float16),
        "bias": ((8,), torch.float32),
    }
    assert linear_of(bits=5).packed.dtype == torch.int8
    assert not list(linear.parameters())


def test_what_it_was_made_from_is_not_shared() -> None:
    for bits in (4, 8):
        codes, scale = quantize_weight(numbers(6, 8), bits)
        bias = torch.zeros(6)
        linear = LowBitLinear.from_codes(codes, scale, bias, weight_bits=bits)
        before = linear(numbers(1, 8))
        for part in (codes, scale, bias):
            part.fill_(3)
        assert torch.equal(linear(numbers(1, 8)), before)


def test_casting_a_model_changes_no_result_but_its_dtype() -> None:
    linear, x = linear_of(), numbers(4, 9, seed=5).to(torch.bfloat16)
    before = linear(x)
    assert torch.equal(nn.Sequential(linear).to(torch.bfloat16)(x), before)
    assert linear.scale.dtype == torch.float16


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_dict_makes_an_empty_one_whole(bits: int, bias: bool, device: str) -> None:
    clip = Clip(0.9, 0.8)
    linear = linear_of(bits=bits, bias=bias, transform=Turn(), activation_clip=clip, activation_bits=6)
    blank = LowBitLinear.empty(
        9,
        6,
        bias,
        Turn().to(device),
        weight_bits=bits,
        activation_bits=6,
        activation_clip=clip,
        bias_dtype=torch.float32,
        device=device,
    )
    assert {name: (part.shape, part.dtype) for name, part in blank.state_dict().items()} == {
        name: (part.shape, part.dtype) for name, part in linear.state_dict().items()
    }
    tensors = load(save(linear.state_dict()))
    blank.load_state_dict(tensors, assign=device == "meta")
    x = numbers(3, 9, seed=6)
    assert torch.equal(blank(x), linear(x))
    assert repr(blank) == repr(linear)


def test_a_state_dict_that_does_not_fit_is_refused() -> None:
    state = linear_of().state_dict()
    with pytest.raises(RuntimeError, match="bias"):
        LowBitLinear.empty(9, 6, False).load_state_dict(state)
    with pytest.raises(RuntimeError, match="packed"):
        LowBitLinear.empty(11, 6, True).load_state_dict(state)


def test_copies_are_independent_and_equal() -> None:
    linear = linear_of(transform=Turn())
    x = numbers(2, 9)
    twin = copy.deepcopy(linear)
    assert torch.equal(twin(x), linear(x))
    twin.packed.zero_()
    assert not torch.equal(twin(x), linear(x))
    file = io.BytesIO()
    torch.save(linear.state_dict(), file)
    assert file.tell() > 0


def test_it_prints_what_it_is() -> None:
    assert repr(linear_of(bias=False, backend="int8")) == (
        "LowBitLinear(in_features=9, out_features=6, bias=False, bits=W4A4, backend=int8)"
    )


def test_clips_become_plain_numbers() -> None:
    linear = linear_of(activation_clip=Clip(torch.tensor(0.5), torch.tensor([1.0])))
    assert linear.activation_clip == Clip(0.5, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 9}, "weight_bits=9"),
        ({"activation_bits": 12}, "activation_bits=12"),
        ({"backend": "cutlass"}, "backend='cutlass'"),
        ({"activation_clip": Clip(0.0, 1.0)}, "high=0.0"),
    ],
)
def test_settings_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        LowBitLinear.from_codes(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2), None, **options)
    with pytest.raises(InvalidOption, match=message):
        LowBitLinear.empty(3, 2, False, **options)


def test_a_backend_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_installed", lambda: False)
    with pytest.raises(MissingDependency):
        LowBitLinear.empty(3, 2, False, backend="triton")


@pytest.mark.parametrize(
    ("codes", "scale", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2), None, "int8"),
        (torch.zeros(2, 3, 1, dtype=torch.int8), torch.ones(2), None, "belong together"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(3), None, r"\(3,\)"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2), torch.zeros(3), "2 outputs"),
        (torch.full((2, 3), 8, dtype=torch.int8), torch.ones(2), None, "from 8 to 8, outside of 4 bits"),
        (torch.full((2, 3), -9, dtype=torch.int8), torch.ones(2), None, "outside of 4 bits"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(
    codes: Tensor, scale: Tensor, bias: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LowBitLinear.from_codes(codes, scale, bias)


def test_scales_may_not_be_stored_in_any_dtype() -> None:
    with pytest.raises(InvalidOption, match="scale_dtype"):
        LowBitLinear.from_codes(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2, dtype=torch.bfloat16), None)
    with pytest.raises(InvalidOption, match="scale_dtype"):
        LowBitLinear.empty(3, 2, False, scale_dtype=torch.float64)


def test_bad_activations_spoil_their_own_row_only() -> None:
    x = numbers(3, 9)
    x[1, 4] = float("nan")
    for backend in BACKENDS:
        y = linear_of(backend=backend)(x)
        assert y.isnan().all(dim=1).tolist() == [False, True, False]


def test_one_scale_per_token_makes_tokens_independent() -> None:
    linear, x = linear_of(width=32), numbers(8, 32, seed=8)
    assert torch.equal(linear(x)[5], linear(x[5]))
    codes, scale = quantize_rows(x[5] * 4, 4)
    same, step = quantize_rows(x[5], 4)
    assert torch.equal(codes, same)
    assert torch.equal(scale, 4 * step)
