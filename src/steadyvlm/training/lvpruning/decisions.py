"""Decisions that can be learned: hard in what they do, soft in what they feel.

Source: Gumbel-softmax with straight-through gradients (Jang et al. 2017, arXiv 1611.01144) and the ratio loss of
DynamicViT (Rao et al. 2021, arXiv 2106.02034), which the spec takes over for LVPruning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decide = Callable[[Tensor], Tensor]
"""From (keep, drop) logits [..., 2] to decisions [...] of exactly 0 and 1."""


def gumbel_decisions(temperature: float, generator: torch.Generator) -> Decide:
    """Return decisions that are drawn: keep with probability sigmoid(keep - drop), gradient of the soft draw.

    The noise is drawn on the CPU, so that every device trains on the same decisions.
    """

    def decide(logits: Tensor) -> Tensor:
        uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
        noise = -(-uniform.log()).log()
        soft = ((logits.float() + noise.to(logits.device)) / temperature).softmax(dim=-1)[..., 0]
        return (soft - soft.detach()) + (soft > 0.5).to(soft.dtype)  # the bracket is exactly zero: decisions stay hard

    return decide


def firm_decisions(logits: Tensor) -> Tensor:
    """Return the decisions of inference: keep where the keep logit beats the drop logit."""
    return (logits[..., 0] > logits[..., 1]).float()


def ratio_loss(kept: Sequence[Tensor], visual: Tensor, targets: Sequence[float]) -> Tensor:
    """Return the squared distance between the share kept and the share wanted, added up over stages.

    Args:
        kept: per stage, [B, T] with 1 for kept and 0 for dropped, cumulative.
        visual: [B, T] bool, True at visual tokens: only these count.
        targets: share to keep per stage, of all visual tokens of the batch.

    >>> kept, visual = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[True, True, False]])
    >>> round(float(ratio_loss([kept], visual, [0.1])), 4)
    0.16
    """
    shares = torch.stack([stage[visual].mean() for stage in kept])
    return (shares.new_tensor(list(targets)) - shares).square().sum()
