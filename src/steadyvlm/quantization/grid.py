"""Number grids: scale, zero point, round, pack and unpack, error. Plain numerics; no module is touched here.

A weight row is cut into groups of `group` neighbours (or taken whole), and each group gets one scale:

    symmetric     scale = max|x| / (2^(b-1) - 1)        q = clip(rint(x / scale), -2^(b-1), 2^(b-1) - 1)
    asymmetric    scale = (max - min) / (2^b - 1)       q = clip(rint(x / scale) + zero, 0, 2^b - 1)
                  with min <= 0 <= max enforced and zero = rint(-min / scale)

`rint` rounds half to even. A group of zeros gets scale 1. Everything is computed in float32.

Source: the common definitions of integer round-to-nearest; Nagel et al. 2021, "A White Paper on Neural Network
Quantization", arXiv 2106.08295, section 2.
Differs: scales are rounded to float16, the precision they are stored in, *before* the codes are made, so that codes and
stored scales belong together and the packed size is what these exact numbers need.

Letters: O output width, I input width, G groups per row, b bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption

SCALE_BYTES = 2
_SMALLEST_SCALE = 2.0**-14  # the smallest normal float16; smaller scales would lose their precision
_LARGEST_SCALE = 65504.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Which numbers a weight may take.

    Attributes:
        bits: bits per code, 2 to 8.
        group: neighbours along the input that share a scale; None for one scale per output row.
        symmetric: no zero point (signed codes) or one zero point per group (unsigned codes).

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> Grid(bits=4).lowest, Grid(bits=4).highest, Grid(bits=4, symmetric=False).highest
    (-8, 7, 15)
    """

    bits: int = 4
    group: int | None = 32
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise InvalidOption(f"bits={self.bits!r} is not allowed. Give a whole number from 2 to 8.")
        if self.group is not None and (
            isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 1
        ):
            raise InvalidOption(
                f"group={self.group!r} is not allowed. Give a whole number of at least 1, "
                "or None for one scale per output row."
            )
        if not isinstance(self.symmetric, bool):
            raise InvalidOption(f"symmetric={self.symmetric!r} is not allowed. Give True or False.")

    @property
    def lowest(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def fits(self, width: int) -> bool:
        """Whether rows of `width` weights can be cut into whole groups."""
        return self.group is None or width % self.group == 0

    def packed_bytes(self, rows: int, width: int) -> int:
        """Bytes of packed codes, float16 scales and, when asymmetric, one-byte zero points.

        >>> Grid(bits=4, group=32).packed_bytes(352, 128)  # 4.5 bits per weight
        25344
        """
        groups = 1 if self.group is None else width // self.group
        per_group = SCALE_BYTES if self.symmetric else SCALE_BYTES + 1
        return rows * ((width * self.bits + 7) // 8 + groups * per_group)


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight on its grid.

    Attributes:
        codes: [O, I] int16, each within grid.lowest..grid.highest.
        scale: [O, G] float16, above zero.
        zero: [O, G] int16 zero point, None when symmetric.
        grid: the grid.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    grid: Grid


def quantize(weight: Tensor, grid: Grid) -> QuantizedWeight:
    """Round every entry of `weight` to the nearest point of `grid`.

    Args:
        weight: [O, I] float, any float dtype, not changed.
        grid: the grid; its group must divide I.

    Raises:
        InvalidOption: if the group does not divide I.
        ValueError: if an entry is not finite, or too large for a float16 scale.

    >>> quantize(torch.tensor([[-7.0, 3.4, 0.5, 1.5]]), Grid(bits=4, group=None)).codes
    tensor([[-7,  3,  0,  2]], dtype=torch.int16)
    """
    rows, width = weight.shape
    if not grid.fits(width):
        raise InvalidOption(f"group={grid.group} does not divide an input width of {width}.")
    groups = weight.to(torch.float32).reshape(rows, -1, grid.group or width)
    low, high = groups.amin(dim=-1).clamp(max=0.0), groups.amax(dim=-1).clamp(min=0.0)
    reach = torch.maximum(-low, high) if grid.symmetric else high - low
    scale = torch.where(reach == 0, 1.0, (reach / grid.highest).clamp(min=_SMALLEST_SCALE))
    if not (scale <= _LARGEST_SCALE).all():
        raise ValueError("the weight holds entries that are not finite, or too large for a float16 scale.")
    scale = scale.to(torch.float16)
    steps = scale.to(torch.float32)
    zero = None if grid.symmetric else torch.round(-low / steps).clamp(0, grid.highest)
    codes = torch.round(groups / steps.unsqueeze(-1))
    if zero is not None:
        codes = codes + zero.unsqueeze(-1)
        zero = zero.to(torch.int16)
    codes = codes.clamp(grid.lowest, grid.highest).to(torch.int16).reshape(rows, width)
    return QuantizedWeight(codes, scale, zero, grid)


def dequantize(quantized: QuantizedWeight) -> Tensor:
    """Return the weight the codes stand for, [O, I] float32.

    >>> dequantize(quantize(torch.tensor([[-7.0, 3.4, 0.5, 1.5]]), Grid(bits=4, group=None)))
    tensor([[-7.,  3.,  0.,  2.]])
    """
    rows, width = quantized.codes.shape
    steps = quantized.codes.reshape(rows, quantized.scale.shape[1], -1).to(torch.float32)
    if quantized.zero is not None:
        steps = steps - quantized.zero.unsqueeze(-1)
    return (steps * quantized.scale.to(torch.float32).unsqueeze(-1)).reshape(rows, width)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes into bytes along the last dimension, lowest bits first.

    Code i fills bits i*b to i*b + b - 1 of its row's bit stream, in two's complement, and bit j of the stream is bit
    j % 8 of byte j // 8. With 4 bits, even codes are low nibbles and odd codes high nibbles. A row's last byte is
    filled up with zeros, so the true width has to be kept beside the bytes.

    Args:
        codes: [..., I] integers of `bits` bits, signed or unsigned.
        bits: 1 to 8.

    Returns:
        [..., ceil(I * bits / 8)] uint8.

    >>> pack(torch.tensor([[1, -1, 7]]), 4).tolist()
    [[241, 7]]
    """
    shifts = torch.arange(bits, device=codes.device)
    stream = ((codes.to(torch.int64).unsqueeze(-1) >> shifts) & 1).flatten(-2)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % 8))
    octets = stream.reshape(*stream.shape[:-1], -1, 8) << torch.arange(8, device=codes.device)
    return octets.sum(dim=-1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, width: int, *, signed: bool) -> Tensor:
    """Undo `pack`.

    Args:
        packed: [..., bytes] uint8.
        bits: bits per code, as packed.
        width: I, codes per row.
        signed: read codes as two's complement.

    Returns:
        [..., I] int16.

    >>> unpack(torch.tensor([[241, 7]], dtype=torch.uint8), 4, 3, signed=True).tolist()
    [[1, -1, 7]]
    """
    stream = ((packed.to(torch.int64).unsqueeze(-1) >> torch.arange(8, device=packed.device)) & 1).flatten(-2)
    digits = stream[..., : width * bits].reshape(*stream.shape[:-1], width, bits)
    codes = (digits << torch.arange(bits, device=packed.device)).sum(dim=-1)
    if signed:
        codes = torch.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
    return codes.to(torch.int16)


def relative_error(weight: Tensor, approximation: Tensor) -> float:
    """Return ||W - W'|| / ||W|| in Frobenius norms, float32; 0 for an all-zero weight.

    >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
    0.20000000298023224
    """
    exact = weight.to(torch.float32)
    size = torch.linalg.vector_norm(exact)
    lost = torch.linalg.vector_norm(exact - approximation.to(torch.float32))
    return float(lost / size) if size > 0 else 0.0
