"""The trained part of LVPruning: one small cross-attention module that decides, per visual token, keep or drop.

    q = W_q norm(v),  (k, w) = (W_k, W_v) norm(t),  o = multi-head attention(q, k, w)
    f = W_o o + W_r v,  (keep, drop) = W_2 gelu(W_1 norm(f))

v are hidden states of visual tokens and t of the text behind the picture, both as they enter the module's decoder
layer. Training (`steadyvlm.training.lvpruning`) and inference run this one class, so they cannot differ.

Source: Sun et al. 2025, arXiv 2501.13652: vision tokens are the queries, language tokens the keys and values.
Differs: sizes, norms and the residual path are a choice of ours, since no code was published (see `lvpruning.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


class PruningModule(nn.Module):
    """Keep and drop logits of visual tokens, given the question.

    >>> PruningModule(width=32, inner=16, heads=4)(torch.zeros(6, 32), torch.zeros(3, 32)).shape
    torch.Size([6, 2])
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        """Make an untrained module.

        Args:
            width: of the decoder's hidden states.
            inner: width inside the module, a multiple of `heads`.
            heads: of its attention.
        """
        super().__init__()
        self.heads = heads
        self.visual_norm = nn.RMSNorm(width, eps=1e-6)
        self.text_norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, inner, bias=False)
        self.residual = nn.Linear(width, inner, bias=False)
        self.mlp_norm = nn.RMSNorm(inner, eps=1e-6)
        self.wide = nn.Linear(inner, inner)
        self.decide = nn.Linear(inner, 2)

    def forward(self, visual: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Return (keep, drop) logits [..., N, 2].

        Args:
            visual: [..., N, D] hidden states of the visual tokens.
            text: [..., T, D] of the text tokens after the last picture; T = 0 leaves only what a token says of itself.
            text_mask: [..., T] bool, False at padding; None when there is none.
        """
        normed = self.text_norm(text)
        query, key, value = self._split(self.query(self.visual_norm(visual))), self.key(normed), self.value(normed)
        scores = query @ self._split(key).transpose(-1, -2) * query.shape[-1] ** -0.5
        if text_mask is not None:
            scores = scores.masked_fill(~text_mask[..., None, None, :], -torch.inf)
        attended = (scores.softmax(dim=-1) @ self._split(value)).transpose(-2, -3).flatten(-2)
        fused = self.output(attended) + self.residual(visual)
        logits: Tensor = self.decide(gelu(self.wide(self.mlp_norm(fused))))
        return logits

    def _split(self, projected: Tensor) -> Tensor:
        """[..., T, E] -> [..., heads, T, E / heads]."""
        *rest, inner = projected.shape
        return projected.reshape(*rest, self.heads, inner // self.heads).transpose(-2, -3)
