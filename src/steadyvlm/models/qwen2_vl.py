"""Qwen2-VL behind the engine's protocol: native resolution, 2x2 merging, positions in time, height and width.

A picture keeps its aspect and most of its size; its patches pass the tower, and its merger, already as wide as the
decoder, gives one row per 2x2 patches. Encoder rows are the merger's output, so `project` is the identity.

Positions (M-RoPE): text counts alike on all three axes; a picture that starts at position p has time p, height p + row
and width p + column, and what follows goes on from p + max(rows, columns).

Source: Wang et al. 2024, arXiv 2409.12191; transformers `modeling_qwen2_vl.py`.
Differs: nothing, token for token in float32. Pictures only, no videos.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steadyvlm.errors import CheckpointError, ImageError, Unsupported
from steadyvlm.models.adapter import IMAGE_SLOT, EncodedImage, Part, Pixels, Rotary
from steadyvlm.models.base import HuggingFaceModel
from steadyvlm.models.blocks import rotary_angles
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.pictures import as_pictures, as_rgb
from steadyvlm.models.qwen_tower import full_attention_blocks, run_qwen, window_side
from steadyvlm.models.sliding import sliding_window
from steadyvlm.models.structure import connector_block, qwen_tower_block
from steadyvlm.models.tower_attention import Watch
from steadyvlm.quantization.structure import Block
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout

_NO_CLS = frozenset({Signal.CLS_ATTENTION, Signal.FIRST_CLS_ATTENTION, Signal.LAST_CLS_ATTENTION, Signal.LAST_KEYS})


class Qwen2VL(HuggingFaceModel):
    """A `Qwen2VLForConditionalGeneration` with its tokenizer and image processor; implements `VisionLanguageModel`.

    >>> model = Qwen2VL(hf_model, tokenizer, image_processor, name="mine")   # doctest: +SKIP
    >>> model.preprocess(Image.new("RGB", (640, 480))).layout.grid           # doctest: +SKIP
    (17, 23)
    """

    FAMILY = "qwen2_vl"

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
            CheckpointError: also without a chat template, whose place nothing can take, and for an image processor that
                cuts other patches than the tower reads.
        """
        if not (template or getattr(tokenizer, "chat_template", None)):
            raise CheckpointError(
                "no chat template; copy chat_template.json of the original checkpoint beside the weights."
            )
        super().__init__(module, tokenizer, image_processor, name=name, template=template, folder=folder)
        vision = module.config.vision_config
        for ours, theirs in _SAME.items():
            cut, read = getattr(image_processor, ours, None), getattr(vision, theirs)
            if cut != read:
                raise CheckpointError(
                    f"the image processor's {ours} is {cut}, the vision tower's {theirs} is {read}; use the "
                    "preprocessor_config.json that belongs to this checkpoint."
                )

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse what has no parity test here, and decoders with a sliding window, before weights are touched."""
        super().check_config(config)
        if sliding_window(config.text_config) is not None:
            raise Unsupported(
                f"this '{config.text_config.model_type}' decoder has a sliding window, which is not defined here over "
                "positions with three axes; set use_sliding_window to false in config.json, as the published "
                "checkpoints do."
            )
        if window_side(config.vision_config) == 0:
            raise Unsupported("the vision tower's windows are smaller than one merged token; repair window_size.")

    def _signals(self) -> frozenset[Signal]:
        whole = full_attention_blocks(self._module.config.vision_config)
        given = FAMILIES[self.FAMILY].signals if whole else {Signal.ENCODER_ROWS}
        return frozenset(Signal(name) for name in given)

    def _why_not(self, signal: Signal) -> str:
        if signal in _NO_CLS:
            return f"its tower has no CLS row; '{Signal.SALIENCE}' is the stated equivalent of attention from CLS"
        if signal is Signal.TEXT_RELEVANCE:
            return "its tower was not trained beside a CLIP text tower, so there is no space to compare in"
        return "no block of its tower attends over the whole picture" if signal.of_encoder else ""

    def _linear_prefixes(self) -> Mapping[Part, tuple[str, ...]]:
        return {
            "language": ("model.language_model.layers.",),
            "connector": ("model.visual.merger.",),
            "vision": ("model.visual.blocks.",),
        }

    def _vision_blocks(self) -> list[Block]:
        blocks = enumerate(self._module.model.visual.blocks)
        return [qwen_tower_block(f"model.visual.blocks.{index}", index, block) for index, block in blocks]

    def _connector_block(self) -> Block:
        return connector_block("model.visual.merger", "mlp.0", "mlp.2")

    def preprocess(self, image: Image.Image, *, scale: float = 1.0) -> Pixels:
        """Return flat patches [S, D]; below scale 1 the picture is shrunk to the nearest grid of its aspect."""
        processor = self._image_processor
        cell, rgb, options = processor.patch_size * processor.merge_size, as_rgb(image), {}
        if scale < 1.0:
            height, width = nearest_grid(self._grid(processor(rgb, return_tensors="pt")), scale)
            rgb = rgb.resize((width * cell, height * cell), processor.resample)
            options["do_resize"] = False
        try:
            found = processor(rgb, return_tensors="pt", **options)
        except ValueError as error:
            raise ImageError(f"an image of {rgb.width} x {rgb.height} pixels cannot be cut: {error}.") from error
        layout = ImageLayout(self._grid(found), picture=(image.height, image.width), merge=processor.merge_size)
        return Pixels(found["pixel_values"], layout)

    def _grid(self, found: Any) -> tuple[int, int]:
        """Return (height, width) in merged tokens of what the image processor returned."""
        _, height, width = found["image_grid_thw"][0].tolist()
        merge = self._image_processor.merge_size
        return height // merge, width // merge

    def pictures(self, pixels: Pixels) -> list[Image.Image]:
        """Return the resized picture the tower sees, put together again from its patches."""
        processor = self._image_processor
        height, width = pixels.layout.grid
        merge, patch = processor.merge_size, processor.patch_size
        cut = (height, width, merge, merge, 3, processor.temporal_patch_size, patch, patch)
        first_frame = pixels.values.reshape(cut)[:, :, :, :, :, 0]
        whole = first_frame.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height * merge * patch, width * merge * patch)
        return as_pictures(whole, processor.image_mean, processor.image_std)

    def encode(self, pixels: Sequence[Pixels], needs: AbstractSet[Signal]) -> list[EncodedImage]:
        """Run the tower and its merger over all pictures at once, with the signals in `needs`."""
        self.check_signals(needs)
        return run_qwen(self._module.model.visual, pixels, needs) if pixels else []

    def watch_tower(self, pixels: Pixels, watch: Watch) -> EncodedImage:
        """Run the tower and its merger on one picture, showing `watch` what enters each block."""
        return run_qwen(self._module.model.visual, [pixels], frozenset(), watch)[0]

    def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> Tensor:
        """Raise Unsupported: there is no CLIP space to compare in."""
        signal = Signal.TEXT_RELEVANCE
        raise Unsupported(f"{self._info.family} has no encoder signal {signal}: {self._why_not(signal)}.")

    def project(self, rows: Tensor) -> Tensor:
        """Return `rows`: the merger has mapped them to the width of the decoder."""
        return rows.to(self.dtype)

    def visual_tokens(self, encoded: EncodedImage) -> Tensor:
        """Return all merged tokens, row by row."""
        return self.project(encoded.rows)

    def positions(self, token_ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """Return positions [T, 3] in time, height and width of the unreduced prompt."""
        parts: list[Tensor] = []
        start, images = 0, iter(layouts)
        for token in token_ids:
            if token != IMAGE_SLOT:
                parts.append(torch.full((1, 3), start))
                start += 1
                continue
            height, width = next(images).grid
            places = torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width))
            parts.append(places + start)
            start += max(height, width)
        return torch.cat(parts).to(self.device)

    def rotary(self, positions: Tensor) -> Rotary:
        """Return the rotary angles of positions [B, T, 3]: each axis turns its own section of the frequencies."""
        return rotary_angles(self._decoder.rotary_emb, positions.permute(2, 0, 1), self.dtype)


_SAME = {"patch_size": "patch_size", "temporal_patch_size": "temporal_patch_size", "merge_size": "spatial_merge_size"}
"""Setting of the image processor -> setting of the tower it must equal."""


def nearest_grid(grid: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the grid of about the same aspect, at least 1 x 1, with nearest to `scale` times the tokens.

    Each side is rounded up or down, whichever pair comes nearest; of two equally near the smaller.

    >>> nearest_grid((16, 24), 0.25), nearest_grid((8, 8), 0.5), nearest_grid((3, 5), 0.001)
    ((8, 12), (5, 6), (1, 1))
    """
    wanted = scale * grid[0] * grid[1]
    sides = [{max(1, math.floor(side * scale**0.5)), math.ceil(side * scale**0.5)} for side in grid]
    return min(itertools.product(*sides), key=lambda pair: (abs(pair[0] * pair[1] - wanted), pair[0] * pair[1], pair))
