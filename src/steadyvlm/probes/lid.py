"""Layer-wise inner disruption (LID): how far a reduction moved the spectra inside a model.

Each layer of a model that reads a prompt has an inverse participation ratio (IPR, see `spectrum.py`). LID is the sum
over layers of how much it changed: |IPR of the original - IPR of the accelerated|.

Source: Sun et al. 2025, "Silent Hazards of Token Reduction in Vision-Language Models", arXiv 2503.06794v2, section 3.1.
Differs: the paper does not say whether LID is averaged over samples or taken of averaged ratios. Here it is taken
sample by sample; the other reading stands beside it. A change that leaves the spectrum as it was is invisible to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steadyvlm.errors import InvalidOption

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Disruption:
    """What changed between two runs over the same samples.

    Attributes:
        values: [S] LID of each sample.
        per_layer: [L] mean change of each layer; they sum to the mean of `values`.
        of_means: LID of the ratios averaged over samples, never above the mean of `values`.
    """

    values: FloatArray
    per_layer: FloatArray
    of_means: float


def disruption(original: ArrayLike, accelerated: ArrayLike) -> Disruption:
    """Return LID from the participation ratios [S, L] of both sides, S samples by L layers.

    Raises:
        InvalidOption: when the shapes differ or there is no sample or no layer.

    >>> found = disruption([[0.5, 0.25], [0.5, 0.5]], [[0.75, 0.25], [0.25, 0.25]])
    >>> found.values, found.per_layer, found.of_means
    (array([0.25, 0.5 ]), array([0.25 , 0.125]), 0.125)
    """
    first, second = np.asarray(original, dtype=np.float64), np.asarray(accelerated, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise InvalidOption(
            f"participation ratios of shape {first.shape} and {second.shape} cannot be compared. "
            "Give two tables of samples by layers, with the same samples in the same order."
        )
    changes = np.abs(first - second)
    means = np.abs(first.mean(axis=0) - second.mean(axis=0))
    return Disruption(changes.sum(axis=1), changes.mean(axis=0), float(means.sum()))
