"""The ways attention is computed here: through torch's fused kernel, or a few rows written out for a method to read.

Sequences of a batch are padded on the right. In the prompt, causality alone hides the padding from every real token,
so the fast causal kernel runs without a mask, whatever the lengths. Afterwards one new row per sequence looks at its
own past; there a mask [B, S] hides padding, and only when lengths differ.

Differs: transformers pads on the left and materialises a [B, 1, T, T] mask as soon as lengths differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steadyvlm.models.adapter import Rotary

_PROBABILITIES_AT_ONCE = 1 << 24
"""64 MiB of float32: how much attention is written out at a time where only its means are wanted."""


def rotate(heads: Tensor, rotary: Rotary) -> Tensor:
    """Return `heads` [B, H, T, d] turned by the angles of their positions."""
    turned = heads.roll(heads.shape[-1] // 2, dims=-1).mul_(rotary.signed_sin)
    return turned.add_(heads * rotary.cos)


def prompt_attention(queries: Tensor, keys: Tensor, values: Tensor, *, scaling: float, mask: Tensor | None) -> Tensor:
    """Attend causally from every row.

    Args:
        queries: [B, H, T, d].
        keys: [B, H_kv, T, d]; H is a multiple of H_kv.
        values: as keys.
        scaling: factor on the products.
        mask: [B, 1, T, T] bool, True where a row may look, causality included; None for plain causality.
    """
    grouped = queries.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )


def row_attention(query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, visible: Tensor | None) -> Tensor:
    """Attend from one row per sequence to all keys that are visible to it.

    Args:
        query: [B, H, 1, d].
        keys: [B, H_kv, S, d].
        values: as keys.
        scaling: factor on the products.
        visible: [B, S] bool; None when every key is visible.
    """
    batch, heads, _, width = query.shape
    # Heads that share keys become the rows of one small matrix: no copies of keys, no special kernel.
    folded = query.reshape(batch, keys.shape[1], heads // keys.shape[1], width)
    mask = None if visible is None else visible[:, None, None, :]
    attended = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
    return attended.reshape(batch, heads, 1, width)


def row_probabilities(query: Tensor, keys: Tensor, *, scaling: float, visible: Tensor | None) -> Tensor:
    """Return the attention probabilities [B, H, S] float32 of one row per sequence; arguments as `row_attention`.

    The softmax runs in float32 over all visible keys.
    """
    batch, heads, _, width = query.shape
    folded = query.reshape(batch, keys.shape[1], heads // keys.shape[1], width).float()
    scores = (folded @ keys.float().transpose(2, 3) * scaling).reshape(batch, heads, -1)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, :], -torch.inf)
    return scores.softmax(dim=-1)


def rater_probabilities(queries: Tensor, keys: Tensor, columns: Tensor, *, scaling: float, visible: Tensor) -> Tensor:
    """Return the attention probabilities [B, H, Q, S] float32 of the prompt's rows `columns` [B, Q], and no others.

    Args:
        queries: [B, H, S, d].
        keys: [B, H_kv, S, d].
        columns: [B, Q] int64.
        scaling: factor on the products.
        visible: [B, Q, S] bool.
    """
    batch, heads, _, width = queries.shape
    rows = torch.arange(batch, device=queries.device)[:, None]
    picked = queries.transpose(1, 2)[rows, columns].transpose(1, 2)  # [B, H, Q, d]
    folded = picked.reshape(batch, keys.shape[1], -1, width).float()
    scores = (folded @ keys.float().transpose(2, 3) * scaling).reshape(batch, heads, columns.shape[1], -1)
    return scores.masked_fill_(~visible[:, None], -torch.inf).softmax(dim=-1)


def mean_received(
    queries: Tensor,
    keys: Tensor,
    columns: Tensor,
    counts: Sequence[int],
    *,
    scaling: float,
    visible: Callable[[Tensor], Tensor],
    at_once: int = _PROBABILITIES_AT_ONCE,
) -> Tensor:
    """Return [B, S] float32, the attention probability each key receives as a mean over heads and some rows.

    Every probability is part of a softmax in float32 over all keys its row may see. Rows are taken a few at a time, so
    memory stays bounded however many there are.

    Args:
        queries: [B, H, S, d].
        keys: [B, H_kv, S, d].
        columns: [B, Q] int64, the rows that count.
        counts: how many columns of each sequence are meant, from the left; none gives zeros.
        scaling: factor on the products.
        visible: returns [B, q, S] bool for the rows [B, q] it is given.
        at_once: how many probabilities to hold at a time; at least one row per sequence is.
    """
    batch, heads, length, _ = queries.shape
    sizes = torch.tensor(counts, device=queries.device)[:, None]
    keys, total = keys.float(), torch.zeros(batch, length, device=queries.device)
    step = max(1, at_once // (batch * heads * length))
    for start in range(0, columns.shape[1], step):
        rows = columns[:, start : start + step]
        meant = torch.arange(start, start + rows.shape[1], device=rows.device) < sizes  # [B, q]
        found = rater_probabilities(queries, keys, rows, scaling=scaling, visible=visible(rows))
        found.mul_(meant[:, None, :, None])
        # Side by side, what a key receives is summed in the same order for every key: equal ones tie exactly.
        total += found.permute(0, 3, 1, 2).flatten(2).sum(dim=-1)
    return total / (heads * sizes.clamp_min(1))
