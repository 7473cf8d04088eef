"""The recipe file: what to run, for which model and quantiser, and how it was decided, as JSON that checks itself.

Equal inputs give equal bytes: names are sorted, ratios are exact texts, there is no time and no path. Reading fails
closed. The schedule is derived again from the sensitivities and the counts again from the schedule, so a file that was
edited or damaged is refused; whether it fits a model and a quantiser is asked by `recipes.joint`, which has them.

Source: Li et al. 2026, arXiv 2604.17320, section 3.1: calibration "materializes" the schedule "as a deployable pruning
recipe". The format is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from steadyvlm.errors import CheckpointError, InvalidOption
from steadyvlm.quota import strict_json
from steadyvlm.quota.allocation import Allocation, Rounding, allocate, keep_count, uniform
from steadyvlm.quota.candidates import check_layers
from steadyvlm.quota.profile import Profile

VERSION = 1
AGREE = 1e-12
"""Two derivations of a ratio may differ by this much: another machine may round `exp` differently."""
MOST_LAYERS, MOST = 10_000, 1_000_000
"""No model has more layers, or sees more tokens; keeps a hostile file from asking for memory and time."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model a recipe was made for.

    Attributes:
        name: how it was called when the recipe was made, without the place of a folder; says nothing about what may
            run.
        weights_sha256: `model.weights_sha256()`.
        num_layers: of the decoder.
        hidden_size: of the decoder.
    """

    name: str
    weights_sha256: str
    num_layers: int
    hidden_size: int


@dataclass(frozen=True, slots=True)
class QuantiserIdentity:
    """The quantiser whose sensitivities the schedule follows.

    Attributes:
        name: canonical text of the quantiser with all its settings.
        config_sha256: hash of that text.
        artifact_sha256: hash of the packed model beside the recipe.
        kv_quant_in_prefill: whether attention over the prompt reads quantised keys and values.
    """

    name: str
    config_sha256: str
    artifact_sha256: str
    kv_quant_in_prefill: bool


@dataclass(frozen=True, slots=True)
class CalibrationIdentity:
    """The examples that were measured.

    Attributes:
        set_sha256: hash of the set's content, pictures included.
        num_samples: how many of it were used.
        seed: which of them.
    """

    set_sha256: str
    num_samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class SensitivityRecord:
    """Equation (1): what quantisation does to each candidate layer.

    Attributes:
        mode: "local" when both blocks read the full-precision input, "propagated" when the quantised one reads the
            quantised prefix, "none" when nothing was measured.
        rows: the tokens that count.
        tensor: what was compared.
        eps: beside the denominator.
        raw: s of each candidate layer; empty when nothing was measured.
        normalised: s~.
        p_lo, p_hi: percentiles of the normalisation.
    """

    mode: Literal["local", "propagated", "none"]
    rows: Literal["visual", "all"]
    tensor: Literal["block_output"]
    eps: float
    raw: tuple[float, ...]
    normalised: tuple[float, ...]
    p_lo: float
    p_hi: float


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """Equations (3) to (5).

    Attributes:
        schedule: "sensitivity", "uniform", or "given" when the user named the ratios.
        tau, floor, rounding, k_min: settings.
        drop_share: p; empty when the ratios were given.
        keep_ratio: r.
        keep_count: k of `n_ref` tokens.
    """

    schedule: Literal["sensitivity", "uniform", "given"]
    tau: float
    floor: float
    rounding: Rounding
    k_min: int
    drop_share: tuple[float, ...] = field(metadata={strict_json.RATIO: True})
    keep_ratio: tuple[float, ...] = field(metadata={strict_json.RATIO: True})
    keep_count: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the four token metrics; they sum to 1."""

    inter: float
    magnitude: float
    intra: float
    quant: float


@dataclass(frozen=True, slots=True)
class ScoringRecord:
    """Equations (6) to (9); fields as the options of the `quota` reduction."""

    weights: Weights
    p_lo: float
    p_hi: float
    v_source: Literal["output", "input"]
    residual_domain: Literal["raw", "transformed"]
    residual_bits: int
    quant_relative: bool
    intra_causal_correction: bool
    text_queries: Literal["after_image"]
    tie_break: Literal["lowest_index"]


@dataclass(frozen=True, slots=True)
class FlopsRecord:
    """What `n_ref` visual tokens cost of the unpruned prompt; see `cost.ratios`.

    Attributes:
        executed_visual_tokens: of each decoder layer.
        ratio_visual_only: decoder alone, without text.
        ratio_llm_only: decoder alone, with `text_proxy` text tokens.
        ratio_with_vision: tower, connector and decoder.
        text_proxy: mean number of text tokens of the calibration prompts with a picture.
    """

    executed_visual_tokens: tuple[int, ...]
    ratio_visual_only: float
    ratio_llm_only: float
    ratio_with_vision: float
    text_proxy: int


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A whole recipe. Constructing one checks that its parts agree.

    Attributes:
        model, quantiser, calibration: what it was made for and from; no quantiser in a recipe that only prunes.
        n_ref: visual tokens the counts refer to.
        n_ref_mode: "stored" budgets every prompt by `n_ref`, "actual" by its own number of visual tokens.
        scope: whether several pictures share a budget ("sample") or have one each ("image").
        candidates: layers, counted from `index_base`.
        apply: "next" drops behind a candidate layer, "own" in front of it.
        prune_kv_at_selection_layer: whether dropped tokens leave that layer's cache too.
        profile: None when the layers were named and nothing was profiled.
        sensitivity, allocation, scoring, flops: see there.
        reduction: canonical text of the token reduction that all this amounts to.

    Raises:
        CheckpointError: on construction, for parts that contradict each other.
    """

    model: ModelIdentity
    quantiser: QuantiserIdentity | None
    calibration: CalibrationIdentity
    n_ref: int
    n_ref_mode: Literal["stored", "actual"]
    scope: Literal["sample", "image"]
    candidates: tuple[int, ...]
    apply: Literal["next", "own"]
    prune_kv_at_selection_layer: bool
    profile: Profile | None
    sensitivity: SensitivityRecord
    allocation: AllocationRecord
    scoring: ScoringRecord
    flops: FlopsRecord
    reduction: str
    format: Literal["quota-recipe"] = "quota-recipe"
    version: Literal[1] = 1
    index_base: Literal[0] = 0

    def __post_init__(self) -> None:
        try:
            self._check()
        except InvalidOption as error:
            raise CheckpointError(f"the recipe contradicts itself: {error}") from None

    def save(self, path: Path) -> None:
        """Write the file; equal recipes give equal bytes."""
        path.write_bytes(strict_json.dumps(self).encode("utf-8"))

    def _check(self) -> None:
        hashes = [self.model.weights_sha256, self.calibration.set_sha256]
        if self.quantiser is not None:
            hashes += [self.quantiser.config_sha256, self.quantiser.artifact_sha256]
        for text in hashes:
            _agree(re.fullmatch("[0-9a-f]{64}", text) is not None, f"'{text[:80]}' is no SHA-256")
        layers = self.model.num_layers
        bounded = 1 <= layers <= MOST_LAYERS and 1 <= self.n_ref <= MOST and self.calibration.num_samples >= 1
        _agree(bounded, f"num_layers lies between 1 and {MOST_LAYERS:,}, n_ref between 1 and {MOST:,}")
        check_layers(self.candidates, layers, apply=self.apply)
        for name in ("concentration_top10pct", "concentration_top10abs", "mass_top10pct", "mass_top10abs"):
            shown = None if self.profile is None else getattr(self.profile, name)
            _agree(shown is None or len(shown.median) == len(shown.iqr) == layers, f"profile.{name} has other layers")
        _agree(self.profile is None or self.profile.num_layers == layers, "the profile has other layers")
        derived = self._derived()
        allocation = self.allocation
        _agree(len(allocation.keep_ratio) == len(self.candidates), "there is not one keep_ratio per candidate layer")
        if derived is not None:
            _same(derived.normalised, self.sensitivity.normalised, "sensitivity.normalised")
            _same(derived.drop_share, allocation.drop_share, "allocation.drop_share")
            _same(derived.keep_ratio, allocation.keep_ratio, "allocation.keep_ratio")
        _agree(allocation.keep_ratio[-1] == allocation.floor, "the last keep_ratio is not the floor")
        counts = tuple(
            keep_count(ratio, self.n_ref, rounding=allocation.rounding, k_min=allocation.k_min)
            for ratio in allocation.keep_ratio
        )
        _agree(counts == allocation.keep_count, f"keep_count is {allocation.keep_count}, the ratios give {counts}")
        executed = executed_tokens(counts, self.candidates, self.n_ref, layers, apply=self.apply)
        _agree(executed == self.flops.executed_visual_tokens, "executed_visual_tokens do not follow from keep_count")

    def _derived(self) -> Allocation | None:
        """Return the schedule that the recorded measurements and settings give; None where the user gave it."""
        allocation, measured = self.allocation, self.sensitivity
        if allocation.schedule == "sensitivity":
            _agree(len(measured.raw) == len(self.candidates), "there is not one sensitivity per candidate layer")
            return allocate(
                measured.raw, floor=allocation.floor, tau=allocation.tau, percentiles=(measured.p_lo, measured.p_hi)
            )
        return uniform(len(self.candidates), allocation.floor) if allocation.schedule == "uniform" else None


def load(path: Path) -> RecipeFile:
    """Read a recipe file.

    Raises:
        CheckpointError: when it is missing, of another version, damaged or edited.
    """
    plain = strict_json.read(path)
    if not isinstance(plain, dict) or plain.get("format") != "quota-recipe":
        raise CheckpointError(f"'{path}' is no recipe file. Make one with `steadyvlm calibrate`.")
    if plain.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' is a recipe of version {str(plain.get('version'))[:20]}; this package reads version {VERSION}. "
            "Make it anew with `steadyvlm calibrate`, or use the package that wrote it."
        )
    try:
        return strict_json.decode(RecipeFile, plain)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from None


def executed_tokens(
    counts: tuple[int, ...], candidates: tuple[int, ...], n_ref: int, num_layers: int, *, apply: str
) -> tuple[int, ...]:
    """Return the visual tokens that each decoder layer processes.

    >>> executed_tokens((6, 3), (2, 3), 8, 6, apply="next")
    (8, 8, 8, 6, 3, 3)
    >>> executed_tokens((6, 3), (2, 3), 8, 6, apply="own")
    (8, 8, 6, 3, 3, 3)
    """
    found = [n_ref] * num_layers
    for layer, count in zip(candidates, counts, strict=True):
        first = layer + 1 if apply == "next" else layer
        found[first:] = [count] * (num_layers - first)
    return tuple(found)


def _same(derived: tuple[float, ...], written: tuple[float, ...], what: str) -> None:
    close = len(derived) == len(written) and all(
        abs(one - two) <= AGREE for one, two in zip(derived, written, strict=True)
    )
    _agree(close, f"{what} does not follow from what was measured")


def _agree(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(f"the recipe contradicts itself: {otherwise}. It is damaged or edited; make it anew.")
