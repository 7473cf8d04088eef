"""Tiny low-bit models of every family: everything a quantiser can decide is decided, at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.engine import Request
from steadyvlm.engine.generate import generate
from steadyvlm.models.load import load
from steadyvlm.quantization.install import install
from steadyvlm.quantization.settings import LowBitSettings
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Block
from steadyvlm.quantization.transforms import factors
from steadyvlm.records import Generation
from tiny import make_image, save_tiny
from tiny_families import save_family

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
PARTS = ("language", "connector", "vision")


def save_source(folder: Path, family: str) -> Path:
    """Write a tiny checkpoint of a family, as transformers does."""
    return save_tiny(folder) if family == "llava" else save_family(family, folder)


def random_states(blocks: Sequence[Block], root: nn.Module, seed: int = 0) -> dict[str, BlockState]:
    """Decisions as FlatQuant makes them: transforms of every input, of keys and of values, and clips."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(width: int) -> Tensor:
        noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(noise).Q + 0.05 * noise

    states = {}
    for block in blocks:
        values = None if block.heads is None else matrix(block.heads.width)
        readers = {}
        for reader in block.readers:
            width = root.get_submodule(reader.linears[0]).in_features
            if reader.feed == "attention_output":
                assert block.heads is not None
                assert values is not None
                transform = Transform(matrix(block.heads.count), values)
            else:
                left, right = factors(int(width))  # type: ignore[arg-type]  # a linear's attribute
                scale = 0.5 + torch.rand(left * right, generator=generator, dtype=torch.float64)
                transform = Transform(matrix(left), matrix(right), scale)
            readers[reader.feed] = ReaderState(transform, Clip(0.9, 0.8))
        cached = block.heads is not None and block.heads.cached
        keys = matrix(block.heads.width) if cached and block.heads else None
        clips = (Clip(0.95, 0.9), Clip(0.85, 1.0)) if cached else (Clip(), Clip())
        states[block.path] = BlockState(readers, keys, values, *clips)
    return states


def low_bit_model(folder: Path, *, parts: Sequence[str] = PARTS, seed: int = 0, **settings: Any) -> Any:
    """A low-bit copy of the checkpoint in `folder`, its decisions random."""
    model: Any = load(folder, device="cpu").copy()
    blocks = model.blocks(parts)
    install(blocks, random_states(blocks, model.module, seed), model.module, LowBitSettings(**settings))
    return model


def answers(model: Any) -> list[tuple[Any, ...]]:
    """What a model answers, to the last bit: ids and the probabilities of the first token."""
    requests = [
        Request((make_image(seed),), f"what colour is the {word}?", seed) for seed, word in enumerate(["star", "a"])
    ]
    found = generate(model, requests, None, max_new_tokens=3)
    assert all(isinstance(answer, Generation) for answer in found), found
    return [(answer.token_ids, answer.top) for answer in found if isinstance(answer, Generation)]
