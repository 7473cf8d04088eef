"""From a Hugging Face configuration to every number of its checkpoint; no weights are loaded.

Source: transformers `configuration_llava.py`, `configuration_llava_next.py`, `configuration_qwen2_vl.py` and
`configuration_qwen2_5_vl.py`, and the modules they describe.
"""

from __future__ import annotations

from typing import Any

from steadyvlm.cost.inventory import Details, Inventory, inventory
from steadyvlm.errors import Unsupported
from steadyvlm.models.sizes import sizes_of

_BIASED = ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")
"""Text backbones whose queries, keys and values have biases."""


def inventory_of(config: Any) -> Inventory:
    """Return every number of the checkpoint a configuration describes.

    Args:
        config: of a LLaVA, LLaVA-NeXT, Qwen2-VL or Qwen2.5-VL model (`model.module.config`).

    Raises:
        Unsupported: for a vision tower, or optional biases, that are not counted here.

    >>> from transformers import LlavaConfig
    >>> inventory_of(LlavaConfig()).groups["connector other"]
    8192
    """
    text, vision = config.text_config, config.vision_config
    unusual = [name for name in ("attention_bias", "mlp_bias") if getattr(text, name, False)]
    unusual += [] if getattr(config, "multimodal_projector_bias", True) else ["multimodal_projector_bias"]
    if unusual:
        raise Unsupported(f"this model sets {unusual[0]} otherwise than the published ones; its size is not counted.")
    clip = vision.model_type == "clip_vision_model"
    found = Details(
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        attention_biases=text.model_type in _BIASED,
        positions=(vision.image_size // vision.patch_size) ** 2 + 1 if clip else 0,
        tower_heads=vision.num_attention_heads if clip else vision.num_heads,
        newlines=int(config.model_type == "llava_next"),
    )
    return inventory(sizes_of(config), found)
