"""What a low-bit product is made of: packed codes with their scales, and how the other factor is rounded.

Letters: I input width, O output width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.integer import UNCLIPPED
from steadyvlm.quantization.nibbles import unpack4
from steadyvlm.quantization.state import Clip

_TILE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 26}  # a tile that stays in a core's cache; a tile worth a kernel launch
_LEAST_ROWS = 192  # every tile reads all activations once more, which a few output rows do not repay

UNQUANTIZED = 16
"""Activation bits that stand for: leave the activations as they are."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How activations are rounded, per token.

    Attributes:
        bits: 2 to 8.
        clip: shares of each token's extremes that stay representable, as numbers.
    """

    bits: int
    clip: Clip = UNCLIPPED


@dataclass(frozen=True, slots=True)
class LowBitWeight:
    """Codes and scales of a linear's weight.

    Attributes:
        packed: [O, ceil(I / 2)] uint8, two codes of up to 4 bits to a byte; [O, I] int8 for wider ones.
        scale: [O] float.
        width: I.
        bits: bits per code, 2 to 8.
        tile_bytes: bytes of unpacked codes held at a time; None for what suits the device.
    """

    packed: Tensor
    scale: Tensor
    width: int
    bits: int
    tile_bytes: int | None = None

    def codes(self, rows: slice = slice(None)) -> Tensor:
        """Return the codes of these output rows, [O', I] int8."""
        return unpack4(self.packed[rows], self.width) if self.bits <= 4 else self.packed[rows]

    def dequantized(self, rows: slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight of these output rows, [O', I]."""
        return self.codes(rows).to(dtype) * self.scale[rows].to(dtype).unsqueeze(1)

    def tiles(self) -> Iterator[slice]:
        """Cut the output rows so that a tile of int8 codes has about `tile_bytes`; wide ones more, if that is open."""
        least = 8 if self.tile_bytes else _LEAST_ROWS
        size = self.tile_bytes or _TILE_BYTES.get(self.packed.device.type, _TILE_BYTES["cpu"])
        rows = max(least, size // max(1, self.width) // 8 * 8)
        count = self.packed.shape[0]
        return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def checked_bits(weight_bits: int, activation_bits: int, width: int) -> None:
    """Check the bits of a linear over `width` inputs.

    Raises:
        InvalidOption: for bits outside 2 to 8 (and 16, for activations), or rows whose sums do not fit 32 bits.
    """
    if weight_bits not in range(2, 9):
        raise InvalidOption(f"weight_bits={weight_bits!r} is not allowed. Give a whole number from 2 to 8.")
    if activation_bits not in (*range(2, 9), UNQUANTIZED):
        raise InvalidOption(
            f"activation_bits={activation_bits!r} is not allowed. Give a whole number from 2 to 8, "
            f"or {UNQUANTIZED} to leave activations as they are."
        )
    # Nibbles are multiplied as 16 times their value, so that no byte of a weight is beyond 2^7 either way.
    widest = (1 << (25 - activation_bits)) - 1
    if width < 1 or (activation_bits != UNQUANTIZED and width > widest):
        raise InvalidOption(
            f"a linear over {width} inputs cannot be computed with {activation_bits}-bit activations: sums of 32 bits "
            f"hold 1 to {widest} products. Leave this linear out, or use fewer bits."
        )


def checked_clip(clip: Clip) -> Clip:
    """Return shares as plain numbers.

    Raises:
        InvalidOption: for shares outside (0, 1].

    >>> checked_clip(Clip(torch.tensor(0.5), 1))
    Clip(high=0.5, low=1.0)
    """
    high, low = float(clip.high), float(clip.low)
    if not all(math.isfinite(share) and 0 < share <= 1 for share in (high, low)):
        raise InvalidOption(f"clip shares high={high}, low={low} are not allowed. Give shares above 0, up to 1.")
    return Clip(high, low)
