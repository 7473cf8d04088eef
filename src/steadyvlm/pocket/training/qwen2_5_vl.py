"""The Qwen2.5-VL pocket model written for training.

The arithmetic is that of transformers' `Qwen2_5_VLForConditionalGeneration` for one 96x96 picture: 16x16 patches of
6 pixels, attention inside windows of 4x4 merged tokens except in `full_layers`, rotary positions in two dimensions,
a merger that joins 2x2 patches into one of 64 visual tokens, and a decoder whose rotary frequencies are shared out
between time, row and column (M-RoPE). `export_qwen2_5_vl.py` copies the weights there, and a test compares logits.

Differs: a picture of this model fills whole windows, so windows are a batch dimension rather than slices of a packed
sequence; a still picture is its own second frame, so one kernel stands for the sum of the two temporal ones.

Letters: B pictures, N visual tokens (64), D width of the decoder, C width of the tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.training.blocks import RMSNorm, attend, merge, rotate, split
from steadyvlm.pocket.training.decoder import PackedDecoder, PocketConfig, Prompt
from steadyvlm.pocket.training.losses import answer_loss, dense_heads, dense_loss, place_loss
from steadyvlm.pocket.training.model import Losses, normalise

CELL = 6
"""Pixels along one side of a patch of this model."""
MERGE = 2
WINDOW = 4
"""Merged tokens along one side of an attention window."""


@dataclass(frozen=True, slots=True)
class QwenConfig(PocketConfig):
    """Sizes of the Qwen2.5-VL pocket; the decoder's are those of the LLaVA pocket, so that it can start from there.

    `sections` are the rotary frequencies of time, row and column. The fastest frequency falls to time and the next
    to rows and columns: in a head of 16 frequencies, shares like those of the published models (4, 6, 6) would leave
    columns 0.003 radians apart, which no decoder of this size can tell.
    """

    attention_bias: bool = True
    tower_width: int = 96
    tower_heads: int = 3
    tower_ffn: int = 256
    full_layers: tuple[int, ...] = (1, 3, 5)
    sections: tuple[int, int, int] = (1, 2, 13)

    @property
    def grid(self) -> int:
        """Merged tokens along one side."""
        return self.image_size // (CELL * MERGE)


class QwenVisionLayer(nn.Module):
    """Pre-norm layer of the Qwen2.5-VL tower: rotary attention and a gated feed-forward, with biases."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        c, self.heads = config.tower_width, config.tower_heads
        self.norm1, self.norm2 = RMSNorm(c, 1e-6), RMSNorm(c, 1e-6)
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(c, c) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(c, config.tower_ffn) for _ in range(2))
        self.down_proj = nn.Linear(config.tower_ffn, c)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """x: [B, T, C], each row of the batch attending to itself; rope: [B or 1, 1, T, C / H] cosines and sines."""
        h = self.norm1(x)
        q, k, v = (split(f(h), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.proj(merge(attend(rotate(q, rope), rotate(k, rope), v, causal=False)))
        h = self.norm2(x)
        out: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out


class QwenVisionTower(nn.Module):
    """Window-attention vision transformer up to, not including, the merger; rows leave it in window order."""

    angles: Tensor

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.windows = config.grid // WINDOW
        self.full_layers = config.full_layers
        self.patch = nn.Conv2d(3, config.tower_width, CELL, CELL, bias=False)
        self.layers = nn.ModuleList(QwenVisionLayer(config) for _ in range(config.vision_layers))
        half = config.tower_width // config.tower_heads // 2
        inverse = 10000.0 ** (-torch.arange(0, half, 2).float() / half)
        side = torch.arange(config.grid * MERGE)
        place = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
        place = self.in_windows(place[None])[0].float()
        angles = (place[..., None] * inverse).flatten(1)
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def in_windows(self, grid: Tensor) -> Tensor:
        """[B, rows, columns, C] patches -> [B, rows * columns, C], window by window, merged token by merged token."""
        w, m = self.windows, MERGE
        x = grid.reshape(len(grid), w, WINDOW, m, w, WINDOW, m, -1)
        return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(grid), -1, grid.shape[-1])

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, 96, 96] normalised -> [B, 256, C] in window order."""
        x = self.in_windows(self.patch(pixels).movedim(1, -1))
        batch, rows = x.shape[0], x.shape[1]
        rope = (self.angles.cos().to(x.dtype)[None, None], self.angles.sin().to(x.dtype)[None, None])
        parts = self.windows**2
        local = tuple(value.reshape(parts, 1, rows // parts, -1).repeat(batch, 1, 1, 1) for value in rope)
        for number, layer in enumerate(self.layers):
            if number in self.full_layers:
                x = layer(x, rope)
            else:
                x = layer(x.reshape(batch * parts, rows // parts, -1), local).reshape(batch, rows, -1)
        return x


class QwenTrainer(PackedDecoder):
    """Vision tower, merger, decoder and training heads, with their losses."""

    config: QwenConfig

    def __init__(self, config: QwenConfig, prompt: Prompt) -> None:
        side = config.grid
        super().__init__(config, prompt, side * side, rotary_positions(config, prompt))
        inner = config.tower_width * MERGE * MERGE
        self.vision = QwenVisionTower(config)
        self.merge_norm = RMSNorm(config.tower_width, 1e-6)
        self.linear_1, self.linear_2 = nn.Linear(inner, inner), nn.Linear(inner, config.width)
        self.dense = dense_heads(config.width, MERGE * MERGE)
        self.place = nn.Linear(config.width, 2 * side)

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 96, 96, 3] uint8 -> [B, 64, D] merged tokens, row by row."""
        x: Tensor = self.merge_norm(self.vision(normalise(pixels)))
        x = x.reshape(len(x), self.visual, -1)
        x = self.linear_2(F.gelu(self.linear_1(x)))
        w = self.vision.windows
        return x.reshape(len(x), w, w, WINDOW, WINDOW, -1).transpose(2, 3).reshape(len(x), self.visual, -1)

    def vision_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 1: what each of a merged token's four patches shows."""
        dense = self._dense_loss(self.visual_tokens(batch["pixels"]), batch["dense"])
        return dense, {"dense": dense}

    def joint_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 2: answers, with the per-patch loss kept on, and where each token lies, asked inside the decoder."""
        image = self.visual_tokens(batch["pixels"])
        reading = self.read(image, batch["text"], batch["questions"], batch["places"])
        answers, right = answer_loss(reading.logits, batch)
        dense = self._dense_loss(image, batch["dense"])
        place = place_loss(self.place, reading.visual, self.config.grid)
        return answers + 0.1 * dense + 0.05 * place, {
            "answers": answers,
            "right": right,
            "dense": dense,
            "place": place,
        }

    def _dense_loss(self, image: Tensor, targets: dict[str, Tensor]) -> Tensor:
        side = self.config.grid
        cells = {name: value.reshape(-1, side, MERGE, side, MERGE).transpose(2, 3) for name, value in targets.items()}
        return dense_loss(self.dense, image, cells)


def rotary_positions(config: QwenConfig, prompt: Prompt) -> Tensor:
    """Return [P, F] positions: text counts alike on all axes; a picture keeps its time and counts rows and columns."""
    first, side = len(prompt.before), config.grid
    row, column = (axis.flatten() for axis in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    picture = first + torch.stack([torch.zeros_like(row), row, column])
    before = torch.arange(first).expand(3, -1)
    after = (first + side + torch.arange(len(prompt.after))).expand(3, -1)
    axes = torch.repeat_interleave(torch.arange(3), torch.tensor(config.sections))
    return torch.cat([before, picture, after], 1)[axes].T
