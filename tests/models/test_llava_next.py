"""LLaVA-NeXT: mosaics, windows and newlines as transformers packs them, and signals over all tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import unpad_image
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.llava_next import LlavaNext, unpadded
from steadyvlm.reduction.base import Signal
from tiny import make_image, make_tokenizer
from tiny_families import PINPOINTS, make_family, make_next_processor, next_config, tiny_family

SIZES = [(1, 1), (1, 7), (336, 336), (768, 1024), (1023, 771), (100, 1), (2, 200), (333, 1000), (48, 47), (23, 24)]


@pytest.mark.parametrize("picture", SIZES)
def test_the_window_is_what_transformers_leaves_of_the_map(picture: tuple[int, int]) -> None:
    for height, width in [(6, 12), (12, 12), (18, 6), (24, 72), (48, 48), (5, 15)]:
        numbers = torch.arange(height * width).reshape(1, height, width)
        top, left, bottom, right = unpadded(height, width, picture)
        assert torch.equal(numbers[:, top:bottom, left:right], unpad_image(numbers, picture))


@pytest.mark.parametrize("picture", SIZES)
def test_the_number_of_tokens_is_what_transformers_counts(picture: tuple[int, int]) -> None:
    height, width = picture
    processor = LlavaNextProcessor(
        image_processor=make_next_processor(),
        tokenizer=make_tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    layout = tiny_family("llava_next").preprocess(make_image(1, width, height)).layout
    with_cls = processor._get_number_of_features(height, width, 24, 24)
    assert layout.visual_tokens == with_cls - 1
    assert layout.newlines
    assert layout.has_cls


def test_a_very_narrow_picture_is_shown_by_the_base_tile_alone() -> None:
    layout = tiny_family("llava_next").preprocess(Image.new("RGB", (200, 2))).layout
    assert (layout.tiles, layout.visual_tokens, layout.rows) == (3, 36, 3 * 37)


def test_signals_of_all_tiles_stand_one_after_the_other() -> None:
    """Against transformers' own eager attention, tile by tile."""
    model = make_family("llava_next")
    pixels = [model.preprocess(make_image(seed, 60, 20 * seed)) for seed in (1, 2)]
    tower: Any = model._module.model.vision_tower
    keys: list[torch.Tensor] = []
    tower.encoder.layers[1].self_attn.k_proj.register_forward_hook(lambda _m, _i, out: keys.append(out))
    wanted = {Signal.CLS_ATTENTION, Signal.SALIENCE, Signal.ENCODER_KEYS, Signal.FIRST_CLS_ATTENTION}
    with torch.inference_mode():
        encoded = model.encode(pixels, wanted)
        keys.clear()
        tower.set_attn_implementation("eager")
        for item, image in zip(pixels, encoded, strict=True):
            outs = [tower(tile[None], output_attentions=True, output_hidden_states=True) for tile in item.values]
            attention = np.concatenate([out.attentions[1][0, :, 0, 1:].numpy() for out in outs], axis=1)
            first = np.concatenate([out.attentions[0][0, :, 0, 1:].numpy() for out in outs], axis=1)
            rows = torch.cat([out.hidden_states[-2][0] for out in outs])
            mean_keys = torch.cat(keys, dim=1)[0].view(-1, 2, 8).mean(dim=1)
            keys.clear()
            assert attention.shape == (2, item.layout.tiles * 36)
            np.testing.assert_allclose(image.signals[Signal.CLS_ATTENTION].numpy(), attention, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(image.signals[Signal.FIRST_CLS_ATTENTION].numpy(), first, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(image.signals[Signal.SALIENCE], image.signals[Signal.CLS_ATTENTION])
            torch.testing.assert_close(image.signals[Signal.ENCODER_KEYS], mean_keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(image.rows, rows, rtol=1e-4, atol=1e-5)


def test_newlines_are_one_learned_row() -> None:
    model = tiny_family("llava_next")
    (encoded,) = model.encode([model.preprocess(make_image(1, 60, 60))], set())
    tokens, ids = model.visual_tokens(encoded), torch.tensor(encoded.layout.token_ids())
    newlines = tokens[ids >= encoded.layout.tiles * encoded.layout.tokens_per_tile]
    assert len(newlines) == 12
    assert torch.equal(newlines, model._module.model.image_newline.expand(12, -1))


@pytest.mark.parametrize("setting", ["tile", "pinpoints"])
def test_an_image_processor_of_another_checkpoint_is_refused(setting: str) -> None:
    model = tiny_family("llava_next")
    processor = make_next_processor()
    if setting == "tile":
        processor.crop_size = {"height": 48, "width": 48}
    else:
        processor.image_grid_pinpoints = [[24, 24]]
    with pytest.raises(CheckpointError, match="the model reads 24 pixels"):
        LlavaNext(model.module, make_tokenizer(), processor)


def test_configurations_that_cannot_be_put_together_are_refused() -> None:
    with pytest.raises(Unsupported, match="keeps the CLS row of every tile"):
        LlavaNext.check_config(next_config(vision_feature_select_strategy="full"))
    with pytest.raises(Unsupported, match=r"\[\[24, 50\]\] are no whole number of tiles"):
        LlavaNext.check_config(next_config(image_grid_pinpoints=[*PINPOINTS, [24, 50]]))
    config = next_config("qwen2")
    config.text_config.model_type = "gemma"
    with pytest.raises(Unsupported, match=r"'gemma' is not supported. Known: llama, mistral, qwen2"):
        LlavaNext.check_config(config)
    config = next_config()
    config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(Unsupported, match="siglip_vision_model"):
        LlavaNext.check_config(config)
