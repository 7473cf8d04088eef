"""Products of low-bit activations with low-bit weights: four ways to compute one and the same thing.

    y[n, o] = (float32(acc[n, o]) * scale_a[n]) * scale_w[o] + bias[o]      acc[n, o] = sum_i a[n, i] w[o, i]

with integers a = quantize_rows(x), each float32 step rounded by itself and the result cast once. The sum is exact in
every back-end but "fake", so these agree bit for bit:

- "reference": a float32 product of the integers. Every partial sum is an integer below 2^24, which float32 holds
  exactly, in any order of summation; wider codes or rows are multiplied in float64.
- "int8": `torch._int_mm`, int8 times int8 summed in int32, on CUDA and on CPUs with instructions for it; on others,
  whose sums would not be exact (`int8_product`), it is "reference".
- "triton": a fused CUDA kernel for weights of up to 4 bits (`triton_kernels`).

"fake" is the textbook simulation: dequantised activations times dequantised weights. It multiplies in float64, where
even sums that cancel keep their digits, so that what it differs by is the rounding of the others' float32 steps: one
unit in the last place at most, but for a few entries in a thousand of a float32 result. "auto" is "triton" where it can
run, "int8" elsewhere.

Weights stay packed; they are unpacked per call, a tile of output rows at a time, so that a product never needs more
than a tile of extra memory and a tile is still in the cache when it is multiplied. For "int8" nibbles are not put back
in order: low nibbles (even inputs) and high nibbles (odd inputs) land in two halves, the activations are reordered to
match, and both keep the nibble in the upper half of its byte, which multiplies the sum by 16, exactly.

Source: specification of the runtime in this project (`docs`); the PyTorch operator `torch._int_mm`.

Letters: N rows, I input width, O output width.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, MissingDependency, Unsupported
from steadyvlm.quantization.int8_product import int_product, sums_exactly
from steadyvlm.quantization.integer import quantize_rows
from steadyvlm.quantization.low_bit_weight import LowBitWeight, Rounding
from steadyvlm.quantization.nibbles import apart, sixteenfold

BACKENDS = ("auto", "fake", "reference", "int8", "triton")
_EXACT_IN_FLOAT32 = 2**24


def multiply(backend: str, x: Tensor, weight: LowBitWeight, rounding: Rounding, bias: Tensor | None = None) -> Tensor:
    """Round rows and multiply them with a low-bit weight.

    Args:
        backend: one of `BACKENDS`.
        x: [N, I] float.
        weight: of the linear.
        rounding: of the activations.
        bias: [O] float, added in float32.

    Returns:
        [N, O] in x's dtype, cast once at the end.

    Raises:
        MissingDependency: when "triton" is asked for and not installed.
        Unsupported: when "triton" is asked for and its kernel does not cover these widths.

    >>> weight = LowBitWeight(torch.tensor([[0x21]], dtype=torch.uint8), torch.tensor([2.0]), width=2, bits=4)
    >>> multiply("int8", torch.tensor([[7.0, 3.0]]), weight, Rounding(bits=4))  # (7 * 1 + 3 * 2) * 2
    tensor([[26.]])
    """
    if x.shape[0] == 0:
        return x.new_empty(0, weight.packed.shape[0])
    return _PRODUCTS[resolved(backend, x.device, weight)](x, weight, rounding, bias)


def resolved(backend: str, device: torch.device, weight: LowBitWeight) -> str:
    """Return the back-end that runs: "auto" becomes "triton" on CUDA where its kernel fits, "int8" elsewhere."""
    if backend != "auto":
        return backend
    fast = device.type == "cuda" and weight.bits <= 4 and triton_installed()
    return "triton" if fast else "int8"


def checked_backend(backend: str) -> str:
    """Return the name of a back-end that can be used here.

    Raises:
        InvalidOption: for an unknown name.
        MissingDependency: when "triton" is asked for and not installed.
    """
    if backend not in BACKENDS:
        raise InvalidOption(f"backend={backend!r} is not allowed. Give one of {', '.join(map(repr, BACKENDS))}.")
    if backend == "triton" and not triton_installed():
        raise _no_triton("it is not installed")
    return backend


def triton_installed() -> bool:
    """Whether Triton can be imported; it is not imported to find out."""
    return importlib.util.find_spec("triton") is not None


def _fake(x: Tensor, weight: LowBitWeight, rounding: Rounding, bias: Tensor | None) -> Tensor:
    codes, scale = quantize_rows(x, rounding.bits, rounding.clip)
    rows = codes.to(torch.float64) * scale
    outputs = torch.empty(x.shape[0], weight.packed.shape[0], dtype=torch.float32, device=x.device)
    for tile in weight.tiles():
        outputs[:, tile] = rows @ weight.dequantized(tile, torch.float64).t()
    return _finished(outputs, bias, x.dtype)


def _reference(x: Tensor, weight: LowBitWeight, rounding: Rounding, bias: Tensor | None) -> Tensor:
    codes, scale = quantize_rows(x, rounding.bits, rounding.clip)
    largest = weight.width << (rounding.bits - 1) << (weight.bits - 1)
    exact = codes.to(torch.float32 if largest <= _EXACT_IN_FLOAT32 else torch.float64)
    return _scaled(lambda tile: exact @ weight.codes(tile).to(exact.dtype).t(), weight, scale, bias, x.dtype)


def _int8(x: Tensor, weight: LowBitWeight, rounding: Rounding, bias: Tensor | None) -> Tensor:
    if not sums_exactly(x.device.type):
        return _reference(x, weight, rounding, bias)
    codes, scale = quantize_rows(x, rounding.bits, rounding.clip)
    if weight.bits > 4:
        return _scaled(lambda tile: int_product(codes, weight.packed[tile]), weight, scale, bias, x.dtype)
    halves = apart(codes)

    def product(tile: slice) -> Tensor:
        return int_product(halves, sixteenfold(weight.packed[tile])) >> 4

    return _scaled(product, weight, scale, bias, x.dtype)


def _triton(x: Tensor, weight: LowBitWeight, rounding: Rounding, bias: Tensor | None) -> Tensor:
    if weight.bits > 4:
        raise Unsupported(
            f"the Triton kernel takes weights of up to 4 bits, and this linear has {weight.bits}. Use backend='int8'."
        )
    try:
        kernels = importlib.import_module("steadyvlm.quantization.triton_kernels")
    except ImportError as error:
        raise _no_triton(str(error)) from None
    outputs: Tensor = kernels.w4a4_linear(
        x,
        weight.packed,
        weight.scale,
        clip_high=float(rounding.clip.high),
        clip_low=float(rounding.clip.low),
        bias=bias,
        activation_bits=rounding.bits,
    )
    return outputs


_PRODUCTS: dict[str, Callable[[Tensor, LowBitWeight, Rounding, Tensor | None], Tensor]] = {
    "fake": _fake,
    "reference": _reference,
    "int8": _int8,
    "triton": _triton,
}


def _finished(outputs: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Add the bias in float32, then cast."""
    return (outputs if bias is None else outputs + bias.to(torch.float32)).to(dtype)


def _scaled(
    product: Callable[[slice], Tensor], weight: LowBitWeight, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Scale the integer products of every tile of output rows, add the bias, cast and join them: [N, O] `dtype`."""
    outputs = torch.empty(scale.shape[0], weight.packed.shape[0], dtype=dtype, device=scale.device)
    steps = weight.scale.to(torch.float32)
    for rows in weight.tiles():
        scaled = product(rows).to(torch.float32).mul_(scale).mul_(steps[rows])
        outputs[:, rows] = scaled if bias is None else scaled.add_(bias[rows].to(torch.float32))
    return outputs


def _no_triton(found: str) -> MissingDependency:
    return MissingDependency(
        f"backend='triton' needs Triton, and {found}. Install it with `pip install triton` (Linux with a CUDA GPU), "
        "or use backend='auto'."
    )
