"""Write a trained Qwen2.5-VL pocket as an ordinary Hugging Face folder (`Qwen2_5_VLForConditionalGeneration`, bf16)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from steadyvlm.pocket.tokenizer import IMAGE, QWEN_TEMPLATE, VIDEO, VISION_END, VISION_START
from steadyvlm.pocket.training.export import special_ids, write_folder, write_processor
from steadyvlm.pocket.training.names import decoder_name
from steadyvlm.pocket.training.qwen2_5_vl import CELL, MERGE, WINDOW, QwenConfig, QwenTrainer
from steadyvlm.pocket.vocabulary import SIZE

_VISUAL = "model.visual."
_FIXED = {
    "merge_norm.weight": f"{_VISUAL}merger.ln_q.weight",
    **{
        f"{ours}.{kind}": f"{_VISUAL}merger.mlp.{theirs}.{kind}"
        for ours, theirs in (("linear_1", 0), ("linear_2", 2))
        for kind in ("weight", "bias")
    },
}


def qwen_config(config: QwenConfig, tokenizer: Any) -> Qwen2_5_VLConfig:
    """Return the transformers config."""
    ids = tokenizer.token_to_id
    vision = {
        "depth": config.vision_layers,
        "hidden_size": config.tower_width,
        "intermediate_size": config.tower_ffn,
        "num_heads": config.tower_heads,
        "patch_size": CELL,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": WINDOW * MERGE * CELL,
        "out_hidden_size": config.width,
        "fullatt_block_indexes": list(config.full_layers),
    }
    text = {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.decoder_ffn,
        "num_hidden_layers": config.decoder_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": 2048,
        "max_window_layers": config.decoder_layers,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "mrope_section": list(config.sections),
        },
        "tie_word_embeddings": False,
        **special_ids(tokenizer),
    }
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids(IMAGE),
        video_token_id=ids(VIDEO),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        tie_word_embeddings=False,
        **special_ids(tokenizer),
    )


def to_qwen(model: QwenTrainer, tokenizer: Any) -> Qwen2_5_VLForConditionalGeneration:
    """Return the transformers model with the trained weights, float32."""
    untyped: Any = Qwen2_5_VLForConditionalGeneration
    with torch.device("cpu"):
        module: Qwen2_5_VLForConditionalGeneration = untyped(qwen_config(model.config, tokenizer))
    module.load_state_dict(_state(model.state_dict()))
    module.train(False)
    return module


def export(model: QwenTrainer, tokenizer: Any, folder: Path) -> None:
    """Write the folder: weights, configs, tokenizer with chat template, image processor settings."""
    write_folder(
        to_qwen(model, tokenizer),
        tokenizer,
        folder,
        template=QWEN_TEMPLATE,
        vision={
            "image_token": IMAGE,
            "video_token": VIDEO,
            "vision_start_token": VISION_START,
            "vision_end_token": VISION_END,
        },
    )
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "size": {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE},
        "patch_size": CELL,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
    }
    write_processor(settings, folder)


def _state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under transformers' names; queries, keys and values of the tower are one matrix there."""
    renamed = {}
    for ours, value in state.items():
        name = decoder_name(ours) or _FIXED.get(ours)
        if name is not None:
            renamed[name] = value
    kernel = state["vision.patch.weight"]
    renamed[f"{_VISUAL}patch_embed.proj.weight"] = torch.stack([kernel / 2, kernel / 2], 2)
    layers = {int(name.split(".")[2]) for name in state if name.startswith("vision.layers.")}
    for number in layers:
        ours, theirs = f"vision.layers.{number}.", f"{_VISUAL}blocks.{number}."
        for kind in ("weight", "bias"):
            parts = [state[f"{ours}{name}_proj.{kind}"] for name in "qkv"]
            renamed[f"{theirs}attn.qkv.{kind}"] = torch.cat(parts)
            renamed[f"{theirs}attn.proj.{kind}"] = state[f"{ours}proj.{kind}"]
            for name in ("gate_proj", "up_proj", "down_proj"):
                renamed[f"{theirs}mlp.{name}.{kind}"] = state[f"{ours}{name}.{kind}"]
        for name in ("norm1", "norm2"):
            renamed[f"{theirs}{name}.weight"] = state[f"{ours}{name}.weight"]
    return renamed
