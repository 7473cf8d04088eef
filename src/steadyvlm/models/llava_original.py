r"""LLaVA-Med as its authors saved it (`LlavaMistralForCausalLM`), read into transformers' LLaVA without converting it.

The layout is that of the original LLaVA code: decoder, tower and projector under other names, the tower described by a
hub id only, no image token in the vocabulary and no chat template. Names are translated, the tower's sizes are read off
its weights (a CLIP head is always 64 wide), the image token is added behind the vocabulary, and prompts take the form
the authors evaluate with, `[INST] <image>\n{question} [/INST]`.

Source: Li et al. 2023, arXiv 2306.00890; microsoft/LLaVA-Med at 821e1c7, `llava_arch.py`, `mm_utils.py`,
`conversation.py` ("mistral_instruct"); weights microsoft/llava-med-v1.5-mistral-7b (safetensors).
Differs: a picture is padded to a square about its exact middle; the authors' code moves it by a random pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.processors import optional_json, pillow_processor

ARCHITECTURE = "LlavaMistralForCausalLM"
IMAGE_TOKEN = "<image>"
TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
"""Takes messages as plain strings; the tokenizer puts its start token in front."""

_NAMES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_tower.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.", "model.language_model."),
)
"""Original beginning of a weight's name -> ours; the first that fits counts, others stay."""
_BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
_TEXT_SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta", "sliding_window"),
    *("bos_token_id", "eos_token_id"),
)
_EXPECTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", None),
    "mm_use_im_start_end": (False, None),
    "image_aspect_ratio": ("pad", "square", None),
}
_CLIP_HEAD = 64


def is_original(folder: Path) -> bool:
    """Return whether a folder holds this layout."""
    return ARCHITECTURE in (optional_json(folder / "config.json").get("architectures") or ())


def check_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of config.json.

    Raises:
        Unsupported: for a variant of the layout that is not LLaVA-Med's, LLaVA 1.6 among them.
    """
    settings = optional_json(folder / "config.json")
    for name, known in _EXPECTED.items():
        if settings.get(name) not in known:
            raise Unsupported(
                f"'{folder}' is a {ARCHITECTURE} with {name} {settings.get(name)!r}; only LLaVA-Med's "
                f"({' or '.join(repr(value) for value in known if value is not None)}) is read in this layout. For "
                "LLaVA 1.6 use the converted 'llava-hf/llava-v1.6-mistral-7b-hf'."
            )
    return settings


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors under the names transformers uses.

    Raises:
        CheckpointError: for unreadable files, and when the vision tower was not saved along.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= {_translate(name): value for name, value in load_file(path).items() if not name.endswith(_BUFFERS)}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"the weights in '{folder}' cannot be loaded: {str(error).strip()[:500]}") from error
    if not any(name.startswith("model.vision_tower.") for name in found):
        raise CheckpointError(
            f"the weights in '{folder}' hold no vision tower; convert the checkpoint with transformers' "
            "convert_llava_weights_to_hf.py, which adds the published one."
        )
    return found


def _translate(name: str) -> str:
    for theirs, ours in _NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def make_config(settings: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """Return the `LlavaConfig` of the translated checkpoint; the image token is the entry behind the vocabulary."""
    from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig

    tower = "model.vision_tower."
    try:
        width, _, patch, _ = weights[f"{tower}embeddings.patch_embedding.weight"].shape
        places = weights[f"{tower}embeddings.position_embedding.weight"].shape[0] - 1
        wide = weights[f"{tower}encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the vision tower lacks {error}: no CLIP tower, or an unfinished download.") from None
    layers = {name.removeprefix(f"{tower}encoder.layers.").partition(".")[0] for name in weights if ".encoder." in name}
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=wide,
        num_hidden_layers=len(layers),
        num_attention_heads=width // _CLIP_HEAD,
        image_size=round(places**0.5) * patch,
        patch_size=patch,
    )
    text = MistralConfig(**{name: settings[name] for name in _TEXT_SETTINGS if name in settings})
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=text.vocab_size,
        image_seq_length=places,
        vision_feature_layer=settings.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",
        architectures=["LlavaForConditionalGeneration"],
    )


def build(config: Any, weights: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Return the module and transformers' report of what was missing.

    Raises:
        CheckpointError: for tensors of other sizes than config.json says.
    """
    from transformers import LlavaForConditionalGeneration

    loader: Any = LlavaForConditionalGeneration.from_pretrained
    options = {"dtype": dtype, "attn_implementation": "sdpa", "output_loading_info": True}
    try:
        module, report = loader(None, config=config, state_dict=weights, **options)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit config.json: {str(error).strip()[:500]}") from error
    return module, report


def add_image_token(tokenizer: Any, config: Any) -> Any:
    """Give the tokenizer an image token and the configuration its id; return the tokenizer."""
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    config.image_token_index = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return tokenizer


def image_processor(settings: dict[str, Any], side: int) -> Any:
    """Return the preprocessing of the published CLIP, the picture padded to a square first where training did so."""
    return pillow_processor("LlavaImageProcessor")(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        do_pad=settings.get("image_aspect_ratio") == "pad",
    )
