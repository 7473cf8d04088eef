"""How the rows of a calibration batch see each other: what a block needs to know beside its input.

Rotary angles and masks belong to the prompts and pictures, not to the weights, so a block that is being learned is
handed them and asks for nothing else. Everything here can be differentiated through.

Letters: B batch, T sequence, S rows of several pictures, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.attention import prompt_attention, rotate
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.models.tower_attention import TileAttention, TowerAttention


@dataclass(frozen=True, slots=True)
class DecoderContext:
    """A padded batch of prompts in one decoder layer.

    Attributes:
        group: angles, lengths and sliding window of the batch, as the engine describes it to its own layers.
        scaling: factor on query-key products.
    """

    group: LayerGroup
    scaling: float

    def rotate(self, heads: Tensor) -> Tensor:
        """Return queries or keys [B, H, T, d] turned by the angles of their positions."""
        return rotate(heads, self.group.angles)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend causally; padding stands at the end, where no prompt looks."""
        return prompt_attention(queries, keys, values, scaling=self.scaling, mask=self.group.prompt_mask())


@dataclass(frozen=True, slots=True)
class TowerContext:
    """Pictures one after the other in one sequence [1, S, …], none of which sees another.

    Attributes:
        pictures: of each, how many rows it has and how they attend.
    """

    pictures: tuple[tuple[int, TowerAttention], ...]

    @staticmethod
    def of(pictures: Sequence[tuple[int, TowerAttention]]) -> TowerContext:
        """Join tiles of one size, of however many pictures, so that one call serves them all."""
        tiled = [(rows, item) for rows, item in pictures if isinstance(item, TileAttention)]
        kinds = {(rows // item.tiles, item.scale) for rows, item in tiled}
        if len(tiled) < len(pictures) or len(kinds) != 1:
            return TowerContext(tuple(pictures))
        whole = TileAttention(sum(item.tiles for _, item in tiled), next(iter(kinds))[1])
        return TowerContext(((sum(rows for rows, _ in tiled), whole),))

    def rotate(self, heads: Tensor) -> Tensor:
        """Return queries or keys [1, H, S, d] turned by their places."""
        parts = heads.split_with_sizes([rows for rows, _ in self.pictures], dim=2)
        return torch.cat([item.rotate(part) for part, (_, item) in zip(parts, self.pictures, strict=True)], dim=2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend inside each picture."""
        rows = [count for count, _ in self.pictures]
        parts = zip(*(heads.split_with_sizes(rows, dim=2) for heads in (queries, keys, values)), strict=True)
        return torch.cat([item.attend(*part) for part, (_, item) in zip(parts, self.pictures, strict=True)], dim=2)
