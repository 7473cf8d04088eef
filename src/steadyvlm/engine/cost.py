"""How much arithmetic a prompt costs, counted from the tokens each layer really processes.

Per decoder layer with n tokens, width D, H query heads and H_kv key heads of width d, MLP width M, a multiplication and
an addition being two operations:

    projections   2 n (2 D H d + 2 D H_kv d)        attention   2 n^2 H d   (scores and values, causal half)
    gated MLP     2 n (3 D M)

Source: the usual count; Chen et al. 2024 (FastV), arXiv 2403.06764, section 4.2, use 4nD^2 + 2n^2D + 2nDM.
Differs: counts layer inputs (never outputs), the causal half of attention, grouped heads, and all three matrices of the
gated MLP. Embedding, norms and the output head are left out; the vision encoder is the same for every method.
"""

from __future__ import annotations

from collections.abc import Sequence

from steadyvlm.models.adapter import ModelInfo


def prefill_flops(info: ModelInfo, tokens_per_layer: Sequence[int]) -> int:
    """Return the decoder's operations for one prompt.

    Args:
        info: sizes of the model.
        tokens_per_layer: prompt tokens each layer processes, text included.
    """
    projections = 4 * info.width * info.head_dim * (info.num_heads + info.num_kv_heads)
    mlp = 6 * info.width * info.mlp_width
    attention = 2 * info.num_heads * info.head_dim
    return sum(count * (projections + mlp) + count * count * attention for count in tokens_per_layer)
