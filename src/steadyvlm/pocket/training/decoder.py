"""The pocket models' decoder, written for training: all questions of a picture share one pass over its visual tokens.

One sequence holds the image prefix once and then every question about it. A question attends to the prefix and to
itself, and its positions continue from the prefix, so each question is trained as if it were alone, at a fraction of
the cost. The arithmetic is that of transformers' Llama (and, with biases and a position per rotary frequency, of the
Qwen2.5-VL decoder); tests compare logits.

Letters: B pictures, N visual tokens, P prefix tokens (text before the picture, N, text after it), T packed text
tokens, D width, F rotary frequencies (half a head).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.training.blocks import RMSNorm, attend, merge, rotate, split
from steadyvlm.pocket.vocabulary import PATCH, SIZE


@dataclass(frozen=True, slots=True)
class PocketConfig:
    """Sizes of a pocket model; the defaults are those of the shipped LLaVA."""

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
    image_size: int = SIZE
    attention_bias: bool = False

    @property
    def feature_layer(self) -> int:
        """How many vision layers produce the features the decoder reads: LLaVA's second-to-last."""
        return self.vision_layers - 1

    @property
    def grid(self) -> int:
        """Patches along one side of what the tower reads."""
        return self.image_size // PATCH


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids around the picture: what precedes its visual tokens, and what lies between them and the question."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the decoder made of a batch.

    Attributes:
        logits: [B, T, V] of every packed text row.
        visual: [B, N, D] hidden rows of the visual tokens after `PLACE_LAYERS` layers, each of unit mean square.
    """

    logits: Tensor
    visual: Tensor


PLACE_LAYERS = 3
"""How many decoder layers may work out where a visual token lies before a training-only loss asks for it."""


class DecoderLayer(nn.Module):
    """Llama decoder layer over a shared prefix and packed questions."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        d, self.heads = config.width, config.heads
        self.input_norm, self.post_norm = RMSNorm(d), RMSNorm(d)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d, bias=config.attention_bias) for _ in range(3))
        self.o_proj = nn.Linear(d, d, bias=False)
        self.gate_proj, self.up_proj = (nn.Linear(d, config.decoder_ffn, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(config.decoder_ffn, d, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, prefix: int) -> Tensor:
        """x: [B, P + T, D]; bias: [B, 1, T, P + T] additive mask of the text rows; prefix: P."""
        h = self.input_norm(x)
        q, k, v = (split(f(h), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, rope), rotate(k, rope)
        image = attend(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], causal=True)
        scores = q[:, :, prefix:] @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + bias
        text = torch.softmax(scores.float(), -1).to(v.dtype) @ v
        x = x + self.o_proj(merge(torch.cat([image, text], 2)))
        h = self.post_norm(x)
        out: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out


class PackedDecoder(nn.Module):
    """Embeddings, decoder layers and head; a pocket model adds its vision tower and its losses."""

    inverse_frequencies: Tensor
    before: Tensor
    after: Tensor
    positions: Tensor

    def __init__(self, config: PocketConfig, prompt: Prompt, visual: int, positions: Tensor | None = None) -> None:
        """positions: [P, F] position of each prefix token per rotary frequency; None counts tokens."""
        super().__init__()
        d = config.width
        self.config, self.visual = config, visual
        self.embed = nn.Embedding(config.vocabulary, d)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = RMSNorm(d)
        self.head = nn.Linear(d, config.vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        for layer in self.layers:
            for name in ("o_proj", "down_proj"):
                nn.init.normal_(getattr(layer, name).weight, std=0.02 / math.sqrt(2 * config.decoder_layers) * 4)
        size = d // config.heads
        inverse = config.rope_theta ** (-torch.arange(0, size, 2).float() / size)
        if positions is None:
            prefix = len(prompt.before) + visual + len(prompt.after)
            positions = torch.arange(prefix)[:, None].expand(prefix, size // 2)
        self.text_start = int(positions.max()) + 1
        for name, value in (
            ("inverse_frequencies", inverse),
            ("before", torch.tensor(prompt.before)),
            ("after", torch.tensor(prompt.after)),
            ("positions", positions.float()),
        ):
            self.register_buffer(name, value, persistent=False)

    def read(self, image: Tensor, text: Tensor, questions: Tensor, places: Tensor) -> Reading:
        """Run the decoder over pictures and their packed questions.

        Args:
            image: [B, N, D] visual tokens.
            text: [B, T] packed token ids.
            questions: [B, T] number of the question a token belongs to, -1 for padding.
            places: [B, T] position of the token within its own question, from 0.
        """
        batch, prefix = text.shape[0], len(self.positions)
        before, after = (self.embed(ids).to(image.dtype).expand(batch, -1, -1) for ids in (self.before, self.after))
        x = torch.cat([before, image, after, self.embed(text).to(image.dtype)], 1)
        asked = (self.text_start + places).float()[..., None].expand(-1, -1, len(self.inverse_frequencies))
        angle = torch.cat([self.positions.expand(batch, -1, -1), asked], 1) * self.inverse_frequencies
        angle = torch.cat([angle, angle], -1)[:, None]
        rope = (angle.cos().to(x.dtype), angle.sin().to(x.dtype))
        rows = torch.arange(text.shape[1], device=text.device)
        own = (questions[:, :, None] == questions[:, None, :]) & (rows[:, None] >= rows[None, :])
        bias = torch.where(own, 0.0, -30000.0)
        bias = F.pad(bias, (prefix, 0))[:, None].to(x.dtype)
        visual = x
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, rope, bias, prefix)
            if number == PLACE_LAYERS:
                visual = x
        first = len(self.before)
        visual = F.rms_norm(visual[:, first : first + self.visual].float(), (visual.shape[-1],))
        return Reading(self.head(self.norm(x[:, prefix:])), visual)
