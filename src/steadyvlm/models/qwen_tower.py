"""The vision towers of Qwen2-VL and Qwen2.5-VL, run over pictures of different sizes in one pass.

Patches are embedded, rotated by their row and column, pass blocks that attend over the whole picture or inside windows
(`qwen_windows`), and `merge * merge` neighbours are joined into one visual token. What the towers do not share, norms
and feed-forward, is read off the modules themselves.

Neither tower has a CLS row. What stands in for it is the attention a token receives: in the last block that attends
over the whole picture (Qwen2-VL: the last block), averaged over all querying patches and summed over the patches of
the token. It is computed for a few query rows at a time, so no square of the number of patches is ever held.

Source: Wang et al. 2024, arXiv 2409.12191; Bai et al. 2025, arXiv 2502.13923; transformers `modeling_qwen2_vl.py`,
`modeling_qwen2_5_vl.py`.
Differs: windows of one length share one attention call; the patch embedding, a convolution that never overlaps, is a
matrix product.

Letters: S patches of all pictures, N merged tokens of one, H heads, D width, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from steadyvlm.models.adapter import EncodedImage, Pixels
from steadyvlm.models.qwen_windows import Packing, Together, pack
from steadyvlm.models.tower_attention import PlaceAttention, Watch
from steadyvlm.reduction.base import Signal

QUERY_ROWS = 256
"""Query rows whose attention is held at once while salience is summed up."""


def full_attention_blocks(config: Any) -> tuple[int, ...]:
    """Return the blocks of a tower that attend over whole pictures, by its configuration."""
    windowed = getattr(config, "fullatt_block_indexes", None)
    return tuple(range(config.depth)) if windowed is None else tuple(sorted(set(windowed) & set(range(config.depth))))


def window_side(config: Any) -> int | None:
    """Return the merged tokens along one side of a window; None for a tower without windows."""
    if not hasattr(config, "window_size"):
        return None
    return int(config.window_size // config.spatial_merge_size // config.patch_size)


def run_qwen(
    tower: Any, pixels: Sequence[Pixels], needs: AbstractSet[Signal], watch: Watch | None = None
) -> list[EncodedImage]:
    """Run a Hugging Face Qwen vision tower, merger included.

    Args:
        tower: `model.visual`.
        pixels: flat patches of each picture.
        needs: signals to compute.
        watch: is shown what enters each block; hand over one picture then.
    """
    config, weight = tower.config, tower.patch_embed.proj.weight
    grids = tuple(item.layout.grid for item in pixels)
    packing = pack(grids, config.spatial_merge_size, window_side(config), weight.device)
    patches = torch.cat([item.values for item in pixels]).to(weight.device, weight.dtype)
    embedded = linear(patches, weight.flatten(1))
    per_token, heads, width = config.spatial_merge_size**2, config.num_heads, embedded.shape[-1]
    hidden = embedded.view(-1, per_token, width)[packing.order].flatten(0, 1)
    angles = _angles(config, width // heads, packing.places)
    full = full_attention_blocks(config)
    signals: list[dict[Signal, Tensor]] = [{} for _ in pixels]
    for depth, block in enumerate(tower.blocks):
        together = packing.pictures if depth in full else packing.windows
        if watch is not None:
            watch(depth, hidden[None], PlaceAttention(angles[0][:, 0, 0], angles[1][:, 0, 0], together))
        qkv = block.attn.qkv(_norm(block.norm1, hidden)).view(len(hidden), 3, heads, -1)
        rotated = _rotate(qkv[:, :2], angles)
        if full and depth == full[-1]:
            signals = _signals(rotated, qkv[:, 1], packing, per_token, needs)
        attended = _attend(rotated, qkv[:, 2], together)
        hidden = block.attn.proj(attended.flatten(1)).add_(hidden)
        hidden = _feed_forward(block.mlp, _norm(block.norm2, hidden)).add_(hidden)
    merged = tower.merger.mlp(_norm(tower.merger.ln_q, hidden).view(-1, per_token * width))
    rows = merged[packing.back].split_with_sizes([item.layout.tokens_per_tile for item in pixels])
    return [EncodedImage(row, item.layout, found) for row, item, found in zip(rows, pixels, signals, strict=True)]


def _angles(config: Any, head_dim: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [S, 1, 1, d] float32: a quarter of the frequencies for rows, then for columns, twice."""
    base = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)
    half = head_dim // 2
    inverse = 1.0 / (base ** (torch.arange(0, half, 2, dtype=torch.float32, device=places.device) / half))
    angles = (places[:, :, None].float() * inverse).flatten(1).repeat(1, 2)[:, None, None]
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [S, 2, H, d] in float32, as the towers do whatever their dtype."""
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = angles
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(heads.dtype)


def _attend(rotated: Tensor, values: Tensor, together: Sequence[Together]) -> Tensor:
    """Return attended heads [S, H, d] of rotated queries and keys [S, 2, H, d], group by group."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    for group in together:
        count, length = group.rows.shape
        at: slice | Tensor = group.rows.flatten()
        if group.start is not None:
            at = slice(group.start, group.start + count * length)
        query, key = rotated[at].view(count, length, *rotated.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
        value = values[at].reshape(count, length, *values.shape[1:]).transpose(1, 2)
        out[at] = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
    return out


def _norm(module: Any, hidden: Tensor) -> Tensor:
    if hidden.dtype == torch.float32 and hasattr(module, "variance_epsilon"):  # an RMSNorm, in one call
        return rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)
    return module(hidden)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _feed_forward(mlp: Any, normed: Tensor) -> Tensor:
    if hasattr(mlp, "gate_proj"):
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))  # type: ignore[no-any-return]
    return mlp.fc2(mlp.act(mlp.fc1(normed)))  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _signals(
    rotated: Tensor, keys: Tensor, packing: Packing, per_token: int, needs: AbstractSet[Signal]
) -> list[dict[Signal, Tensor]]:
    """Return the signals of each picture from rotated queries and keys [S, 2, H, d] and plain keys [S, H, d]."""
    found: list[dict[Signal, Tensor]] = []
    for own in packing.own:
        signals: dict[Signal, Tensor] = {}
        if Signal.SALIENCE in needs:
            query, key = rotated[own].float().transpose(0, 2).unbind(1)
            signals[Signal.SALIENCE] = _received(query, key).view(len(query), -1, per_token).sum(dim=-1)
        if Signal.ENCODER_KEYS in needs:
            plain = keys[own].float().mean(dim=1)
            signals[Signal.ENCODER_KEYS] = plain.view(-1, per_token, plain.shape[-1]).mean(dim=1)
        found.append(signals)
    return found


def _received(query: Tensor, key: Tensor) -> Tensor:
    """Return the mean attention [H, S] each key receives from queries [H, S, d], a few query rows at a time."""
    total = torch.zeros(key.shape[:2], device=key.device)
    for rows in torch.split(query, QUERY_ROWS, dim=1):
        total += (rows @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1).sum(dim=1)
    return total / query.shape[1]
