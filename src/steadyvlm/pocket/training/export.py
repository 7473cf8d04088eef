"""Write a trained pocket model as an ordinary Hugging Face LLaVA folder, plus its matching CLIP text tower.

    config.json, generation_config.json, model.safetensors     LlavaForConditionalGeneration, bf16
    tokenizer.json, tokenizer_config.json, chat_template.jinja, preprocessor_config.json
    clip_text/                                                 CLIPTextModelWithProjection, bf16
    clip_text/visual_projection.safetensors                    CLS (and patch) rows -> the shared CLIP space

Any tool that loads LLaVA-1.5 loads the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
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
from steadyvlm.pocket.training.decoder import PocketConfig
from steadyvlm.pocket.training.model import PIXEL_MEAN, PIXEL_SCALE, PocketTrainer
from steadyvlm.pocket.training.names import clip_layer_name, llava_state
from steadyvlm.pocket.vocabulary import PATCH, SIZE


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """Return the ids of padding, begin and end under the names of transformers' configs."""
    ids = tokenizer.token_to_id
    return {"pad_token_id": ids(PAD), "bos_token_id": ids(BOS), "eos_token_id": ids(EOS)}


def clip_config(config: PocketConfig) -> CLIPVisionConfig:
    """Return the transformers config of the CLIP tower."""
    return CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.vision_ffn,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=PATCH,
        projection_dim=config.width,
    )


def llama_config(config: PocketConfig, tokenizer: Any) -> LlamaConfig:
    """Return the transformers config of the Llama decoder."""
    return LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.decoder_ffn,
        num_hidden_layers=config.decoder_layers,
        num_attention_heads=config.heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False,
        **special_ids(tokenizer),
    )


def llava_config(config: PocketConfig, tokenizer: Any) -> LlavaConfig:
    """Return the transformers config of the pocket model."""
    return LlavaConfig(
        vision_config=clip_config(config),
        text_config=llama_config(config, tokenizer),
        image_token_index=tokenizer.token_to_id(IMAGE),
        image_seq_length=config.grid**2,
        **special_ids(tokenizer),
    )


def to_llava(model: PocketTrainer, tokenizer: Any) -> LlavaForConditionalGeneration:
    """Return the transformers model with the trained weights, float32."""
    with torch.device("cpu"):
        llava = LlavaForConditionalGeneration(llava_config(model.config, tokenizer))
    llava.load_state_dict(llava_state(model.state_dict()))
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
        **{
            clip_layer_name(name.removeprefix("text."), "text_model.encoder."): value
            for name, value in state.items()
            if name.startswith("text.layers.")
        },
    }
    clip.load_state_dict(renamed)
    clip.train(False)
    return clip


def export(model: PocketTrainer, tokenizer: Any, folder: Path) -> None:
    """Write the folder described at the top of this file."""
    write_folder(to_llava(model, tokenizer), tokenizer, folder, template=CHAT_TEMPLATE)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIZE},
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
    }
    write_processor(processor, folder)
    to_clip_text(model, tokenizer).bfloat16().save_pretrained(folder / "clip_text")
    save_file(
        {
            "visual_projection.weight": model.visual_projection.weight.detach().to(torch.bfloat16).contiguous(),
            "logit_scale": model.logit_scale.detach().clone(),
        },
        folder / "clip_text" / "visual_projection.safetensors",
    )


def write_folder(
    module: Any, tokenizer: Any, folder: Path, *, template: str, vision: Mapping[str, str] | None = None
) -> None:
    """Write weights in bf16, generation settings, and the tokenizer with its chat template.

    vision: further special tokens, by the tokenizer attribute under which processors look for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.bfloat16().save_pretrained(folder)
    generation: Any = GenerationConfig  # its constructor carries no types
    generation(do_sample=False, **special_ids(tokenizer)).save_pretrained(folder)
    named = dict(vision or {})
    fast_tokenizer: Any = PreTrainedTokenizerFast
    fast = fast_tokenizer(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[*dict.fromkeys([IMAGE, USER, ASSISTANT, *named.values()])],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
        **named,
    )
    fast.chat_template = template
    fast.save_pretrained(folder)


def write_processor(settings: Mapping[str, Any], folder: Path) -> None:
    """Write preprocessor_config.json: the settings of one family after those that all pocket models share."""
    shared = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [PIXEL_MEAN / 255] * 3,
        "image_std": [PIXEL_SCALE / 255] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **shared}, indent=2) + "\n")
