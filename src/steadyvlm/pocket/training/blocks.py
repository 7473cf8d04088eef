"""Layers shared by the pocket models' training code, in the arithmetic of transformers.

Letters: B pictures or sequences, H heads, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VisionLayer(nn.Module):
    """Pre-norm CLIP encoder layer."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """x: [B, T, D] -> [B, T, D]."""
        h = self.layer_norm1(x)
        q, k, v = (split(f(h), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.out_proj(merge(attend(q, k, v, causal=causal)))
        h = self.fc1(self.layer_norm2(x))
        out: Tensor = x + self.fc2(h * torch.sigmoid(1.702 * h))
        return out


class RMSNorm(nn.Module):
    """Llama's root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        h = x.float()
        return (self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps))).to(x.dtype)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] -> [B, H, T, D / H]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """[B, H, T, D / H] -> [B, T, D]."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Plain attention, [B, H, T, D / H] each: on CPU its backward is several times faster than the fused kernel's."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)
    if causal:
        rows = torch.arange(q.shape[2], device=q.device)
        scores = scores.masked_fill(rows[None, :] > rows[:, None], -30000.0)
    return torch.softmax(scores.float(), -1).to(v.dtype) @ v


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding; rope: cosines and sines of every angle, each angle twice, last dimension D / H."""
    first, second = x.chunk(2, -1)
    return x * rope[0] + torch.cat([-second, first], -1) * rope[1]
