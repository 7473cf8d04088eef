"""Codes of up to 4 bits, two to a byte: the layout of packed weights and caches, and fast ways in and out of it.

Even entries of a row are low nibbles, odd entries high nibbles; signed codes are two's complement.

A product need not put nibbles back in order. `sixteenfold` takes a packed weight apart into its low nibbles (even
inputs) and its high nibbles (odd inputs), side by side, in one step each, and `apart` orders the other factor alike.
Each nibble stays in the upper half of its byte, where it already has its sign and is 16 times its value; the sum, which
is then 16 times too large, is put right by one exact shift.

Source: the layout is that of `ruikangliu/FlatQuant`, `deploy/functional/quantization.py`, and of `grid.pack`.

Letters: I row width, O rows of a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack4(codes: Tensor) -> Tensor:
    """Pack codes of up to 4 bits, two to a byte along the last dimension: even ones low, odd ones high.

    The same bytes as `grid.pack(codes, 4)`, made for speed. An odd width is filled up with a zero, so the true width
    has to be kept beside the bytes.

    Args:
        codes: [..., I] integers within -8..7, or within 0..15.

    Returns:
        [..., ceil(I / 2)] uint8.

    >>> pack4(torch.tensor([[1, -1, 7]], dtype=torch.int8)).tolist()
    [[241, 7]]
    """
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    nibbles = codes.to(torch.uint8)  # wraps negative codes around
    return (nibbles[..., 0::2] & 15) | (nibbles[..., 1::2] << 4)


def unpack4(packed: Tensor, width: int, *, signed: bool = True) -> Tensor:
    """Undo `pack4`.

    Args:
        packed: [..., ceil(I / 2)] uint8.
        width: I.
        signed: read nibbles as two's complement (int8) or not (uint8).

    Returns:
        [..., I] int8 or uint8.

    >>> unpack4(torch.tensor([[241, 7]], dtype=torch.uint8), 3).tolist()
    [[1, -1, 7]]
    """
    if signed:  # shifting a signed byte down repeats its sign
        low, high = (packed << 4).view(torch.int8) >> 4, packed.view(torch.int8) >> 4
    else:
        low, high = packed & 15, packed >> 4
    return torch.stack((low, high), dim=-1).flatten(-2)[..., :width]


def apart(codes: Tensor) -> Tensor:
    """Put even entries before odd ones, and a zero behind the odd ones of an odd width: [..., 2 ceil(I / 2)].

    >>> apart(torch.tensor([[1, 2, 3, 4, 5]])).tolist()
    [[1, 3, 5, 2, 4, 0]]
    """
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return torch.cat((codes[..., 0::2], codes[..., 1::2]), dim=-1)


def sixteenfold(packed: Tensor) -> Tensor:
    """Return 16 times the signed codes of each row in the order of `apart`: [O, 2 ceil(I / 2)] int8.

    >>> sixteenfold(torch.tensor([[241, 7]], dtype=torch.uint8)).tolist()  # of 1, -1, 7 and padding
    [[16, 112, -16, 0]]
    """
    rows, half = packed.shape
    unpacked = packed.new_empty(rows, 2 * half)
    torch.mul(packed, 16, out=unpacked[:, :half])  # modulo 256: the low nibble moves up; faster than a shift
    torch.bitwise_and(packed, 0xF0, out=unpacked[:, half:])
    return unpacked.view(torch.int8)
