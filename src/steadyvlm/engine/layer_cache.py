"""Keys and values of one decoder layer: as they are, or packed into a few bits each.

A cache starts as the prompt's keys and values, without a copy, and grows by one column per answer token. All sequences
write a new key to the same column. Tokens do not know of each other: dropping some, or packing the ones that come,
leaves the others' bits as they were.

Source: Sun et al. 2024, "FlatQuant", arXiv 2410.09426, section 3.2 (four bits, asymmetric, per token and head).
Differs: FlatQuant's kernels let a prompt look at keys and values before they are packed, its simulation at what is left
of them afterwards; both are offered (`KeyValueQuantizer.in_prefill`), the second is the rule.

Letters: B batch, H_kv key and value heads, S columns, d head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from steadyvlm.quantization.kv import KeyValueQuantizer, PackedRows

_BLOCK = 16


class LayerCache(Protocol):
    """Keys and values [B, H_kv, S, d] of one layer."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one column [B, H_kv, 1, d] of rotated keys and values; return all so far, as a query meets them."""

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows` [B'] int64."""

    def keep_columns(self, columns: Tensor) -> None:
        """Keep of each sequence the prompt's `columns` [B, S'] int64, in this order."""


class PlainCache:
    """Keys and values in the precision they are computed in; implements `LayerCache`."""

    __slots__ = ("_keys", "_used", "_values")

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Start from the prompt's keys and values; they are kept, not copied."""
        self._keys, self._values = keys, values
        self._used = keys.shape[2]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self._keys.shape[1] * self._keys.shape[3] * self._keys.element_size()

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one column; return all keys and values so far."""
        if self._used == self._keys.shape[2]:
            self._keys, self._values = _grown(self._keys), _grown(self._values)
        self._keys[:, :, self._used] = keys[:, :, 0]
        self._values[:, :, self._used] = values[:, :, 0]
        self._used += 1
        return self._keys[:, :, : self._used], self._values[:, :, : self._used]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows`."""
        self._keys, self._values = self._keys[rows], self._values[rows]

    def keep_columns(self, columns: Tensor) -> None:
        """Keep these columns of each sequence; only before the first answer token."""
        batch = torch.arange(columns.shape[0], device=columns.device)[:, None]
        self._keys = self._keys.transpose(1, 2)[batch, columns].transpose(1, 2)
        self._values = self._values.transpose(1, 2)[batch, columns].transpose(1, 2)
        self._used = columns.shape[1]


class PackedCache:
    """Keys and values as codes of a few bits, packed one by one; implements `LayerCache`.

    The past is unpacked at every step: that saves memory, not time.
    """

    __slots__ = ("_dtype", "_keys", "_quantizer", "_values")

    def __init__(self, quantizer: KeyValueQuantizer, keys: Tensor, values: Tensor) -> None:
        """Pack the prompt's rotated keys and its values."""
        self._quantizer, self._dtype = quantizer, keys.dtype
        self._keys, self._values = quantizer.encode_keys(keys), quantizer.encode_values(values)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's codes, scales and zero points."""
        return sum(_bytes_of_token(rows) for rows in (self._keys, self._values))

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Return what is left of all keys and values; the keys in the basis of turned queries."""
        decode = self._quantizer.decode
        return decode(self._keys, self._dtype), decode(self._values, self._dtype)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Pack one column and append it; return all keys and values so far, unpacked."""
        self._keys = self._keys.append(self._quantizer.encode_keys(keys))
        self._values = self._values.append(self._quantizer.encode_values(values))
        return self.decoded()

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows`."""
        self._keys, self._values = self._keys.rows(rows), self._values.rows(rows)

    def keep_columns(self, columns: Tensor) -> None:
        """Keep these columns of each sequence, bit by bit."""
        self._keys, self._values = self._keys.gather(columns), self._values.gather(columns)


def _bytes_of_token(rows: PackedRows) -> int:
    return rows.nbytes // (rows.codes.shape[0] * rows.tokens)


def _grown(stored: Tensor) -> Tensor:
    batch, heads, used, width = stored.shape
    larger = stored.new_empty((batch, heads, used + _BLOCK, width))
    larger[:, :, :used] = stored
    return larger
