"""How much changes when nothing was changed: the A/A control and the excess over it.

The original is run again under another legal condition (batch size, order). Its divergence from itself is the noise
floor; only what an accelerated run changes beyond that floor may be blamed on the acceleration. If acceleration were
one more run of the same model, swapping it with the control would change nothing, so among the samples that changed in
exactly one of the two, u (accelerated) and v (control), u is Binomial(u + v, 1/2): an exact test without a model.

Source:
    Kübler et al. 2026, arXiv 2602.10144 (paired testing against run-to-run noise); definitions in docs/stability.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steadyvlm.stability.clusters import renumber
from steadyvlm.stability.differences import difference, share
from steadyvlm.stability.estimates import Difference, Rate
from steadyvlm.stability.mcnemar import PairedTest, mcnemar
from steadyvlm.stability.ratios import Outcomes

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """The accelerated run beside a control run of the original.

    All numbers are over the `n` samples that original, accelerated and control answered.

    Attributes:
        n, n_clusters: samples, and groups of them that share an image.
        control_divergence_ratio: share whose answer changed although nothing was accelerated (DR_AA).
        control_negative_divergence_ratio: share that went right→wrong in the control (NDR_AA).
        excess_divergence_ratio: DR - DR_AA.
        excess_negative_divergence_ratio: NDR - NDR_AA.
        divergence_test: samples changed in the accelerated run only against samples changed in the control only.
        negative_test: the same for right→wrong.
        attributable_share: excess / DR; None when DR is 0. Negative when the control changed more.
        changed_in_both: samples that changed in both runs: fragile answers.
        stable_core: of the samples the original and every control got right with the same answer, the share that the
            accelerated run gets wrong.
        n_controls: control runs behind the stable core.
    """

    n: int
    n_clusters: int
    control_divergence_ratio: Rate
    control_negative_divergence_ratio: Rate
    excess_divergence_ratio: Difference
    excess_negative_divergence_ratio: Difference
    divergence_test: PairedTest
    negative_test: PairedTest
    attributable_share: float | None
    changed_in_both: int
    stable_core: Rate
    n_controls: int


def noise_floor(
    accelerated: Outcomes, controls: Sequence[Outcomes], codes: IntArray, *, alpha: float = 0.05, seed: int = 0
) -> NoiseFloor:
    """Return the noise floor and the excess over it.

    Args:
        accelerated: original against accelerated.
        controls: original against each control run, the same samples in the same order; the first is the floor,
            all of them define the stable core.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.
        alpha: 1 - confidence.
        seed: seed of the bootstrap.
    """
    control = controls[0]
    changed, control_changed = accelerated.changed, control.changed
    negative, control_negative = accelerated.negative, control.negative
    core = accelerated.original_right.copy()
    for run in controls:
        core &= ~run.changed & run.accelerated_right
    excess = difference(changed.astype(np.float64), control_changed.astype(np.float64), codes, alpha=alpha, seed=seed)
    total = int(changed.sum())
    return NoiseFloor(
        n=len(accelerated),
        n_clusters=int(codes.max()) + 1 if len(codes) else 0,
        control_divergence_ratio=share(control_changed, codes, alpha=alpha),
        control_negative_divergence_ratio=share(control_negative, codes, alpha=alpha),
        excess_divergence_ratio=excess,
        excess_negative_divergence_ratio=difference(
            negative.astype(np.float64), control_negative.astype(np.float64), codes, alpha=alpha, seed=seed
        ),
        divergence_test=_against(changed, control_changed, "changed", alpha),
        negative_test=_against(negative, control_negative, "broke", alpha),
        attributable_share=excess.value * len(accelerated) / total if total else None,
        changed_in_both=int((changed & control_changed).sum()),
        stable_core=share(accelerated.negative[core], renumber(codes[core]), alpha=alpha),
        n_controls=len(controls),
    )


def _against(accelerated: npt.NDArray[np.bool_], control: npt.NDArray[np.bool_], verb: str, alpha: float) -> PairedTest:
    return mcnemar(
        int((accelerated & ~control).sum()),
        int((control & ~accelerated).sum()),
        alpha=alpha,
        first=f"{verb} in the accelerated run only",
        second=f"{verb} in the control only",
    )
