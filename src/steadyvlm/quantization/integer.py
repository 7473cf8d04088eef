"""Integer codes of activations, weights, keys and values: scale and round, and the same with gradients.

    symmetric     scale = max(high * max x, -low * min x) / qmax        q = clip(rint(x / scale), -qmax - 1, qmax)
                  with qmax = 2^(b-1) - 1
    asymmetric    scale = (high * max x - low * min x) / (2^b - 1)      q = clip(rint(x / scale) + zero, 0, 2^b - 1)
                  with min x <= 0 <= max x enforced and zero = rint(-low * min x / scale)

`rint` rounds half to even; `high` and `low` are the shares of the extremes that stay representable (1 clips nothing).
Activations are rounded per token with float32 scales, weights per output row, keys and values per token and head.
Everything is computed in float32 (float64 for float64 input) and divided by the scale, never multiplied by its
reciprocal, so that another implementation can reproduce every code. A row of zeros has scale 1. A row that holds an
infinity or NaN has scale NaN, and whatever is computed from it is NaN: bad numbers stay visible, and in their row.

Each quantiser also exists as `fake_*`: the dequantised numbers, bit for bit, with gradients. Rounding passes gradients
straight through; clipping and scales are differentiated as they are, so the shares can be learned.

Source: Sun et al. 2024, "FlatQuant", arXiv 2410.09426, section 3.3 and `ruikangliu/FlatQuant` (clipping shares);
Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432 (straight
through).
Differs:
    - scales are rounded to the dtype they are stored in before the codes are made, as in `grid`;
    - scales of keys and values are rounded up, not to nearest, so that no entry needs a code beyond the last and the
      round trip stays within half a step;
    - gradients also pass through the rounding of the zero point.

Letters: I input width, O output width, d head width, b bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.nibbles import pack4, unpack4
from steadyvlm.quantization.state import Clip

__all__ = [
    "UNCLIPPED",
    "checked_scale_dtype",
    "dequantize_groups",
    "fake_groups",
    "fake_rows",
    "fake_weight",
    "pack4",
    "quantize_groups",
    "quantize_rows",
    "quantize_weight",
    "unpack4",
]

Share = Tensor | float
UNCLIPPED = Clip()
"""Shares of one: every entry can be represented."""

_SMALLEST = {torch.float16: 2.0**-14, torch.float32: 2.0**-126}  # normal numbers: smaller scales lose precision
_LARGEST = {torch.float16: 65504.0, torch.float32: torch.finfo(torch.float32).max}
_IN_CACHE = 1 << 17  # entries that are rounded at a time on a CPU: in float32 they stay in a core's cache
_SMALLEST_GROUP_SCALE = 2.0**-24  # any float16 will do where scales are rounded up


def quantize_rows(x: Tensor, bits: int, clip: Clip = UNCLIPPED) -> tuple[Tensor, Tensor]:
    """Round each row to signed integers of its own scale.

    Args:
        x: [..., I] float, any float dtype.
        bits: 2 to 8.
        clip: shares of the extremes that stay representable.

    Returns:
        Codes [..., I] int8 and scales [..., 1] float32.

    >>> quantize_rows(torch.tensor([[7.0, -3.4, 0.5, 1.5]]), bits=4)
    (tensor([[ 7, -3,  0,  2]], dtype=torch.int8), tensor([[1.]]))
    """
    rows = x.reshape(-1, x.shape[-1])
    codes = torch.empty(rows.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(len(rows), 1, dtype=torch.float32, device=x.device)
    step = max(1, len(rows) if x.is_cuda else _IN_CACHE // x.shape[-1])
    with torch.no_grad():
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            codes[part], scale[part] = _symmetric(rows[part], bits, clip.high, clip.low, torch.float32)
    return codes.view(x.shape), scale.view(*x.shape[:-1], 1)


def quantize_weight(
    weight: Tensor,
    bits: int,
    clip: Clip = UNCLIPPED,
    scale_dtype: torch.dtype = torch.float16,
) -> tuple[Tensor, Tensor]:
    """Round each output row of a weight to signed integers.

    Args:
        weight: [O, I] float, any float dtype, not changed.
        bits: 2 to 8.
        clip: shares, numbers or [O, 1].
        scale_dtype: float16 or float32; what scales are stored in, and rounded to before codes are made.

    Returns:
        Codes [O, I] int8 and scales [O] `scale_dtype`.

    Raises:
        InvalidOption: for another scale dtype.
        ValueError: if an entry is not finite, or too large for a scale of this dtype.

    >>> quantize_weight(torch.tensor([[-7.0, 3.4, 0.5, 1.5]]), bits=4)
    (tensor([[-7,  3,  0,  2]], dtype=torch.int8), tensor([1.], dtype=torch.float16))
    """
    checked_scale_dtype(scale_dtype)
    with torch.no_grad():
        codes, scale = _symmetric(weight, bits, clip.high, clip.low, scale_dtype)
    if not torch.isfinite(scale).all():
        raise ValueError(f"the weight holds entries that are not finite, or too large for a {scale_dtype} scale.")
    return codes.to(torch.int8), scale.squeeze(-1).to(scale_dtype)


def quantize_groups(x: Tensor, bits: int, clip: Clip = UNCLIPPED) -> tuple[Tensor, Tensor, Tensor]:
    """Round the last dimension, as one group, to unsigned integers with a zero point.

    An entry within the shares comes back within half a step: |x - x'| <= scale / 2, up to a few float32 roundings
    (2^-18 of a step). Scales end at the largest float16; a group that reaches further than 2^b - 1 times that is cut.

    Args:
        x: [..., d] float, any float dtype.
        bits: 2 to 8.
        clip: shares of the extremes that stay representable.

    Returns:
        Codes [..., d] uint8, scales [..., 1] float16 and zero points [..., 1] uint8.

    >>> codes, scale, zero = quantize_groups(torch.tensor([[-5.0, 10.0, 0.0, 2.6]]), bits=4)
    >>> codes.tolist(), scale.item(), zero.item()
    ([[0, 15, 5, 8]], 1.0, 5)
    """
    with torch.no_grad():
        codes, scale, zero = _asymmetric(x, bits, clip.high, clip.low)
    return codes.to(torch.uint8), scale.to(torch.float16), zero.to(torch.uint8)


def dequantize_groups(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the numbers that `quantize_groups` stands for, [..., d] float32."""
    return (codes.to(torch.float32) - zero.to(torch.float32)) * scale.to(torch.float32)


def fake_rows(x: Tensor, bits: int, high: Share = 1.0, low: Share = 1.0) -> Tensor:
    """Return `quantize_rows` and back, in x's dtype and with gradients to x and the shares.

    >>> fake_rows(torch.tensor([[7.0, -3.4, 0.5, 1.5]]), bits=4)
    tensor([[ 7., -3.,  0.,  2.]])
    """
    codes, scale = _symmetric(x, bits, high, low, torch.float32)
    return (codes * scale).to(x.dtype)


def fake_weight(
    weight: Tensor, bits: int, high: Share = 1.0, low: Share = 1.0, scale_dtype: torch.dtype = torch.float16
) -> Tensor:
    """Return `quantize_weight` and back, with gradients to the weight and the shares.

    Nothing is checked here: an entry that is not finite, or too large for a scale, turns its row to NaN.
    """
    codes, scale = _symmetric(weight, bits, high, low, scale_dtype)
    return (codes * scale).to(weight.dtype)


def fake_groups(x: Tensor, bits: int, high: Share = 1.0, low: Share = 1.0) -> Tensor:
    """Return `quantize_groups` and back, with gradients to x and the shares.

    >>> fake_groups(torch.tensor([[-5.0, 10.0, 0.0, 2.6]]), bits=4)
    tensor([[-5., 10.,  0.,  3.]])
    """
    codes, scale, zero = _asymmetric(x, bits, high, low)
    return ((codes - zero) * scale).to(x.dtype)


def checked_scale_dtype(scale_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype, if weight scales can be stored in it.

    Raises:
        InvalidOption: if not.
    """
    if scale_dtype not in _SMALLEST:
        raise InvalidOption(f"scale_dtype={scale_dtype} is not allowed. Give torch.float16 or torch.float32.")
    return scale_dtype


def _symmetric(x: Tensor, bits: int, high: Share, low: Share, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return codes and scales, both float."""
    x = _wide(x)
    highest = 2 ** (bits - 1) - 1
    top = high * x.amax(dim=-1, keepdim=True).clamp(min=0.0)
    bottom = low * x.amin(dim=-1, keepdim=True).clamp(max=0.0)
    reach = torch.maximum(top, -bottom)
    steps = _divided(reach, highest).clamp(min=_SMALLEST[scale_dtype])
    steps = torch.where(steps <= _LARGEST[scale_dtype], steps, torch.nan)
    scale = _stepwise(torch.where(reach == 0, 1.0, steps), lambda exact: exact.to(scale_dtype).to(exact.dtype))
    return _stepwise(x / scale, torch.round).clamp(-highest - 1, highest), scale


def _asymmetric(x: Tensor, bits: int, high: Share, low: Share) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, scales and zero points, all float."""
    x = _wide(x)
    highest = 2**bits - 1
    top = high * x.amax(dim=-1, keepdim=True).clamp(min=0.0)
    bottom = low * x.amin(dim=-1, keepdim=True).clamp(max=0.0)
    reach = top - bottom
    steps = _divided(reach, highest).clamp(_SMALLEST_GROUP_SCALE, _LARGEST[torch.float16])
    steps = torch.where(torch.isfinite(x.amax(dim=-1, keepdim=True) - x.amin(dim=-1, keepdim=True)), steps, torch.nan)
    scale = _stepwise(torch.where(reach == 0, 1.0, steps), _up_to_half)
    zero = _stepwise(-bottom / scale, torch.round).clamp(0, highest)
    return (_stepwise(x / scale, torch.round) + zero).clamp(0, highest), scale, zero


def _wide(x: Tensor) -> Tensor:
    """Return x in float32, or float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def _divided(x: Tensor, divisor: int) -> Tensor:
    """Return x / divisor, rounded as IEEE 754 wants it: by a plain number, CUDA would multiply with its reciprocal."""
    return x / torch.full_like(x, divisor)


def _stepwise(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return function(x) with the gradient of x: straight through. The second summand is zero, so no bit changes."""
    if not x.requires_grad:
        return function(x)
    return function(x.detach()) + (x - x.detach())


def _up_to_half(x: Tensor) -> Tensor:
    """Return the smallest float16 that is not below x, in x's dtype; x lies within the positive float16 range."""
    half = x.to(torch.float16)
    raised = (half.view(torch.int16) + (half.to(x.dtype) < x)).view(torch.float16)
    return raised.to(x.dtype)
