"""What the engine drives: the one protocol every model family implements.

An adapter knows the family (module names, prompt layout, projector, rotary angles) and nothing about reductions,
caches or batches of unequal length. The engine knows those and nothing about the family. Adding a family is one file
that implements `VisionLanguageModel` and one parity test on a tiny random model.

Letters: B batch, T sequence, I images, R encoder rows (a leading CLS row included when there is one), N visual
tokens, H heads, D width, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from PIL.Image import Image
from torch import Tensor, nn

from steadyvlm.quantization.kv import KeyValueQuantizer
from steadyvlm.quantization.structure import Block
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout

if TYPE_CHECKING:
    from steadyvlm.models.tower_attention import Watch

IMAGE_SLOT = -1
"""Stands in a tokenised prompt for one whole image; the engine replaces it by that image's visual tokens."""

Part = Literal["language", "connector", "vision"]
"""What linears a quantiser may ask for (`quantization.base.PARTS`): decoder layers, projector, vision encoder.

Embeddings and the output head belong to no part."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Sizes of a model, in the words the engine and the cost estimates use.

    Attributes:
        name: what the user loaded (a registered name, folder or hub id).
        family: Hugging Face model types, vision and text backbone included ("llava/clip_vision_model/llama").
        num_layers, num_heads, num_kv_heads, head_dim, width, mlp_width: sizes of the decoder.
        vocabulary: entries of the output head.
        has_cls: whether the encoder rows of each tile start with a CLS row.
        signals: encoder signals this model can give (decoder signals come from the engine).
        position_axes: 1 for positions 0, 1, 2, …; 3 for time, height and width (M-RoPE).
        max_positions: longest sequence the decoder was made for.
        sliding_window: keys further back than this are invisible; None when all are visible.
        eos_token_ids: ids that end an answer.
    """

    name: str
    family: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    width: int
    mlp_width: int
    vocabulary: int
    has_cls: bool
    signals: frozenset[Signal]
    position_axes: int
    max_positions: int
    sliding_window: int | None
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pixels:
    """One picture, ready for the vision encoder.

    Attributes:
        values: float32 on the CPU; [P, 3, height, width] tiles, or the flat patches [S, D] of a native-resolution
            tower.
        layout: how it is cut; known before the encoder runs, so prompt lengths are too.
    """

    values: Tensor
    layout: ImageLayout


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image after the vision encoder.

    Attributes:
        rows: [R, D] in the model's dtype: what `project` takes (LLaVA: the feature layer; Qwen: the merger's output).
        layout: how the image was cut.
        signals: the encoder signals asked for, float32; ENCODER_ROWS itself is `rows` and TEXT_RELEVANCE belongs to a
            question, so neither is in here.
    """

    rows: Tensor
    layout: ImageLayout
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)


class Rotary(NamedTuple):
    """Rotary angles in the form the engine multiplies with.

    `signed_sin` has its first half negated, so that rotating is `x * cos + roll(x, d/2) * signed_sin`.
    Both are [B, 1, T, d] in the model's dtype.
    """

    cos: Tensor
    signed_sin: Tensor


@runtime_checkable
class DecoderLayer(Protocol):
    """One decoder layer cut where the engine acts: before rotation and after attention."""

    @property
    def scaling(self) -> float:
        """Factor on query-key products."""

    @property
    def kv(self) -> KeyValueQuantizer | None:
        """What packs this layer's cached keys and values into few bits; None where they are kept as they are."""

    def norm(self, hidden: Tensor) -> Tensor:
        """Return [B, T, D], the input of the projections."""

    def queries(self, normed: Tensor) -> Tensor:
        """Return unrotated queries [B, H, T, d]."""

    def keys(self, normed: Tensor) -> Tensor:
        """Return unrotated keys [B, H_kv, T, d]."""

    def values(self, normed: Tensor) -> Tensor:
        """Return values [B, H_kv, T, d]."""

    def project_heads(self, attended: Tensor) -> Tensor:
        """Return the output projection [B, T, D] of attended heads [B, H, T, d]: the attention's output."""

    def finish(self, residual: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output [B, T, D] (which may be overwritten) and then the MLP to `residual` [B, T, D]."""

    def activation_error(self, hidden: Tensor) -> Tensor:
        """Return [N] float32: the norm of what quantising the attention's input loses of hidden states [N, D].

        Raises:
            Unsupported: when this layer's activations are not quantised.
        """


class VisionLanguageModel(Protocol):
    """A loaded checkpoint. All tensors it returns live on its device."""

    @property
    def info(self) -> ModelInfo:
        """Sizes and limits."""

    @property
    def module(self) -> nn.Module:
        """The Hugging Face model; a quantiser replaces linears inside it."""

    @property
    def device(self) -> torch.device:
        """Where the weights live."""

    def tokenize(self, prompt: str, num_images: int) -> tuple[int, ...]:
        """Return the ids of the rendered chat prompt, `IMAGE_SLOT` once per image.

        Raises:
            SampleError: for an empty prompt or one that contains the image token itself.
        """

    def answer_ids(self, prompt: str, num_images: int, answer: str) -> tuple[int, ...]:
        """Return the ids of an answer as the model would write it behind this prompt, the end token included.

        Raises:
            SampleError: for an empty answer, or one that cannot be told apart from the prompt.
        """

    def preprocess(self, image: Image, *, scale: float = 1.0) -> Pixels:
        """Return the picture as the encoder takes it.

        Args:
            image: any mode; converted to RGB.
            scale: wanted share of visual tokens, for the `downsample` control: the picture is shrunk, keeping its
                aspect, to the nearest grid of patches, never below one token.

        Raises:
            ImageError: when the picture cannot be read.
        """

    def pictures(self, pixels: Pixels) -> list[Image]:
        """Return what the encoder sees, as RGB pictures, one per tile: tokens are drawn on these."""

    def check_signals(self, needs: AbstractSet[Signal]) -> None:
        """Return quietly if the encoder can give these signals.

        Raises:
            Unsupported: naming the signal and why.
        """

    def encode(self, pixels: Sequence[Pixels], needs: AbstractSet[Signal]) -> list[EncodedImage]:
        """Run the vision encoder on several pictures at once, with the signals in `needs`."""

    def watch_tower(self, pixels: Pixels, watch: Watch) -> EncodedImage:
        """Run the vision encoder on one picture, showing `watch` what enters each block of `blocks(("vision",))`."""

    def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> Tensor:
        """Return [N] float32, see `Signal.TEXT_RELEVANCE`.

        Raises:
            Unsupported: when this family has no CLIP space to compare in.
            CheckpointError: when the text tower cannot be loaded or does not fit.
        """

    def project(self, rows: Tensor) -> Tensor:
        """Map encoder rows [K, D] to decoder embeddings [K, width]; the identity where the encoder ends there."""

    def visual_tokens(self, encoded: EncodedImage) -> Tensor:
        """Return [N, width] decoder embeddings of the unreduced picture, in the order of `layout.token_ids()`."""

    def positions(self, token_ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """Return positions [T] (one axis) or [T, 3] (time, height, width) int64 of the unreduced prompt.

        Args:
            token_ids: the prompt, `IMAGE_SLOT` once per image; each stands for `layout.visual_tokens` positions.
            layouts: of its images, in order.
        """

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return embeddings [B, T, width] of ids [B, T]."""

    def layers(self) -> Sequence[DecoderLayer]:
        """Return the decoder layers as they are now (a quantiser may have replaced linears)."""

    def rotary(self, positions: Tensor) -> Rotary:
        """Return the rotary angles of positions [B, T], or [B, T, 3] with three axes."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [B, V] of final hidden rows [B, width]."""

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode ids without special tokens."""

    def token_text(self, token_id: int) -> str:
        """Decode a single id, special tokens included."""

    def linears(self, parts: Sequence[str] = ("language",)) -> dict[str, nn.Linear]:
        """Return the linears of `parts` (see `Part`) that take part in an answer, by their path inside `module`."""

    def blocks(self, parts: Sequence[str] = ("language",)) -> list[Block]:
        """Return the blocks of `parts`: decoder layers, vision layers up to the one features come from, connector.

        Between them they name exactly the linears of `linears(parts)`, each once.
        """

    def copy(self) -> VisionLanguageModel:
        """Return a model with its own weights, so that changing them leaves this one alone."""

    def write_settings(self, out: Path) -> dict[str, Any]:
        """Write all files of a checkpoint but weights and config.json into `out`; return what belongs into that."""

    def weights_sha256(self) -> str:
        """Return a hash of what was loaded: weights, configuration, tokenizer, image processor."""

    def provenance(self) -> Mapping[str, Any]:
        """Return device, dtype, attention, versions and extra: the fields of `records.Provenance` a model knows."""
