from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    SiglipVisionConfig,
)

from steadyvlm.cost import published
from steadyvlm.errors import Unsupported
from steadyvlm.models.sizes import decoder_sizes, sizes_of
from tiny import tiny_llava

CLIP_L = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)
QWEN_7B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


def llama(*, layers: int = 32, width: int = 4096, mlp: int = 11008, heads: int = 32) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=32000,
    )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llava-1.5-7b", lambda: LlavaConfig(vision_config=CLIP_L, text_config=llama())),
        (
            "llava-1.5-13b",
            lambda: LlavaConfig(vision_config=CLIP_L, text_config=llama(layers=40, width=5120, mlp=13824, heads=40)),
        ),
        ("llava-next-vicuna-7b", lambda: LlavaNextConfig(vision_config=CLIP_L, text_config=llama())),
        (
            "qwen2.5-vl-7b",
            lambda: Qwen2_5_VLConfig(
                text_config=QWEN_7B,
                vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
            ),
        ),
        ("qwen2-vl-7b", lambda: Qwen2VLConfig(text_config=QWEN_7B, vision_config={"hidden_size": 3584})),
    ],
)
def test_configurations_of_published_models_give_their_sizes(name: str, config: Any) -> None:
    assert sizes_of(config()) == published(name)


@pytest.mark.parametrize(("layer", "executed"), [(-2, 23), (-1, 24), (22, 22)])
def test_the_tower_runs_until_its_feature_layer(layer: int, executed: int) -> None:
    sizes = sizes_of(LlavaConfig(vision_config=CLIP_L, text_config=llama(), vision_feature_layer=layer))
    assert sizes.vision.feature_layers == executed  # type: ignore[union-attr]  # a CLIP tower


def test_several_feature_layers_stand_side_by_side_before_the_connector() -> None:
    sizes = sizes_of(LlavaConfig(vision_config=CLIP_L, text_config=llama(), vision_feature_layer=[-2, 10]))
    assert sizes.connector is not None
    assert sizes.connector.inputs == 2048
    assert sizes.vision.feature_layers == 23  # type: ignore[union-attr]  # a CLIP tower


def test_mistral_groups_its_heads() -> None:
    config = LlavaConfig(
        vision_config=CLIP_L, text_config=MistralConfig(num_key_value_heads=8, num_attention_heads=32, hidden_size=4096)
    )
    assert sizes_of(config).decoder.kv_width == 1024


def test_an_adapters_description_gives_the_same_decoder() -> None:
    model = tiny_llava()
    config: Any = model.module.config
    assert decoder_sizes(model.info) == sizes_of(config).decoder


def test_other_towers_are_refused() -> None:
    with pytest.raises(Unsupported, match="siglip_vision_model"):
        sizes_of(LlavaConfig(vision_config=SiglipVisionConfig(), text_config=llama()))
