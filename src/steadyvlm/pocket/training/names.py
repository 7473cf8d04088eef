"""Names of the trainers' tensors in transformers' state dicts, used in both directions: export and warm start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_TOWER, _DECODER = "model.vision_tower.", "model.language_model."
_NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
_SINGLE = {
    "vision.cls": f"{_TOWER}embeddings.class_embedding",
    "vision.patch.weight": f"{_TOWER}embeddings.patch_embedding.weight",
    "vision.position": f"{_TOWER}embeddings.position_embedding.weight",
    "embed.weight": f"{_DECODER}embed_tokens.weight",
    "norm.weight": f"{_DECODER}norm.weight",
    "head.weight": "lm_head.weight",
    "newline": "model.image_newline",
}
_GROUPS = {
    "vision.pre_norm.": f"{_TOWER}pre_layrnorm.",
    "vision.post_norm.": f"{_TOWER}post_layernorm.",
    "linear_1.": "model.multi_modal_projector.linear_1.",
    "linear_2.": "model.multi_modal_projector.linear_2.",
}


def decoder_name(ours: str) -> str | None:
    """Return transformers' name of a decoder tensor, None for any other.

    >>> decoder_name("layers.3.up_proj.weight")
    'model.language_model.layers.3.mlp.up_proj.weight'
    """
    if not ours.startswith("layers."):
        return _SINGLE.get(ours) if ours in ("embed.weight", "norm.weight", "head.weight") else None
    _, number, module, kind = ours.split(".")
    place = _NORMS.get(module) or f"{'self_attn' if module[0] in 'qkvo' else 'mlp'}.{module}"
    return f"{_DECODER}layers.{number}.{place}.{kind}"


def llava_name(ours: str) -> str | None:
    """Return the name in a LLaVA or LLaVA-NeXT state dict, None for what only training has.

    >>> llava_name("vision.layers.0.fc1.bias")
    'model.vision_tower.encoder.layers.0.mlp.fc1.bias'
    """
    if ours in _SINGLE:
        return _SINGLE[ours]
    for prefix, theirs in _GROUPS.items():
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    if ours.startswith("vision.layers."):
        return clip_layer_name(ours.removeprefix("vision."), f"{_TOWER}encoder.")
    return decoder_name(ours)


def clip_layer_name(ours: str, prefix: str) -> str:
    """Return transformers' name of a tensor of a CLIP layer, "layers.0.q_proj.weight" and the like."""
    _, number, module, kind = ours.split(".")
    place = f"self_attn.{module}" if module.endswith("_proj") else module
    place = f"mlp.{module}" if module in ("fc1", "fc2") else place
    return f"{prefix}layers.{number}.{place}.{kind}"


def llava_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a trainer's tensors under the names of a LLaVA or LLaVA-NeXT state dict."""
    return {name: value for ours, value in state.items() if (name := llava_name(ours)) is not None}


def trained_tensors(folder: Path, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, in float32 and under the trainer's names, what a shipped LLaVA folder holds of the tensors `ours`."""
    from transformers import LlavaForConditionalGeneration  # its loader knows the older names that files carry

    loaded = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    theirs = loaded.state_dict()
    names = {name: llava_name(name) for name in ours}
    return {name: theirs[found] for name, found in names.items() if found is not None and found in theirs}
