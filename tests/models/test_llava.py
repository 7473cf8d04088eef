"""The adapter reads sizes, tokens and weights of a LLaVA as transformers does, and copies without sharing weights."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from steadyvlm.errors import CheckpointError, ImageError, Unsupported
from steadyvlm.models.adapter import DecoderLayer, Pixels, VisionLanguageModel
from steadyvlm.models.llava import Llava
from steadyvlm.reduction.base import Signal, Signals
from steadyvlm.reduction.layout import ImageLayout
from tiny import SIDE, VISUAL, make_config, make_image, make_image_processor, make_module, make_tokenizer, tiny_llava


def test_info_tells_the_sizes() -> None:
    info = tiny_llava("mistral", sliding_window=25).info
    assert (info.num_layers, info.num_heads, info.num_kv_heads, info.head_dim) == (4, 4, 2, 8)
    assert (info.width, info.mlp_width, info.position_axes) == (32, 48, 1)
    assert (info.has_cls, info.max_positions, info.sliding_window) == (True, 512, 25)
    assert info.signals == {signal for signal in Signal if signal.of_encoder}
    assert info.family == "llava/clip_vision_model/mistral"
    assert tiny_llava().info.sliding_window is None


@pytest.mark.parametrize(
    ("configured", "tokenizers", "expected"), [(7, "</s>", (7,)), ([7, 9], "</s>", (7, 9)), (None, "</s>", (2,))]
)
def test_end_tokens_come_from_the_generation_config_then_the_tokenizer(
    configured: Any, tokenizers: str, expected: tuple[int, ...]
) -> None:
    module, tokenizer = make_module(), make_tokenizer()
    module.generation_config.eos_token_id = configured
    tokenizer.eos_token = tokenizers
    assert Llava(module, tokenizer, make_image_processor()).info.eos_token_ids == expected


def test_a_model_without_any_end_token_has_none() -> None:
    module, tokenizer = make_module(), make_tokenizer()
    module.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    assert Llava(module, tokenizer, make_image_processor()).info.eos_token_ids == ()


@pytest.mark.parametrize("layers", [-2, -1, 1, (-3, -1)])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_features_equal_those_of_transformers(layers: Any, strategy: str) -> None:
    model = tiny_llava(layers_read=layers, vision_feature_select_strategy=strategy)
    pixels = [model.preprocess(make_image(seed)) for seed in (1, 2)]
    with torch.inference_mode():
        expected = model.module.get_image_features(  # type: ignore[operator]
            torch.cat([item.values for item in pixels]),
            vision_feature_layer=list(layers) if isinstance(layers, tuple) else layers,
            vision_feature_select_strategy=strategy,
        ).pooler_output
        got = [model.visual_tokens(item) for item in model.encode(pixels, frozenset())]
    first = -1 if strategy == "full" else 0
    assert pixels[0].layout.token_ids() == tuple(range(first, VISUAL))
    torch.testing.assert_close(torch.stack(got), torch.stack(list(expected)))


@pytest.mark.parametrize("layer", [5, -5])
def test_a_feature_layer_outside_the_tower_is_refused(layer: int) -> None:
    with pytest.raises(CheckpointError, match="outside the tower's 3 layers"):
        tiny_llava(vision_feature_layer=layer)


def test_signals_that_are_not_defined_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"encoder signal cls_attention: .* vision entries \(2, 3\)"):
        tiny_llava(layers_read=(-2, -1)).check_signals({Signal.CLS_ATTENTION})
    with pytest.raises(Unsupported, match="encoder_keys"):
        tiny_llava(vision_feature_layer=0).check_signals({Signal.ENCODER_KEYS})
    with pytest.raises(Unsupported, match="no encoder signal last_query_attention"):
        tiny_llava().check_signals({Signal.LAST_QUERY_ATTENTION})
    tiny_llava(layers_read=(-2, -1)).check_signals({Signal.ENCODER_ROWS})


def test_other_backbones_are_refused() -> None:
    config = make_config()
    config.text_config.model_type = "qwen2"
    with pytest.raises(Unsupported, match=r"'qwen2' is not supported. Known: llama, mistral"):
        Llava.check_config(config)
    config = make_config()
    config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(Unsupported, match="clip_vision_model"):
        Llava.check_config(config)


def test_features_do_not_depend_on_the_kind_of_activation() -> None:
    module = make_module()
    module.model.vision_tower.config.hidden_act = "gelu"
    for layer in module.model.vision_tower.encoder.layers:
        layer.mlp.activation_fn = nn.GELU()
    model = Llava(module, make_tokenizer(), make_image_processor())
    pixels = model.preprocess(make_image(1))
    with torch.inference_mode():
        expected = module.model.vision_tower(pixels.values, output_hidden_states=True).hidden_states[-2][0]
        torch.testing.assert_close(model.encode([pixels], frozenset())[0].rows, expected)


def test_a_truncated_picture_is_refused() -> None:
    buffer = io.BytesIO()
    make_image(3, 200, 200).save(buffer, format="PNG")
    with pytest.raises(ImageError, match="cannot be decoded"):
        tiny_llava().preprocess(Image.open(io.BytesIO(buffer.getvalue()[:500])))


def test_pictures_of_any_mode_become_pixels() -> None:
    model = tiny_llava()
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1"):
        pixels = model.preprocess(make_image(1, 50, 40).convert(mode))
        assert pixels.values.shape == (1, 3, SIDE, SIDE)
        assert pixels.layout == ImageLayout((6, 6), has_cls=True)


@pytest.mark.parametrize(("scale", "side"), [(1.0, 6), (0.7, 5), (0.25, 3), (0.001, 1)])
def test_a_smaller_picture_has_the_nearest_grid_and_interpolated_positions(scale: float, side: int) -> None:
    model = tiny_llava()
    pixels = model.preprocess(make_image(1, 50, 40), scale=scale)
    assert pixels.values.shape == (1, 3, 4 * side, 4 * side)
    assert pixels.layout.grid == (side, side)
    tower: Any = model.module.model.vision_tower  # type: ignore[union-attr]
    with torch.inference_mode():
        expected = tower(pixels.values, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2][0]
        small, whole = model.encode([pixels, model.preprocess(make_image(2))], frozenset())
    torch.testing.assert_close(small.rows, expected)
    assert whole.rows.shape[0] == VISUAL + 1, "pictures of several sizes are encoded together"


def test_pictures_show_what_the_tower_sees() -> None:
    model = tiny_llava()
    flat = Image.new("RGB", (48, 24), (200, 10, 90))
    flat.paste((0, 0, 255), (12, 0, 24, 24))  # the crop keeps the middle square
    (shown,) = model.pictures(model.preprocess(flat))
    assert (shown.mode, shown.size) == ("RGB", (SIDE, SIDE))
    assert [shown.getpixel((x, 5)) for x in (0, 11, 12, 23)] == [(0, 0, 255)] * 2 + [(200, 10, 90)] * 2


def test_tiles_of_an_image_stand_one_after_the_other() -> None:
    model = tiny_llava()
    single = [model.preprocess(make_image(seed)) for seed in (1, 2, 3)]
    layout = ImageLayout((6, 6), (1, 1), window=(0, 0, 6, 6), has_cls=True)
    tiled = Pixels(torch.cat([single[1].values, single[2].values]), layout)
    needs = model.info.signals - {Signal.ENCODER_ROWS, Signal.TEXT_RELEVANCE}
    with torch.inference_mode():
        alone = model.encode(single, needs)
        _, both = model.encode([single[0], tiled], needs)
    assert both.layout is layout
    assert both.signals.keys() == needs
    torch.testing.assert_close(both.rows, torch.cat([alone[1].rows, alone[2].rows]))
    values: Any = {signal.value: value for signal, value in both.signals.items()}
    for tile, expected in zip(Signals(2 * VISUAL, True, layout=layout, **values).tiles(), alone[1:], strict=True):
        for signal in needs:
            torch.testing.assert_close(tile.require(signal), expected.signals[signal], msg=signal)


def test_a_picture_that_is_all_edge_is_refused() -> None:
    with pytest.raises(ImageError, match="5000 x 10 pixels"):
        tiny_llava().preprocess(Image.new("RGB", (5000, 10)))


def test_linears_are_those_that_run_by_part() -> None:
    model = tiny_llava()
    language, connector, vision = (model.linears((part,)) for part in ("language", "connector", "vision"))
    assert len(language) == 4 * 7
    assert len(connector) == 2
    assert len(vision) == 2 * 6, "the third encoder layer comes after the feature layer and never runs"
    assert model.linears(("language", "vision")).keys() == language.keys() | vision.keys()
    assert list(model.linears()) == list(language)
    for name, linear in {**language, **connector, **vision}.items():
        assert model.module.get_submodule(name) is linear
        assert isinstance(linear, nn.Linear)
    assert not any("lm_head" in name for name in language)


def test_a_copy_has_its_own_weights() -> None:
    model = tiny_llava()
    before = model.weights_sha256()
    twin = model.copy()
    with torch.no_grad():
        for linear in twin.linears().values():
            linear.weight.zero_()
    assert all(bool(linear.weight.any()) for linear in model.linears().values())
    assert twin.weights_sha256() == before, "what a recipe does to a copy is addressed by the recipe"
    assert twin.tokenize("what?", 1) == model.tokenize("what?", 1)


def test_the_hash_of_a_model_in_memory_is_its_content() -> None:
    first, again, other = (Llava(make_module(seed=s), make_tokenizer(), make_image_processor()) for s in (0, 0, 1))
    assert first.weights_sha256() == again.weights_sha256() != other.weights_sha256()


def test_provenance_names_place_precision_and_versions() -> None:
    facts = tiny_llava().provenance()
    assert (facts["device"], facts["dtype"], facts["attention"]) == ("cpu", "float32", "sdpa")
    assert {"torch", "transformers", "python", "steadyvlm"} <= facts["versions"].keys()
    assert facts["extra"]["threads"] == str(torch.get_num_threads())


def test_it_fulfils_the_protocol() -> None:
    model: VisionLanguageModel = tiny_llava()
    assert all(isinstance(layer, DecoderLayer) for layer in model.layers())
    assert len(model.layers()) == model.info.num_layers


def test_text_drops_special_tokens_and_token_text_shows_them() -> None:
    model = tiny_llava()
    assert model.text([1, 5, 2]) == "ASSISTANT"
    assert model.token_text(2) == "</s>"
