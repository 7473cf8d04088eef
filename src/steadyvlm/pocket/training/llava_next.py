"""The LLaVA-NeXT pocket model written for training.

The arithmetic is that of transformers' `LlavaNextForConditionalGeneration` for one 96x96 picture: a half-size copy of
the whole picture and four tiles of 48x48 pixels pass through the CLIP tower (36 patches each); the decoder reads the
copy's 36 tokens, then the stitched map of 12 rows of 12 tokens, each row closed by a learned newline.
`export_llava_next.py` copies the weights there, and a test compares logits.

Letters: B pictures, N visual tokens (36 + 12 * 13), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.training.decoder import PackedDecoder, PocketConfig, Prompt
from steadyvlm.pocket.training.losses import answer_loss, dense_heads, dense_loss, place_loss
from steadyvlm.pocket.training.model import Losses, VisionTower, normalise

TILES = 2
"""Tiles along one side of a picture."""


class NextTrainer(PackedDecoder):
    """Vision tower, projector, newline, decoder and training heads, with their losses."""

    def __init__(self, config: PocketConfig, prompt: Prompt) -> None:
        d, side = config.width, config.grid * TILES
        super().__init__(config, prompt, config.grid**2 + side * (side + 1))
        self.vision = VisionTower(config)
        self.linear_1, self.linear_2 = nn.Linear(d, d), nn.Linear(d, d)
        self.newline = nn.Parameter(torch.randn(d) * d**-0.5)
        self.dense = dense_heads(d)
        self.local_place = nn.Linear(d, 2 * config.grid)
        self.copy_place, self.map_place = nn.Linear(d, 2 * config.grid), nn.Linear(d, 2 * side)

    def crops(self, batch: dict[str, Any]) -> Tensor:
        """Return [B, 5, 48, 48, 3]: the copy of the whole picture, then the tiles row by row."""
        pixels, size = batch["pixels"], self.config.image_size
        tiles = pixels.reshape(-1, TILES, size, TILES, size, 3).transpose(2, 3).flatten(1, 2)
        return torch.cat([batch["copy"][:, None], tiles], 1)

    def features(self, batch: dict[str, Any]) -> Tensor:
        """Return [B, 5, 36, D] rows of the feature layer, CLS left out."""
        crops = self.crops(batch)
        rows = self.vision.features(normalise(crops.flatten(0, 1)))[:, 1:]
        return rows.reshape(*crops.shape[:2], *rows.shape[1:])

    def project(self, features: Tensor) -> Tensor:
        """[..., D] feature rows -> [..., D] visual tokens."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(features)))
        return out

    def arrange(self, crops: Tensor) -> Tensor:
        """[B, 5, 36, D] projected tokens -> [B, 192, D]: the copy, then the stitched map with its newlines."""
        batch, g = len(crops), self.config.grid
        rows = (
            crops[:, 1:].reshape(batch, TILES, TILES, g, g, -1).transpose(2, 3).reshape(batch, TILES * g, TILES * g, -1)
        )
        ends = self.newline.to(rows.dtype).expand(batch, TILES * g, 1, -1)
        return torch.cat([crops[:, 0], torch.cat([rows, ends], 2).flatten(1, 2)], 1)

    def vision_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 1: what each patch shows, in the copy and in the tiles, and where it lies in its crop."""
        features = self.features(batch)
        dense = self._dense_loss(features, batch)
        place = place_loss(self.local_place, self.project(features).flatten(0, 1), self.config.grid)
        return dense + 0.05 * place, {"dense": dense, "place": place}

    def joint_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 2: answers, with the per-patch loss kept on, and where each token lies in the whole picture.

        A tile does not know which tile it is: the decoder must work that out from newlines and order, so it is asked
        for rows and columns inside the decoder.
        """
        features = self.features(batch)
        image = self.arrange(self.project(features))
        reading = self.read(image, batch["text"], batch["questions"], batch["places"])
        answers, right = answer_loss(reading.logits, batch)
        dense = self._dense_loss(features, batch)
        g, side = self.config.grid, self.config.grid * TILES
        stitched = reading.visual[:, g * g :].reshape(len(image), side, side + 1, -1)[:, :, :side].flatten(1, 2)
        place = place_loss(self.map_place, stitched, side)
        place = place + 0.3 * place_loss(self.copy_place, reading.visual[:, : g * g], g)
        loss = answers + 0.1 * dense + 0.05 * place
        return loss, {"answers": answers, "right": right, "dense": dense, "place": place}

    def _dense_loss(self, features: Tensor, batch: dict[str, Any]) -> Tensor:
        g = self.config.grid
        targets = {}
        for name, whole in batch["dense"].items():
            tiles = whole.reshape(-1, TILES, g, TILES, g).transpose(2, 3).reshape(len(whole), TILES * TILES, g * g)
            targets[name] = torch.cat([batch["dense_copy"][name][:, None], tiles], 1)
        return dense_loss(self.dense, features, targets)
