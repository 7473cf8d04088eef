"""Write a trained pocket model as an ordinary Hugging Face LLaVA folder, plus its matching CLIP text tower.

    config.json, generation_config.json, model.safetensors     LlavaForConditionalGeneration, bf16
    tokenizer.json, tokenizer_config.json, chat_template.jinja, preprocessor_config.json
    clip_text/                                                 CLIPTextModelWithProjection, bf16
    clip_text/visual_projection.safetensors                    CLS (and patch) rows -> the shared CLIP space

Any tool that loads LLaVA-1.5 loads the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from steadyvlm.pocket.tokenizer import ASSISTANT, BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, USER
from steadyvlm.pocket.training.model import VISUAL, PocketConfig, PocketTrainer
from steadyvlm.pocket.vocabulary import PATCH, SIZE

PIXEL_MEAN, PIXEL_SCALE = 100.0, 70.0
"""Pixels are normalised as (value - 100) / 70."""


def llava_config(config: PocketConfig, tokenizer: Any) -> LlavaConfig:
    """Return the transformers config of the pocket model."""
    ids = tokenizer.token_to_id
    special = {"pad_token_id": ids(PAD), "bos_token_id": ids(BOS), "eos_token_id": ids(EOS)}
    vision = CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.vision_ffn,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.heads,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=config.width,
    )
    text = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.decoder_ffn,
        num_hidden_layers=config.decoder_layers,
        num_attention_heads=config.heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False,
        **special,
    )
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=ids(IMAGE), image_seq_length=VISUAL, **special
    )


def to_llava(model: PocketTrainer, tokenizer: Any) -> LlavaForConditionalGeneration:
    """Return the transformers model with the trained weights, float32."""
    with torch.device("cpu"):
        llava = LlavaForConditionalGeneration(llava_config(model.config, tokenizer))
    llava.load_state_dict(_llava_state(model.state_dict()))
    llava.train(False)
    return llava


def to_clip_text(model: PocketTrainer, tokenizer: Any) -> CLIPTextModelWithProjection:
    """Return the contrastive text tower with its projection, float32."""
    c, ids = model.config, tokenizer.token_to_id
    config = CLIPTextConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.width,
        intermediate_size=c.vision_ffn,
        num_hidden_layers=c.text_layers,
        num_attention_heads=c.heads,
        max_position_embeddings=c.text_positions,
        projection_dim=c.width,
        pad_token_id=ids(EOS),
        bos_token_id=ids(BOS),
        eos_token_id=ids(EOS),
    )
    clip = CLIPTextModelWithProjection(config)
    state = model.state_dict()
    renamed = {
        "text_model.embeddings.token_embedding.weight": state["text.token.weight"],
        "text_model.embeddings.position_embedding.weight": state["text.position"],
        "text_model.final_layer_norm.weight": state["text.final_norm.weight"],
        "text_model.final_layer_norm.bias": state["text.final_norm.bias"],
        "text_projection.weight": state["text_projection.weight"],
        **_clip_layers(state, "text.layers.", "text_model.encoder.layers."),
    }
    clip.load_state_dict(renamed)
    clip.train(False)
    return clip


def export(model: PocketTrainer, tokenizer: Any, folder: Path) -> None:
    """Write the folder described at the top of this file."""
    folder.mkdir(parents=True, exist_ok=True)
    to_llava(model, tokenizer).bfloat16().save_pretrained(folder)
    ids = tokenizer.token_to_id
    generation: Any = GenerationConfig  # its constructor carries no types
    generation(do_sample=False, pad_token_id=ids(PAD), bos_token_id=ids(BOS), eos_token_id=ids(EOS)).save_pretrained(
        folder
    )
    fast_tokenizer: Any = PreTrainedTokenizerFast
    fast = fast_tokenizer(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [PIXEL_MEAN / 255] * 3,
        "image_std": [PIXEL_SCALE / 255] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    to_clip_text(model, tokenizer).bfloat16().save_pretrained(folder / "clip_text")
    save_file(
        {
            "visual_projection.weight": model.visual_projection.weight.detach().to(torch.bfloat16).contiguous(),
            "logit_scale": model.logit_scale.detach().clone(),
        },
        folder / "clip_text" / "visual_projection.safetensors",
    )


def _llava_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    tower, decoder = "model.vision_tower.", "model.language_model."
    renamed = {
        f"{tower}embeddings.class_embedding": state["vision.cls"],
        f"{tower}embeddings.patch_embedding.weight": state["vision.patch.weight"],
        f"{tower}embeddings.position_embedding.weight": state["vision.position"],
        **{
            f"{tower}{theirs}.{kind}": state[f"vision.{ours}.{kind}"]
            for theirs, ours in (("pre_layrnorm", "pre_norm"), ("post_layernorm", "post_norm"))
            for kind in ("weight", "bias")
        },
        **_clip_layers(state, "vision.layers.", f"{tower}encoder.layers."),
        **{
            f"model.multi_modal_projector.{name}": state[name]
            for name in ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")
        },
        f"{decoder}embed_tokens.weight": state["embed.weight"],
        f"{decoder}norm.weight": state["norm.weight"],
        "lm_head.weight": state["head.weight"],
    }
    for name, value in state.items():
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            part = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
            module = rest.split(".")[0]
            place = part.get(module) or f"{'self_attn' if module[0] in 'qkvo' else 'mlp'}.{module}"
            renamed[f"{decoder}layers.{number}.{place}.weight"] = value
    return renamed


def _clip_layers(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        if name.startswith(ours):
            number, module, kind = name.removeprefix(ours).split(".")
            place = f"self_attn.{module}" if module.endswith("_proj") else module
            place = f"mlp.{module}" if module in ("fc1", "fc2") else place
            renamed[f"{theirs}{number}.{place}.{kind}"] = value
    return renamed
