"""W4A4 linears on a GPU: packed 4-bit weights times activations quantised on the way, as int8 tensor-core products.

    acc[n, o] = sum_i a[n, i] w[o, i]        int32, exact
    y[n, o] = float32(acc) * scale_a[n] * scale_w[o] (+ bias[o])        every step rounded by itself, cast once

Weights stay packed in memory, two to a byte, and are taken apart in registers. Results are those of `integer` and of
the other back-ends bit for bit: sums of integers know no order, divisions are rounded as IEEE 754 wants them, and the
compiler may not fuse a product with a sum.

Where time goes decides the path. Many rows: one launch quantises each row once, a second multiplies on tensor cores.
One row: the weights are all there is to read, and everything happens in a single launch.

Source: specification of the runtime in this project (`docs`); Tillet et al. 2019, "Triton: An Intermediate Language and
Compiler for Tiled Neural Network Computations".
Differs: from the usual W4A4 kernels (QuaRot, FlatQuant: CUTLASS with 4-bit tensor cores, which sm_80 to sm_89 have and
Hopper has not) in the instruction: 4 bits save memory and bandwidth here, and compute at the rate of int8; and in the
epilogue, which stays in float32, where theirs scales in half precision.

This file needs Triton and is imported by whoever asks for this back-end. Without a GPU it runs in Triton's interpreter
(TRITON_INTERPRET=1, set before Triton is first imported): slowly, for tests.

Letters: N rows (tokens), I inputs, O outputs.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.quantization import triton_programs as programs

PADDING = 256
"""Codes of half a row are padded with zeros to a multiple of this, the largest step of any tile."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

TILES: dict[int, tuple[tuple[int, int, int, int, int], ...]] = {
    16: ((32, 16, 128, 5, 4), (32, 16, 256, 4, 4), (64, 16, 128, 5, 4), (64, 16, 256, 4, 4), (128, 16, 128, 4, 4)),
    64: ((64, 64, 128, 4, 4), (128, 64, 64, 4, 4), (128, 64, 128, 4, 4), (128, 64, 128, 3, 8)),
    2**31: (
        (128, 128, 64, 4, 4),
        (128, 128, 64, 4, 8),
        (128, 128, 128, 3, 8),
        (128, 256, 64, 3, 8),
        (64, 128, 128, 4, 4),
    ),
}
"""For up to so many rows: tiles of (outputs, rows, bytes of packed weights), loads in flight and warps that are tried;
the fastest is kept per shape of the weights. Which one is taken changes no bit of the answer."""

ONE_ROW_TILES = ((8, 128, 4), (4, 512, 4), (8, 512, 4), (16, 512, 8))
"""The same for one row: outputs, words of packed weights, warps."""


def w4a4_linear(
    x: Tensor,
    packed: Tensor,
    weight_scale: Tensor,
    clip_high: float = 1.0,
    clip_low: float = 1.0,
    bias: Tensor | None = None,
    *,
    activation_bits: int = 4,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return x W^T (+ bias), the rows of x quantised on the way.

    Args:
        x: [N, I] float16, bfloat16 or float32; any strides.
        packed: [O, ceil(I / 2)] uint8, signed nibbles, the even input in the low one.
        weight_scale: [O] float.
        clip_high: share of each row's maximum that is still represented.
        clip_low: the same of its minimum.
        bias: [O] float.
        activation_bits: 2 to 8.
        dtype: of the result; that of x by default.

    Returns:
        [N, O] `dtype`.

    Raises:
        InvalidOption: when shapes or dtypes do not belong together.
        Unsupported: for tensors on a device without Triton, or rows too long for 32 bits.
    """
    _check(x, packed, weight_scale, bias, activation_bits)
    (rows, inputs), (outputs, width) = x.shape, packed.shape
    dtype = dtype or x.dtype
    # The interpreter's own casts to bfloat16 truncate.
    out = torch.empty(rows, outputs, dtype=torch.float32 if interpreted() else dtype, device=x.device)
    if rows == 0 or outputs == 0:
        return out.to(dtype)
    packed, weight_scale = packed.contiguous(), weight_scale.contiguous()
    biased = bias is not None
    bias = weight_scale if bias is None else bias.contiguous()  # some address has to be given; it is not read
    flags = {"HAS_BIAS": biased, "ASSEMBLY": _assembly(), "enable_fp_fusion": False}
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        if rows == 1 and width % 4 == 0 and packed.storage_offset() % 4 == 0:
            _one_row()[lambda tile: (triton.cdiv(outputs, tile["BLOCK_O"]),)](
                *(x, packed.view(torch.int32), weight_scale, bias, out, inputs, outputs, x.stride(1), width // 4),
                *(float(clip_high), float(clip_low)),
                **flags,
                QMAX=_largest_code(activation_bits),
            )
        else:
            codes, scales = quantize_rows(x, clip_high, clip_low, activation_bits)
            launch = _multiply(next(most for most in TILES if rows <= most))
            launch[lambda tile: (triton.cdiv(rows, tile["BLOCK_N"]) * triton.cdiv(outputs, tile["BLOCK_O"]),)](
                *(codes, scales, packed, weight_scale, bias, out, rows, outputs, width, codes.shape[1] // 2),
                **flags,
            )
    return out.to(dtype)


def quantize_rows(x: Tensor, clip_high: float = 1.0, clip_low: float = 1.0, bits: int = 4) -> tuple[Tensor, Tensor]:
    """Return the codes of rows, even inputs before odd ones and both padded with zeros, and their scales.

    Args:
        x: [N, I] float16, bfloat16 or float32 with N > 0; any strides.
        clip_high: share of each row's maximum that is still represented.
        clip_low: the same of its minimum.
        bits: 2 to 8.

    Returns:
        Codes int8 [N, 2 H], H a multiple of `PADDING`: code 2 i at place i, code 2 i + 1 at place H + i. Scales [N].
    """
    rows, inputs = x.shape
    half = triton.cdiv(inputs, 2 * PADDING) * PADDING
    codes = torch.empty(rows, 2 * half, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    programs.quantize[(rows,)](
        *(x, codes, scales, inputs, x.stride(0), x.stride(1), half, float(clip_high), float(clip_low)),
        QMAX=_largest_code(bits),
        BLOCK=min(4096, triton.next_power_of_2(2 * half)),
        num_warps=4,
        enable_fp_fusion=False,
    )
    return codes, scales


def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter on the CPU: for tests."""
    return bool(triton.knobs.runtime.interpret)


def _check(x: Tensor, packed: Tensor, weight_scale: Tensor, bias: Tensor | None, activation_bits: int) -> None:
    if (
        (x.ndim, packed.ndim) != (2, 2)
        or packed.shape[1] != (x.shape[1] + 1) // 2
        or packed.dtype != torch.uint8
        or x.dtype not in DTYPES
    ):
        raise InvalidOption(
            f"w4a4_linear: {x.dtype} activations {list(x.shape)} do not fit {packed.dtype} weights "
            f"{list(packed.shape)}. Give float16, bfloat16 or float32 activations [rows, inputs] and packed uint8 "
            "weights [outputs, inputs / 2 rounded up]."
        )
    for name, values in (("scales", weight_scale), ("biases", bias)):
        if values is not None and values.shape != packed.shape[:1]:
            raise InvalidOption(
                f"w4a4_linear: {name} of shape {list(values.shape)} for {packed.shape[0]} outputs. Give one to each."
            )
    if not 2 <= activation_bits <= 8:
        raise InvalidOption(f"w4a4_linear: activations of {activation_bits} bits. Choose 2 to 8.")
    widest = (1 << (25 - activation_bits)) - 1  # 16 * 8 * 2^(bits - 1) * I < 2^31
    if x.shape[1] > widest:
        raise Unsupported(
            f"w4a4_linear: {x.shape[1]} inputs, and 32 bits hold the sums of at most {widest} with activations of "
            f"{activation_bits} bits. Use backend='reference' for this linear."
        )
    if not x.is_cuda and not interpreted():
        raise Unsupported(
            f"w4a4_linear: the activations lie on '{x.device}', and Triton needs a GPU. "
            "Use backend='int8' here, or move the model to 'cuda'."
        )


def _largest_code(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _assembly() -> bool:
    """Return whether two instructions may be named directly: on NVIDIA's GPUs."""
    return not interpreted() and torch.version.hip is None


def _tried(tiles: list[Any]) -> list[Any]:
    """Return the tiles to try: the first one, where there is no speed to find."""
    return tiles[:1] if interpreted() else tiles


@cache
def _multiply(most: int) -> Any:
    """Return the product for up to `most` rows; it tries its tiles when it first meets a shape of weights."""
    tiles = [
        triton.Config({"BLOCK_O": o, "BLOCK_N": n, "BLOCK_K": k}, num_stages=stages, num_warps=warps)
        for o, n, k, stages, warps in TILES[most]
    ]
    whole = triton.heuristics({"WHOLE": lambda names: names["width"] % names["BLOCK_K"] == 0})
    return triton.autotune(_tried(tiles), key=["outputs", "width"])(whole(programs.multiply))


@cache
def _one_row() -> Any:
    """Return the product for one row, choosing its tiles in the same way."""
    tiles = [triton.Config({"BLOCK_O": o, "BLOCK_K": k}, num_warps=warps) for o, k, warps in ONE_ROW_TILES]
    return triton.autotune(_tried(tiles), key=["outputs", "width"])(programs.one_row)
