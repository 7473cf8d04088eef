"""From a Hugging Face configuration to the sizes that the cost counter needs; no weights are loaded.

Source: transformers `configuration_llava.py`, `configuration_llava_next.py`, `configuration_qwen2_vl.py` and
`configuration_qwen2_5_vl.py`.
"""

from __future__ import annotations

from typing import Any

from steadyvlm.cost.sizes import ClipSizes, ConnectorSizes, DecoderSizes, ModelSizes, QwenVisionSizes
from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import ModelInfo


def sizes_of(config: Any) -> ModelSizes:
    """Return the sizes of a whole model.

    Args:
        config: of a LLaVA, LLaVA-NeXT, Qwen2-VL or Qwen2.5-VL model (`model.module.config`).

    Raises:
        Unsupported: for a vision tower that is not counted here.

    >>> from transformers import LlavaConfig
    >>> sizes_of(LlavaConfig()).vision.patch_inputs
    588
    """
    text, vision = config.text_config, config.vision_config
    decoder = DecoderSizes(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        mlp_width=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
    )
    if vision.model_type == "clip_vision_model":
        depths = _depths(config)
        features = len(depths) * vision.hidden_size
        tower = ClipSizes(
            layers=vision.num_hidden_layers,
            feature_layers=max(depth % (vision.num_hidden_layers + 1) for depth in depths),
            width=vision.hidden_size,
            mlp_width=vision.intermediate_size,
            heads=vision.num_attention_heads,
            patch_inputs=vision.num_channels * vision.patch_size**2,
        )
        return ModelSizes(decoder, tower, ConnectorSizes(features, text.hidden_size, text.hidden_size))
    if vision.model_type in _QWEN:
        return ModelSizes(decoder, _qwen(vision))
    known = ", ".join(["clip_vision_model", *_QWEN])
    raise Unsupported(f"the operations of vision tower '{vision.model_type}' are not counted. Known: {known}.")


def decoder_sizes(info: ModelInfo) -> DecoderSizes:
    """Return the sizes of the decoder alone, as any adapter describes it."""
    return DecoderSizes(
        layers=info.num_layers,
        width=info.width,
        mlp_width=info.mlp_width,
        heads=info.num_heads,
        kv_heads=info.num_kv_heads,
        head_width=info.head_dim,
        vocabulary=info.vocabulary,
    )


_QWEN = ("qwen2_vl_vision", "qwen2_vl", "qwen2_5_vl_vision", "qwen2_5_vl")
"""Model types of Qwen towers; what transformers writes into a checkpoint has changed over time."""


def _depths(config: Any) -> tuple[int, ...]:
    """Return the entries of the tower's hidden states that the connector reads; entry 0 is the embedding."""
    layer = config.vision_feature_layer
    return (layer,) if isinstance(layer, int) else tuple(layer)


def _qwen(vision: Any) -> QwenVisionSizes:
    """Return a Qwen tower's sizes: windows and a gated MLP for Qwen2.5-VL, neither for Qwen2-VL."""
    windowed = vision.model_type.startswith("qwen2_5")
    width = vision.hidden_size if windowed else vision.embed_dim
    return QwenVisionSizes(
        layers=vision.depth,
        width=width,
        mlp_width=vision.intermediate_size if windowed else int(width * vision.mlp_ratio),
        mlp_matrices=3 if windowed else 2,
        patch_inputs=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        merge=vision.spatial_merge_size,
        out_width=vision.out_hidden_size if windowed else vision.hidden_size,
        window=vision.window_size // vision.patch_size if windowed else 0,
        full_layers=tuple(vision.fullatt_block_indexes) if windowed else (),
    )
