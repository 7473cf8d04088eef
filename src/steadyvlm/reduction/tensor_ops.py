"""Tensor arithmetic that several methods share: budgets, scores over heads, and top-k with stable ties.

Ties break towards the lower index everywhere: the order is (score descending, index ascending). Published code leaves
ties to `torch.topk`, whose choice depends on the device and the build; a stable sort does not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_budget(num_tokens: int, keep_ratio: float) -> int:
    """Return how many of `num_tokens` to keep, rounding half to even (FastV, DivPrune).

    >>> [round_budget(45, 0.5), round_budget(47, 0.5), round_budget(576, 0.25)]
    [22, 24, 144]
    """
    return min(num_tokens, max(0, round(num_tokens * keep_ratio)))


def trunc_budget(num_tokens: int, keep_ratio: float) -> int:
    """Return how many of `num_tokens` to keep, rounding towards zero (PyramidDrop, HiRED, PruMerge, TRIM).

    >>> [trunc_budget(45, 0.5), trunc_budget(576, 0.2), trunc_budget(576, 0.1)]
    [22, 115, 57]
    """
    return min(num_tokens, max(0, int(num_tokens * keep_ratio)))


def sum_over_heads(attention: Tensor) -> Tensor:
    """Add up what the heads say about each token, in float32.

    Each token's heads are laid side by side first, so every token is summed in the same order: tokens with equal
    attention get exactly equal scores wherever they stand, and tie as they should.

    Args:
        attention: [H, N] float, any float dtype.

    Returns:
        [N] float32.

    >>> sum_over_heads(torch.tensor([[0.5, 0.25], [0.25, 0.0]]))
    tensor([0.7500, 0.2500])
    """
    return attention.to(torch.float32).transpose(0, 1).contiguous().sum(dim=1)


def mean_over_heads(attention: Tensor) -> Tensor:
    """Average over heads, as `sum_over_heads` adds.

    >>> mean_over_heads(torch.tensor([[0.5, 0.25], [0.25, 0.25]]))
    tensor([0.3750, 0.2500])
    """
    return sum_over_heads(attention) / max(1, attention.shape[0])


def by_score(scores: Tensor) -> Tensor:
    """Return all indices from the highest score to the lowest; ties break towards the lower index, NaN comes last.

    >>> by_score(torch.tensor([1.0, 3.0, float("nan"), 3.0]))
    tensor([1, 3, 0, 2])
    """
    ranked = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.sort(ranked, descending=True, stable=True).indices


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the `k` highest scores' indices in ascending index order; ties break towards the lower index.

    Args:
        scores: [N] float; NaN ranks last, with minus infinity.
        k: how many, 0 to N.

    Returns:
        [k] int64, strictly ascending.

    >>> top_k(torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0]), 2)
    tensor([1, 3])
    """
    return by_score(scores)[:k].sort().values


def bottom_k(scores: Tensor, k: int) -> Tensor:
    """Return the `k` lowest scores' indices in ascending index order; ties break towards the lower index.

    NaN ranks last here too, with plus infinity.

    >>> bottom_k(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([0, 2])
    """
    return top_k(-scores, k)


def complement(keep: Tensor, size: int) -> Tensor:
    """Return the rows of 0..size-1 that are not in `keep`, ascending.

    >>> complement(torch.tensor([0, 2]), 5)
    tensor([1, 3, 4])
    """
    rest = torch.ones(size, dtype=torch.bool, device=keep.device)
    rest[keep] = False
    return rest.nonzero().squeeze(1)
