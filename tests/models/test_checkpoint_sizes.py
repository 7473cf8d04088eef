"""Counts from a configuration against the parameters of the very module transformers builds from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlavaConfig

from steadyvlm.errors import Unsupported
from steadyvlm.models.checkpoint_sizes import inventory_of
from tiny import make_config
from tiny_families import next_config, qwen_config


def tied(config: Any) -> Any:
    config.tie_word_embeddings = True
    return config


CONFIGS = {
    "llava": make_config(),
    "mistral": make_config("mistral"),
    "two feature layers": make_config(layers_read=(-2, -3)),
    "llava_next": next_config(),
    "llava_next qwen2": next_config("qwen2"),
    "qwen2_vl": qwen_config("2"),
    "qwen2_5_vl": qwen_config("2.5"),
    "tied": tied(qwen_config("2.5")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_counted(name: str) -> None:
    config: Any = CONFIGS[name]
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(config)
    module.tie_weights()
    found = inventory_of(module.config)
    assert (found.head is None) == (name == "tied")
    assert found.parameters == sum(weight.numel() for weight in module.parameters())
    linears = {
        path: weight.numel()
        for path, weight in module.named_parameters()
        if weight.dim() == 2 and path.endswith("weight") and "embed" not in path and "lm_head" not in path
    }
    groups = found.groups
    assert groups["language linears"] == sum(n for path, n in linears.items() if "language_model" in path)
    connector = sum(n for path, n in linears.items() if "multi_modal_projector" in path or "merger" in path)
    assert groups["connector linears"] == connector


@pytest.mark.parametrize("option", ["attention_bias", "mlp_bias"])
def test_unusual_biases_are_refused(option: str) -> None:
    config = LlavaConfig()
    setattr(config.text_config, option, True)
    with pytest.raises(Unsupported, match=option):
        inventory_of(config)


def test_a_projector_without_biases_is_refused() -> None:
    with pytest.raises(Unsupported, match="multimodal_projector_bias"):
        inventory_of(LlavaConfig(multimodal_projector_bias=False))
