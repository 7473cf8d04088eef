"""How large the packed checkpoint of a model is, from its sizes and the quantiser's settings alone."""

from __future__ import annotations

from typing import Any

import torch

from steadyvlm.cost.checkpoint_size import CheckpointSize, Packing, Transforms, checkpoint_size
from steadyvlm.models.checkpoint_sizes import inventory_of
from steadyvlm.quantization.settings import LowBitSettings


def original_size(model: Any, dtype: torch.dtype) -> CheckpointSize:
    """Return the bytes of the numbers in the original checkpoint, all of them in one precision."""
    packing = Packing(parts=(), transforms="none", float_bits=8 * dtype.itemsize)
    return checkpoint_size(inventory_of(model.module.config), packing)


def packed_size(
    model: Any, settings: LowBitSettings, dtype: torch.dtype, transforms: Transforms | int, *, unused: bool = False
) -> CheckpointSize:
    """Return the bytes of the numbers in a packed checkpoint.

    Args:
        model: the original or the packed model, or an outline of it (`models.load.outline`).
        settings: of the quantiser.
        dtype: precision of what is not packed.
        transforms: what is kept for run time: "none" for round-to-nearest, "flatquant" for what that learns by default,
            or how many numbers there are (`models.low_bit_config.transform_numbers`).
        unused: layers of the tower that never run are packed too, as `calibration.streaming` does.

    >>> packed_size(load("pocket"), LowBitSettings(), torch.float16, "none").total   # doctest: +SKIP
    1069952
    """
    used = sum(block.part == "vision" for block in model.blocks(("vision",)))
    packing = Packing(
        parts=settings.modules,
        bits=settings.weight_bits,
        scale_bits=8 * settings.scale_format.itemsize,
        transforms=transforms,
        transform_bits=8 * settings.transform_format.itemsize,
        float_bits=8 * dtype.itemsize,
        vision_edge_bits=settings.vision_edge_bits,
        vision_layers=None if unused else used,
    )
    return checkpoint_size(inventory_of(model.module.config), packing)
