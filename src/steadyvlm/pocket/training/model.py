"""The pocket VLM written for training: all questions of a picture share one pass over its visual tokens.

The arithmetic is exactly that of transformers' `CLIPVisionModel`, the LLaVA projector and `LlamaForCausalLM`;
`export.py` copies the weights there, and a test compares logits. What differs is the layout: one sequence holds
the image prefix once and then every question about it. A question attends to the prefix and to itself, and its
positions continue from the prefix, so each question is trained as if it were alone, at a fraction of the cost.

Letters: B pictures, P prefix tokens (bos, "USER:", " ", 144 visual tokens, newline), T packed text tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.vocabulary import COLOURS, GRID, PATCH, SHAPES, WORDS


@dataclass(frozen=True, slots=True)
class PocketConfig:
    """Sizes of the pocket model; the defaults are those of the shipped weights."""

    width: int = 128
    heads: int = 4
    vision_layers: int = 6
    vision_ffn: int = 384
    decoder_layers: int = 12
    decoder_ffn: int = 352
    text_layers: int = 2
    text_positions: int = 64
    vocabulary: int = 512
    rope_theta: float = 10000.0

    @property
    def feature_layer(self) -> int:
        """How many vision layers produce the features the decoder reads: LLaVA's second-to-last."""
        return self.vision_layers - 1


DENSE = {"item": 1 + len(SHAPES) + 10 + len(WORDS), "colour": 1 + len(COLOURS), "letter": 27, "centre": 2}
"""Per-patch targets of the vision pre-training and their number of classes; class 0 is background."""

VISUAL = GRID * GRID


class VisionLayer(nn.Module):
    """Pre-norm CLIP encoder layer."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """x: [B, T, D] -> [B, T, D]."""
        h = self.layer_norm1(x)
        q, k, v = (_split(f(h), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.out_proj(_merge(_attend(q, k, v, causal=causal)))
        h = self.fc1(self.layer_norm2(x))
        out: Tensor = x + self.fc2(h * torch.sigmoid(1.702 * h))
        return out


class VisionTower(nn.Module):
    """CLIP vision transformer; returns the output of every layer that is needed."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d = config.width
        self.patch = nn.Conv2d(3, d, PATCH, PATCH, bias=False)
        self.cls = nn.Parameter(torch.randn(d) * 0.02)
        self.position = nn.Parameter(torch.randn(VISUAL + 1, d) * 0.02)
        self.pre_norm, self.post_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.layers = nn.ModuleList(
            VisionLayer(d, config.heads, config.vision_ffn) for _ in range(config.vision_layers)
        )
        self.feature_layer = config.feature_layer

    def features(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, 96, 96] normalised -> [B, 145, D] rows of the feature layer, CLS first."""
        x: Tensor = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.to(x.dtype).expand(x.shape[0], 1, -1), x], 1) + self.position
        x = self.pre_norm(x)
        for layer in self.layers[: self.feature_layer]:
            x = layer(x)
        return x

    def pooled(self, features: Tensor) -> Tensor:
        """[B, 145, D] feature rows -> [B, D] pooled CLS output of the whole tower."""
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


class RMSNorm(nn.Module):
    """Llama's root-mean-square norm, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; eps 1e-5."""
        h = x.float()
        return (self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5))).to(x.dtype)


class DecoderLayer(nn.Module):
    """Llama decoder layer over a shared prefix and packed questions."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d, self.heads = config.width, config.heads
        self.input_norm, self.post_norm = RMSNorm(d), RMSNorm(d)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(d, config.decoder_ffn, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(config.decoder_ffn, d, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, prefix: int) -> Tensor:
        """x: [B, P + T, D]; bias: [B, 1, T, P + T] additive mask of the text rows; prefix: P."""
        h = self.input_norm(x)
        q, k, v = (_split(f(h), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = _rotate(q, rope), _rotate(k, rope)
        image = _attend(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], causal=True)
        scores = q[:, :, prefix:] @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + bias
        text = torch.softmax(scores.float(), -1).to(v.dtype) @ v
        x = x + self.o_proj(_merge(torch.cat([image, text], 2)))
        h = self.post_norm(x)
        out: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out


class PocketTrainer(nn.Module):
    """Vision tower, projector, decoder, text tower and the per-patch heads, with their losses."""

    inverse_frequencies: Tensor

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.vision, self.text = VisionTower(config), TextTower(config)
        self.visual_projection, self.text_projection = (nn.Linear(d, d, bias=False) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.dense = nn.ModuleDict({name: nn.Linear(d, classes) for name, classes in DENSE.items()})
        self.linear_1, self.linear_2 = nn.Linear(d, d), nn.Linear(d, d)
        self.place = nn.Linear(d, 2 * GRID)
        self.embed = nn.Embedding(config.vocabulary, d)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = RMSNorm(d)
        self.head = nn.Linear(d, config.vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        for layer in self.layers:
            for name in ("o_proj", "down_proj"):
                nn.init.normal_(getattr(layer, name).weight, std=0.02 / math.sqrt(2 * config.decoder_layers) * 4)
        inverse = config.rope_theta ** (-torch.arange(0, d // config.heads, 2).float() / (d // config.heads))
        self.register_buffer("inverse_frequencies", inverse, persistent=False)

    def dense_loss(self, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Cross-entropy per patch; features: [B, 145, D], targets: name -> [B, 144] int64."""
        rows = features[:, 1:].flatten(0, 1)
        total = rows.new_zeros((), dtype=torch.float32)
        for name, head in self.dense.items():
            target = targets[name].flatten()
            loss = F.cross_entropy(head(rows).float(), target, reduction="none")
            weight = torch.where(target == 0, 0.15, 1.0)
            total = total + (2.0 if name == "item" else 1.0) * (loss * weight).sum() / weight.sum()
        return total

    def place_loss(self, image: Tensor) -> Tensor:
        """Cross-entropy of each visual token's row and column, read linearly off the projected tokens [B, 144, D].

        Rows are visible to a decoder in the order of the tokens, columns are not: without this loss "left" and
        "right" are learned late or never.
        """
        row, column = self.place(image).float().flatten(0, 1).chunk(2, -1)
        index = torch.arange(VISUAL, device=image.device).repeat(image.shape[0])
        return F.cross_entropy(row, index // GRID) + F.cross_entropy(column, index % GRID)

    def contrastive_loss(self, features: Tensor, captions: Tensor, end: int) -> Tensor:
        """Symmetric InfoNCE between pooled picture and caption; captions: [B, C] int64."""
        image = F.normalize(self.visual_projection(self.vision.pooled(features)).float(), dim=-1)
        text = F.normalize(self.text_projection(self.text(captions, end)).float(), dim=-1)
        logits = self.logit_scale.exp().clamp(max=100) * image @ text.T
        label = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2

    def answer_logits(
        self, features: Tensor, head: Tensor, tail: Tensor, text: Tensor, questions: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of every packed text row, [B, T, V], and the projected visual tokens, [B, 144, D].

        Args:
            features: [B, 145, D] rows of the vision feature layer.
            head: token ids before the image.
            tail: token ids between the image and the question.
            text: [B, T] packed token ids.
            questions: [B, T] number of the question a token belongs to, -1 for padding.
            places: [B, T] position of the token within its own sequence (the prefix counts).
        """
        batch = text.shape[0]
        image = self.linear_2(F.gelu(self.linear_1(features[:, 1:])))
        before, after = (self.embed(ids).to(image.dtype).expand(batch, -1, -1) for ids in (head, tail))
        x = torch.cat([before, image, after, self.embed(text).to(image.dtype)], 1)
        prefix = head.numel() + VISUAL + tail.numel()
        places = torch.cat([torch.arange(prefix, device=text.device).expand(batch, -1), places], 1)
        angle = places[..., None].float() * self.inverse_frequencies
        angle = torch.cat([angle, angle], -1)[:, None]
        rope = (angle.cos().to(x.dtype), angle.sin().to(x.dtype))
        rows = torch.arange(text.shape[1], device=text.device)
        own = (questions[:, :, None] == questions[:, None, :]) & (rows[:, None] >= rows[None, :])
        bias = torch.where(own, 0.0, -30000.0)
        bias = F.pad(bias, (prefix, 0))[:, None].to(x.dtype)
        for layer in self.layers:
            x = layer(x, rope, bias, prefix)
        return self.head(self.norm(x[:, prefix:])), image


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Plain attention: on CPU its backward pass is several times faster than that of the fused kernel."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5)
    if causal:
        rows = torch.arange(q.shape[2], device=q.device)
        scores = scores.masked_fill(rows[None, :] > rows[:, None], -30000.0)
    return torch.softmax(scores.float(), -1).to(v.dtype) @ v


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * rope[0] + torch.cat([-second, first], -1) * rope[1]
