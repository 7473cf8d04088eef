"""Tiny random LLaVA-NeXT, Qwen2-VL and Qwen2.5-VL models, and what transformers itself answers with them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.models.llava_next import LlavaNext
from steadyvlm.models.qwen2_5_vl import Qwen25VL
from steadyvlm.models.qwen2_vl import Qwen2VL
from tiny import PARTS_TEMPLATE, WORDS, make_tokenizer

TILE, PATCH = 24, 4
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
QWEN_PATCH, QWEN_MERGE = 4, 2
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
QWEN_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nhow<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Model = LlavaNext | Qwen2VL | Qwen25VL


def make_next_processor() -> LlavaNextImageProcessorPil:
    """Tiles of 24 pixels, up to four of them."""
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=PINPOINTS,
        image_mean=[0.5] * 3,
        image_std=[0.3] * 3,
    )


def make_qwen_processor(**options: Any) -> Qwen2VLImageProcessorPil:
    """Patches of 4 pixels, 2x2 to a token, 4 to 64 tokens."""
    cell = (QWEN_PATCH * QWEN_MERGE) ** 2
    settings: dict[str, Any] = {
        "patch_size": QWEN_PATCH,
        "merge_size": QWEN_MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * cell, "longest_edge": 64 * cell},
        "image_mean": [0.5] * 3,
        "image_std": [0.3] * 3,
    }
    return Qwen2VLImageProcessorPil(**{**settings, **options})


def make_qwen_tokenizer(template: str | None = QWEN_TEMPLATE) -> PreTrainedTokenizerFast:
    """Bytes and Qwen's special tokens; no token starts a text."""
    vocabulary: dict[str, int] = {}
    for piece in [*QWEN_SPECIAL, *WORDS.split(), *sorted(pre_tokenizers.ByteLevel.alphabet())]:
        vocabulary.setdefault(piece, len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(QWEN_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=QWEN_SPECIAL[0],
        eos_token=QWEN_SPECIAL[2],
        additional_special_tokens=list(QWEN_SPECIAL[3:]),
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def _text_sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }


def next_config(text: str = "llama", **options: Any) -> LlavaNextConfig:
    """A LLaVA-NeXT of a few thousand weights."""
    kinds: dict[str, Any] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=16,
    )
    sizes = _text_sizes(len(make_tokenizer())) | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    extra = {"sliding_window": None} if text == "mistral" else {}
    return LlavaNextConfig(
        **{
            "vision_config": vision,
            "text_config": kinds[text](**sizes, **extra),
            "image_token_index": 3,
            "image_grid_pinpoints": PINPOINTS,
            "image_seq_length": (TILE // PATCH) ** 2,
            **options,
        }
    )


def qwen_config(version: str, *, text: dict[str, Any] | None = None, **vision: Any) -> Any:
    """A Qwen2-VL ("2") or Qwen2.5-VL ("2.5"); windows of 2x2 tokens except in blocks 1 and 2."""
    sizes: dict[str, Any] = {
        "depth": 4,
        "num_heads": 2,
        "patch_size": QWEN_PATCH,
        "spatial_merge_size": QWEN_MERGE,
        "temporal_patch_size": 2,
    }
    if version == "2":
        sizes |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        sizes |= {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
        sizes |= {"window_size": 16, "fullatt_block_indexes": [1, 2]}
    language = {
        **_text_sizes(len(make_qwen_tokenizer())),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": 2,
        **(text or {}),
    }
    kind: Any = Qwen2VLConfig if version == "2" else Qwen2_5_VLConfig
    tied = language.pop("tie_word_embeddings", False)
    return kind(
        text_config=language,
        vision_config={**sizes, **vision},
        image_token_id=5,
        video_token_id=259,
        vision_start_token_id=3,
        vision_end_token_id=4,
        tie_word_embeddings=tied,
    )


def randomise(module: Any, seed: int = 0) -> Any:
    """Give a model weights whose attention is far from uniform and whose answers vary, so mistakes show."""
    module = module.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                wide = "embed_tokens" in name or "lm_head" in name or "position" in name
                weight.copy_(noise * (1.0 if wide else 1.6 * weight[0].numel() ** -0.5))
            elif "class" in name or "newline" in name:
                weight.copy_(noise)
            else:
                is_norm = "norm" in name or "ln_q" in name
                weight.copy_(0.1 * noise + float(is_norm and "weight" in name))
    module.generation_config.eos_token_id = [2]
    module.generation_config.pad_token_id = 0
    return module


def make_family(family: str, *, seed: int = 0, template: str | None = None, **options: Any) -> Model:
    """A fresh tiny model: "llava_next", "llava_next/mistral", "llava_next/qwen2", "qwen2_vl" or "qwen2_5_vl"."""
    kind, _, text = family.partition("/")
    name = f"tiny {family}"
    if kind == "llava_next":
        module = randomise(LlavaNextForConditionalGeneration(next_config(text or "llama", **options)), seed)
        return LlavaNext(module, make_tokenizer(template or PARTS_TEMPLATE), make_next_processor(), name=name)
    tokenizer, processor = make_qwen_tokenizer(template or QWEN_TEMPLATE), make_qwen_processor()
    if kind == "qwen2_vl":
        module = randomise(Qwen2VLForConditionalGeneration(qwen_config("2", **options)), seed)
        return Qwen2VL(module, tokenizer, processor, name=name)
    module = randomise(Qwen2_5_VLForConditionalGeneration(qwen_config("2.5", **options)), seed)
    return Qwen25VL(module, tokenizer, processor, name=name)


@functools.cache
def tiny_family(family: str, seed: int = 0) -> Model:
    """The same object for the same arguments, so never change it."""
    return make_family(family, seed=seed)


def save_family(family: str, folder: Path, **options: Any) -> Path:
    """Write a tiny checkpoint as `save_pretrained` does, image processor included."""
    model: Any = make_family(family, **options)
    for part in (model._module, model._tokenizer, model._image_processor):
        part.save_pretrained(folder)
    return folder


def expanded(model: Model, prompt: str, images: Sequence[Image.Image]) -> list[int]:
    """The ids as transformers wants them: the image token once per visual token."""
    layouts = iter([model.preprocess(image).layout for image in images])
    image_token = model._module.config.image_token_id
    ids: list[int] = []
    for token in model.tokenize(prompt, len(images)):
        ids += [image_token] * next(layouts).visual_tokens if token == IMAGE_SLOT else [token]
    return ids


def processed(model: Model, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
    """What the image processor of transformers gives the model for these pictures, all in one call."""
    if not images:
        return {}
    return dict(model._image_processor([image.convert("RGB") for image in images], return_tensors="pt"))


def answer_of_transformers(model: Model, prompt: str, images: Sequence[Image.Image], tokens: int) -> list[int]:
    """Greedy answer of `generate`, its end token included, as it stops there."""
    ids = torch.tensor([expanded(model, prompt, images)])
    inputs = processed(model, images)
    if isinstance(model, Qwen2VL):
        inputs["mm_token_type_ids"] = (ids == model._module.config.image_token_id).int()
    with torch.inference_mode():
        out = model._module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **inputs
        )
    answer: list[int] = out[0, ids.shape[1] :].tolist()
    return answer
