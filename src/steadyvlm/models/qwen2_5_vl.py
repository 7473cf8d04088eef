"""Qwen2.5-VL behind the engine's protocol: as Qwen2-VL, with a tower that attends inside windows in most blocks.

Tower (RMS norms, gated feed-forward, windows) and decoder are told apart by their modules; prompt, pictures, positions
and merging are those of Qwen2-VL.

Source: Bai et al. 2025, arXiv 2502.13923; transformers `modeling_qwen2_5_vl.py`.
Differs: nothing, token for token in float32. Pictures only, no videos.
"""

from __future__ import annotations

from steadyvlm.models.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """A `Qwen2_5_VLForConditionalGeneration` with its tokenizer and image processor; see `Qwen2VL`.

    >>> model = Qwen25VL(hf_model, tokenizer, image_processor, name="mine")   # doctest: +SKIP
    >>> model.info.position_axes                                             # doctest: +SKIP
    3
    """

    FAMILY = "qwen2_5_vl"
