"""Measure what a recipe does to the inside of a model: layer-wise inner disruption (LID) of two recipes on a sample.

Both sides read the same prompts, prefill only. In every layer the spectrum of what attention wrote, before it joins the
residual stream, gives a participation ratio (IPR); LID sums how much these changed. Spectra are exact, from the smaller
Gram matrix in float64, for all prompts of equal length together.

Source: Sun et al. 2025, "Silent Hazards of Token Reduction in Vision-Language Models", arXiv 2503.06794v2, section 3.1.
Published: rank 0.75, on GQA and VQAv2.
Differs: the paper's matrix is taken after the output projection, over the prompt's own tokens (its text speaks of the
unified sequence), without padding and without the answer; scope, rank and tensor are options because it does not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steadyvlm.engine import Request, run_prefill
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import InvalidOption, RunError, SampleError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.probes.lid import disruption
from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate
from steadyvlm.recipes.asking import requests_of
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.records import Failure, Sample
from steadyvlm.reduction.options import checked_count, checked_ratio
from steadyvlm.reduction.spectrum import participation_ratios
from steadyvlm.stability.clusters import RESAMPLES, bootstrap_mean, cluster_codes

Scope = Literal["all", "visual"]
Source = Literal["attention_output", "hidden"]


@dataclass(frozen=True, slots=True)
class Spectra:
    """Participation ratios of one recipe.

    Attributes:
        recipe: canonical text of what ran.
        sample_ids: of the samples, in the order asked.
        clusters: what ties samples together (the image); the id where a sample stands alone.
        ratios: for each sample, one ratio per decoder layer; None where the sample failed.
        failures: sample id -> why it has none.
        scope, rank, tensor: as asked.
    """

    recipe: str
    sample_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    ratios: tuple[tuple[float, ...] | None, ...]
    failures: dict[str, Failure]
    scope: Scope
    rank: float
    tensor: Source


@dataclass(frozen=True, slots=True)
class LidResult:
    """LID of one recipe against another.

    Attributes:
        original, accelerated: canonical recipes.
        sample_ids: samples that both sides read.
        values: LID of each of them.
        value: their mean.
        low, high: 95 % limits of the mean, by resampling images; without width when all samples share one.
        per_layer: mean change of each layer; they sum to `value`.
        original_per_layer, accelerated_per_layer: mean participation ratios.
        of_means: LID of those means, the other reading of the paper.
        failed: samples left out because a side could not read them.
        scope, rank, tensor: what was measured.
        resamples: behind the limits.
    """

    original: str
    accelerated: str
    sample_ids: tuple[str, ...]
    values: tuple[float, ...]
    value: float
    low: float
    high: float
    per_layer: tuple[float, ...]
    original_per_layer: tuple[float, ...]
    accelerated_per_layer: tuple[float, ...]
    of_means: float
    failed: tuple[str, ...]
    scope: Scope
    rank: float
    tensor: Source
    resamples: int

    @property
    def n(self) -> int:
        """Samples behind the mean."""
        return len(self.values)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n:,})"


def lid(
    model: VisionLanguageModel,
    original: Recipe | str,
    accelerated: Recipe | str,
    samples: Sequence[Sample],
    *,
    scope: Scope = "all",
    rank: float = 0.75,
    tensor: Source = "attention_output",
    batch_size: int = 8,
) -> LidResult:
    """Return how far `accelerated` moves the inside of `model` from where `original` has it.

    Args:
        model: from `steadyvlm.load`.
        original: usually "keep_all".
        accelerated: what is held against it.
        samples: questions, each read once per side.
        scope: columns of the matrix: "all" tokens of the prompt, or the "visual" ones (a layer without any has 0).
        rank: share of the directions that counts, above 0 and at most 1; at 1 no eigenproblem is needed.
        tensor: what attention wrote, or the hidden states that enter each layer.
        batch_size: prompts read together; changes memory and time, in float32 not the result.

    Raises:
        InvalidOption: for an option out of range, or an error of `accelerate`.
        SampleError: without samples.
        RunError: when no sample could be read by both sides.

    >>> print(lid(load("pocket"), "keep_all", "lofi(beta=4.0)", PocketTask(limit=24).samples()))   # doctest: +SKIP
    1.353 [1.281, 1.413] (n = 24)
    """
    sides = [
        measure_spectra(
            accelerate(model, recipe), samples, scope=scope, rank=rank, tensor=tensor, batch_size=batch_size
        )
        for recipe in (original, accelerated)
    ]
    return compare_spectra(*sides)


def measure_spectra(
    model: AcceleratedModel,
    samples: Sequence[Sample],
    *,
    scope: Scope = "all",
    rank: float = 0.75,
    tensor: Source = "attention_output",
    batch_size: int = 8,
) -> Spectra:
    """Return one side of a comparison, so that several recipes can share one original; arguments as for `lid`."""
    if scope not in ("all", "visual") or tensor not in ("attention_output", "hidden"):
        raise InvalidOption(
            f"lid: scope={scope!r}, tensor={tensor!r} is unknown. Choose scope 'all' or 'visual', and tensor "
            "'attention_output' or 'hidden'."
        )
    if checked_ratio("lid", "rank", rank) == 0:
        raise InvalidOption("lid: rank=0 leaves no direction to measure. Give a share above 0, such as 0.75.")
    checked_count("lid", "batch_size", batch_size, minimum=1)
    if not samples:
        raise SampleError("there are no samples to measure LID on; give at least one question.")
    found: list[tuple[float, ...] | Failure] = []
    for start in range(0, len(samples), batch_size):
        found += _read(model, samples[start : start + batch_size], scope, rank, tensor)
    ids = tuple(sample.id for sample in samples)
    return Spectra(
        recipe=str(model.recipe),
        sample_ids=ids,
        clusters=tuple(sample.cluster or sample.id for sample in samples),
        ratios=tuple(None if isinstance(item, Failure) else item for item in found),
        failures={name: item for name, item in zip(ids, found, strict=True) if isinstance(item, Failure)},
        scope=scope,
        rank=float(rank),
        tensor=tensor,
    )


def compare_spectra(original: Spectra, accelerated: Spectra) -> LidResult:
    """Return LID from two sides measured on the same samples in the same way.

    Raises:
        InvalidOption: when they were not.
        RunError: when no sample was read by both sides.
    """
    for name in ("sample_ids", "scope", "rank", "tensor"):
        if getattr(original, name) != getattr(accelerated, name):
            raise InvalidOption(
                f"LID compares two recipes on the same samples, measured the same way, but {name} differs. "
                "Measure both sides with the same arguments."
            )
    pairs = zip(original.ratios, accelerated.ratios, strict=True)
    both = [(place, first, second) for place, (first, second) in enumerate(pairs) if first and second]
    if not both:
        failure = next(iter([*original.failures.values(), *accelerated.failures.values()]))
        raise RunError(
            f"no sample could be read by both sides; the first failed with {failure.kind}: {failure.message}"
        )
    places = [place for place, _, _ in both]
    firsts, seconds = [first for _, first, _ in both], [second for _, _, second in both]
    found = disruption(firsts, seconds)
    limits = bootstrap_mean(found.values, cluster_codes([original.clusters[place] for place in places]))
    return LidResult(
        original=original.recipe,
        accelerated=accelerated.recipe,
        sample_ids=tuple(original.sample_ids[place] for place in places),
        values=tuple(found.values.tolist()),
        value=float(found.values.mean()),
        low=limits.interval.low,
        high=limits.interval.high,
        per_layer=tuple(found.per_layer.tolist()),
        original_per_layer=_means(firsts),
        accelerated_per_layer=_means(seconds),
        of_means=found.of_means,
        failed=tuple(name for name in original.sample_ids if name in {**original.failures, **accelerated.failures}),
        scope=original.scope,
        rank=original.rank,
        tensor=original.tensor,
        resamples=RESAMPLES,
    )


def _read(
    model: AcceleratedModel, samples: Sequence[Sample], scope: Scope, rank: float, tensor: Source
) -> list[tuple[float, ...] | Failure]:
    """Return the ratios of each sample of a batch, layer by layer."""
    requests = requests_of(samples)
    asked = [item for item in requests if isinstance(item, Request)]
    layers: list[list[float]] = []

    def observe(index: int, sequence: VisualSequence, output: Tensor) -> None:
        states = output if tensor == "attention_output" else sequence.hidden
        rows = sequence.visual_rows(states) if scope == "visual" else _unpadded(states, sequence.lengths)
        layers.append(_ratios(rows, rank))

    outcomes = iter(run_prefill(model.model, asked, model.reduction, observe=observe, vision_cache=model.vision_cache))
    found: list[tuple[float, ...] | Failure] = []
    for item in requests:
        outcome = item if isinstance(item, Failure) else next(outcomes)
        found.append(outcome if isinstance(outcome, Failure) else _checked(layer[outcome.row] for layer in layers))
    return found


def _checked(ratios: Iterable[float]) -> tuple[float, ...] | Failure:
    row = tuple(ratios)
    return Failure("RunError", _NOT_FINITE) if any(math.isnan(ratio) for ratio in row) else row


def _unpadded(states: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return [row[:length] for row, length in zip(states, lengths, strict=True)]


def _ratios(rows: Sequence[Tensor], rank: float) -> list[float]:
    """Return the ratio of each matrix [N, D], nan where one is not finite; those of equal N are solved together."""
    found = [math.nan] * len(rows)
    finite = [place for place, part in enumerate(rows) if bool(part.isfinite().all())]
    for length in {len(rows[place]) for place in finite}:
        places = [place for place in finite if len(rows[place]) == length]
        ratios = participation_ratios(torch.stack([rows[place] for place in places]), rank)
        for place, ratio in zip(places, ratios.tolist(), strict=True):
            found[place] = ratio
    return found


_NOT_FINITE = (
    "hidden states of this sample are not finite, so they have no spectrum. Load the model with dtype='float32', or "
    "check the weights for NaN."
)


def _means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
