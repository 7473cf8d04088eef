"""Tiny random LLaVA models, a tokenizer made in code, and pictures: everything a test needs to drive the engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.llava import Llava
from steadyvlm.quantization.kv import KeyValueQuantizer
from steadyvlm.quantization.state import Clip

Adapter = TypeVar("Adapter", bound=VisionLanguageModel)
SIDE, PATCH = 24, 4
VISUAL = (SIDE // PATCH) ** 2
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
WORDS = "USER ASSISTANT : what colour shape is the a red blue star ? . how"
PARTS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}USER: "
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{{ '\n' }}{% endfor %}ASSISTANT:"
)
STRING_TEMPLATE = "{% for m in messages %}USER: {{ m['content'].strip() + '\n' }}{% endfor %}ASSISTANT:"


def make_tokenizer(template: str | None = PARTS_TEMPLATE) -> PreTrainedTokenizerFast:
    """A word tokenizer that falls back to bytes, so every text has ids."""
    pieces = [*SPECIAL, *WORDS.split(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary: dict[str, int] = {}
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def make_image_processor() -> CLIPImageProcessorPil:
    """CLIP preprocessing at the tiny model's size."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.3] * 3,
    )


def make_config(text: str = "llama", *, layers: int = 4, **options: Any) -> LlavaConfig:
    """A LLaVA of a few thousand weights; `options` go to LlavaConfig, `sliding_window` and heads to the text config."""
    vocabulary = len(make_tokenizer())
    text_options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": options.pop("kv_heads", 2),
        "max_position_embeddings": options.pop("max_positions", 512),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if text == "mistral":
        text_config: Any = MistralConfig(**text_options, head_dim=8, sliding_window=options.pop("sliding_window", None))
    else:
        text_config = LlamaConfig(**text_options)
    if "layers_read" in options:  # transformers wants a list, a cached builder something hashable
        read = options.pop("layers_read")
        options["vision_feature_layer"] = read if isinstance(read, int) else list(read)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=16,
    )
    return LlavaConfig(
        vision_config=vision, text_config=text_config, image_token_index=3, image_seq_length=VISUAL, **options
    )


def make_module(
    text: str = "llama", *, seed: int = 0, eos: tuple[int, ...] = (2,), **options: Any
) -> LlavaForConditionalGeneration:
    """A random model whose attention is far from uniform and whose answers vary, so mistakes show."""
    module = LlavaForConditionalGeneration(make_config(text, **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * (1.0 if "embed" in name or "lm_head" in name else 1.6 * weight.shape[-1] ** -0.5))
            else:
                weight.copy_(noise if "class" in name else 0.1 * noise + float("norm" in name and "weight" in name))
    module.generation_config.eos_token_id = list(eos)
    module.generation_config.pad_token_id = 0
    return module


@functools.cache
def tiny_llava(text: str = "llama", seed: int = 0, template: str | None = PARTS_TEMPLATE, **options: Any) -> Llava:
    """The adapter around a tiny random model; the same object for the same arguments, so never change it."""
    module = make_module(text, seed=seed, **options)
    return Llava(module, make_tokenizer(template), make_image_processor(), name=f"tiny-{text}")


def save_tiny(folder: Path, text: str = "llama", **options: Any) -> Path:
    """Write a tiny checkpoint as `save_pretrained` does, image processor included."""
    make_module(text, **options).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


def make_image(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A random picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((width, height))
    fine = rng.integers(-30, 30, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + fine, 0, 255).astype(np.uint8))


def with_packed_cache(model: Adapter, *, bits: int = 4, in_prefill: bool = True) -> Adapter:
    """A copy in float64 whose layers pack keys and values, each with a transform and clips of its own.

    Float64, because a rounding may go the other way when a number differs in its last bit: in another batch, say.
    """
    twin: Any = model.copy()
    twin.module.double()
    width = model.info.head_dim
    for index, layer in enumerate(twin.module.model.language_model.layers):
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
        layer.self_attn.kv_quantizer = KeyValueQuantizer(
            width,
            transform=torch.eye(width, dtype=torch.float64) + 0.25 * noise,
            bits=bits,
            in_prefill=in_prefill,
            key_clip=Clip(0.95, 0.9),
            value_clip=Clip(0.9, 1.0),
        )
    packed: Adapter = twin
    return packed
