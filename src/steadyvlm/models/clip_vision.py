"""A CLIP vision tower, run just far enough and with the signals a method asked for, over the tiles of many pictures.

Only the CLS query row is ever multiplied with the keys; every other row's attention stays inside the fused kernel.

Source: transformers `modeling_clip.py`.
Differs: the tower stops at the feature layer (transformers computes the unused layers too). Signals of the tower's very
last layer are that layer's projections of its own input, which for the usual second-to-last feature layer are the
feature rows themselves, so no further layer has to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steadyvlm.errors import CheckpointError
from steadyvlm.models.adapter import EncodedImage, Pixels
from steadyvlm.models.blocks import activate
from steadyvlm.models.tower_attention import TileAttention, Watch
from steadyvlm.reduction.base import Signal

_OF_FEATURE_LAYER = frozenset({Signal.CLS_ATTENTION, Signal.SALIENCE, Signal.ENCODER_KEYS})
_OF_LAST_LAYER = frozenset({Signal.LAST_CLS_ATTENTION, Signal.LAST_KEYS})
CLIP_SIGNALS = (
    frozenset({Signal.ENCODER_ROWS, Signal.FIRST_CLS_ATTENTION, Signal.TEXT_RELEVANCE})
    | _OF_FEATURE_LAYER
    | _OF_LAST_LAYER
)
"""What a CLIP tower with one feature layer gives."""


def feature_depths(config: Any) -> tuple[int, ...]:
    """Return the numbers of encoder layers whose outputs the connector reads, 0 standing for the embedding.

    Raises:
        CheckpointError: for a feature layer outside the tower.
    """
    entries = config.vision_config.num_hidden_layers + 1  # entry 0 is the embedding output
    asked = config.vision_feature_layer
    asked = [asked] if isinstance(asked, int) else list(asked)
    if not asked or not all(-entries <= layer < entries for layer in asked):
        raise CheckpointError(f"vision_feature_layer {asked} is outside the tower's {entries - 1} layers.")
    return tuple(layer % entries for layer in asked)


@dataclass(frozen=True, slots=True)
class ClipVision:
    """A Hugging Face `CLIPVisionModel` and the depths whose outputs, concatenated, are the rows.

    Holds a reference, never a copy: made anew for every batch, it sees linears a quantiser has put in place.
    """

    tower: Any
    depths: tuple[int, ...]

    @property
    def signals(self) -> frozenset[Signal]:
        """Signals the tower can give: all of CLIP's when the rows come from one layer, else the rows alone."""
        return CLIP_SIGNALS if len(self.depths) == 1 and self.depths != (0,) else frozenset({Signal.ENCODER_ROWS})

    def encode(
        self, pixels: Sequence[Pixels], needs: AbstractSet[Signal], watch: Watch | None = None
    ) -> list[EncodedImage]:
        """Return each picture's rows and signals, its tiles one after the other.

        Args:
            pixels: pictures of any numbers of tiles; tiles of equal size run through the tower together.
            needs: signals to compute.
            watch: is shown what enters each layer; hand over one picture then.
        """
        found: dict[int, EncodedImage] = {}
        for size in dict.fromkeys(item.values.shape[-2:] for item in pixels):
            same = [index for index, item in enumerate(pixels) if item.values.shape[-2:] == size]
            rows, signals = self._run(torch.cat([pixels[index].values for index in same]), needs, watch)
            tiles = [pixels[index].values.shape[0] for index in same]
            parts = {signal: value.split_with_sizes(tiles) for signal, value in signals.items()}
            for place, (index, own) in enumerate(zip(same, rows.split_with_sizes(tiles), strict=True)):
                whole = {signal: _join(part[place], signal) for signal, part in parts.items()}
                found[index] = EncodedImage(own.flatten(0, 1), pixels[index].layout, whole)
        return [found[index] for index in range(len(pixels))]

    def _run(
        self, tiles: Tensor, needs: AbstractSet[Signal], watch: Watch | None
    ) -> tuple[Tensor, dict[Signal, Tensor]]:
        """Return rows [P, R, D] of tiles [P, 3, height, width], and signals with a leading axis P."""
        embeddings, layers = self.tower.embeddings, self.tower.encoder.layers
        resized = tuple(tiles.shape[-2:]) != (embeddings.image_size, embeddings.image_size)
        tiles = tiles.to(embeddings.patch_embedding.weight.device)
        hidden = self.tower.pre_layrnorm(embeddings(tiles, interpolate_pos_encoding=resized))
        feature, last = self.depths[0] - 1, len(layers) - 1
        deepest = max(*self.depths, last if needs & _OF_LAST_LAYER else 0)
        entering = {0: hidden}
        for depth, layer in enumerate(layers[:deepest], start=1):
            if watch is not None:
                watch(depth - 1, hidden.flatten(0, 1)[None], TileAttention(len(tiles), layer.self_attn.scale))
            hidden = _layer(layer, hidden)
            if depth in (*self.depths, feature, last):
                entering[depth] = hidden
        signals: dict[Signal, Tensor] = {}
        if needs & _OF_FEATURE_LAYER:
            attention, keys = _by_heads(layers[feature], entering[feature])
            every = {Signal.CLS_ATTENTION: attention, Signal.SALIENCE: attention, Signal.ENCODER_KEYS: keys}
            signals |= {signal: value for signal, value in every.items() if signal in needs}
        if Signal.FIRST_CLS_ATTENTION in needs:
            signals[Signal.FIRST_CLS_ATTENTION] = _by_heads(layers[0], entering[0])[0]
        if needs & _OF_LAST_LAYER:
            attention, keys = _all_channels(layers[last], entering[last])
            every = {Signal.LAST_CLS_ATTENTION: attention, Signal.LAST_KEYS: keys}
            signals |= {signal: value for signal, value in every.items() if signal in needs}
        return torch.cat([entering[depth] for depth in self.depths], dim=-1), signals


def _join(value: Tensor, signal: Signal) -> Tensor:
    """Return a signal [P, …] of P tiles as one: rows and tokens of all tiles on a single axis."""
    if value.dim() == 3 and signal not in (Signal.ENCODER_KEYS, Signal.LAST_KEYS):  # [P, H, N]: heads stay in front
        return value.transpose(0, 1).flatten(1)
    return value.flatten(0, 1)


def _layer(layer: Any, hidden: Tensor) -> Tensor:
    """Run one pre-norm CLIP encoder layer on [P, R, D]."""
    block = layer.self_attn
    tiles, rows, _ = hidden.shape
    normed = layer.layer_norm1(hidden)
    query, key, value = (
        projection(normed).view(tiles, rows, block.num_heads, block.head_dim).transpose(1, 2)
        for projection in (block.q_proj, block.k_proj, block.v_proj)
    )
    attended = scaled_dot_product_attention(query, key, value, scale=block.scale)
    hidden = block.out_proj(attended.transpose(1, 2).flatten(2)).add_(hidden)
    wide = activate(layer.mlp.activation_fn, layer.mlp.fc1(layer.layer_norm2(hidden)))
    return layer.mlp.fc2(wide).add_(hidden)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _by_heads(layer: Any, entering: Tensor) -> tuple[Tensor, Tensor]:
    """Return CLS attention [P, H, N] and head-averaged keys [P, R, d] of what enters `layer` [P, R, D], float32."""
    block = layer.self_attn
    normed = layer.layer_norm1(entering)
    tiles, rows, _ = normed.shape
    keys = block.k_proj(normed).view(tiles, rows, block.num_heads, block.head_dim).float()
    query = block.q_proj(normed[:, :1]).view(tiles, block.num_heads, block.head_dim).float()
    scores = torch.einsum("phd,prhd->phr", query, keys) * block.scale
    return scores.softmax(dim=-1)[..., 1:], keys.mean(dim=2)


def _all_channels(layer: Any, entering: Tensor) -> tuple[Tensor, Tensor]:
    """Return CLS attention [P, N] and keys [P, R, D] over all channels at once of what enters `layer`, float32."""
    block = layer.self_attn
    normed = layer.layer_norm1(entering)
    keys: Tensor = block.k_proj(normed).float()
    query = block.q_proj(normed[:, :1]).float()
    scores = (query @ keys.transpose(1, 2))[:, 0] * keys.shape[-1] ** -0.5
    return scores.softmax(dim=-1)[:, 1:], keys
