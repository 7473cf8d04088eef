"""LLaVA (1, 1.5 and everything saved as `LlavaForConditionalGeneration`) behind the engine's protocol.

A CLIP tower turns an image into rows, a two-layer projector maps them to the width of a Llama or Mistral decoder, and
the decoder reads them in place of the image token. Feature layer, CLS handling and image token come from the config.

Source: Liu et al. 2023, arXiv 2304.08485 and 2310.03744; transformers `modeling_llava.py`.
Differs: the tower stops at the feature layer (transformers computes the unused layers too); everything else is equal,
token for token, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from PIL import Image
from torch import Tensor

from steadyvlm.models.adapter import EncodedImage, Part, Pixels
from steadyvlm.models.base import HuggingFaceModel
from steadyvlm.models.clip_vision import ClipVision, feature_depths
from steadyvlm.models.pictures import as_pictures, as_rgb
from steadyvlm.models.structure import clip_block, connector_block
from steadyvlm.models.tower_attention import Watch
from steadyvlm.quantization.structure import Block
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout


class Llava(HuggingFaceModel):
    """A `LlavaForConditionalGeneration` with its tokenizer and image processor; implements `VisionLanguageModel`.

    >>> model = Llava(hf_model, tokenizer, image_processor, name="mine")   # doctest: +SKIP
    >>> model.preprocess(image).layout.visual_tokens                       # doctest: +SKIP
    576
    """

    FAMILY = "llava"

    @property
    def _vision(self) -> ClipVision:
        return ClipVision(self._module.model.vision_tower, feature_depths(self._module.config))

    @property
    def _drops_cls(self) -> bool:
        return bool(self._module.config.vision_feature_select_strategy == "default")

    @property
    def _grid(self) -> int:
        """Patches along each side of a full-size picture."""
        vision = self._module.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def _signals(self) -> frozenset[Signal]:
        return self._vision.signals

    def _why_not(self, signal: Signal) -> str:
        if not signal.of_encoder:
            return ""
        return f"its features come from vision entries {self._vision.depths}, not from the end of one layer"

    def _linear_prefixes(self) -> Mapping[Part, tuple[str, ...]]:
        """Encoder layers past the feature layer never run, so they are left out."""
        layers = range(max(self._vision.depths))
        return {
            "language": ("model.language_model.layers.",),
            "connector": ("model.multi_modal_projector.",),
            "vision": tuple(f"model.vision_tower.encoder.layers.{depth}." for depth in layers),
        }

    def _vision_blocks(self) -> list[Block]:
        layers = self._module.model.vision_tower.encoder.layers[: max(self._vision.depths)]
        path = "model.vision_tower.encoder.layers"
        return [clip_block(f"{path}.{index}", index, layer) for index, layer in enumerate(layers)]

    def _connector_block(self) -> Block:
        return connector_block("model.multi_modal_projector", "linear_1", "linear_2")

    def preprocess(self, image: Image.Image, *, scale: float = 1.0) -> Pixels:
        """Return pixel values [1, 3, side, side]; below scale 1 the side is the nearest whole number of patches."""
        options: dict[str, Any] = {}
        side = nearest_side(self._grid, scale)
        if side != self._grid:
            for name in ("size", "crop_size"):
                sizes = dict(getattr(self._image_processor, name))
                options[name] = {key: value * side // self._grid for key, value in sizes.items() if value}
        values: Tensor = self._image_processor(as_rgb(image), return_tensors="pt", **options)["pixel_values"]
        return Pixels(values, self._layout(side))

    def _layout(self, side: int) -> ImageLayout:
        return ImageLayout((side, side), has_cls=True, cls_is_token=not self._drops_cls)

    def pictures(self, pixels: Pixels) -> list[Image.Image]:
        """Return the resized, cropped picture the tower sees."""
        return as_pictures(pixels.values, self._image_processor.image_mean, self._image_processor.image_std)

    def encode(self, pixels: Sequence[Pixels], needs: AbstractSet[Signal]) -> list[EncodedImage]:
        """Run the tower up to the feature layer, with the signals in `needs`."""
        self.check_signals(needs)
        return self._vision.encode(pixels, needs)

    def watch_tower(self, pixels: Pixels, watch: Watch) -> EncodedImage:
        """Run the tower on one picture, showing `watch` what enters each layer."""
        return self._vision.encode([pixels], frozenset(), watch)[0]

    def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> Tensor:
        """Return the dot product [N] of each patch with the question in CLIP's shared space."""
        from steadyvlm.models.clip_text import relevance

        layout = encoded.layout
        patches = encoded.rows.view(layout.tiles, -1, encoded.rows.shape[-1])[:, 1:].flatten(0, 1)
        return relevance(text_tower, self._folder, self._module.model.vision_tower, patches, question)

    def project(self, rows: Tensor) -> Tensor:
        """Map encoder rows [K, D] to decoder embeddings [K, width]."""
        projected: Tensor = self._module.model.multi_modal_projector(rows)
        return projected.to(self.dtype)

    def visual_tokens(self, encoded: EncodedImage) -> Tensor:
        """Return the projected patches, CLS first where the checkpoint reads it."""
        return self.project(encoded.rows[1:] if self._drops_cls else encoded.rows)


def nearest_side(grid: int, scale: float) -> int:
    """Return the side, at least 1, whose square is nearest to `scale` of `grid` squared; of two the smaller.

    >>> [nearest_side(24, scale) for scale in (1.0, 0.5, 64 / 576, 0.0001)]
    [24, 17, 8, 1]
    """
    return min(range(1, grid + 1), key=lambda side: (abs(side * side - scale * grid * grid), side))
