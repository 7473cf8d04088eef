"""A Llama-shaped decoder layer, cut where the engine needs to look.

Llama, Mistral and Qwen2 decoder layers in transformers have the same parts under the same names, so one view serves
all. It holds references, never copies: made anew for every batch, it sees linears a quantiser has put in place.

What a linear has just returned belongs to nobody else, so sums and products are written into it: on a CPU fresh memory
costs more than the arithmetic.

Source: transformers `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py` (pre-norm, rotary, gated MLP).
Differs: attention itself is left to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers.activations import QuickGELUActivation

from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import Rotary
from steadyvlm.quantization.kv import KeyValueQuantizer
from steadyvlm.quantization.transforms import TransformedNorm


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
    kv: KeyValueQuantizer | None

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
            kv=getattr(attention, "kv_quantizer", None),
        )

    def norm(self, hidden: Tensor) -> Tensor:
        """Return the normalised input [B, T, D] of the projections."""
        return rms(self.input_norm, hidden)

    def queries(self, normed: Tensor) -> Tensor:
        """Return unrotated queries [B, H, T, d]."""
        return self._heads(self.query(normed))

    def keys(self, normed: Tensor) -> Tensor:
        """Return unrotated keys [B, H_kv, T, d]."""
        return self._heads(self.key(normed))

    def values(self, normed: Tensor) -> Tensor:
        """Return values [B, H_kv, T, d]."""
        return self._heads(self.value(normed))

    def project_heads(self, attended: Tensor) -> Tensor:
        """Return the output projection [B, T, D] of attended heads [B, H, T, d]."""
        return self.output(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module calls

    def finish(self, residual: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output and then the MLP to `residual`, all [B, T, D]; `output` is overwritten."""
        hidden = output.add_(residual)
        normed = rms(self.mlp_norm, hidden)
        wide = activate(self.activation, self.gate(normed)).mul_(self.up(normed))
        return hidden.add_(self.down(wide))

    def activation_error(self, hidden: Tensor) -> Tensor:
        """Return [N] float32: the norm of what quantising the attention's input loses of hidden states [N, D].

        Raises:
            Unsupported: when this layer's activations are not quantised.
        """
        if not hasattr(self.query, "activation_error"):
            raise Unsupported(
                f"this decoder layer's query projection is a {type(self.query).__name__}, which reads its input as it "
                "is, so quantising the input loses nothing that could be measured; use a quantiser of activations, "
                "such as rtn_w4a4 or flatquant."
            )
        error: Tensor = self.query.activation_error(self.norm(hidden))  # type: ignore[operator]  # nn.Module attribute
        return error

    def _heads(self, projected: Tensor) -> Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, -1, self.head_dim).transpose(1, 2)


def rotary_angles(embedding: Any, positions: Tensor, dtype: torch.dtype) -> Rotary:
    """Return the angles a Hugging Face rotary embedding gives to positions [B, T], sine signed for rolling."""
    cos, sin = embedding(torch.empty((), dtype=dtype, device=positions.device), positions)
    half = sin.shape[-1] // 2
    signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return Rotary(cos.unsqueeze(1), signed.unsqueeze(1))


def rms(module: Any, hidden: Tensor) -> Tensor:
    """Return what a Hugging Face RMS norm, or one with a transform behind it, makes of `hidden` [..., D]."""
    if isinstance(module, TransformedNorm):
        return module.transform(rms(module.norm, hidden))  # type: ignore[no-any-return]  # nn.Module calls are untyped
    if hidden.dtype == torch.float32:  # the same arithmetic in one call; in lower precision the roundings differ
        return rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)
    return module(hidden)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def activate(activation: Any, wide: Tensor) -> Tensor:
    """Return `activation(wide)`; `wide` may be overwritten."""
    if isinstance(activation, nn.SiLU):
        return silu(wide, inplace=True)
    if isinstance(activation, QuickGELUActivation):  # CLIP's x * sigmoid(1.702 x), without three temporaries
        return (wide * 1.702).sigmoid_().mul_(wide)
    return activation(wide)  # type: ignore[no-any-return]  # nn.Module calls are untyped
