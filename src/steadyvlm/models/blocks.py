"""A Llama-shaped decoder layer and a CLIP encoder, cut where the engine needs to look.

Llama and Mistral decoder layers in transformers have the same parts under the same names, so one view serves both.
The view holds references, never copies: it is made anew for every batch and sees linears a quantiser has put in place.

What a linear has just returned belongs to nobody else, so sums and products are written into it: on a CPU fresh memory
costs more than the arithmetic.

Source: transformers `modeling_llama.py`, `modeling_mistral.py` (pre-norm, rotary, gated MLP) and `modeling_clip.py`.
Differs: attention itself is left to the engine; the encoder stops at the feature layer instead of running to the end,
and CLIP layers are run here.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers.activations import QuickGELUActivation

from steadyvlm.models.adapter import EncodedImage, Rotary
from steadyvlm.reduction.base import Signal

ENCODER_SIGNALS = frozenset({Signal.ENCODER_ROWS, Signal.CLS_ATTENTION, Signal.ENCODER_KEYS})


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """One pre-norm layer with rotary attention and a gated MLP; implements `adapter.DecoderLayer`."""

    input_norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    mlp_norm: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module
    activation: nn.Module
    head_dim: int
    scaling: float

    @staticmethod
    def of(layer: Any) -> LlamaLayer:
        """Return the view of a Hugging Face `LlamaDecoderLayer` or `MistralDecoderLayer`."""
        attention, mlp = layer.self_attn, layer.mlp
        return LlamaLayer(
            input_norm=layer.input_layernorm,
            query=attention.q_proj,
            key=attention.k_proj,
            value=attention.v_proj,
            output=attention.o_proj,
            mlp_norm=layer.post_attention_layernorm,
            gate=mlp.gate_proj,
            up=mlp.up_proj,
            down=mlp.down_proj,
            activation=mlp.act_fn,
            head_dim=attention.head_dim,
            scaling=attention.scaling,
        )

    def norm(self, hidden: Tensor) -> Tensor:
        """Return the normalised input [B, T, D] of the projections."""
        return _rms_norm(self.input_norm, hidden)

    def queries(self, normed: Tensor) -> Tensor:
        """Return unrotated queries [B, H, T, d]."""
        return self._heads(self.query(normed))

    def keys(self, normed: Tensor) -> Tensor:
        """Return unrotated keys [B, H_kv, T, d]."""
        return self._heads(self.key(normed))

    def values(self, normed: Tensor) -> Tensor:
        """Return values [B, H_kv, T, d]."""
        return self._heads(self.value(normed))

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """Add the output projection of `attended` [B, H, T, d] and then the MLP to `residual` [B, T, D]."""
        hidden: Tensor = self.output(attended.transpose(1, 2).flatten(2)).add_(residual)
        normed = _rms_norm(self.mlp_norm, hidden)
        wide = _activate(self.activation, self.gate(normed)).mul_(self.up(normed))
        return hidden.add_(self.down(wide))

    def _heads(self, projected: Tensor) -> Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, -1, self.head_dim).transpose(1, 2)


def rotary_angles(embedding: Any, positions: Tensor, dtype: torch.dtype) -> Rotary:
    """Return the angles a Hugging Face rotary embedding gives to positions [B, T], sine signed for rolling."""
    cos, sin = embedding(torch.empty((), dtype=dtype, device=positions.device), positions)
    half = sin.shape[-1] // 2
    signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return Rotary(cos.unsqueeze(1), signed.unsqueeze(1))


def run_clip(tower: Any, pixels: Tensor, depths: tuple[int, ...], needs: AbstractSet[Signal]) -> list[EncodedImage]:
    """Run a Hugging Face `CLIPVisionModel` just far enough.

    Args:
        tower: the vision tower.
        pixels: [I, 3, height, width].
        depths: numbers of encoder layers whose outputs are concatenated; attention signals are read in the last
            layer of the first (and then only) depth.
        needs: signals to compute; only the CLS query row is ever multiplied with the keys.
    """
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    outputs = {0: hidden}
    before = hidden
    for depth, layer in enumerate(tower.encoder.layers[: max(depths)], start=1):
        before, hidden = hidden, _clip_layer(layer, hidden)
        if depth in depths:
            outputs[depth] = hidden
    rows = torch.cat([outputs[depth] for depth in depths], dim=-1)
    attention: Tensor | None = None
    keys: Tensor | None = None
    if Signal.CLS_ATTENTION in needs or Signal.ENCODER_KEYS in needs:
        attention, keys = _attention_signals(tower.encoder.layers[depths[0] - 1], before, needs)
    return [
        EncodedImage(rows[i], None if attention is None else attention[i], None if keys is None else keys[i])
        for i in range(rows.shape[0])
    ]


def _clip_layer(layer: Any, hidden: Tensor) -> Tensor:
    """Run one pre-norm CLIP encoder layer on [I, R, D]."""
    block = layer.self_attn
    images, rows, _ = hidden.shape
    normed = layer.layer_norm1(hidden)
    query, key, value = (
        projection(normed).view(images, rows, block.num_heads, block.head_dim).transpose(1, 2)
        for projection in (block.q_proj, block.k_proj, block.v_proj)
    )
    attended = scaled_dot_product_attention(query, key, value, scale=block.scale)
    hidden = block.out_proj(attended.transpose(1, 2).flatten(2)).add_(hidden)
    wide = _activate(layer.mlp.activation_fn, layer.mlp.fc1(layer.layer_norm2(hidden)))
    return layer.mlp.fc2(wide).add_(hidden)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _rms_norm(module: Any, hidden: Tensor) -> Tensor:
    if hidden.dtype == torch.float32:  # the same arithmetic in one call; in lower precision the roundings differ
        return rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)
    return module(hidden)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _activate(activation: Any, wide: Tensor) -> Tensor:
    if isinstance(activation, nn.SiLU):
        return silu(wide, inplace=True)
    if isinstance(activation, QuickGELUActivation):  # CLIP's x * sigmoid(1.702 x), without three temporaries
        return (wide * 1.702).sigmoid_().mul_(wide)
    return activation(wide)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _attention_signals(layer: Any, entering: Tensor, needs: AbstractSet[Signal]) -> tuple[Tensor | None, Tensor | None]:
    """Return CLS attention [I, H, N] and head-averaged keys [I, R, d], float32, for what enters `layer` [I, R, D]."""
    block = layer.self_attn
    normed = layer.layer_norm1(entering)
    images, rows, _ = normed.shape
    keys = block.k_proj(normed).view(images, rows, block.num_heads, block.head_dim).float()
    attention: Tensor | None = None
    if Signal.CLS_ATTENTION in needs:
        query = block.q_proj(normed[:, :1]).view(images, block.num_heads, block.head_dim).float()
        scores = torch.einsum("ihd,irhd->ihr", query, keys) * block.scale
        attention = scores.softmax(dim=-1)[..., 1:]
    return attention, keys.mean(dim=2) if Signal.ENCODER_KEYS in needs else None
