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

_TOKENS = 8192
"""Of one batch at most, unless a single prompt is longer: attention takes memory for the tokens times their number."""


def forward_arguments(model: VisionLanguageModel, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Return what `model.module` is called with to read `requests` without answering them.

    Prompts of equal length, and with pictures alike in number, share a call; nothing is padded. Calls come in the order
    of their first request.

    Raises:
        SampleError: for an empty prompt, or one that contains the image token.
        ImageError: for a picture that cannot be read.
    """
    alike: dict[tuple[int, int], list[tuple[list[int], list[Pixels]]]] = {}
    for request in requests:
        ids, pixels = _read(model, request)
        alike.setdefault((len(ids), len(pixels)), []).append((ids, pixels))
    calls = []
    for (length, _), rows in alike.items():
        size = max(1, _TOKENS // length)
        calls += [_call(model, rows[start : start + size]) for start in range(0, len(rows), size)]
    return calls


def _read(model: VisionLanguageModel, request: Request) -> tuple[list[int], list[Pixels]]:
    pixels = [model.preprocess(image) for image in request.images]
    layouts = iter(pixels)
    image_token: int = _config(model).image_token_id
    ids: list[int] = []
    for token in model.tokenize(request.prompt, len(pixels)):
        if token == IMAGE_SLOT:
            ids += [image_token] * next(layouts).layout.visual_tokens
        else:
            ids.append(token)
    return ids, pixels


def _call(model: VisionLanguageModel, rows: Sequence[tuple[list[int], list[Pixels]]]) -> dict[str, Any]:
    tokens = torch.tensor([ids for ids, _ in rows], device=model.device)
    pixels = [item for _, shown in rows for item in shown]
    arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
    if not pixels:
        return arguments
    family = model.info.family.partition("/")[0]
    for name, value in _SHOWN[family](pixels).items():
        arguments[name] = value.to(model.device, _dtype(model) if value.is_floating_point() else None)
    if family.startswith("qwen"):
        arguments["mm_token_type_ids"] = (tokens == _config(model).image_token_id).int()
    return arguments


def _config(model: VisionLanguageModel) -> Any:
    return model.module.config


def _dtype(model: VisionLanguageModel) -> torch.dtype:
    return next(item.dtype for item in model.module.parameters() if item.is_floating_point())


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
