"""Keys and values in a few bits: rounded per token and head as they are made, packed while they are kept.

Each token's key (and value) of each head is one group of d entries with its own scale and zero point. No group spans
two tokens, so dropping tokens from a packed cache is exact: gather then quantise equals quantise then gather, bit for
bit, and nothing is ever rounded twice.

Keys may be transformed first, after the rotary embedding: k P with queries q P^-T leaves every product q k unchanged
and spreads outliers over the channels. The transform of values is folded into the weights around them.

Source: Sun et al. 2024, "FlatQuant", arXiv 2410.09426, section 3.4 (transforms of the cache); Liu et al. 2024, "KIVI",
arXiv 2402.02750 (asymmetric groups for caches).
Differs: KIVI groups keys per channel over 32 tokens, which pruning would break.

Letters: B sequences, H_kv heads, T tokens, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.integer import UNCLIPPED, dequantize_groups, pack4, quantize_groups, unpack4
from steadyvlm.quantization.low_bit_weight import checked_clip
from steadyvlm.quantization.state import Clip
from steadyvlm.quantization.stored import Stored


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Keys or values of one layer, packed.

    Attributes:
        codes: [B, H_kv, T, ceil(d / 2)] uint8, two codes of up to 4 bits to a byte; [B, H_kv, T, d] for wider ones.
        scale: [B, H_kv, T, 1] float16.
        zero: [B, H_kv, T, 1] uint8.
        width: d.
        bits: per code.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    width: int
    bits: int = 4

    @classmethod
    def encode(cls, rows: Tensor, bits: int = 4, clip: Clip = UNCLIPPED) -> PackedRows:
        """Round and pack [B, H_kv, T, d] float.

        >>> packed = PackedRows.encode(torch.tensor([[[[-5.0, 10.0, 0.0, 2.6]]]]))
        >>> packed.decode(torch.float32), packed.nbytes
        (tensor([[[[-5., 10.,  0.,  3.]]]]), 5)
        """
        codes, scale, zero = quantize_groups(rows, bits, clip)
        return cls(pack4(codes) if bits <= 4 else codes, scale, zero, rows.shape[-1], bits)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Return the numbers the codes stand for, [B, H_kv, T, d]."""
        codes = unpack4(self.codes, self.width, signed=False) if self.bits <= 4 else self.codes
        return dequantize_groups(codes, self.scale, self.zero).to(dtype)

    @property
    def tokens(self) -> int:
        """T."""
        return self.codes.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points: H_kv (d / 2 + 3) per token with 4 bits."""
        return sum(part.numel() * part.element_size() for part in (self.codes, self.scale, self.zero))

    def rows(self, index: Tensor) -> PackedRows:
        """Keep the sequences `index` [B'] int64, in this order."""
        return self._replaced(self.codes[index], self.scale[index], self.zero[index])

    def gather(self, columns: Tensor) -> PackedRows:
        """Keep the tokens `columns` [B, T'] int64 of each sequence, in this order."""
        return self._replaced(*(_gathered(part, columns) for part in (self.codes, self.scale, self.zero)))

    def append(self, other: PackedRows) -> PackedRows:
        """Put the tokens of `other` behind these."""
        return self._replaced(
            torch.cat((self.codes, other.codes), dim=2),
            torch.cat((self.scale, other.scale), dim=2),
            torch.cat((self.zero, other.zero), dim=2),
        )

    def _replaced(self, codes: Tensor, scale: Tensor, zero: Tensor) -> PackedRows:
        return PackedRows(codes, scale, zero, self.width, self.bits)


class KeyValueQuantizer(Stored):
    """How one attention layer rounds and keeps its keys and values.

    Attributes:
        transform: [d, d] matrix P of keys, after the rotary embedding; None for none.
        inverse_transpose: [d, d] P^-T, of queries; None for none.
        width: d.
        bits: 2 to 8.
        in_prefill: whether the prompt attends to rounded keys and values already, or only what follows it does.
        key_clip, value_clip: shares of each group's extremes that stay representable.

    >>> KeyValueQuantizer(4, transform=2 * torch.eye(4)).turn_queries(torch.ones(1, 1, 1, 4))
    tensor([[[[0.5000, 0.5000, 0.5000, 0.5000]]]])
    """

    transform: Tensor | None
    inverse_transpose: Tensor | None

    def __init__(
        self,
        width: int,
        *,
        transform: Tensor | None = None,
        bits: int = 4,
        in_prefill: bool = True,
        key_clip: Clip = UNCLIPPED,
        value_clip: Clip = UNCLIPPED,
    ) -> None:
        """Describe the rounding; P is stored in the dtype it comes in, and inverted as stored.

        Raises:
            InvalidOption: for bits outside 2 to 8, or a transform that is not an invertible [d, d].
        """
        super().__init__()
        if bits not in range(2, 9):
            raise InvalidOption(f"kv_bits={bits!r} is not allowed. Give a whole number from 2 to 8.")
        self.width, self.bits, self.in_prefill = width, bits, in_prefill
        self.key_clip, self.value_clip = checked_clip(key_clip), checked_clip(value_clip)
        self.register_buffer("transform", None if transform is None else transform.detach().clone())
        self.register_buffer("inverse_transpose", None if transform is None else _inverse_transpose(transform, width))

    @classmethod
    def empty(
        cls,
        width: int,
        transform: bool,
        *,
        bits: int = 4,
        in_prefill: bool = True,
        key_clip: Clip = UNCLIPPED,
        value_clip: Clip = UNCLIPPED,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return one to load a state dict into, on "meta" if need be; a transform's numbers mean nothing yet."""
        made = cls(width, bits=bits, in_prefill=in_prefill, key_clip=key_clip, value_clip=value_clip)
        if transform:
            made.transform = torch.eye(width, dtype=dtype, device=device)
            made.inverse_transpose = torch.eye(width, dtype=dtype, device=device)
        return made

    def turn_queries(self, queries: Tensor) -> Tensor:
        """Return q P^-T, [B, H, T, d]."""
        return _turned(queries, self.inverse_transpose)

    def turn_keys(self, keys: Tensor) -> Tensor:
        """Return k P, [B, H_kv, T, d], not rounded: what unrounded attention needs beside `turn_queries`."""
        return _turned(keys, self.transform)

    def encode_keys(self, keys: Tensor) -> PackedRows:
        """Transform, round and pack keys [B, H_kv, T, d] as they leave the rotary embedding."""
        return PackedRows.encode(self.turn_keys(keys), self.bits, self.key_clip)

    def encode_values(self, values: Tensor) -> PackedRows:
        """Round and pack values [B, H_kv, T, d]."""
        return PackedRows.encode(values, self.bits, self.value_clip)

    def decode(self, packed: PackedRows, dtype: torch.dtype) -> Tensor:
        """Return packed keys (still transformed) or values, [B, H_kv, T, d]."""
        return packed.decode(dtype)

    def extra_repr(self) -> str:
        """Name the width and the bits in a printed model."""
        return (
            f"width={self.width}, bits={self.bits}, transform={self.transform is not None}, "
            f"in_prefill={self.in_prefill}"
        )


def _turned(rows: Tensor, matrix: Tensor | None) -> Tensor:
    """Multiply in the wider of the two dtypes, so that a transform stored in float32 is applied in float32."""
    if matrix is None:
        return rows
    wide = torch.promote_types(rows.dtype, matrix.dtype)
    return (rows.to(wide) @ matrix.to(wide)).to(rows.dtype)


def _inverse_transpose(matrix: Tensor, width: int) -> Tensor:
    if matrix.shape != (width, width):
        raise InvalidOption(f"a transform of keys is a matrix [{width}, {width}], got {tuple(matrix.shape)}.")
    inverse, failed = torch.linalg.inv_ex(matrix.detach().to(torch.float64))
    stored: Tensor = inverse.mT.contiguous().to(matrix.dtype)
    if int(failed) or not torch.isfinite(stored).all():
        raise InvalidOption("the transform of keys cannot be inverted. Use another one, or none.")
    return stored


def _gathered(part: Tensor, columns: Tensor) -> Tensor:
    return part.gather(2, columns[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
