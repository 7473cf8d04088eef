"""The contract of a token-reduction method: signals in, one linear map out.

A method is arithmetic. It declares which `Signal`s it reads and at which `Site`s it acts; the engine computes exactly
those (for exactly the rows needed), calls `select` once per sample and site, and applies the returned `Selection`
to hidden states, positions and provenance alike, so that nothing can drift apart. A method never sees a model, a
cache or a batch, holds no state, draws no unseeded numbers and never writes to its inputs.

Letters: N visual tokens at the site, R = N or N + 1 rows (a leading CLS row after a CLIP encoder), K kept slots,
H heads, D width, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class Signal(StrEnum):
    """What a method may ask the engine for. Every signal is float32, on the model's device."""

    ENCODER_ROWS = "encoder_rows"
    """[R, D] rows of the vision feature layer LLaVA reads, the CLS row first when the tower has one."""
    CLS_ATTENTION = "cls_attention"
    """[H, N] attention probability from CLS to every patch, in the feature layer (CLIP's second to last)."""
    ENCODER_KEYS = "encoder_keys"
    """[R, d] key projection of the feature layer, averaged over heads, with bias, unscaled, CLS row first."""
    LAST_QUERY_ATTENTION = "last_query_attention"
    """[H, N] attention probability of decoder layer `site.layer - 1` from the last prompt position to each
    visual token (softmax over the whole causal row, not renormalised)."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a selection acts.

    Attributes:
        layer: None for after the vision encoder (before the projector), else "before decoder layer `layer`",
            counted from 0; 0 acts on the projected embeddings.
    """

    layer: int | None = None

    @property
    def in_encoder(self) -> bool:
        """Whether the selection acts on encoder rows (per image) rather than on decoder tokens (per sequence)."""
        return self.layer is None


@dataclass(frozen=True, slots=True)
class Signals:
    """What a method sees of one image (encoder site) or one sequence (decoder site). Unasked fields are None.

    Attributes:
        num_tokens: N, visual tokens before this selection.
        has_cls: whether encoder rows start with a CLS row (R = N + 1).
        seed: stable seed of this sample, made from its content.
    """

    num_tokens: int
    has_cls: bool = False
    seed: int = 0
    encoder_rows: Tensor | None = None
    cls_attention: Tensor | None = None
    encoder_keys: Tensor | None = None
    last_query_attention: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Device of the supplied signals; the CPU when a method asked for none."""
        for signal in Signal:
            value: Tensor | None = getattr(self, signal.value)
            if value is not None:
                return value.device
        return torch.device("cpu")

    def require(self, signal: Signal) -> Tensor:
        """Return a declared signal; asking for one that was not declared in `needs` is a programming error."""
        value: Tensor | None = getattr(self, signal.value)
        if value is None:
            raise RuntimeError(f"the engine did not supply '{signal.value}': declare it in the method's `needs`.")
        return value


@dataclass(frozen=True, slots=True)
class Selection:
    """A linear map from the R rows at a site to K slots, in slot order.

    Attributes:
        keep: [K] int64, the row that gives each slot its content and, inside the decoder, its position.
            Indices count rows as the signals do: after an encoder with CLS, row 0 is CLS and patch i is row i + 1.
            Inside the decoder `keep` is strictly ascending.
        mix: [K, R] float32 or None. When given, slot = mix @ rows (float32, cast back); pruning leaves it None.

    Both lie on the device of the signals the method read, or on the CPU when it read none (`Signals.device`).
    """

    keep: Tensor
    mix: Tensor | None = None

    @classmethod
    def nothing(cls, device: torch.device) -> Selection:
        """Return the selection that keeps no row, for a prompt without image."""
        return cls(torch.empty(0, dtype=torch.int64, device=device))


@runtime_checkable
class Reduction(Protocol):
    """A token-reduction method: a frozen dataclass with its settings as fields, validated on construction."""

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals `select` reads."""

    @property
    def compact_positions(self) -> bool:
        """True: positions are re-indexed without gaps after each selection; False: survivors keep their own."""

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Where the method acts in a decoder of `num_layers` layers, in order.

        Raises:
            InvalidOption: for a layer the model does not have.
        """

    def select(self, signals: Signals, site: Site) -> Selection:
        """Choose what stays. `signals.num_tokens` may be 0 (a prompt without image): then keep nothing."""
