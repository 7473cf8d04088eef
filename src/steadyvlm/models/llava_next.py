"""LLaVA-NeXT (LLaVA 1.6) behind the engine's protocol: a picture as a base tile and crops of its enlarged self.

The whole picture, squeezed into one tile, is followed by crops that lie on a mosaic, whose shape is the one of the
configured pinpoints that wastes least. The crops' patches are stitched to one map, the map's padded edges are cut off,
and a learned newline closes each of its rows. Everything before and after that is LLaVA.

Source: Liu et al. 2024, https://llava-vl.github.io/blog/2024-01-30-llava-next/; transformers `modeling_llava_next.py`
(`pack_image_features`, `unpad_image`).
Differs: only rows that become tokens are projected; everything is equal, token for token, in float32. A picture whose
encoder rows were reduced has no newlines, because a row of the map is then no row any more.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.adapter import EncodedImage, Pixels
from steadyvlm.models.llava import Llava, nearest_side
from steadyvlm.models.pictures import as_rgb
from steadyvlm.reduction.layout import ImageLayout


class LlavaNext(Llava):
    """A `LlavaNextForConditionalGeneration` with its tokenizer and image processor; implements `VisionLanguageModel`.

    >>> model = LlavaNext(hf_model, tokenizer, image_processor, name="mine")               # doctest: +SKIP
    >>> model.preprocess(Image.new("RGB", (1024, 768))).layout.visual_tokens               # doctest: +SKIP
    2340
    """

    FAMILY = "llava_next"

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
        """Wrap a loaded Hugging Face model; arguments and errors as `HuggingFaceModel`.

        Raises:
            CheckpointError: also for an image processor that cuts other tiles than the model puts together.
        """
        super().__init__(module, tokenizer, image_processor, name=name, template=template, folder=folder)
        cut, read = _plain(image_processor.image_grid_pinpoints), _plain(module.config.image_grid_pinpoints)
        tile, side = image_processor.crop_size["height"], module.config.vision_config.image_size
        if (cut, tile) != (read, side):
            raise CheckpointError(
                f"the image processor cuts tiles of {tile} pixels for {cut}, the model reads {side} pixels for "
                f"{read}; use the preprocessor_config.json that belongs to this checkpoint."
            )

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse what has no parity test here, and what transformers itself cannot put together."""
        super().check_config(config)
        if config.vision_feature_select_strategy != "default":
            raise Unsupported(
                "vision_feature_select_strategy 'full' keeps the CLS row of every tile, which has no place on the "
                "stitched map (transformers fails on it too); use 'default'."
            )
        side = config.vision_config.image_size
        odd = [pinpoint for pinpoint in _plain(config.image_grid_pinpoints) if pinpoint[0] % side or pinpoint[1] % side]
        if odd:
            raise Unsupported(f"image_grid_pinpoints {odd} are no whole number of tiles of {side} pixels; repair them.")

    def preprocess(self, image: Image.Image, *, scale: float = 1.0) -> Pixels:
        """Return tiles [P, 3, side, side]; below scale 1 every tile is smaller, and the mosaic stays what it was."""
        from transformers.image_processing_utils import select_best_resolution

        rgb, processor, full = as_rgb(image), self._image_processor, self._grid
        size = (rgb.height, rgb.width)
        best = select_best_resolution(size, _plain(processor.image_grid_pinpoints))
        tile = self._module.config.vision_config.image_size
        side = nearest_side(full, scale)
        options: dict[str, Any] = {}
        if side != full:
            for name in ("size", "crop_size"):
                sizes = dict(getattr(processor, name))
                options[name] = {key: value * side // full for key, value in sizes.items() if value}
            options["image_grid_pinpoints"] = [[edge * side // full for edge in best]]
        found = processor(rgb, return_tensors="pt", **options)
        mosaic = (best[0] // tile, best[1] // tile)
        window = unpadded(mosaic[0] * side, mosaic[1] * side, size)
        layout = ImageLayout((side, side), mosaic, window, newlines=True, has_cls=True, picture=size)
        return Pixels(found["pixel_values"][0], layout)

    def visual_tokens(self, encoded: EncodedImage) -> Tensor:
        """Return the base tile, then the unpadded map row by row, a newline after each row."""
        layout = encoded.layout
        patches = encoded.rows.view(layout.tiles, -1, encoded.rows.shape[-1])[:, 1:].flatten(0, 1)
        numbers = _token_ids(layout).to(patches.device)
        shown = numbers < len(patches)
        newline: Tensor = self._module.model.image_newline.to(patches.device, self.dtype)
        tokens = newline.repeat(len(numbers), 1)
        tokens[shown] = self.project(patches[numbers[shown]])
        return tokens


def unpadded(height: int, width: int, picture: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the window (top, left, bottom, right) of a map that shows a picture (height, width) and no padding.

    A picture may be so narrow that the window is empty: then the base tile alone shows it.

    >>> unpadded(48, 48, (768, 1024))
    (6, 0, 42, 48)
    """
    tall, wide = picture
    if wide / tall > width / height:
        edge = (height - int(round(tall * (width / wide), 7))) // 2
        return edge, 0, height - edge, width
    edge = (width - int(round(wide * (height / tall), 7))) // 2
    return 0, edge, height, width - edge


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept indices must also serve a caller that trains
def _token_ids(layout: ImageLayout) -> Tensor:
    return torch.tensor(layout.token_ids(), dtype=torch.int64)


def _plain(pinpoints: Any) -> list[list[int]]:
    return [[int(edge) for edge in pinpoint] for pinpoint in pinpoints]
