"""LLaVA (1, 1.5 and everything saved as `LlavaForConditionalGeneration`) behind the engine's protocol.

A CLIP tower turns an image into rows, a two-layer projector maps them to the width of a Llama or Mistral decoder, and
the decoder reads them in place of the image token. Feature layer, CLS handling and image token come from the config.

Source: Liu et al. 2023, arXiv 2304.08485 and 2310.03744; transformers `modeling_llava.py`.
Differs: the tower stops at the feature layer (transformers computes the unused layers too); everything else is equal,
token for token, in float32.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from steadyvlm.errors import CheckpointError, ImageError, Unsupported
from steadyvlm.models.adapter import EncodedImage, ModelInfo, Rotary
from steadyvlm.models.blocks import ENCODER_SIGNALS, LlamaLayer, rotary_angles, run_clip
from steadyvlm.models.fingerprint import folder_sha256, library_versions, module_sha256
from steadyvlm.models.placement import device_name
from steadyvlm.models.prompt import PromptFormat
from steadyvlm.reduction.base import Signal

TEXT_BACKBONES = ("llama", "mistral")
VISION_TOWERS = ("clip_vision_model",)
_MAX_ASPECT = 100
_CONNECTOR, _LANGUAGE, _VISION = "model.multi_modal_projector.", "model.language_model.layers.", "model.vision_tower."


class Llava:
    """A `LlavaForConditionalGeneration` with its tokenizer and image processor; implements `VisionLanguageModel`.

    >>> model = Llava(hf_model, tokenizer, image_processor, name="mine")   # doctest: +SKIP
    >>> model.info.visual_tokens                                           # doctest: +SKIP
    576
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        name: str = "in memory",
        template: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """Wrap a loaded Hugging Face model.

        Args:
            module: the `LlavaForConditionalGeneration`; put into evaluation mode.
            tokenizer: a Hugging Face tokenizer that has the image token.
            image_processor: a callable like `CLIPImageProcessor` that works without torchvision.
            name: what to call it in reports.
            template: a chat template to use instead of the tokenizer's own.
            folder: where it was loaded from, for its content hash.

        Raises:
            Unsupported: as `check_config`.
            CheckpointError: for a tokenizer or feature layer that does not fit the model.
        """
        self.check_config(module.config)
        self._module = module.eval()
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._folder = folder
        self._depths = _feature_depths(module.config)
        self._prompts = PromptFormat(tokenizer, module.config.image_token_id, template=template)
        self._drops_cls = module.config.vision_feature_select_strategy == "default"
        self._info = _info(module, tokenizer, name, drops_cls=self._drops_cls)
        self.token_text = functools.lru_cache(maxsize=4096)(self._token_text)

    @staticmethod
    def check_config(config: Any) -> None:
        """Refuse a configuration whose tower or decoder has no parity test here; needs no weights.

        Raises:
            Unsupported: naming what is known.
        """
        text, vision = config.text_config.model_type, config.vision_config.model_type
        if text not in TEXT_BACKBONES:
            raise Unsupported(f"text backbone '{text}' is not supported. Known: {', '.join(TEXT_BACKBONES)}.")
        if vision not in VISION_TOWERS:
            raise Unsupported(f"vision tower '{vision}' is not supported. Known: {', '.join(VISION_TOWERS)}.")

    @property
    def info(self) -> ModelInfo:
        """Sizes and limits."""
        return self._info

    @property
    def module(self) -> nn.Module:
        """The Hugging Face model itself."""
        return self._module  # type: ignore[no-any-return]  # held as Any: its attributes are untyped

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self._module.model.language_model.embed_tokens.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of hidden states (of the embedding, which no quantiser touches)."""
        return self._module.model.language_model.embed_tokens.weight.dtype  # type: ignore[no-any-return]

    def tokenize(self, prompt: str, num_images: int) -> tuple[int, ...]:
        """Return the ids of the rendered chat prompt, `IMAGE_SLOT` once per image."""
        return self._prompts.tokenize(prompt, num_images)

    def preprocess(self, image: Image) -> Tensor:
        """Return pixel values [1, 3, height, width] float32 on the CPU."""
        width, height = image.size
        if min(width, height) < 1 or max(width, height) > _MAX_ASPECT * min(width, height):
            raise ImageError(f"an image of {width} x {height} pixels cannot be shown to the model; crop it first.")
        try:
            rgb = image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for truncated or broken files
            raise ImageError(f"the image cannot be decoded: {error}. Replace the file.") from error
        pixels: Tensor = self._image_processor(rgb, return_tensors="pt")["pixel_values"]
        return pixels

    def check_signals(self, needs: AbstractSet[Signal]) -> None:
        """Return quietly if the tower can give these signals; raises Unsupported otherwise."""
        if needs - ENCODER_SIGNALS:
            raise Unsupported(
                f"{self._info.family} has no encoder signal {', '.join(sorted(needs - ENCODER_SIGNALS))}."
            )
        if (len(self._depths) > 1 or 0 in self._depths) and needs - {Signal.ENCODER_ROWS}:
            raise Unsupported(
                f"{self._info.name} takes its features from vision entries {self._depths}, not from one layer: "
                f"{', '.join(sorted(needs - {Signal.ENCODER_ROWS}))} is not defined for it."
            )

    def encode(self, pixels: Tensor, needs: AbstractSet[Signal]) -> list[EncodedImage]:
        """Run the tower on [I, 3, height, width] up to the feature layer, with the signals in `needs`."""
        self.check_signals(needs)
        return run_clip(self._module.model.vision_tower, pixels.to(self.device), self._depths, needs)

    def default_rows(self, rows: Tensor) -> Tensor:
        """Return the rows without CLS, or all of them for the strategy "full"."""
        return rows[1:] if self._drops_cls else rows

    def project(self, rows: Tensor) -> Tensor:
        """Map encoder rows [K, D] to decoder embeddings [K, width]."""
        projected: Tensor = self._module.model.multi_modal_projector(rows)
        return projected.to(self.dtype)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return embeddings [B, T, width] of ids [B, T]."""
        return self._module.model.language_model.embed_tokens(token_ids)  # type: ignore[no-any-return]

    def layers(self) -> Sequence[LlamaLayer]:
        """Return the decoder layers as they are now."""
        return [LlamaLayer.of(layer) for layer in self._module.model.language_model.layers]

    def rotary(self, positions: Tensor) -> Rotary:
        """Return the rotary angles of positions [B, T]."""
        return rotary_angles(self._module.model.language_model.rotary_emb, positions, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [B, V] of final hidden rows [B, width]."""
        normed = self._module.model.language_model.norm(hidden)
        return self._module.lm_head(normed).float()  # type: ignore[no-any-return]

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode ids without special tokens."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _token_text(self, token_id: int) -> str:
        return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))

    def linears(self, parts: Sequence[str] = ("language",)) -> dict[str, nn.Linear]:
        """Return the linears of `parts` that take part in an answer, by their path inside `module`.

        Encoder layers past the feature layer never run, so they are left out.
        """
        prefixes: dict[str, tuple[str, ...]] = {
            "language": (_LANGUAGE,),
            "connector": (_CONNECTOR,),
            "vision": tuple(f"{_VISION}encoder.layers.{depth}." for depth in range(max(self._depths))),
        }
        wanted = tuple(prefix for part in parts for prefix in prefixes[part])
        return {
            path: module
            for path, module in self._module.named_modules()
            if isinstance(module, nn.Linear) and path.startswith(wanted)
        }

    def copy(self) -> Llava:
        """Return a model with its own weights; tokenizer and image processor, which hold no weights, are shared."""
        twin = copy.copy(self)
        twin._module = copy.deepcopy(self._module)
        return twin

    def weights_sha256(self) -> str:
        """Return the hash of the folder it came from, or of the tensors of a model built in memory.

        A copy keeps the hash of its source: what a recipe does to the copy is addressed by the recipe.
        """
        if not hasattr(self, "_sha256"):
            config = str(sorted(self._module.config.to_dict().items()))
            self._sha256 = folder_sha256(self._folder) if self._folder else module_sha256(self._module, extra=config)
        return self._sha256

    def provenance(self) -> dict[str, Any]:
        """Return device, dtype, attention, versions and extra."""
        return {
            "device": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": "sdpa",
            "versions": library_versions(),
            "extra": {"threads": str(torch.get_num_threads()), "prompt": self._prompts.description},
        }


def _feature_depths(config: Any) -> tuple[int, ...]:
    entries = config.vision_config.num_hidden_layers + 1  # entry 0 is the embedding output
    asked = config.vision_feature_layer
    asked = [asked] if isinstance(asked, int) else list(asked)
    if not asked or not all(-entries <= layer < entries for layer in asked):
        raise CheckpointError(f"vision_feature_layer {asked} is outside the tower's {entries - 1} layers.")
    return tuple(layer % entries for layer in asked)


def _info(module: Any, tokenizer: Any, name: str, *, drops_cls: bool) -> ModelInfo:
    text, vision = module.config.text_config, module.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return ModelInfo(
        name=name,
        family=f"llava/{vision.model_type}/{text.model_type}",
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=module.model.language_model.layers[0].self_attn.head_dim,
        width=text.hidden_size,
        mlp_width=text.intermediate_size,
        vocabulary=text.vocab_size,
        encoder_rows=patches + 1,
        has_cls=True,
        visual_tokens=patches if drops_cls else patches + 1,
        max_positions=text.max_position_embeddings,
        sliding_window=getattr(text, "sliding_window", None),
        eos_token_ids=_eos(module, tokenizer),
    )


def _eos(module: Any, tokenizer: Any) -> tuple[int, ...]:
    configured = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return ()
    return (configured,) if isinstance(configured, int) else tuple(configured)
