"""Write an accelerated model as a folder that loads in one call and answers as this one does.

Low-bit models keep their packed weights in the format of this package; models of gptq and awq are written as
compressed-tensors, which serving engines read. What is not in the weights is not saved: a token reduction belongs to
the recipe, and is named again beside `checkpoint(path='…')` when the folder is used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvlm.errors import Unsupported
from steadyvlm.models.low_bit_files import About, float_format, write_module
from steadyvlm.models.new_folder import new_folder
from steadyvlm.models.shards import SHARD_BYTES
from steadyvlm.recipes.accelerate import AcceleratedModel

COMPRESSED = ("gptq", "awq")
"""Quantisers whose models are saved as compressed-tensors."""
LOW_BIT = ("rtn_w4a4", "hadamard_w4a4", "flatquant")
"""Quantisers whose models are saved in the packed format of this package."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written.

    Attributes:
        folder: the checkpoint.
        format: "steadyvlm" or "compressed-tensors".
        numbers_bytes: of all tensors; the files hold a header besides.
        seconds: it took to write.
    """

    folder: Path
    format: str
    numbers_bytes: int
    seconds: float


def save(model: AcceleratedModel, folder: str | Path, *, dtype: str = "model", shard_bytes: int = SHARD_BYTES) -> Saved:
    """Write an accelerated model; nothing is ever overwritten.

    Args:
        model: from `accelerate`, with a quantiser that has a saved form.
        folder: a place where nothing is yet.
        dtype: format of what is not packed, for low-bit models: "model" as it is held, bit for bit the same answers;
            "float16" or "bfloat16" for half the size of a model held in float32, rounded once more.
        shard_bytes: of one weight file.

    Raises:
        Unsupported: for a quantiser without a saved form, or none at all.
        UsageError: when the folder exists, or cannot be written.
        InvalidOption: for an unknown dtype.

    >>> save(accelerate(model, "rtn_w4a4()"), "pocket-int4").format   # doctest: +SKIP
    'steadyvlm'
    """
    target, quantizer = Path(folder).expanduser(), model.recipe.quantizer
    name = None if quantizer is None else quantizer.name
    check_saved_form(name)
    float_format(dtype)
    started = time.perf_counter()
    if name in LOW_BIT:
        kind, total = "steadyvlm", _save_low_bit(model, target, dtype, shard_bytes)
    else:
        from steadyvlm.models.compressed_tensors import save_compressed

        kind, total = "compressed-tensors", save_compressed(model.model, target, shard_bytes=shard_bytes)
    return Saved(target, kind, total, time.perf_counter() - started)


def check_saved_form(quantizer: str | None) -> None:
    """Return quietly when models of this quantiser can be saved; None stands for no quantiser.

    Raises:
        Unsupported: naming those that can.
    """
    if quantizer in LOW_BIT + COMPRESSED:
        return
    found = "nothing in it is quantised" if quantizer is None else f"models of '{quantizer}' have no saved form"
    raise Unsupported(
        f"there is nothing to save: {found}. Quantisers whose models can be saved: {', '.join(LOW_BIT + COMPRESSED)}. "
        "Others are applied anew each time a recipe names them."
    )


def _save_low_bit(model: AcceleratedModel, target: Path, dtype: str, shard_bytes: int) -> int:
    source: Any = model.model
    about = About(str(model.recipe.quantizer), source.info.name, source.weights_sha256())
    with new_folder(target) as partial:
        config = source.write_settings(partial)
        return write_module(source.module, config, about, partial, dtype=dtype, shard_bytes=shard_bytes)
