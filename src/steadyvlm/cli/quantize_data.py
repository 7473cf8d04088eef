"""The work behind `steadyvlm quantize`: refuse early, quantise, write, and say what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steadyvlm.calibration.streaming import pack
from steadyvlm.errors import Unsupported, UsageError
from steadyvlm.models.load import load, outline
from steadyvlm.models.low_bit_config import transform_numbers
from steadyvlm.models.low_bit_files import is_packed, saved_table
from steadyvlm.models.new_folder import check_new_folder
from steadyvlm.models.placement import DTYPES
from steadyvlm.models.processors import read_json
from steadyvlm.models.settings_files import CONFIG
from steadyvlm.quantization.base import BlockQuantizer, QuantizationReport
from steadyvlm.recipes import Recipe, accelerate
from steadyvlm.recipes.packed_size import original_size, packed_size
from steadyvlm.recipes.saving import check_saved_form, save


def quantize_lines(
    model: str,
    quantizer: str,
    out: Path,
    *,
    save_dtype: str,
    stream: bool,
    device: str,
    dtype: str,
    say: Callable[[str], None],
) -> list[str]:
    """Quantise and write; return what to tell.

    Raises:
        UsageError and below: for a request that cannot be met, before any weight is loaded.
        CheckpointError: for a model that cannot be read.
    """
    recipe = _checked(quantizer, out, stream)
    started = time.perf_counter()
    if stream:
        work: Any = recipe.build_quantizer()
        named = "source" if save_dtype == "model" else save_dtype
        streamed = pack(model, work, out, text=str(recipe.quantizer), dtype=named, say=say)
        times = (
            f"{time.perf_counter() - started:.1f} s, of which {streamed.reading_seconds:.1f} reading, "
            f"{streamed.packing_seconds:.1f} packing, {streamed.writing_seconds:.1f} writing"
        )
        return [*_done(streamed.report, times), *_sizes(out, outline(model), recipe, streamed.numbers_bytes, True)]
    fast = accelerate(load(model, device=device, dtype=dtype), recipe)
    quantised = time.perf_counter() - started
    saved = save(fast, out, dtype=save_dtype)
    times = f"{quantised:.1f} s to load and quantise, {saved.seconds:.1f} s to write"
    assert fast.report is not None, "a recipe with a quantiser has a report"
    return [*_done(fast.report, times), *_sizes(out, fast.model, recipe, saved.numbers_bytes, False)]


def _checked(quantizer: str, out: Path, stream: bool) -> Recipe:
    """Refuse what can be refused without a model."""
    recipe = Recipe.parse(quantizer)
    found: Any = recipe.build_quantizer()
    if found is None or recipe.reduction is not None or recipe.checkpoint is not None or recipe.preset is not None:
        raise UsageError(f"'{quantizer}' is not a quantiser alone. Give one such as flatquant or 'gptq(group=128)'.")
    assert recipe.quantizer is not None, "one was built"
    check_saved_form(recipe.quantizer.name)
    found.check_available()
    check_new_folder(out)
    if stream and not isinstance(found, BlockQuantizer):
        raise Unsupported(
            f"{recipe.quantizer.name} has to see the model at work on examples and cannot be streamed. "
            "Leave out --stream, or use rtn_w4a4 or hadamard_w4a4."
        )
    return recipe


def _done(report: QuantizationReport, times: str) -> Iterator[str]:
    """Say what was quantised, and how long it took."""
    yield str(report)
    for layer in report.skipped[:3]:
        yield f"  skipped {layer.name}: {layer.reason}"
    yield f"Took {times}."


def _sizes(out: Path, model: Any, recipe: Recipe, numbers: int, unused: bool) -> Iterator[str]:
    """Say how large the checkpoint is, how large it was expected to be, and how it is used."""
    files = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    config = read_json(out / CONFIG)
    precision = DTYPES[config["dtype"]]
    before = original_size(model, precision).total
    yield f"Original: {before:,} bytes in {config['dtype']}; written: {files:,} bytes ({files / before:.1%})."
    if is_packed(out):
        quantizer: Any = recipe.build_quantizer()
        counted = packed_size(model, quantizer.settings, precision, transform_numbers(saved_table(out)), unused=unused)
        agrees = "as counted beforehand" if counted.total == numbers else f"counted beforehand {counted.total:,}"
        yield f"Numbers: {numbers:,} bytes, {agrees}: {counted}."
    yield f"Use it: steadyvlm.load({str(out)!r}), or in a recipe: checkpoint(path={str(out)!r})"
