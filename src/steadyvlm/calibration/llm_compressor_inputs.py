"""A question as the arguments of the Hugging Face model's own forward, without its combined processor.

Our engine drives a model layer by layer; llm-compressor runs `module(**arguments)`. The ids are those of our prompt,
the image token standing once per visual token, and pixels are what `preprocess` gives the engine, so that both see the
same prompt. The combined processors of transformers are not used: Qwen's needs torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steadyvlm.engine.requests import Request
from steadyvlm.models.adapter import IMAGE_SLOT, Pixels, VisionLanguageModel


def forward_arguments(model: VisionLanguageModel, request: Request) -> dict[str, Any]:
    """Return what `model.module` is called with to read `request` without answering it.

    Raises:
        SampleError: for an empty prompt, or one that contains the image token.
        ImageError: for a picture that cannot be read.
    """
    pixels = [model.preprocess(image) for image in request.images]
    layouts = iter(pixels)
    config: Any = model.module.config
    ids: list[int] = []
    for token in model.tokenize(request.prompt, len(pixels)):
        repeats = next(layouts).layout.visual_tokens if token == IMAGE_SLOT else 1
        ids += [config.image_token_id if token == IMAGE_SLOT else token] * repeats
    tokens = torch.tensor([ids], device=model.device)
    arguments = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
    if not pixels:
        return arguments
    family = model.info.family.partition("/")[0]
    shown = _SHOWN[family](pixels)
    if family.startswith("qwen"):
        shown["mm_token_type_ids"] = (tokens == config.image_token_id).int()
    dtype = next(parameter.dtype for parameter in model.module.parameters() if parameter.is_floating_point())
    moved = {name: value.to(model.device) for name, value in shown.items()}
    return arguments | moved | {"pixel_values": moved["pixel_values"].to(dtype)}


def _single(pixels: Sequence[Pixels]) -> dict[str, Tensor]:
    return {"pixel_values": torch.cat([item.values for item in pixels])}


def _tiled(pixels: Sequence[Pixels]) -> dict[str, Tensor]:
    """Tiles [I, P, 3, height, width], filled up with empty tiles to the largest P, which the model cuts off again."""
    most = max(len(item.values) for item in pixels)
    filled = [
        torch.cat([item.values, item.values.new_zeros(most - len(item.values), *item.values.shape[1:])])
        for item in pixels
    ]
    return {
        "pixel_values": torch.stack(filled),
        "image_sizes": torch.tensor([item.layout.picture for item in pixels]),
    }


def _patches(pixels: Sequence[Pixels]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.cat([item.values for item in pixels]),
        "image_grid_thw": torch.tensor([(1, *item.layout.patch_grid) for item in pixels]),
    }


_SHOWN = {"llava": _single, "llava_next": _tiled, "qwen2_vl": _patches, "qwen2_5_vl": _patches}
