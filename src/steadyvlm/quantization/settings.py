"""What all low-bit quantisers share: how many bits, in which formats, and in which parts of a model.

Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426, section 4 (W4A4 with a
4-bit cache; the granularities of a symmetric scale per output row and per token, asymmetric per token and head).
Differs: which of its formats are stored in half precision, and whether the cache is already read in 4 bits during
prefill, are settings here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.base import PARTS, checked_parts

Backend = Literal["auto", "fake", "reference", "int8", "triton"]
"""What multiplies; the last three give the same numbers. "auto" is int8, or triton where there is a CUDA device."""

FloatFormat = Literal["float16", "float32"]

UNQUANTISED = 16
"""The number of bits that stands for "left in the compute dtype"."""

_BACKENDS = ("auto", "fake", "reference", "int8", "triton")
_FORMATS: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class LowBitSettings:
    """Bits and formats of a low-bit model.

    Attributes:
        weight_bits: bits per weight, 2 to 8; symmetric, one scale per output row.
        activation_bits: bits per activation, 2 to 8, symmetric, one scale per token; 16 leaves activations alone.
        kv_bits: bits per cached key and value, 2 to 8, asymmetric, one scale per token and head; 16 leaves the cache
            alone.
        kv_in_prefill: whether prefill already attends to the quantised keys and values, as decoding does.
        vision_edge_bits: bits of weights and activations in the first and the last block of the vision tower; None
            for those of all others.
        scale_dtype: format in which the scales of weights are stored, "float16" or "float32".
        transform_dtype: format in which transforms that work at run time are stored; the weights are folded for the
            stored numbers, so nothing is lost by it.
        backend: what multiplies, "auto", "fake", "reference", "int8" or "triton".
        modules: parts of the model, some of "language", "connector", "vision".
        method: whose settings these are, for messages.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> LowBitSettings(modules=("vision", "language")).modules
    ('language', 'vision')
    """

    weight_bits: int = 4
    activation_bits: int = 4
    kv_bits: int = 4
    kv_in_prefill: bool = True
    vision_edge_bits: int | None = None
    scale_dtype: str = "float16"
    transform_dtype: str = "float16"
    backend: str = "auto"
    modules: tuple[str, ...] = PARTS
    method: str = "low_bit"

    def __post_init__(self) -> None:
        """Validate."""
        self._check_bits("weight_bits", unquantised=False)
        self._check_bits("activation_bits", unquantised=True)
        self._check_bits("kv_bits", unquantised=True)
        if self.vision_edge_bits is not None:
            self._check_bits("vision_edge_bits", unquantised=False)
        if not isinstance(self.kv_in_prefill, bool):
            raise InvalidOption(
                f"{self.method}: kv_in_prefill={self.kv_in_prefill!r} is not allowed. Give True or False."
            )
        for name, allowed in (("scale_dtype", _FORMATS), ("transform_dtype", _FORMATS), ("backend", _BACKENDS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise InvalidOption(f"{self.method}: {name}={value!r} is not allowed. Give {_one_of(allowed)}.")
        object.__setattr__(self, "modules", checked_parts(self.method, self.modules))

    @classmethod
    def of(cls, quantizer: Any, method: str) -> LowBitSettings:
        """Return the settings a quantiser carries under the same names.

        Raises:
            InvalidOption: for a value outside its range.
        """
        names = [item.name for item in fields(cls) if item.name != "method"]
        return cls(**{name: getattr(quantizer, name) for name in names}, method=method)

    @property
    def scale_format(self) -> torch.dtype:
        """The stored format of weight scales."""
        return _FORMATS[self.scale_dtype]

    @property
    def transform_format(self) -> torch.dtype:
        """The stored format of transforms."""
        return _FORMATS[self.transform_dtype]

    @property
    def quantises_cache(self) -> bool:
        """Whether keys and values are quantised at all."""
        return self.kv_bits != UNQUANTISED

    def _check_bits(self, name: str, *, unquantised: bool) -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not (2 <= value <= 8 or (unquantised and value == UNQUANTISED)):
            more = f", or {UNQUANTISED} to leave it unquantised" if unquantised else ""
            raise InvalidOption(
                f"{self.method}: {name}={value!r} is not allowed. Give a whole number from 2 to 8{more}."
            )


def check_share(method: str, name: str, value: object) -> float:
    """Return a clip share, above 0 and up to 1.

    Raises:
        InvalidOption: for anything else.

    >>> check_share("rtn_w4a4", "activation_clip", 0.9)
    0.9
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InvalidOption(
            f"{method}: {name}={value!r} is not allowed. Give the share of the largest entry that is still "
            "represented, above 0 and up to 1 (1 clips nothing)."
        )
    return float(value)


def _one_of(names: Any) -> str:
    *most, last = (repr(name) for name in names)
    return f"{', '.join(most)} or {last}"
