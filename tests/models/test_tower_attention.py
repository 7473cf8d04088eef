"""A block of a tower, rebuilt from what `watch_tower` shows of it, gives what the next block is shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from steadyvlm.models.tower_attention import TowerAttention
from tiny import make_image, tiny_llava
from tiny_families import tiny_family

PICTURE = make_image(5, 40, 28)


def shown(model: Any) -> list[tuple[int, Tensor, TowerAttention]]:
    seen: list[tuple[int, Tensor, TowerAttention]] = []
    with torch.no_grad():
        model.watch_tower(model.preprocess(PICTURE), lambda *item: seen.append((item[0], item[1].clone(), item[2])))
    return seen


def heads_of(rows: Tensor, width: int) -> Tensor:
    return rows.view(1, rows.shape[1], -1, width).transpose(1, 2)


def slow_block(model: Any, path: str, hidden: Tensor, attention: TowerAttention) -> Tensor:
    """The block written out from its modules; only attention is the object under test."""
    block: Any = model.module.get_submodule(path)
    if hasattr(block, "self_attn"):
        inner, width = block.self_attn, block.self_attn.head_dim
        normed = layer_norm(hidden, hidden.shape[-1:], block.layer_norm1.weight, block.layer_norm1.bias, 1e-5)
        query, key, value = (heads_of(linear(normed), width) for linear in (inner.q_proj, inner.k_proj, inner.v_proj))
        out, second = inner.out_proj, block.layer_norm2
    else:
        inner, width = block.attn, block.attn.head_dim
        query, key, value = (heads_of(part, width) for part in inner.qkv(block.norm1(hidden)).chunk(3, dim=-1))
        out, second = inner.proj, block.norm2
    attended = attention.attend(attention.rotate(query), attention.rotate(key), value)
    hidden = hidden + out(attended.transpose(1, 2).flatten(2))
    after: Tensor = hidden + block.mlp(second(hidden))
    return after


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_what_is_shown_is_enough_to_run_the_block(kind: str) -> None:
    model: Any = tiny_llava() if kind == "llava" else tiny_family(kind)
    seen = shown(model)
    blocks = model.blocks(("vision",))
    assert [index for index, _, _ in seen] == [block.index for block in blocks]
    for block, (_, hidden, attention), (_, after, _) in zip(blocks, seen, seen[1:], strict=False):
        with torch.no_grad():
            torch.testing.assert_close(slow_block(model, block.path, hidden, attention), after, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl"])
def test_attention_can_be_trained_through(kind: str) -> None:
    model: Any = tiny_family(kind)
    for _, hidden, attention in shown(model):
        heads = heads_of(hidden.clone(), 8).requires_grad_()
        loss: Any = attention.attend(attention.rotate(heads), attention.rotate(heads), heads).square().sum()
        loss.backward()
        assert heads.grad is not None
        assert bool(heads.grad.abs().sum(dim=(0, 1, 3)).gt(0).all())


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_watching_changes_nothing(kind: str) -> None:
    model: Any = tiny_llava() if kind == "llava" else tiny_family(kind)
    pixels = model.preprocess(PICTURE)
    with torch.inference_mode():
        watched = model.watch_tower(pixels, lambda *_: None)
        plain = model.encode([pixels], frozenset())[0]
    assert torch.equal(watched.rows, plain.rows)
    assert watched.layout == plain.layout
