"""The LLaVA pocket model written for training.

The arithmetic is exactly that of transformers' `CLIPVisionModel`, the LLaVA projector and `LlamaForCausalLM`;
`export.py` copies the weights there, and a test compares logits.

Letters: B pictures, N visual tokens (144), D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.training.blocks import VisionLayer
from steadyvlm.pocket.training.decoder import PackedDecoder, PocketConfig, Prompt
from steadyvlm.pocket.training.losses import answer_loss, dense_heads, dense_loss, place_loss
from steadyvlm.pocket.vocabulary import PATCH

PIXEL_MEAN, PIXEL_SCALE = 100.0, 70.0
"""Pixels are normalised as (value - 100) / 70."""

Losses = tuple[Tensor, dict[str, Tensor]]
"""The loss of a batch, and its parts for the log."""


def normalise(pixels: Tensor) -> Tensor:
    """[..., H, W, 3] uint8 -> [..., 3, H, W] float32."""
    return (pixels.movedim(-1, -3).float() - PIXEL_MEAN) / PIXEL_SCALE


class VisionTower(nn.Module):
    """CLIP vision transformer; returns the output of every layer that is needed."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d = config.width
        self.patch = nn.Conv2d(3, d, PATCH, PATCH, bias=False)
        self.cls = nn.Parameter(torch.randn(d) * 0.02)
        self.position = nn.Parameter(torch.randn(config.grid**2 + 1, d) * 0.02)
        self.pre_norm, self.post_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            VisionLayer(d, config.heads, config.vision_ffn) for _ in range(config.vision_layers)
        )
        self.feature_layer = config.feature_layer

    def features(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, S, S] normalised -> [B, N + 1, D] rows of the feature layer, CLS first."""
        x: Tensor = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.to(x.dtype).expand(x.shape[0], 1, -1), x], 1) + self.position
        x = self.pre_norm(x)
        for layer in self.layers[: self.feature_layer]:
            x = layer(x)
        return x

    def pooled(self, features: Tensor) -> Tensor:
        """[B, N + 1, D] feature rows -> [B, D] pooled CLS output of the whole tower."""
        for layer in self.layers[self.feature_layer :]:
            features = layer(features)
        out: Tensor = self.post_norm(features[:, 0])
        return out


class TextTower(nn.Module):
    """Causal CLIP text transformer, pooled at the end token."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d = config.width
        self.token = nn.Embedding(config.vocabulary, d)
        self.position = nn.Parameter(torch.randn(config.text_positions, d) * 0.02)
        self.layers = nn.ModuleList(VisionLayer(d, config.heads, config.vision_ffn) for _ in range(config.text_layers))
        self.final_norm = nn.LayerNorm(d)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, ids: Tensor, end: int) -> Tensor:
        """ids: [B, T] int64 -> [B, D] row of the first `end` token."""
        x = self.token(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, causal=True)
        where = (ids == end).int().argmax(1)
        out: Tensor = self.final_norm(x)[torch.arange(len(ids), device=ids.device), where]
        return out


class PocketTrainer(PackedDecoder):
    """Vision tower, projector, decoder, text tower and the per-patch heads, with their losses."""

    def __init__(self, config: PocketConfig, prompt: Prompt, end: int) -> None:
        """end: id of the token that closes a caption."""
        super().__init__(config, prompt, config.grid**2)
        d = config.width
        self.end = end
        self.vision, self.text = VisionTower(config), TextTower(config)
        self.visual_projection, self.text_projection = (nn.Linear(d, d, bias=False) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.dense = dense_heads(d)
        self.linear_1, self.linear_2 = nn.Linear(d, d), nn.Linear(d, d)
        self.place = nn.Linear(d, 2 * config.grid)

    def project(self, features: Tensor) -> Tensor:
        """[B, N + 1, D] feature rows -> [B, N, D] visual tokens."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(features[:, 1:])))
        return out

    def contrastive_loss(self, features: Tensor, captions: Tensor) -> Tensor:
        """Symmetric InfoNCE between pooled picture and caption; captions: [B, C] int64."""
        image = F.normalize(self.visual_projection(self.vision.pooled(features)).float(), dim=-1)
        text = F.normalize(self.text_projection(self.text(captions, self.end)).float(), dim=-1)
        logits = self.logit_scale.exp().clamp(max=100) * image @ text.T
        label = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2

    def vision_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 1: per-patch targets and picture-caption contrast."""
        features = self.vision.features(normalise(batch["pixels"]))
        dense = dense_loss(self.dense, features[:, 1:], batch["dense"])
        contrast = self.contrastive_loss(features, batch["caption"])
        return dense + 0.3 * contrast, {"dense": dense, "contrast": contrast}

    def joint_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 2: answers, with the per-patch loss kept on and a weak contrastive loss."""
        features = self.vision.features(normalise(batch["pixels"]))
        image = self.project(features)
        reading = self.read(image, batch["text"], batch["questions"], batch["places"])
        answers, right = answer_loss(reading.logits, batch)
        dense = dense_loss(self.dense, features[:, 1:], batch["dense"])
        contrast = self.contrastive_loss(features, batch["caption"])
        place = place_loss(self.place, image, self.config.grid)
        loss = answers + 0.1 * dense + 0.05 * contrast + 0.05 * place
        return loss, {"answers": answers, "right": right, "dense": dense, "place": place}

    def align_loss(self, batch: dict[str, Any]) -> Losses:
        """Stage 3: only the contrastive loss, feature layers frozen."""
        with torch.no_grad():
            features = self.vision.features(normalise(batch["pixels"]))
        contrast = self.contrastive_loss(features, batch["caption"])
        return contrast, {"contrast": contrast}

    def freeze_features(self) -> None:
        """Leave only what the contrastive loss trains and the decoder does not read."""
        for value in self.parameters():
            value.requires_grad_(False)
        for module in (*self.vision.layers[self.vision.feature_layer :], self.vision.post_norm, self.text):
            module.requires_grad_(True)
        for module in (self.visual_projection, self.text_projection):
            module.requires_grad_(True)
        self.logit_scale.requires_grad_(True)
