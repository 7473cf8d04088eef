"""From a measured schedule to its recipe file: who it is for, what was measured, what runs, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from steadyvlm.calibration.quota import Schedule
from steadyvlm.cost import Counts, ratios
from steadyvlm.engine.requests import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.sizes import sizes_of
from steadyvlm.quota.allocation import EPS
from steadyvlm.quota.recipe_file import (
    AllocationRecord,
    CalibrationIdentity,
    FlopsRecord,
    ModelIdentity,
    QuantiserIdentity,
    RecipeFile,
    ScoringRecord,
    SensitivityRecord,
    Weights,
    executed_tokens,
)
from steadyvlm.reduction.quota import AUTO, UNIFORM, Quota
from steadyvlm.registry import Spec, spec_of
from steadyvlm.seeding import content_hash


@dataclass(frozen=True, slots=True)
class Packed:
    """The quantised model a recipe goes with.

    Attributes:
        quantizer: canonical spec.
        sha256: hash of the folder it was saved in.
        kv_in_prefill: whether prefill reads quantised keys and values.
    """

    quantizer: Spec
    sha256: str
    kv_in_prefill: bool


def build_file(
    asked: Quota,
    schedule: Schedule,
    model: VisionLanguageModel,
    packed: Packed | None,
    calibration: CalibrationIdentity,
    examples: Sequence[Request],
) -> RecipeFile:
    """Return the recipe file of a schedule.

    Args:
        asked: the reduction before calibration, whose settings say how it was made.
        schedule: what calibration made of it.
        model: the original.
        packed: its quantised copy; None when only tokens are pruned.
        calibration: the examples.
        examples: the same, for the size of their pictures.
    """
    quota, measured = schedule.quota, schedule.measured
    reference = quota.tokens or _usual(measured.visual_tokens)
    counts = tuple(quota.budget(ratio, reference, reference) for ratio in quota.ratios)
    executed = executed_tokens(counts, quota.candidates, reference, model.info.num_layers, apply=quota.apply)
    return RecipeFile(
        model=ModelIdentity(_name(model.info.name), model.weights_sha256(), model.info.num_layers, model.info.width),
        quantiser=None if packed is None else _quantiser(packed),
        calibration=calibration,
        n_ref=reference,
        n_ref_mode="stored" if quota.tokens else "actual",
        scope=cast(Literal["sample", "image"], quota.scope),
        candidates=quota.candidates,
        apply=cast(Literal["next", "own"], quota.apply),
        prune_kv_at_selection_layer=quota.prune_cache,
        profile=measured.profile,
        sensitivity=_sensitivity(asked, schedule),
        allocation=_allocation(asked, schedule, counts),
        scoring=_scoring(quota),
        flops=_flops(executed, reference, model, schedule, examples),
        reduction=str(spec_of(quota, "quota")),
    )


def _name(source: str) -> str:
    """Return how a model is called, without the place of a folder."""
    return Path(source).name if Path(source).expanduser().is_dir() else source


def _usual(visual_tokens: Sequence[int]) -> int:
    """Return the lower median: a number of tokens that some example really has."""
    return sorted(visual_tokens)[(len(visual_tokens) - 1) // 2]


def _quantiser(packed: Packed) -> QuantiserIdentity:
    name = str(packed.quantizer)
    return QuantiserIdentity(name, content_hash(name), packed.sha256, packed.kv_in_prefill)


def _sensitivity(asked: Quota, schedule: Schedule) -> SensitivityRecord:
    measured = asked.keep_ratios == AUTO
    allocation = schedule.allocation
    return SensitivityRecord(
        mode=cast(Any, asked.sensitivity_mode if measured else "none"),
        rows=cast(Literal["visual", "all"], asked.sensitivity_rows),
        tensor="block_output",
        eps=EPS,
        raw=() if allocation is None else allocation.sensitivity,
        normalised=() if allocation is None else allocation.normalised,
        p_lo=asked.sensitivity_percentiles[0],
        p_hi=asked.sensitivity_percentiles[1],
    )


def _allocation(asked: Quota, schedule: Schedule, counts: tuple[int, ...]) -> AllocationRecord:
    kinds: dict[object, Literal["sensitivity", "uniform"]] = {AUTO: "sensitivity", UNIFORM: "uniform"}
    return AllocationRecord(
        schedule=kinds.get(asked.keep_ratios, "given"),
        tau=asked.tau,
        floor=schedule.quota.floor,
        rounding=cast(Literal["ceil", "round"], schedule.quota.rounding),
        k_min=schedule.quota.k_min,
        drop_share=() if schedule.allocation is None else schedule.allocation.drop_share,
        keep_ratio=schedule.quota.ratios,
        keep_count=counts,
    )


def _scoring(quota: Quota) -> ScoringRecord:
    return ScoringRecord(
        weights=Weights(*quota.weights),
        p_lo=quota.percentiles[0],
        p_hi=quota.percentiles[1],
        v_source=cast(Literal["output", "input"], quota.v_source),
        residual_domain=cast(Literal["raw", "transformed"], quota.residual_domain),
        residual_bits=quota.residual_bits,
        quant_relative=quota.quant_relative,
        intra_causal_correction=quota.intra_causal_correction,
        text_queries="after_image",
        tie_break="lowest_index",
    )


def _flops(
    executed: tuple[int, ...],
    reference: int,
    model: VisionLanguageModel,
    schedule: Schedule,
    examples: Sequence[Request],
) -> FlopsRecord:
    text, visual = round(schedule.measured.text_tokens), schedule.measured.visual_tokens
    pictured = [item for item in examples if item.images]
    usual = min(range(len(visual)), key=lambda place: (abs(visual[place] - reference), place))
    layouts = [model.preprocess(image).layout for image in pictured[usual].images]
    whole = Counts(
        visual=(reference,) * len(executed),
        text=text,
        grids=tuple((layout.tiles, *layout.patch_grid) for layout in layouts),
        connector_tokens=sum(layout.tiles * layout.tokens_per_tile for layout in layouts),
    )
    spent = ratios(dataclasses.replace(whole, visual=executed), whole, sizes_of(model.module.config))
    return FlopsRecord(executed, spent.visual_only, spent.decoder, spent.full, text)
