"""QUOTA: drop visual tokens behind a few early layers, by a schedule and a score that both know the low-bit model.

Behind each candidate layer the visual tokens are ranked by four cues of the deployed forward pass (see `composite`):
attention from the question, magnitude, attention among visual tokens, and what quantisation loses of them. As many stay
as the layer's keep ratio of the original number says, in their order and at their positions. Keep ratios come from
calibration: layers that suffer most from quantisation lose least (see `steadyvlm.quota`).

Source: Li et al. 2026, "Towards Joint Quantization and Token Pruning of Vision-Language Models", arXiv 2604.17320,
section 3.3. Published: weights 0.45, 0.25, 0.10, 0.20; 30 % left in the end (173 of 576 tokens); 128 samples.

    collaborative       quota + flatquant
    stage-wise          quota(keep_ratios='uniform', weights=(0.5625, 0.3125, 0.125, 0.0)) + flatquant
    prune-only          quota(keep_ratios='uniform', weights=(0.5625, 0.3125, 0.125, 0.0))

Differs:
    - Only prose is at hand, so every choice it leaves open is an option; the defaults are those of the specification.
    - Ties go to the lower index. The score is float32.
    - `weights` without `quant` run on any model; `residual_domain="transformed"` needs a quantised one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.quota.allocation import (
    ROUNDINGS,
    check_floor,
    check_percentiles,
    check_saturation,
    check_tau,
    keep_count,
    uniform,
)
from steadyvlm.quota.candidates import check_layers
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.composite import (
    composite_score,
    corrected_for_causality,
    magnitude,
    rounding_residual,
)
from steadyvlm.reduction.options import checked_count, checked_flag
from steadyvlm.reduction.stages import checked_ratios
from steadyvlm.reduction.tensor_ops import top_k

AUTO, UNIFORM = "auto", "uniform"
_FLOOR = 0.3


@dataclass(frozen=True, slots=True)
class Quota:
    """Keep, behind each candidate layer, the visual tokens with the best composite score.

    Attributes:
        layers: candidate layers, neighbours in ascending order, from 2 on; "auto" chooses them by calibration; the
            ranges of the paper's models are "llava-1.5", "qwen2.5-vl" and, read literally, "qwen2.5-vl-literal".
        keep_ratios: share of the original visual tokens left behind each, not growing; "auto" takes them from the
            sensitivities that calibration measures, "uniform" drops the same number behind each.
        floor: share that is left in the end, above 0; with named ratios it is the last of them.
        weights: of inter, magnitude, intra and quant, summing to 1; a metric without weight is not computed.
        percentiles: low and high one between which a metric is rescaled.
        apply: "next" ranks behind a candidate layer, by that layer's attention; "own" in front of it, by that of the
            layer before.
        prune_cache: whether dropped tokens leave the candidate layer's cache too; with "own" they never enter it.
        tokens: number of visual tokens that ratios are shares of; 0 for the prompt's own.
        scope: whether the pictures of a prompt share one budget ("sample") or have one each ("image").
        v_source: the token's state behind the layer ("output") or in front of it ("input").
        residual_domain: "raw" rounds that state; "transformed" is what the next layer's own quantiser loses.
        residual_bits: of the raw rounding, 2 to 8.
        quant_relative: divide the residual by the magnitude.
        intra_causal_correction: average over the visual tokens that can see the token, not over all.
        k_min: at least as many tokens stay.
        rounding: "ceil", or "round" to the nearest.
        tau: temperature of the schedule; large is uniform.
        sensitivity_mode: "local" feeds both models the full-precision input of a layer, "propagated" each its own.
        sensitivity_rows: tokens whose error counts, "visual" or "all".
        sensitivity_percentiles: low and high one between which sensitivities are rescaled.
        max_layers: most candidate layers that "auto" chooses.
        calibration: set of examples for "auto"; "auto" is the quantiser's own, or the one that belongs to the model.
        samples: how many of them are used.
        seed: draws them.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> method = Quota(layers=(2, 3), keep_ratios="uniform", floor=0.5, weights=(1, 0, 0, 0))
    >>> seen = Signals(4, original_tokens=4, question_attention=torch.tensor([0.1, 0.4, 0.2, 0.3]))
    >>> method.ratios, method.select(seen, Site(3)).keep, method.select(seen, Site(4)).keep
    ((0.75, 0.5), tensor([1, 2, 3]), tensor([1, 3]))
    """

    layers: str | tuple[int, ...] = AUTO
    keep_ratios: str | tuple[float, ...] = AUTO
    floor: float = _FLOOR
    weights: tuple[float, ...] = (0.45, 0.25, 0.1, 0.2)
    percentiles: tuple[float, ...] = (5.0, 95.0)
    apply: str = "next"
    prune_cache: bool = True
    tokens: int = 0
    scope: str = "sample"
    v_source: str = "output"
    residual_domain: str = "raw"
    residual_bits: int = 4
    quant_relative: bool = False
    intra_causal_correction: bool = False
    k_min: int = 1
    rounding: str = "ceil"
    tau: float = 1.0
    sensitivity_mode: str = "local"
    sensitivity_rows: str = "visual"
    sensitivity_percentiles: tuple[float, ...] = (10.0, 90.0)
    max_layers: int = 5
    calibration: str = AUTO
    samples: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate."""
        for option, allowed in _CHOICES.items():
            if getattr(self, option) not in allowed:
                raise InvalidOption(
                    f"quota: {option}={getattr(self, option)!r} is unknown. Choose {' or '.join(map(repr, allowed))}."
                )
        for option in ("prune_cache", "quant_relative", "intra_causal_correction"):
            checked_flag("quota", option, getattr(self, option))
        for option, least in (("tokens", 0), ("k_min", 1), ("max_layers", 1), ("samples", 1), ("seed", 0)):
            checked_count("quota", option, getattr(self, option), minimum=least)
        if checked_count("quota", "residual_bits", self.residual_bits, minimum=2) > 8:
            raise InvalidOption(f"quota: residual_bits={self.residual_bits} is not allowed. Give 2 to 8.")
        if not isinstance(self.calibration, str) or not self.calibration:
            raise InvalidOption(f"quota: calibration={self.calibration!r} names no set of examples.")
        ranges = {
            "percentiles": check_percentiles(self.percentiles),
            "sensitivity_percentiles": check_percentiles(self.sensitivity_percentiles, "sensitivity_percentiles"),
        }
        canonical = {"weights": _checked_weights(self.weights), "tau": check_tau(self.tau), **ranges}
        canonical |= {"prune_cache": self.prune_cache and self.apply == "next"}
        canonical |= self._checked_schedule()
        for option, value in canonical.items():
            object.__setattr__(self, option, value)
        check_saturation(ranges["percentiles"], self.floor)

    def _checked_schedule(self) -> dict[str, object]:
        """Return layers, keep ratios and floor in canonical form."""
        floor = check_floor(self.floor)
        layers = self.layers if self.layers == AUTO else check_layers(self.layers)
        if self.keep_ratios in (AUTO, UNIFORM):
            return {"layers": layers, "floor": floor}
        if isinstance(layers, str):
            raise InvalidOption(
                f"quota: keep_ratios={self.keep_ratios!r} without layers. Name the candidate layers too, for example "
                "layers=(2, 3, 4), or leave both to calibration."
            )
        ratios = checked_ratios("quota", "keep_ratios", self.keep_ratios, stages=len(layers))
        last = check_floor(ratios[-1])
        if floor not in (last, _FLOOR):
            raise InvalidOption(
                f"quota: keep_ratios={ratios} end at {last:g}, not at floor={floor:g}. Leave the floor away."
            )
        return {"layers": layers, "keep_ratios": ratios, "floor": last}

    @property
    def is_auto(self) -> bool:
        """Whether it has to meet a model and examples before it can run."""
        return AUTO in (self.layers, self.keep_ratios)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Keep ratio of each candidate layer.

        Raises:
            Unsupported: while calibration has not found them.
        """
        layers = self.candidates
        if isinstance(self.keep_ratios, tuple):
            return self.keep_ratios
        if self.keep_ratios == AUTO:
            raise _unresolved()
        return uniform(len(layers), self.floor).keep_ratio

    @property
    def candidates(self) -> tuple[int, ...]:
        """The candidate layers; raises Unsupported while calibration has not found them."""
        if isinstance(self.layers, str):
            raise _unresolved()
        return self.layers

    def settled(self, layers: tuple[int, ...], keep_ratios: str | tuple[float, ...]) -> Quota:
        """Return the method with these layers and ratios; settings that only calibration reads are the defaults again.

        >>> Quota(tau=0.5, seed=3).settled((2, 3), (0.6, 0.3)) == Quota(layers=(2, 3), keep_ratios=(0.6, 0.3))
        True
        """
        unused: dict[str, Any] = {item.name: item.default for item in fields(self) if item.name in _FOR_CALIBRATION}
        return replace(self, layers=layers, keep_ratios=keep_ratios, **unused)

    @property
    def needs(self) -> frozenset[Signal]:
        """What the weights ask for."""
        inter, size, intra, quant = self.weights
        raw = bool(quant) and self.residual_domain == "raw"
        wanted = {
            Signal.QUESTION_ATTENTION: inter,
            Signal.VISUAL_ATTENTION: intra,
            self._state: size or raw or (quant and self.quant_relative),
            Signal.QUANTIZATION_RESIDUAL: quant and not raw,
        }
        return frozenset(signal for signal, needed in wanted.items() if needed)

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions; decoding goes on from the unpruned length."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Behind each candidate layer, or in front of it.

        Raises:
            Unsupported: while calibration has not found them.
        """
        if self.is_auto:
            raise _unresolved()
        layers = check_layers(self.candidates, num_layers, apply=self.apply)
        return tuple(Site(layer + self._behind) for layer in layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep this layer's budget of the best tokens, in their order."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        assert site.layer is not None, "it acts in the decoder only"
        ratio = self.ratios[self.candidates.index(site.layer - self._behind)]
        scores = self.scores(signals)
        if self.scope == "sample" or len(signals.image_tokens) < 2:
            return Selection(top_k(scores, self.budget(ratio, signals.original_tokens, signals.num_tokens)))
        assert signals.images is not None, "inside the decoder every token has an image"
        kept = []
        for image, original in enumerate(signals.image_tokens):
            mine = (signals.images == image).nonzero()[:, 0]
            kept.append(mine[top_k(scores[mine], self.budget(ratio, original, mine.numel()))])
        return Selection(torch.cat(kept))

    def budget(self, ratio: float, original: int, present: int) -> int:
        """Return how many tokens stay.

        Args:
            ratio: keep ratio of the layer.
            original: visual tokens of the unpruned prompt, or picture.
            present: those that are left.

        >>> Quota(tokens=576).budget(0.3, 1200, 400), Quota().budget(0.3, 1200, 400)
        (173, 360)
        """
        rounding = next(known for known in ROUNDINGS if known == self.rounding)
        return keep_count(ratio, self.tokens or original, present=present, rounding=rounding, k_min=self.k_min)

    def metrics(self, signals: Signals) -> tuple[Tensor | None, ...]:
        """Return inter, magnitude, intra and quant [N], each None where it has no weight."""
        inter, size, intra, quant = self.weights
        rows = signals.require(self._state) if self._state in self.needs else None
        lengths = None if rows is None else magnitude(rows)
        received = signals.require(Signal.VISUAL_ATTENTION) if intra else None
        if received is not None and self.intra_causal_correction:
            received = corrected_for_causality(received)
        lost = None
        if quant:
            if self.residual_domain == "raw":
                assert rows is not None, "the state is among the needs"
                lost = rounding_residual(rows, self.residual_bits)
            else:
                lost = signals.require(Signal.QUANTIZATION_RESIDUAL).float()
            if self.quant_relative:
                assert lengths is not None, "the state is among the needs"
                lost = lost / lengths.clamp_min(1e-12)
        asked = signals.require(Signal.QUESTION_ATTENTION) if inter else None
        return asked, lengths if size else None, received, lost

    def scores(self, signals: Signals) -> Tensor:
        """Return the composite score [N] float32 of the tokens that are left."""
        return composite_score(self.metrics(signals), self.weights, self.percentiles)

    @property
    def _state(self) -> Signal:
        return Signal.HIDDEN if self.v_source == "output" else Signal.HIDDEN_BEFORE

    @property
    def _behind(self) -> int:
        return int(self.apply == "next")


_CHOICES: dict[str, tuple[str, ...]] = {
    "apply": ("next", "own"),
    "scope": ("sample", "image"),
    "v_source": ("output", "input"),
    "residual_domain": ("raw", "transformed"),
    "rounding": ROUNDINGS,
    "sensitivity_mode": ("local", "propagated"),
    "sensitivity_rows": ("visual", "all"),
}


_FOR_CALIBRATION = frozenset(
    {"tau", "sensitivity_mode", "sensitivity_rows", "sensitivity_percentiles", "max_layers"}
    | {"calibration", "samples", "seed"}
)


def _checked_weights(weights: object) -> tuple[float, ...]:
    listed = tuple(weights) if isinstance(weights, (tuple, list)) else ()
    numbers = [value for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(listed) != 4 or len(numbers) != 4 or not all(0 <= value <= 1 for value in numbers):
        raise InvalidOption(
            f"quota: weights={weights!r} are not the four weights of inter, magnitude, intra and quant, each from 0 to "
            "1. The published ones are weights=(0.45, 0.25, 0.1, 0.2)."
        )
    if abs(sum(numbers) - 1) > 1e-6:
        raise InvalidOption(f"quota: weights={tuple(numbers)} sum to {sum(numbers):g}, and have to sum to 1.")
    return tuple(map(float, numbers))


def _unresolved() -> Unsupported:
    return Unsupported(
        "quota: layers='auto' and keep_ratios='auto' are found by calibration on a model. Apply the recipe with "
        "accelerate(model, recipe), make a recipe file with `steadyvlm calibrate`, or say all yourself, for example "
        "quota(layers=(2, 3, 4, 5, 6), keep_ratios='uniform')."
    )
