"""Which parts of a recipe have to see examples, and which examples those are.

A quantiser may learn from them, and a schedule may be measured on them. Both are found and checked before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steadyvlm.calibration.calibrate import calibrate, check_pruned, check_schedule
from steadyvlm.calibration.examples import Asking, Wanted, drawn_set, examples_of
from steadyvlm.calibration.quota import check_reach, resolve_schedule
from steadyvlm.calibration.sets import AUTO
from steadyvlm.engine import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.base import BlockQuantizer, Calibrated, QuantizationReport, Quantizer
from steadyvlm.reduction.base import Reduction, Signal
from steadyvlm.reduction.quota import Quota
from steadyvlm.seeding import content_hash

AnyQuantizer = Quantizer | BlockQuantizer | Calibrated


@dataclass(frozen=True, slots=True)
class Examples:
    """What a recipe is calibrated on.

    Attributes:
        quantizer: for a quantiser that learns; empty for any other.
        schedule: for a schedule that is measured; empty for any other.
    """

    quantizer: Sequence[Request] = ()
    schedule: Sequence[Request] = ()


def load_examples(quantizer: AnyQuantizer | None, reduction: Reduction | None, model: VisionLanguageModel) -> Examples:
    """Read all examples a recipe asks for; refuse what could only fail after hours of work.

    Raises:
        InvalidOption, Unsupported: for a pruned graph without a schedule, layers the model does not have, or scores
            that need what neither the model nor this quantiser quantises.
        UnknownName, SampleError, ImageError: for a calibration set that cannot be used.
    """
    if isinstance(quantizer, Calibrated):
        check_pruned(quantizer, model, reduction)
    if isinstance(reduction, Quota):
        check_reach(reduction, model.info.num_layers)
    if not rounds_inputs(quantizer):
        _check_residual(reduction, model)
    wanted = _asking(quantizer, reduction)
    known: dict[Wanted, list[Request]] = {}
    for asking in wanted.values():
        if asking not in known:
            known[asking] = examples_of(asking, model)
    return Examples(**{name: known[asking] for name, asking in wanted.items()})


def calibration_sha256(
    quantizer: AnyQuantizer | None, reduction: Reduction | None, weights_sha256: str, model: str
) -> str | None:
    """Return the hash of all examples a recipe is calibrated on, None for one that needs none.

    It belongs to the address of a result, since the recipe's text only names a set; no picture is looked at.

    Args:
        quantizer: of the recipe.
        reduction: of the recipe.
        weights_sha256: content hash of the model it will meet.
        model: its name, for messages.

    Raises:
        Unsupported, UnknownName, SampleError, InvalidOption: for a set that cannot be found or is too small, and for a
            pruned graph without a schedule.
    """
    if isinstance(quantizer, Calibrated):
        check_schedule(quantizer, reduction)
    wanted = _asking(quantizer, reduction)
    hashes = {name: drawn_set(asking, weights_sha256, model).sha256 for name, asking in wanted.items()}
    return content_hash(hashes) if hashes else None


def apply_quantizer(
    quantizer: AnyQuantizer, target: VisionLanguageModel, reduction: Reduction | None, examples: Examples
) -> QuantizationReport:
    """Quantise `target` in place, each kind of quantiser in its own way."""
    if isinstance(quantizer, Calibrated):
        report: QuantizationReport = calibrate(quantizer, target, examples.quantizer, reduction)
        return report
    if isinstance(quantizer, BlockQuantizer):
        return quantizer.quantize_blocks(target.blocks(quantizer.modules), target.module)
    return quantizer.quantize(target.linears(quantizer.modules), target.module)


def settle(
    reduction: Reduction | None, original: VisionLanguageModel, deployed: VisionLanguageModel, examples: Examples
) -> tuple[Reduction | None, tuple[str, ...]]:
    """Return a reduction whose schedule is known, measuring it if need be, and notes on what was found."""
    if not isinstance(reduction, Quota) or not reduction.is_auto:
        return reduction, ()
    found = resolve_schedule(reduction, original, deployed, examples.schedule)
    return found.quota, found.notes


def is_unsettled(reduction: Reduction | None) -> bool:
    """Whether a reduction's schedule has to be measured first."""
    return isinstance(reduction, Quota) and reduction.is_auto


def _asking(quantizer: AnyQuantizer | None, reduction: Reduction | None) -> dict[str, Wanted]:
    """Return which examples each part asks for; a schedule takes the quantiser's set unless it names one."""
    wanted = {}
    if isinstance(quantizer, Calibrated):
        wanted["quantizer"] = _wanted(quantizer)
    if isinstance(reduction, Quota) and reduction.is_auto:
        own = _wanted(reduction)
        if own.calibration == AUTO and isinstance(quantizer, Calibrated):
            own = replace(own, calibration=quantizer.calibration)
        wanted["schedule"] = own
    return wanted


def _wanted(asking: Asking) -> Wanted:
    return Wanted(asking.calibration, asking.samples, asking.seed)


def rounds_inputs(quantizer: AnyQuantizer | None) -> bool:
    """Whether a quantiser gives the decoder's layers quantised inputs."""
    if quantizer is None or "language" not in quantizer.modules:
        return False
    return bool(getattr(quantizer, "activation_bits", 16) < 16)


def _check_residual(reduction: Reduction | None, model: VisionLanguageModel) -> None:
    """Raise Unsupported when a method scores tokens by what quantising activations loses, and nothing will."""
    if reduction is not None and Signal.QUANTIZATION_RESIDUAL in reduction.needs:
        import torch

        model.layers()[0].activation_error(model.embed(torch.empty(0, dtype=torch.int64, device=model.device)))
