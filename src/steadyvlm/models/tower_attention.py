"""How the rows of a picture attend to each other inside one block of a vision tower, on its own.

Towers run many pictures at once and need no such thing. Who looks at a single block, to calibrate it or to measure
what it loses, is handed its input and one of these.

Letters: S rows of a picture, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, cat
from torch.nn.functional import scaled_dot_product_attention

from steadyvlm.models.qwen_windows import Together


class TowerAttention(Protocol):
    """The attention of one block over one picture's rows, all in one sequence [1, S, …]; differentiable."""

    def rotate(self, heads: Tensor) -> Tensor:
        """Return queries or keys [1, H, S, d] turned by their places."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return attended heads [1, H, S, d] of rotated queries and keys, and values."""


Watch = Callable[[int, Tensor, TowerAttention], None]
"""Called as `watch(index, hidden, attention)` with what enters each block [1, S, D]: copy it, change nothing."""


@dataclass(frozen=True, slots=True)
class TileAttention:
    """Every row looks at all rows of its tile; nothing is rotated (CLIP).

    Attributes:
        tiles: number of tiles; S is a multiple of it.
        scale: factor on the products.
    """

    tiles: int
    scale: float

    def rotate(self, heads: Tensor) -> Tensor:
        """Return `heads`: places are in the embedding."""
        return heads

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend inside each tile."""
        _, heads, rows, width = queries.shape
        query, key, value = (
            part.reshape(heads, self.tiles, rows // self.tiles, width).transpose(0, 1)
            for part in (queries, keys, values)
        )
        attended = scaled_dot_product_attention(query, key, value, scale=self.scale)
        return attended.transpose(0, 1).reshape(1, heads, rows, width)


@dataclass(frozen=True, slots=True)
class PlaceAttention:
    """Rows are rotated by their row and column and look at the whole picture or at their window (Qwen).

    Attributes:
        cos, sin: [S, d] float32 angles.
        together: groups of rows that attend each within itself.
    """

    cos: Tensor
    sin: Tensor
    together: tuple[Together, ...]

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate in float32, as the towers do whatever their dtype."""
        wide = heads.float()
        first, second = wide.chunk(2, dim=-1)
        return (wide * self.cos + cat((-second, first), dim=-1) * self.sin).to(heads.dtype)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend inside each group."""
        found = []
        for group in self.together:
            query, key, value = (part[0][:, group.rows].transpose(0, 1) for part in (queries, keys, values))
            found.append(scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1, 2))
        order = cat([group.rows.flatten() for group in self.together])
        return cat(found, dim=1)[:, order.argsort()].unsqueeze(0)
