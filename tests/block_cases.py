"""Blocks of every kind out of tiny random models, what enters them, and what transformers makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.quantization.structure import Block
from tiny import tiny_llava
from tiny_families import tiny_family

LENGTH = 12


@dataclass(frozen=True)
class PlainContext:
    """Rotation by angles [T, d] and softmax attention written out, in the dtype it is given; causal or not."""

    cos: Tensor
    sin: Tensor
    causal: bool
    scaling: float

    def rotate(self, heads: Tensor) -> Tensor:
        half = heads.shape[-1] // 2
        turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
        return heads * self.cos.to(heads) + turned * self.sin.to(heads)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = []
        for head in range(queries.shape[1]):
            shared = head * keys.shape[1] // queries.shape[1]
            scores = queries[:, head] @ keys[:, shared].transpose(1, 2) * self.scaling
            if self.causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            out.append(scores.softmax(dim=-1) @ values[:, shared])
        return torch.stack(out, dim=1)


@dataclass(frozen=True)
class BlockCase:
    """One block of a model: its own input, its context, and the module transformers runs on them."""

    name: str
    root: nn.Module
    block: Block
    hidden: Tensor
    context: PlainContext | None
    run: Callable[[Any], Tensor]

    def __str__(self) -> str:
        return self.name

    def original(self, root: nn.Module | None = None) -> Tensor:
        """What the Hugging Face block, of this or of a changed copy of the model, returns."""
        with torch.no_grad():
            return self.run((root or self.root).get_submodule(self.block.path))


@functools.cache
def block_cases() -> tuple[BlockCase, ...]:
    """A Llama and a Qwen decoder layer, a CLIP and both Qwen vision blocks, both connectors."""
    llava: Any = tiny_llava()
    cases = [
        _decoder("llama", llava, 1),
        _decoder("qwen", tiny_family("qwen2_5_vl"), 2),
        _clip(llava),
        _tower("qwen2.5 vision", tiny_family("qwen2_5_vl")),
        _tower("qwen2 vision", tiny_family("qwen2_vl")),
        _connector("projector", llava),
        _connector("merger", tiny_family("qwen2_5_vl")),
    ]
    return tuple(cases)


def _noise(*shape: int) -> Tensor:
    """Normal numbers with two large channels, as language models have them."""
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    rows[..., 3] *= 12
    rows[..., 10] -= 6
    return rows


def _angles(width: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(LENGTH)[:, None] / torch.tensor([3.0**power for power in range(width // 2)])
    angles = torch.cat((steps, steps), dim=1)
    return angles.cos(), angles.sin()


def _decoder(name: str, model: Any, index: int) -> BlockCase:
    block = model.blocks(("language",))[index]
    cos, sin = _angles(block.heads.width)
    hidden = _noise(2, LENGTH, model.info.width)
    mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)[None, None]
    embeddings = tuple(part.expand(2, *part.shape) for part in (cos, sin))

    def run(layer: Any) -> Tensor:
        output = layer(hidden, attention_mask=mask, position_embeddings=embeddings)
        return output[0] if isinstance(output, tuple) else output

    return BlockCase(name, model.module, block, hidden, PlainContext(cos, sin, True, block.heads.width**-0.5), run)


def _clip(model: Any) -> BlockCase:
    block = model.blocks(("vision",))[1]
    hidden = _noise(2, LENGTH, 16)
    context = PlainContext(torch.ones(1), torch.zeros(1), False, block.heads.width**-0.5)
    return BlockCase("clip", model.module, block, hidden, context, lambda layer: layer(hidden, None))


def _tower(name: str, model: Any) -> BlockCase:
    block = model.blocks(("vision",))[2]
    cos, sin = _angles(block.heads.width)
    hidden = _noise(1, LENGTH, 16)
    whole = torch.tensor([0, LENGTH], dtype=torch.int32)

    def run(layer: Any) -> Tensor:
        return layer(hidden[0], cu_seqlens=whole, position_embeddings=(cos, sin))[None]

    return BlockCase(name, model.module, block, hidden, PlainContext(cos, sin, False, block.heads.width**-0.5), run)


def _connector(name: str, model: Any) -> BlockCase:
    """What a connector is given is what its first linear reads; a merger's norm is run in front of it."""
    (block,) = model.blocks(("connector",))
    entering = _noise(4 * LENGTH, 16) if name == "merger" else _noise(LENGTH, 16)
    rows = entering
    if name == "merger":
        with torch.no_grad():
            rows = model.module.get_submodule(block.path).ln_q(entering).view(LENGTH, -1)
    return BlockCase(name, model.module, block, rows, None, lambda module: module(entering))
