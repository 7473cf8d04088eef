"""One verb for every quantiser that has to see the model at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steadyvlm.calibration import CALIBRATORS
from steadyvlm.calibration.store import BlockStore
from steadyvlm.engine.requests import Request
from steadyvlm.engine.signals import check_deployed
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.base import Calibrated, QuantizationReport
from steadyvlm.reduction.base import Reduction

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, what)` when a block is done."""


def calibrate(
    quantizer: Calibrated,
    model: VisionLanguageModel,
    examples: Sequence[Request],
    reduction: Reduction | None = None,
    *,
    store: BlockStore | None = None,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Quantise `model` in place by what it does on `examples`; hand over a copy to keep the original.

    Args:
        quantizer: the method and its settings.
        model: full precision when handed over.
        examples: prompts and pictures, for example `examples.examples_of(quantizer, model)`.
        reduction: the recipe's token reduction; at work meanwhile where the quantiser says `pruned`.
        store: where what is learned is kept, for methods that keep it; None for the usual place.
        progress: called as work goes on.

    Raises:
        InvalidOption, Unsupported, SampleError, CheckpointError: before anything is changed.
        RunError: when a calibration does not come to an end it can use.

    >>> report = calibrate(FlatQuant(), model.copy(), examples_of(FlatQuant(), model))   # doctest: +SKIP
    >>> [error.learned / error.rounded for error in report.block_errors]                 # doctest: +SKIP
    """
    check_pruned(quantizer, model, reduction)
    run = CALIBRATORS.load(_name(quantizer))
    found: QuantizationReport = run(quantizer, model, examples, reduction=reduction, store=store, progress=progress)
    return found


def check_pruned(quantizer: Calibrated, model: VisionLanguageModel, reduction: Reduction | None) -> None:
    """Return quietly if a pruned graph is not asked for, or there is one to calibrate on.

    Raises:
        InvalidOption: when the recipe drops no tokens, or does not yet know which.
        Unsupported: when the reduction reads what only a quantised model shows.
    """
    check_schedule(quantizer, reduction)
    if quantizer.pruned:
        check_deployed(reduction, model)


def check_schedule(quantizer: Calibrated, reduction: Reduction | None) -> None:
    """Return quietly if a pruned graph is not asked for, or it is known which; the part that needs no model.

    Raises:
        InvalidOption: as `check_pruned`.
    """
    if not quantizer.pruned:
        return
    if reduction is None:
        raise InvalidOption(
            "the quantiser asks for pruned=True, but the recipe drops no tokens. Put a reduction before it, for "
            "example 'fastv(layer=2, keep_ratio=0.5) + flatquant(pruned=True)', or leave pruned out."
        )
    if getattr(reduction, "is_auto", False):
        raise InvalidOption(
            "pruned=True calibrates with the reduction at work, and this reduction takes its layers or keep ratios "
            "from the calibrated model. Name them, for example \"quota(layers=(2, 3, 4), keep_ratios='uniform')\" in "
            "place of 'quota' or a preset such as quota-30, or leave pruned out."
        )


def weights_alone(
    quantizer: Any,
    model: VisionLanguageModel,
    examples: Sequence[Request],
    *,
    reduction: Reduction | None,
    store: BlockStore | None,
    progress: Progress | None,
) -> QuantizationReport:
    """GPTQ and AWQ: neither prunes meanwhile nor keeps what it learns."""
    from steadyvlm.calibration.llm_compressor import calibrate_weights

    return calibrate_weights(quantizer, model, examples, progress=progress)


def _name(quantizer: Calibrated) -> str:
    """Return under which name the quantiser's class is registered."""
    path = f"{type(quantizer).__module__}:{type(quantizer).__qualname__}"
    for name, target in QUANTIZERS.items():
        if target == path:
            return name
    raise Unsupported(
        f"'{path}' is no registered quantiser, so it is not known how to calibrate it. Register it under the entry "
        "points steadyvlm.quantizers and, with what shows it the model, steadyvlm.calibrators."
    )
