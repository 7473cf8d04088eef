"""From examples to QUOTA's schedule: profile and sensitivity of every decoder layer, measured on the deployed model.

The deployed (quantised) model reads each batch once, unpruned, and shows where the question looks and how alike the
visual tokens are. Beside it the original reads the same batch, and each of its layers hands its input to the deployed
layer of the same number. What comes out differs by what quantisation does to that layer alone:

    s_l = mean over samples of || X_l - X^q_l || / (|| X_l || + eps)         Frobenius norms over the rows that count

Source: Li et al. 2026, arXiv 2604.17320, section 3.2: a "relative deviation between a full-precision activation and its
low-bit counterpart computed under the deployed low-bit operators"; profile as in `quota.profile`.
Differs: equation (1) is reconstructed: X is the layer's output, both layers read the full-precision input ("local") or
each its own model's ("propagated"), visual rows count or all, and ratios are averaged, not norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.capture import LayerView, assembled, observe_layers
from steadyvlm.engine.layer import run_layer
from steadyvlm.engine.requests import Request
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import RunError, SampleError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.probes.correlation import spearman
from steadyvlm.quota.allocation import EPS, Allocation, allocate, check_percentiles, uniform
from steadyvlm.quota.candidates import Candidates, check_depth, check_layers, choose, span
from steadyvlm.quota.profile import Concentration, Profile, concentration, profile_of, redundancy
from steadyvlm.reduction.composite import magnitude, rounding_residual
from steadyvlm.reduction.quota import AUTO, UNIFORM, Quota

Say = Callable[[int, int], None]
"""Called with the examples read so far and their number."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass over the examples shows.

    Attributes:
        profile: of the deployed model's layers.
        sensitivity: of every decoder layer; zeros when nothing is quantised.
        residual_with_magnitude: median over examples of the rank correlation between what rounding loses of a visual
            token behind the layer and its magnitude: near 1, the two metrics say the same.
        visual_tokens: of each example with a picture, in their order.
        text_tokens: mean number of text tokens beside a picture.
    """

    profile: Profile
    sensitivity: tuple[float, ...]
    residual_with_magnitude: tuple[float, ...]
    visual_tokens: tuple[int, ...]
    text_tokens: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """A token reduction that is ready to run, and how it came about.

    Attributes:
        quota: with its layers and ratios.
        measured: what was measured.
        allocation: of the candidate layers; None when the ratios were named.
        candidates: how the layers were chosen; None when they were named.
        notes: what a reader of the results should know.
    """

    quota: Quota
    measured: Measured
    allocation: Allocation | None
    candidates: Candidates | None
    notes: tuple[str, ...]


def resolve_schedule(
    reduction: Quota,
    original: VisionLanguageModel,
    deployed: VisionLanguageModel,
    examples: Sequence[Request],
    *,
    batch_size: int = 4,
    say: Say | None = None,
) -> Schedule:
    """Return `reduction` with everything that is "auto" replaced by what calibration finds.

    Args:
        reduction: with layers or keep ratios to be found; without, it is measured and stays as it is.
        original: the model in full precision.
        deployed: its quantised copy; `original` itself when only tokens are pruned.
        examples: prompts; those without a picture count only where all rows do.
        batch_size: read together; changes memory and the last digits, not what is measured.
        say: hears how far it is.

    Raises:
        InvalidOption: for layers the model does not have.
        SampleError: for an example that cannot be read, or when none has a picture.
        RunError: when attention or states are not finite.

    >>> resolve_schedule(Quota(), model, quantised, examples).quota.layers   # doctest: +SKIP
    (2, 3, 4, 5, 6)
    """
    depth = original.info.num_layers
    check_reach(reduction, depth)
    measured = measure(reduction, original, deployed, examples, batch_size=batch_size, say=say)
    candidates, notes = None, []
    layers = reduction.layers
    if isinstance(layers, str):
        shown = measured.profile
        concentrated = shown.concentration_top10pct
        candidates = choose(
            concentrated.median, concentrated.iqr, shown.redundancy_median, max_layers=reduction.max_layers
        )
        layers = check_layers(candidates.layers, depth, apply=reduction.apply)
        notes.append(candidates.note)
    allocation = _allocation(reduction, layers, measured)
    ratios = reduction.keep_ratios
    if allocation is not None:
        ratios = UNIFORM if reduction.keep_ratios == UNIFORM else allocation.keep_ratio
        notes.append(_about(layers, allocation))
    if original is deployed and reduction.keep_ratios == AUTO:
        notes.append("nothing is quantised, so no layer is more sensitive than another and the schedule is uniform")
    return Schedule(reduction.settled(layers, ratios), measured, allocation, candidates, tuple(notes))


def check_reach(reduction: Quota, depth: int) -> None:
    """Return quietly if a decoder of so many layers has those a schedule is for, or some to choose from.

    Raises:
        InvalidOption: if not.
    """
    if reduction.layers == AUTO:
        check_depth(depth)
    else:
        check_layers(reduction.layers, depth, apply=reduction.apply)


def measure(
    reduction: Quota,
    original: VisionLanguageModel,
    deployed: VisionLanguageModel,
    examples: Sequence[Request],
    *,
    batch_size: int = 4,
    say: Say | None = None,
) -> Measured:
    """Return profile and sensitivities in one pass; arguments and errors as `resolve_schedule`."""
    used = [item for item in examples if item.images or reduction.sensitivity_rows == "all"]
    if not any(item.images for item in used):
        raise SampleError(
            f"none of the {len(examples)} calibration examples has a picture, so there is nothing to profile. "
            "Use a calibration set with pictures."
        )
    record = _Record(reduction.residual_bits)
    for start in range(0, len(used), batch_size):
        batch = used[start : start + batch_size]
        if original is deployed:
            for view in observe_layers(deployed, batch):
                record.look(view)
        else:
            _compare(record, original, deployed, batch, reduction)
        record.close()
        if say is not None:
            say(start + len(batch), len(used))
    return record.summary(original.info.num_layers)


@dataclass(slots=True)
class _Record:
    """Numbers of the samples read so far: for each, one per layer."""

    bits: int
    concentrations: list[list[Concentration]] = field(default_factory=list)
    redundancies: list[list[float]] = field(default_factory=list)
    correlations: list[list[float]] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)
    _open: list[list[tuple[Concentration, float, float]]] = field(default_factory=list)
    _open_errors: list[list[float]] = field(default_factory=list)
    _counts: list[tuple[int, int]] = field(default_factory=list)

    def look(self, view: LayerView) -> None:
        """Take down what a deployed layer shows of each sample of the batch."""
        sequence = view.sequence
        self._counts = list(zip(sequence.counts, sequence.lengths, strict=True))
        self._open = self._open or [[] for _ in self._counts]
        states = sequence.visual_rows(view.after)
        for mine, mass, rows in zip(self._open, view.question_attention, states, strict=True):
            if len(rows):
                alike = redundancy(rows.float().cpu().numpy())
                mine.append((concentration(mass.cpu().numpy()), alike, _rank_correlation(rows, self.bits)))

    def deviate(self, ratios: Sequence[float]) -> None:
        """Take down what quantisation does to a layer in each sample of the batch."""
        self._open_errors = self._open_errors or [[] for _ in ratios]
        for mine, ratio in zip(self._open_errors, ratios, strict=True):
            mine.append(ratio)

    def close(self) -> None:
        """The batch is through all layers."""
        for shown, (visual, length) in zip(self._open, self._counts, strict=True):
            if visual:
                self.concentrations.append([item for item, _, _ in shown])
                self.redundancies.append([item for _, item, _ in shown])
                self.correlations.append([item for _, _, item in shown])
                self.visual.append(visual)
                self.text.append(length - visual)
        self.errors += self._open_errors
        self._open, self._open_errors = [], []

    def summary(self, depth: int) -> Measured:
        """Return means and medians over samples."""
        profile = profile_of(self.concentrations, self.redundancies, self.visual)
        means = np.mean(self.errors, axis=0) if self.errors else np.zeros(depth)
        if not np.isfinite(means).all():
            raise RunError("what a layer makes of an example is not finite. Load the model with dtype='float32'.")
        together = tuple(np.median(self.correlations, axis=0).tolist())
        return Measured(profile, tuple(means.tolist()), together, tuple(self.visual), float(np.mean(self.text)))


@torch.no_grad()
def _compare(
    record: _Record,
    original: VisionLanguageModel,
    deployed: VisionLanguageModel,
    batch: Sequence[Request],
    reduction: Quota,
) -> None:
    """Read a batch with both models, layer by layer side by side."""
    sequence = assembled(original, batch)
    group, hidden = LayerGroup(original, sequence), sequence.hidden
    pairs = zip(original.layers(), deployed.layers(), observe_layers(deployed, batch), strict=True)
    for exact, low_bit, view in pairs:
        record.look(view)
        after = run_layer(exact, group, hidden)
        other = run_layer(low_bit, group, hidden) if reduction.sensitivity_mode == "local" else view.after
        record.deviate(list(_ratios(after, other, sequence, visual_only=reduction.sensitivity_rows == "visual")))
        hidden = after


def _ratios(after: Tensor, other: Tensor, sequence: VisualSequence, *, visual_only: bool) -> Iterator[float]:
    """Yield equation (1) of each sample."""
    for row in range(after.shape[0]):
        kept = sequence.visual[row] if visual_only else slice(sequence.lengths[row])
        exact = after[row][kept].float()
        yield float((exact - other[row][kept].float()).norm() / (exact.norm() + EPS))


def _rank_correlation(rows: Tensor, bits: int) -> float:
    """Return Spearman's coefficient of residual and magnitude; 0 where one of them is the same for all tokens."""
    found = spearman(rounding_residual(rows, bits).cpu().numpy(), magnitude(rows).cpu().numpy())
    return 0.0 if math.isnan(found) else found


def _allocation(reduction: Quota, layers: tuple[int, ...], measured: Measured) -> Allocation | None:
    if reduction.keep_ratios == AUTO:
        return allocate(
            [measured.sensitivity[layer] for layer in layers],
            floor=reduction.floor,
            tau=reduction.tau,
            percentiles=check_percentiles(reduction.sensitivity_percentiles),
        )
    return uniform(len(layers), reduction.floor) if reduction.keep_ratios == UNIFORM else None


def _about(layers: tuple[int, ...], allocation: Allocation) -> str:
    shown = ", ".join(f"{100 * ratio:.1f} %" for ratio in allocation.keep_ratio)
    return f"visual tokens left behind layers {span(layers)}: {shown}"
