"""Every family answers as transformers does, alone and in a batch, and tells the truth about itself in the table."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from steadyvlm.engine import Request, generate
from steadyvlm.errors import ImageError, Unsupported
from steadyvlm.models.adapter import DecoderLayer, VisionLanguageModel
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.load import load
from steadyvlm.records import Generation
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.random import Random
from tiny import make_image, tiny_llava
from tiny_families import (
    Model,
    answer_of_transformers,
    expanded,
    make_family,
    processed,
    save_family,
    tiny_family,
)

KINDS = ["llava_next", "llava_next/mistral", "llava_next/qwen2", "qwen2_vl", "qwen2_5_vl"]
NEW = ["llava_next", "qwen2_vl", "qwen2_5_vl"]
SQUARE, WIDE, TALL = make_image(1, 64, 64), make_image(2, 100, 40), make_image(3, 30, 90)
SMALL, DOT, STRIP = make_image(4, 8, 8), make_image(5, 1, 1), make_image(6, 200, 2)
PICTURES = [SQUARE, WIDE, TALL, SMALL, DOT, STRIP]
QUESTIONS: list[tuple[str, list[Image.Image]]] = [
    ("what colour is it?", [SQUARE]),
    ("what?", [SQUARE, WIDE, TALL]),
    ("a red star", []),
    ("how", [SMALL, DOT]),
    ("what colour is it? how", [WIDE]),
    ("is the shape red?", [TALL, SQUARE]),
    ("blue?", [DOT]),
    ("red?", [STRIP]),
]


def ids(results: Any) -> list[list[int]]:
    assert all(isinstance(result, Generation) for result in results)
    return [list(result.token_ids) for result in results]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_those_of_transformers_alone_and_in_a_ragged_batch(kind: str) -> None:
    model = tiny_family(kind)
    requests = [Request(tuple(images), prompt, 1) for prompt, images in QUESTIONS]
    expected = [answer_of_transformers(model, prompt, images, 8) for prompt, images in QUESTIONS]
    assert ids(generate(model, requests, max_new_tokens=8)) == expected
    assert [ids(generate(model, [request], max_new_tokens=8))[0] for request in requests] == expected
    assert len({tuple(answer) for answer in expected}) > 5, "the tiny model must see the pictures"


@pytest.mark.parametrize("kind", NEW)
def test_a_reduced_batch_equals_its_singles(kind: str) -> None:
    model = tiny_family(kind)
    requests = [Request(tuple(images), prompt, 1) for prompt, images in QUESTIONS]
    method = Random(keep_ratio=0.3)
    together = ids(generate(model, requests, method, max_new_tokens=6))
    assert together == [ids(generate(model, [request], method, max_new_tokens=6))[0] for request in requests]


@pytest.mark.parametrize("kind", NEW)
def test_visual_tokens_equal_those_of_transformers(kind: str) -> None:
    model = tiny_family(kind)
    with torch.inference_mode():
        options = {} if "qwen" in kind else {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
        features: Any = model.module.model
        expected = features.get_image_features(**processed(model, PICTURES), **options).pooler_output
        got = [model.visual_tokens(image) for image in model.encode([model.preprocess(p) for p in PICTURES], set())]
    assert [len(tokens) for tokens in got] == [model.preprocess(p).layout.visual_tokens for p in PICTURES]
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_half_precision_follows_transformers(kind: str) -> None:
    model = make_family(kind)
    model.module.to(torch.bfloat16)
    features: Any = model.module.model
    with torch.inference_mode():
        expected = torch.cat(list(features.get_image_features(**processed(model, [SQUARE, TALL])).pooler_output))
        encoded = model.encode([model.preprocess(p) for p in (SQUARE, TALL)], set())
        got = torch.cat([model.visual_tokens(image) for image in encoded])
    assert got.dtype is torch.bfloat16
    assert float((got - expected).float().norm() / expected.float().norm()) < 0.02


@pytest.mark.parametrize("kind", NEW)
def test_a_saved_checkpoint_answers_as_the_model_it_came_from(kind: str, tmp_path: Path) -> None:
    loaded = load(save_family(kind, tmp_path), device="cpu")
    request = [Request((WIDE,), "what colour is it?", 1)]
    assert ids(generate(loaded, request, max_new_tokens=6)) == ids(
        generate(tiny_family(kind), request, max_new_tokens=6)
    )
    assert loaded.info.family == tiny_family(kind).info.family


@pytest.mark.parametrize("kind", NEW)
def test_it_fulfils_the_protocol(kind: str) -> None:
    model: VisionLanguageModel = tiny_family(kind)
    assert all(isinstance(layer, DecoderLayer) for layer in model.layers())
    assert len(model.layers()) == model.info.num_layers == 4
    assert model.encode([], set()) == []
    assert model.project(torch.zeros(0, 16 if "next" in kind else 32)).shape == (0, 32)


@pytest.mark.parametrize("kind", NEW)
def test_a_smaller_picture_has_about_that_share_of_tokens(kind: str) -> None:
    model = tiny_family(kind)
    full = model.preprocess(SQUARE).layout
    last = full.visual_tokens + 1
    for scale in (1.0, 0.5, 0.25, 1e-6):
        pixels = model.preprocess(SQUARE, scale=scale)
        (encoded,) = model.encode([pixels], {Signal.ENCODER_KEYS})
        tokens = model.visual_tokens(encoded)
        assert len(tokens) == pixels.layout.visual_tokens < last
        assert (pixels.layout.mosaic, pixels.layout.picture) == (full.mosaic, (64, 64))
        assert abs(pixels.layout.tokens_per_tile - max(1, full.tokens_per_tile * scale)) <= 2
        assert encoded.signals[Signal.ENCODER_KEYS].shape[0] == pixels.layout.rows
        last = len(tokens)


@pytest.mark.parametrize("kind", NEW)
def test_pictures_show_what_the_tower_sees(kind: str) -> None:
    model = tiny_family(kind)
    picture = make_image(7, 48, 48)  # four tiles, or 36 Qwen tokens, without resizing
    shown = model.pictures(model.preprocess(picture))
    whole = shown[0]
    if kind == "llava_next":
        whole = Image.new("RGB", (48, 48))
        for number, tile in enumerate(shown[1:]):
            whole.paste(tile, (number % 2 * 24, number // 2 * 24))
    assert len(shown) == model.preprocess(picture).layout.tiles
    assert whole.tobytes() == picture.tobytes()


@pytest.mark.parametrize("kind", NEW)
def test_a_picture_that_is_all_edge_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="5000 x 10"):
        tiny_family(kind).preprocess(Image.new("RGB", (5000, 10)))


@pytest.mark.parametrize("kind", NEW)
def test_linears_by_part_are_those_that_run(kind: str) -> None:
    model = make_family(kind)
    parts = {part: model.linears((part,)) for part in ("language", "connector", "vision")}
    assert {part: len(found) for part, found in parts.items()} == {
        "language": 4 * 7,
        "connector": 2,
        "vision": {"llava_next": 2 * 6, "qwen2_vl": 4 * 4, "qwen2_5_vl": 4 * 5}[kind],
    }
    ran: set[str] = set()
    for path, linear in {name: item for found in parts.values() for name, item in found.items()}.items():
        assert model.module.get_submodule(path) is linear
        linear.register_forward_hook(lambda *_, path=path: ran.add(path))  # type: ignore[misc]
    generate(model, [Request((SQUARE,), "what?", 1)], max_new_tokens=1)
    assert ran == {path for found in parts.values() for path in found}


@pytest.mark.parametrize("kind", NEW)
def test_a_copy_has_its_own_weights_and_ties(kind: str) -> None:
    options = {"text": {"tie_word_embeddings": True}} if "qwen" in kind else {}
    model = make_family(kind, **options)
    twin: Model = model.copy()
    with torch.no_grad():
        for linear in twin.linears(("language", "vision")).values():
            linear.weight.zero_()
    assert all(bool(linear.weight.any()) for linear in model.linears(("language", "vision")).values())
    head: nn.Linear = twin.module.lm_head  # type: ignore[assignment]
    assert (head.weight is twin.module.model.language_model.embed_tokens.weight) == bool(options)  # type: ignore[union-attr]
    if options:
        expected = answer_of_transformers(model, "what?", [SQUARE], 4)
        assert ids(generate(model, [Request((SQUARE,), "what?", 1)], max_new_tokens=4)) == [expected]


@pytest.mark.parametrize("key", FAMILIES)
def test_the_table_agrees_with_the_adapters(key: str) -> None:
    row = FAMILIES[key]
    path, _, name = row.adapter.partition(":")
    adapter: Any = getattr(importlib.import_module(path), name)
    assert key == adapter.FAMILY
    assert hasattr(transformers, row.architecture)
    assert row.signals <= {signal.value for signal in Signal if signal.of_encoder}
    assert row.checkpoints
    model: Any = tiny_llava() if key == "llava" else tiny_family(key)
    info = model.info
    assert info.family.split("/") == [key, info.family.split("/")[1], info.family.split("/")[2]]
    assert info.family.split("/")[1] in row.vision_towers
    assert info.family.split("/")[2] in row.text_backbones
    assert (set(info.signals), info.position_axes, info.has_cls) == (row.signals, row.position_axes, row.has_cls)
    assert {type(model._image_processor).__name__.removesuffix("Pil")} <= row.image_processors
    model.check_signals(info.signals)


@pytest.mark.parametrize("kind", NEW)
def test_decoder_signals_are_not_asked_of_the_encoder(kind: str) -> None:
    with pytest.raises(Unsupported, match="no encoder signal last_query_attention"):
        tiny_family(kind).check_signals({Signal.LAST_QUERY_ATTENTION})


@pytest.mark.parametrize("kind", NEW)
def test_positions_cover_the_expanded_prompt(kind: str) -> None:
    model = tiny_family(kind)
    layouts = [model.preprocess(image).layout for image in (WIDE, SMALL)]
    positions = model.positions(model.tokenize("what?", 2), layouts)
    assert len(positions) == len(expanded(model, "what?", [WIDE, SMALL]))
