"""The contract of a token-reduction method: signals in, one linear map out.

A method is arithmetic. It declares which `Signal`s it reads and at which `Site`s it acts; the engine computes exactly
those (for exactly the rows needed), calls `select` once per sample and site, and applies the returned `Selection`
to hidden states, positions and provenance alike, so that nothing can drift apart. A method never sees a model, a
cache or a batch, holds no state, draws no unseeded numbers and never writes to its inputs.

Letters: N visual tokens at the site, R = N or N + 1 rows (a leading CLS row after a CLIP encoder), K kept slots,
H heads, D width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from steadyvlm.reduction.layout import ImageLayout


class Signal(StrEnum):
    """What a method may ask the engine for. Every signal is float32, on the model's device.

    Encoder signals describe one image. With P tiles (LLaVA-NeXT) rows and tokens of all tiles stand one after the
    other: R and N below are then P times those of one tile, and `Signals.tiles()` cuts them apart. Where a tower has no
    CLS row or merges patches (Qwen), "row" and "token" mean the merged token.
    """

    ENCODER_ROWS = "encoder_rows"
    """[R, D] rows the connector reads (LLaVA: the feature layer, CLS first; Qwen: the merger's output)."""
    CLS_ATTENTION = "cls_attention"
    """[H, N] attention probability from CLS to every patch, in the feature layer (CLIP's second to last)."""
    FIRST_CLS_ATTENTION = "first_cls_attention"
    """[H, N] as CLS_ATTENTION, in the first layer of the tower."""
    LAST_CLS_ATTENTION = "last_cls_attention"
    """[N] attention probability from CLS to every patch in the tower's very last layer, from the query and key
    projections of all channels at once (no split into heads, scaled by 1 / sqrt(D), softmax over CLS and patches)."""
    SALIENCE = "salience"
    """[H, N] CLS_ATTENTION where the tower has a CLS row; otherwise what each token receives, as a mean over all
    querying patches of the same window-free block nearest the output (the stated equivalent for Qwen)."""
    ENCODER_KEYS = "encoder_keys"
    """[R, d] key projection of the feature layer, averaged over heads, with bias, unscaled, CLS row first."""
    LAST_KEYS = "last_keys"
    """[R, D] key projection of the tower's very last layer, all channels, with bias, CLS row first."""
    TEXT_RELEVANCE = "text_relevance"
    """[N] dot product of each patch with the question in CLIP's shared space, neither normalised. Asked for with
    the method's `text_tower` (a folder or hub id, or "auto")."""

    LAST_QUERY_ATTENTION = "last_query_attention"
    """[H, N] attention probability of decoder layer `site.layer - 1` from the last prompt position to each
    visual token (softmax over the whole causal row, not renormalised)."""
    FRESH_QUERY_ATTENTION = "fresh_query_attention"
    """[H, N] the same of decoder layer `site.layer` itself, computed for the tokens that reach it, before it runs."""
    RATER_ATTENTION = "rater_attention"
    """[H, Q, N] attention probability of decoder layer `site.layer - 1` from each rater row (see `Reduction.raters`)
    to each visual token that entered that layer."""
    RATER_ROTARY = "rater_rotary"
    """[Q, N] rotary similarity of the same pairs: rotated ones at the one position times rotated ones at the other,
    summed over the head width and scaled like attention (SparseVLM+)."""
    HIDDEN = "hidden"
    """[N, D] hidden states of the visual tokens as they enter layer `site.layer` (0: the projected embeddings)."""
    TEXT_HIDDEN = "text_hidden"
    """[T, D] hidden states, at the same place, of the text tokens after the last image; of all text tokens when the
    prompt ends with an image."""
    ATTENTION_OUTPUT = "attention_output"
    """[N, D] output of the attention of layer `site.layer - 1` after its output projection, before the residual sum."""
    QUESTION_ATTENTION = "question_attention"
    """[N] attention probability of decoder layer `site.layer - 1` from the text tokens after the last image (from the
    last position when none follows it, since no text sees that image then) to each visual token that entered that
    layer, as a mean over heads and text tokens (softmax over the whole causal row)."""
    VISUAL_ATTENTION = "visual_attention"
    """[N] the same from all visual tokens that entered that layer, as a mean over heads and visual tokens; a token
    that cannot look that far ahead counts as zero."""
    HIDDEN_BEFORE = "hidden_before"
    """[N, D] hidden states of the visual tokens as they entered layer `site.layer - 1`."""
    QUANTIZATION_RESIDUAL = "quantization_residual"
    """[N] norm of what the activation quantiser in front of layer `site.layer`'s attention loses of each visual token,
    behind that layer's own norm, transform and clip. Only low-bit models have it."""

    @property
    def of_encoder(self) -> bool:
        """Whether the vision encoder supplies it (otherwise the decoder does)."""
        return self in _ENCODER


_ENCODER = frozenset(
    {
        Signal.ENCODER_ROWS,
        Signal.CLS_ATTENTION,
        Signal.FIRST_CLS_ATTENTION,
        Signal.LAST_CLS_ATTENTION,
        Signal.SALIENCE,
        Signal.ENCODER_KEYS,
        Signal.LAST_KEYS,
        Signal.TEXT_RELEVANCE,
    }
)


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
        has_cls: whether encoder rows start with a CLS row (R = N + 1, in every tile).
        seed: stable seed of this sample, made from its content.
        layout: how the image was cut into tiles and patches; encoder sites only.
        images: [N] int64 image number of each visual token; decoder sites only.
        original_tokens: N of the unreduced prompt; decoder sites only (0 elsewhere).
        image_tokens: the same of each of its images; they sum to `original_tokens`.
    """

    num_tokens: int
    has_cls: bool = False
    seed: int = 0
    layout: ImageLayout | None = None
    images: Tensor | None = None
    original_tokens: int = 0
    image_tokens: tuple[int, ...] = ()
    encoder_rows: Tensor | None = None
    cls_attention: Tensor | None = None
    first_cls_attention: Tensor | None = None
    last_cls_attention: Tensor | None = None
    salience: Tensor | None = None
    encoder_keys: Tensor | None = None
    last_keys: Tensor | None = None
    text_relevance: Tensor | None = None
    last_query_attention: Tensor | None = None
    fresh_query_attention: Tensor | None = None
    rater_attention: Tensor | None = None
    rater_rotary: Tensor | None = None
    hidden: Tensor | None = None
    text_hidden: Tensor | None = None
    attention_output: Tensor | None = None
    question_attention: Tensor | None = None
    visual_attention: Tensor | None = None
    hidden_before: Tensor | None = None
    quantization_residual: Tensor | None = None

    def tiles(self) -> list[Signals]:
        """Return the signals of each tile by itself, the whole image first; an image of one tile is its own tile."""
        count = 1 if self.layout is None else self.layout.tiles
        if count == 1:
            return [self]
        assert self.layout is not None
        cut: dict[str, list[Tensor]] = {}
        for signal in Signal:
            value: Tensor | None = getattr(self, signal.value)
            if value is not None:
                axis = 0 if signal in _ROWS else -1
                cut[signal.value] = list(value.tensor_split(count, dim=axis))
        one, size = self.layout.tile(), self.num_tokens // count
        found = []
        for tile in range(count):
            values: dict[str, Any] = {name: parts[tile] for name, parts in cut.items()}
            found.append(Signals(size, self.has_cls, self.seed, one, **values))
        return found

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


_ROWS = frozenset({Signal.ENCODER_ROWS, Signal.ENCODER_KEYS, Signal.LAST_KEYS})
"""Signals whose first axis counts rows; all other encoder signals end with the axis of tokens."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A linear map from the R rows at a site to K slots, in slot order.

    Attributes:
        keep: [K] int64, the row that gives each slot its content and, inside the decoder, its position.
            Indices count rows as the signals do: after an encoder with CLS, row 0 is CLS and patch i is row i + 1
            (tile t of a tiled image starts at row t * R / P). A row may be used once.
            Inside the decoder the order of slots is the order in which they stand in the sequence; slots of one
            image stay together, so an order other than ascending needs `compact_positions`.
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


@runtime_checkable
class Rating(Protocol):
    """A method that asks for RATER_ATTENTION also says, once per prompt, which text tokens rate the visual ones."""

    def raters(self, visual: Tensor, text: Tensor) -> Tensor:
        """Return [Q] int64 indices into `text`, strictly ascending, at least one.

        Args:
            visual: [N, D] float32 decoder input embeddings of the visual tokens.
            text: [T, D] float32 of the text tokens after the last image, T >= 1; of all text tokens when the prompt
                ends with an image.
        """


@runtime_checkable
class CachePruning(Protocol):
    """A method whose dropped tokens may also leave the cache of the layer that ran last, which still processed them.

    Without this, a selection before layer l leaves the keys and values of layer l - 1 alone, and answer tokens go on
    looking at the dropped ones there. Needs a method that keeps positions (`compact_positions` False).
    """

    @property
    def prune_cache(self) -> bool:
        """Whether tokens dropped before layer l leave the cache of layer l - 1 too, once the prompt has passed it."""


@runtime_checkable
class TextAware(Protocol):
    """A method that asks for TEXT_RELEVANCE names the CLIP text tower that matches the model's vision tower."""

    @property
    def text_tower(self) -> str:
        """Folder or hub id of a CLIP checkpoint, or "auto" for the one that belongs to the model."""


@runtime_checkable
class Rescaling(Protocol):
    """A method that shows the model a smaller picture."""

    @property
    def image_scale(self) -> float:
        """Wanted share of visual tokens, above 0 and at most 1; the adapter picks the nearest grid of patches."""


@runtime_checkable
class FamilyAware(Protocol):
    """A method that is not the same, or not defined, on every model family.

    Families are "llava", "llava_next", "qwen2_vl" and "qwen2_5_vl", the first part of `ModelInfo.family`.
    """

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Family -> how this method is carried over there, in one sentence, because its source does not say."""

    @property
    def refusals(self) -> Mapping[str, str]:
        """Family -> why this method is not defined there, in one sentence."""
