"""All numbers about one set of samples: a whole comparison, one task, or one family of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steadyvlm.stability.clusters import renumber
from steadyvlm.stability.differences import difference, share
from steadyvlm.stability.estimates import Difference, Rate, json_ready
from steadyvlm.stability.mcnemar import PairedTest, mcnemar
from steadyvlm.stability.noise import NoiseFloor, noise_floor
from steadyvlm.stability.pairing import Key
from steadyvlm.stability.ratios import (
    FlipCounts,
    FlipKind,
    Outcomes,
    check_identities,
    count_flips,
    flows,
)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flip:
    """One sample whose answer, or the format of it, is not the same.

    Attributes:
        key: (task, sample id, perturbation); finds both predictions.
        kind: what happened.
        family: the slice of the task the sample belongs to.
        original_answer, accelerated_answer: canonical answers.
        original_score, accelerated_score: against the references.
        fragile: whether the control run changed this answer as well; None without a control answer.
    """

    key: Key
    kind: FlipKind
    family: str
    original_answer: str
    accelerated_answer: str
    original_score: float
    accelerated_score: float
    fragile: bool | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Samples without an answer, per side; `samples` counts those lost to the comparison."""

    original: int
    accelerated: int
    control: int
    samples: int


@dataclass(frozen=True, slots=True)
class Unparsed:
    """Samples, of those answered on both sides, from whose text no answer could be read."""

    original: int
    accelerated: int


@dataclass(frozen=True)
class Slice:
    """What acceleration did to one set of samples.

    Shares are of `n`, the samples answered on both sides, unless said otherwise.

    Attributes:
        name: "all", a task, or a family.
        n, n_clusters: samples, and groups of them that share an image.
        cells: the flip table; sums to n.
        failures, unparsed: what is counted apart.
        divergence_ratio: DR, answers that changed.
        negative_divergence_ratio: NDR, right→wrong.
        negative_given_right: right→wrong among the samples the original got right.
        positive_flip_ratio: PFR, wrong→right.
        text_divergence_ratio: raw texts that differ, whether or not the answer did.
        accuracy_original, accuracy_accelerated: samples with a score at or above the threshold.
        accuracy_change: accelerated minus original; equals PFR - NDR.
        score_original, score_accelerated: mean scores; nan for no samples.
        score_change: accelerated minus original; equals gain_flow - loss_flow.
        loss_flow, gain_flow: mean score lost and mean score gained; NDR and PFR when scores are 0 or 1.
        mcnemar: right→wrong against wrong→right, by sample.
        mcnemar_by_cluster: images that lost on balance against images that gained; the one to trust when
            several questions share an image, the same as `mcnemar` when none do.
        noise: the A/A control and the excess over it; None without a control run.
    """

    name: str
    n: int
    n_clusters: int
    cells: FlipCounts
    failures: Failures
    unparsed: Unparsed
    divergence_ratio: Rate
    negative_divergence_ratio: Rate
    negative_given_right: Rate
    positive_flip_ratio: Rate
    text_divergence_ratio: Rate
    accuracy_original: Rate
    accuracy_accelerated: Rate
    accuracy_change: Difference
    score_original: float
    score_accelerated: float
    score_change: Difference
    loss_flow: float
    gain_flow: float
    mcnemar: PairedTest
    mcnemar_by_cluster: PairedTest
    noise: NoiseFloor | None

    @property
    def changed(self) -> int:
        """Samples whose answer changed."""
        return self.cells.changed

    @property
    def negative(self) -> int:
        """Samples that went right→wrong."""
        return self.cells.right_to_wrong

    @property
    def positive(self) -> int:
        """Samples that went wrong→right."""
        return self.cells.wrong_to_right

    @property
    def other_wrong(self) -> int:
        """Samples that went from one wrong answer to another."""
        return self.cells.wrong_to_other_wrong

    @property
    def right_to_other_right(self) -> int:
        """Samples that went from one right answer to another."""
        return self.cells.right_to_other_right

    @property
    def format_only(self) -> int:
        """Samples with the same answer in other words; not a change."""
        return self.cells.format_only

    @property
    def churn(self) -> float:
        """NDR + PFR: the share whose correctness changed either way; nan for no samples."""
        return (self.negative + self.positive) / self.n if self.n else float("nan")

    @property
    def n_eff(self) -> float:
        """Independent samples the divergence ratio is worth."""
        return self.divergence_ratio.n_eff

    @property
    def control_divergence_ratio(self) -> Rate | None:
        """Noise floor of the divergence ratio; None without a control run."""
        return self.noise.control_divergence_ratio if self.noise else None

    @property
    def control_negative_divergence_ratio(self) -> Rate | None:
        """Noise floor of the negative divergence ratio; None without a control run."""
        return self.noise.control_negative_divergence_ratio if self.noise else None

    @property
    def excess_divergence_ratio(self) -> Difference | None:
        """Divergence ratio beyond the noise floor; None without a control run."""
        return self.noise.excess_divergence_ratio if self.noise else None

    @property
    def excess_negative_divergence_ratio(self) -> Difference | None:
        """Negative divergence ratio beyond the noise floor; None without a control run."""
        return self.noise.excess_negative_divergence_ratio if self.noise else None

    def __str__(self) -> str:
        lines = [
            f"samples          {self.n:,} in {self.n_clusters:,} clusters, {self.failures.samples:,} failed",
            f"answers changed  {self.divergence_ratio}",
            f"right → wrong    {self.negative_divergence_ratio}",
            f"wrong → right    {self.positive_flip_ratio}",
            f"accuracy change  {self.accuracy_change}",
        ]
        if self.noise:
            lines.insert(2, f"  beyond noise   {self.noise.excess_divergence_ratio}")
            lines.insert(4, f"  beyond noise   {self.noise.excess_negative_divergence_ratio}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: every number with its n, denominator, interval and method; nan becomes null."""
        row: dict[str, Any] = {
            **json_ready(self),
            "changed": self.changed,
            "churn": json_ready(self.churn),
        }
        return row


def summarise(
    name: str,
    outcomes: Outcomes,
    codes: IntArray,
    failures: Failures,
    *,
    controls: Sequence[Outcomes] = (),
    control_rows: npt.NDArray[np.intp] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> Slice:
    """Return all numbers about `outcomes`.

    Args:
        name: name of the slice.
        outcomes: original against accelerated, N rows.
        codes: [N] int64, any numbering of the clusters.
        failures: what is not in `outcomes`.
        controls: original against each control run, for `control_rows` only.
        control_rows: rows of `outcomes` that every control run answered as well; None without a control.
        alpha: 1 - confidence.
        seed: seed of the bootstrap.

    Raises:
        RunError: when an identity of the numbers does not hold.
    """
    n, codes = len(outcomes), renumber(codes)
    right, still_right = outcomes.original_right, outcomes.accelerated_right
    counts = count_flips(outcomes)
    loss_flow, gain_flow = flows(outcomes)

    def rate(events: npt.NDArray[np.bool_]) -> Rate:
        return share(events, codes, alpha=alpha)

    accuracy_change = difference(
        still_right.astype(np.float64), right.astype(np.float64), codes, alpha=alpha, seed=seed
    )
    score_change = difference(outcomes.accelerated_score, outcomes.original_score, codes, alpha=alpha, seed=seed)
    check_identities(
        n=n,
        counts=counts,
        right_change=accuracy_change.value,
        score_change=score_change.value,
        loss_flow=loss_flow,
        gain_flow=gain_flow,
    )
    noise = None
    if control_rows is not None:
        noise = noise_floor(
            outcomes.take(control_rows), controls, renumber(codes[control_rows]), alpha=alpha, seed=seed
        )
    return Slice(
        name=name,
        n=n,
        n_clusters=int(codes.max()) + 1 if n else 0,
        cells=counts,
        failures=failures,
        unparsed=Unparsed(int(outcomes.original_unparsed.sum()), int(outcomes.accelerated_unparsed.sum())),
        divergence_ratio=rate(outcomes.changed),
        negative_divergence_ratio=rate(outcomes.negative),
        negative_given_right=share(outcomes.negative[right], renumber(codes[right]), alpha=alpha),
        positive_flip_ratio=rate(outcomes.positive),
        text_divergence_ratio=rate(outcomes.text_changed),
        accuracy_original=rate(right),
        accuracy_accelerated=rate(still_right),
        accuracy_change=accuracy_change,
        score_original=_mean(outcomes.original_score),
        score_accelerated=_mean(outcomes.accelerated_score),
        score_change=score_change,
        loss_flow=loss_flow,
        gain_flow=gain_flow,
        mcnemar=mcnemar(counts.right_to_wrong, counts.wrong_to_right, alpha=alpha),
        mcnemar_by_cluster=_by_cluster(outcomes, codes, alpha),
        noise=noise,
    )


def _by_cluster(outcomes: Outcomes, codes: IntArray, alpha: float) -> PairedTest:
    """Sign test over images: swapping the sides within an image flips the sign of its net loss."""
    if len(np.unique(codes)) == len(codes):
        return mcnemar(int(outcomes.negative.sum()), int(outcomes.positive.sum()), alpha=alpha)
    net = np.bincount(codes, weights=outcomes.negative.astype(np.float64) - outcomes.positive)
    return mcnemar(
        int((net > 0).sum()),
        int((net < 0).sum()),
        alpha=alpha,
        first="images lost",
        second="images gained",
        unit="image",
    )


def _mean(scores: npt.NDArray[np.float64]) -> float:
    return float(scores.mean()) if len(scores) else float("nan")
