"""Write a trained LLaVA-NeXT pocket as an ordinary Hugging Face folder (`LlavaNextForConditionalGeneration`, bf16)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from steadyvlm.pocket.tokenizer import CHAT_TEMPLATE, IMAGE
from steadyvlm.pocket.training.decoder import PocketConfig
from steadyvlm.pocket.training.export import clip_config, llama_config, special_ids, write_folder, write_processor
from steadyvlm.pocket.training.llava_next import NextTrainer
from steadyvlm.pocket.training.names import llava_state
from steadyvlm.pocket.vocabulary import PATCH

PINPOINTS = [[96, 96], [48, 96], [96, 48], [48, 144], [144, 48]]
"""Sizes (height, width) a picture may be fitted into; a scene takes the first, pictures of other shapes the others."""


def next_config(config: PocketConfig, tokenizer: Any) -> LlavaNextConfig:
    """Return the transformers config."""
    return LlavaNextConfig(
        vision_config=clip_config(config),
        text_config=llama_config(config, tokenizer),
        image_token_index=tokenizer.token_to_id(IMAGE),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=config.grid**2,
        **special_ids(tokenizer),
    )


def to_llava_next(model: NextTrainer, tokenizer: Any) -> LlavaNextForConditionalGeneration:
    """Return the transformers model with the trained weights, float32."""
    with torch.device("cpu"):
        module = LlavaNextForConditionalGeneration(next_config(model.config, tokenizer))
    module.load_state_dict(llava_state(model.state_dict()))
    module.train(False)
    return module


def export(model: NextTrainer, tokenizer: Any, folder: Path) -> None:
    """Write the folder: weights, configs, tokenizer with chat template, image processor settings."""
    side = model.config.image_size
    write_folder(to_llava_next(model, tokenizer), tokenizer, folder, template=CHAT_TEMPLATE)
    settings = {
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_pad": True,
        "image_grid_pinpoints": PINPOINTS,
    }
    write_processor(settings, folder)
    counting = {
        "processor_class": "LlavaNextProcessor",
        "image_token": IMAGE,
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    (folder / "processor_config.json").write_text(json.dumps(counting, indent=2) + "\n")
