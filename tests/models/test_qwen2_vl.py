"""Qwen2-VL and what Qwen2.5-VL shares with it: positions, signals, pixels, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.vision_utils import get_vision_window_index

from steadyvlm.errors import CheckpointError, ImageError, SampleError, Unsupported
from steadyvlm.models import qwen_tower
from steadyvlm.models.adapter import EncodedImage
from steadyvlm.models.qwen2_vl import Qwen2VL
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout
from tiny import make_image
from tiny_families import (
    expanded,
    make_family,
    make_qwen_processor,
    make_qwen_tokenizer,
    processed,
    qwen_config,
    tiny_family,
)

KINDS = ["qwen2_vl", "qwen2_5_vl"]
PICTURES = [make_image(1, 64, 64), make_image(2, 100, 40), make_image(3, 30, 90), make_image(4, 9, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [PICTURES[:1], PICTURES[1:], []])
def test_positions_are_those_of_get_rope_index(kind: str, images: list[Image.Image]) -> None:
    model: Any = tiny_family(kind)
    ids = torch.tensor([expanded(model, "what colour is it?", images)])
    grids = processed(model, images).get("image_grid_thw")
    kinds = (ids == model._module.config.image_token_id).int()
    expected, _ = model._module.model.get_rope_index(ids, kinds, image_grid_thw=grids)
    layouts = [model.preprocess(image).layout for image in images]
    got = model.positions(model.tokenize("what colour is it?", len(images)), layouts)
    assert torch.equal(got, expected[:, 0].T)


@pytest.mark.parametrize("kind", KINDS)
def test_rotary_angles_are_those_of_transformers(kind: str) -> None:
    model: Any = tiny_family(kind)
    positions = torch.randint(0, 500, (2, 7, 3), generator=torch.Generator().manual_seed(1))
    cos, sin = model._module.model.language_model.rotary_emb(torch.zeros(1), positions.permute(2, 0, 1))
    got = model.rotary(positions)
    half = sin.shape[-1] // 2
    assert torch.equal(got.cos[:, 0], cos)
    assert torch.equal(got.signed_sin[:, 0, :, :half], -sin[..., :half])
    assert torch.equal(got.signed_sin[:, 0, :, half:], sin[..., half:])
    assert not torch.equal(model.rotary(positions.flip(-1)).cos, got.cos), "axes must differ"


def slow_signals(model: Any, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Salience and keys from what transformers feeds the last block without windows, in float64, loop by loop."""
    tower = model._module.model.visual
    config = tower.config
    number = max(getattr(config, "fullatt_block_indexes", [config.depth - 1]))
    seen: dict[str, Any] = {}

    def remember(_module: Any, args: Any, kwargs: Any) -> None:
        seen["normed"], seen["rope"] = args[0], kwargs["position_embeddings"]

    hook = tower.blocks[number].attn.register_forward_pre_hook(remember, with_kwargs=True)
    inputs = processed(model, [image])
    tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    hook.remove()
    attention = tower.blocks[number].attn
    patches = seen["normed"].shape[0]
    qkv = attention.qkv(seen["normed"]).double().numpy().reshape(patches, 3, config.num_heads, -1)
    cos, sin = (part.double().numpy()[:, None] for part in seen["rope"])
    rotated = []
    for part in (qkv[:, 0], qkv[:, 1]):
        first, second = np.split(part, 2, axis=-1)
        rotated.append(part * cos + np.concatenate([-second, first], axis=-1) * sin)
    received = np.zeros((config.num_heads, patches))
    for head in range(config.num_heads):
        for query in range(patches):
            scores = rotated[1][:, head] @ rotated[0][query, head] / np.sqrt(qkv.shape[-1])
            weights = np.exp(scores - scores.max())
            received[head] += weights / weights.sum() / patches
    tokens = np.arange(patches // 4)
    if hasattr(config, "window_size"):
        tokens = get_vision_window_index(inputs["image_grid_thw"], 2, config.window_size, config.patch_size)[0].numpy()
    salience, keys = np.zeros((config.num_heads, len(tokens))), np.zeros((len(tokens), qkv.shape[-1]))
    for place, token in enumerate(tokens):
        for patch in range(4 * place, 4 * place + 4):
            salience[:, token] += received[:, patch]
            keys[token] += qkv[patch, 1].mean(axis=0) / 4
    return salience, keys


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [7, 256])
def test_signals_equal_a_slow_reference(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen_tower, "QUERY_ROWS", rows)
    model = tiny_family(kind)
    with torch.inference_mode():
        encoded = model.encode([model.preprocess(p) for p in PICTURES], {Signal.SALIENCE, Signal.ENCODER_KEYS})
        for picture, image in zip(PICTURES, encoded, strict=True):
            salience, keys = slow_signals(model, picture)
            np.testing.assert_allclose(image.signals[Signal.SALIENCE].numpy(), salience, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(image.signals[Signal.ENCODER_KEYS].numpy(), keys, rtol=1e-3, atol=1e-5)
            assert image.signals[Signal.SALIENCE].shape == (2, image.layout.visual_tokens)
            np.testing.assert_allclose(image.signals[Signal.SALIENCE].sum(dim=1), 1.0, rtol=1e-5)
            assert image.rows.shape == (image.layout.rows, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_only_signals_asked_for_are_computed(kind: str) -> None:
    model = tiny_family(kind)
    pixels = [model.preprocess(PICTURES[0])]
    assert model.encode(pixels, {Signal.ENCODER_ROWS})[0].signals == {}
    assert set(model.encode(pixels, {Signal.SALIENCE})[0].signals) == {Signal.SALIENCE}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (Signal.CLS_ATTENTION, "no CLS row; 'salience' is the stated equivalent"),
        (Signal.FIRST_CLS_ATTENTION, "no CLS row"),
        (Signal.LAST_CLS_ATTENTION, "no CLS row"),
        (Signal.LAST_KEYS, "no CLS row"),
        (Signal.TEXT_RELEVANCE, "no space to compare in"),
    ],
)
def test_signals_that_are_not_defined_are_refused(kind: str, signal: Signal, reason: str) -> None:
    with pytest.raises(Unsupported, match=f"{kind}.*{signal}.*{reason}"):
        tiny_family(kind).check_signals({Signal.SALIENCE, signal})


@pytest.mark.parametrize("kind", KINDS)
def test_text_relevance_is_refused_when_asked_directly(kind: str) -> None:
    encoded = EncodedImage(torch.zeros(4, 32), ImageLayout((2, 2)))
    with pytest.raises(Unsupported, match="text_relevance"):
        tiny_family(kind).text_relevance(encoded, "what?", "auto")


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_with_a_sliding_window_is_refused_and_one_that_is_off_is_not(kind: str) -> None:
    version = "2" if kind == "qwen2_vl" else "2.5"
    adapter = type(tiny_family(kind))
    off = qwen_config(version, text={"use_sliding_window": False, "sliding_window": 16})
    adapter.check_config(off)
    late = qwen_config(version, text={"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4})
    adapter.check_config(late)
    every = qwen_config(version, text={"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0})
    with pytest.raises(Unsupported, match="positions with three axes"):
        adapter.check_config(every)
    some = qwen_config(version, text={"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2})
    with pytest.raises(Unsupported, match="only some layers"):
        adapter.check_config(some)
    assert tiny_family(kind).info.sliding_window is None


def test_prompts_follow_the_chat_template() -> None:
    model: Any = tiny_family("qwen2_vl")
    text = model._prompts.render("what?", 2)
    assert text.startswith("<|im_start|>system\n")
    assert "user\n" + "<|vision_start|><|image_pad|><|vision_end|>" * 2 + "what?<|im_end|>" in text
    assert model.tokenize("what?", 2).count(-1) == 2
    with pytest.raises(SampleError, match=r"image_pad"):
        model.tokenize("what is <|image_pad|>?", 1)


def test_without_a_chat_template_it_is_refused() -> None:
    model = tiny_family("qwen2_vl")
    with pytest.raises(CheckpointError, match="no chat template"):
        Qwen2VL(model.module, make_qwen_tokenizer(None), make_qwen_processor())


@pytest.mark.parametrize("setting", ["patch_size", "merge_size", "temporal_patch_size"])
def test_an_image_processor_of_another_checkpoint_is_refused(setting: str) -> None:
    model = tiny_family("qwen2_vl")
    with pytest.raises(CheckpointError, match=f"the image processor's {setting} is 1"):
        Qwen2VL(model.module, make_qwen_tokenizer(), make_qwen_processor(**{setting: 1}))


def test_what_the_image_processor_refuses_is_an_image_error() -> None:
    model: Any = make_family("qwen2_vl")

    def refuse(*_args: Any, **_options: Any) -> None:
        raise ValueError("absolute aspect ratio must be smaller than 200")

    refuse.patch_size, refuse.merge_size = 4, 2  # type: ignore[attr-defined]
    model._image_processor = refuse
    with pytest.raises(ImageError, match="64 x 64 pixels cannot be cut: absolute aspect"):
        model.preprocess(PICTURES[0])


def test_pixels_remember_the_patches_of_a_token() -> None:
    layout = tiny_family("qwen2_vl").preprocess(PICTURES[1]).layout
    assert (layout.grid, layout.merge, layout.patch_grid) == ((5, 12), 2, (10, 24))
