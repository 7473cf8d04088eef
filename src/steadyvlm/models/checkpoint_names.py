"""Names of weights in published checkpoints, in the words of the modules that transformers builds today.

Checkpoints were written by several generations of transformers, each with its own prefixes. Whoever reads tensor by
tensor, rather than through `from_pretrained`, translates them here.

Source: transformers 5.17 `conversion_mapping.py` ("llava", "llava_next", "Qwen2VLForConditionalGeneration",
"CLIPVisionModel").
"""

from __future__ import annotations

_BEGINNINGS = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
    ("visual.", "model.visual."),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)
_COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""What older checkpoints store although every model computes it."""


def name_in_module(name: str) -> str | None:
    """Return where a checkpoint's tensor belongs in the module; None for one that is computed.

    >>> name_in_module("vision_tower.vision_model.post_layernorm.bias"), name_in_module("model.norm.weight")
    ('model.vision_tower.post_layernorm.bias', 'model.language_model.norm.weight')
    >>> name_in_module("language_model.model.layers.0.self_attn.rotary_emb.inv_freq") is None
    True
    """
    if name.endswith(_COMPUTED):
        return None
    for theirs, ours in _BEGINNINGS:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
