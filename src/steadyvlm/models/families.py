"""The model families, as a table that needs no weights: what each is, gives, and was checked against.

The adapters take their limits from here and the generated support matrix is printed from here, so the two cannot
disagree. Signals are named by their text (`Signal` is a string), which keeps this importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_CLIP = frozenset(
    {
        "encoder_rows",
        "cls_attention",
        "first_cls_attention",
        "last_cls_attention",
        "salience",
        "encoder_keys",
        "last_keys",
        "text_relevance",
    }
)
_QWEN = frozenset({"encoder_rows", "salience", "encoder_keys"})


@dataclass(frozen=True, slots=True)
class Family:
    """One Hugging Face architecture behind the engine's protocol.

    Attributes:
        title: how people call it.
        architecture: the class name in `config.json`.
        adapter: "module:Class" that drives it.
        image_processors: classes in `preprocessor_config.json` it can be used with.
        text_backbones, vision_towers: model types with a parity test.
        checkpoints: published ids that load.
        signals: encoder signals it gives (decoder signals do not depend on the family).
        position_axes: 1 for positions 0, 1, 2, …; 3 for time, height and width (M-RoPE).
        has_cls: whether each tile's encoder rows start with a CLS row.
        note: what a reader of the support matrix should know, in one sentence.
    """

    title: str
    architecture: str
    adapter: str
    image_processors: frozenset[str]
    text_backbones: tuple[str, ...]
    vision_towers: tuple[str, ...]
    checkpoints: tuple[str, ...]
    signals: frozenset[str]
    position_axes: int
    has_cls: bool
    note: str


FAMILIES: Mapping[str, Family] = {
    "llava": Family(
        title="LLaVA 1.5, LLaVA-Med",
        architecture="LlavaForConditionalGeneration",
        adapter="steadyvlm.models.llava:Llava",
        image_processors=frozenset({"CLIPImageProcessor", "LlavaImageProcessor"}),
        text_backbones=("llama", "mistral"),
        vision_towers=("clip_vision_model",),
        checkpoints=(
            "llava-hf/llava-1.5-7b-hf",
            "llava-hf/llava-1.5-13b-hf",
            "microsoft/llava-med-v1.5-mistral-7b",
        ),
        signals=_CLIP,
        position_axes=1,
        has_cls=True,
        note="One square picture of fixed size; LLaVA-Med is read in its own layout and as converted.",
    ),
    "llava_next": Family(
        title="LLaVA-NeXT (1.6)",
        architecture="LlavaNextForConditionalGeneration",
        adapter="steadyvlm.models.llava_next:LlavaNext",
        image_processors=frozenset({"LlavaNextImageProcessor"}),
        text_backbones=("llama", "mistral", "qwen2"),
        vision_towers=("clip_vision_model",),
        checkpoints=(
            "llava-hf/llava-v1.6-vicuna-7b-hf",
            "llava-hf/llava-v1.6-mistral-7b-hf",
            "llava-hf/llama3-llava-next-8b-hf",
            "llava-hf/llava-next-72b-hf",
        ),
        signals=_CLIP,
        position_axes=1,
        has_cls=True,
        note="A base tile and up to four crops, unpadded, with newline tokens; encoder signals cover all tiles.",
    ),
    "qwen2_vl": Family(
        title="Qwen2-VL",
        architecture="Qwen2VLForConditionalGeneration",
        adapter="steadyvlm.models.qwen2_vl:Qwen2VL",
        image_processors=frozenset({"Qwen2VLImageProcessor"}),
        text_backbones=("qwen2_vl_text",),
        vision_towers=("qwen2_vl_vision",),
        checkpoints=("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
        signals=_QWEN,
        position_axes=3,
        has_cls=False,
        note="Native resolution, 2x2 patches to a token, no CLS row: salience is the attention a token receives.",
    ),
    "qwen2_5_vl": Family(
        title="Qwen2.5-VL",
        architecture="Qwen2_5_VLForConditionalGeneration",
        adapter="steadyvlm.models.qwen2_5_vl:Qwen25VL",
        image_processors=frozenset({"Qwen2VLImageProcessor"}),
        text_backbones=("qwen2_5_vl_text",),
        vision_towers=("qwen2_5_vl_vision",),
        checkpoints=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        signals=_QWEN,
        position_axes=3,
        has_cls=False,
        note="As Qwen2-VL with windows in most blocks; salience comes from the last block without.",
    ),
}
"""First part of `ModelInfo.family` -> its row."""
