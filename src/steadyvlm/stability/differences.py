"""The interval of a difference between two means over the same samples: which method, and when.

Without shared images and with 0/1 values: Newcombe's method 10. With shared images, or scores in between, whole images
are resampled once at least 30 of them differ; with fewer the bootstrap is too narrow, so Newcombe's interval is used
on the table shrunk to its effective size.

Source:
    Newcombe 1998 and Miller 2024, see `intervals.py` and `clusters.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from steadyvlm.stability.clusters import RESAMPLES, bootstrap_mean, effective_n
from steadyvlm.stability.estimates import Difference, Rate
from steadyvlm.stability.intervals import newcombe_paired, wilson

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DISCORDANT_CLUSTERS = 30


def share(events: BoolArray, codes: IntArray, *, alpha: float) -> Rate:
    """Return the share of samples with the event.

    Args:
        events: [N] bool.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.
        alpha: 1 - confidence.

    >>> share(np.array([True, False]), np.array([0, 1]), alpha=0.05).method
    'wilson'
    """
    n, count = len(events), int(events.sum())
    n_eff = effective_n(events.astype(np.float64), codes, alpha=alpha) if n else 0.0
    interval = wilson(count / n * n_eff if n else 0.0, n_eff, alpha=alpha)
    clustered = n > 0 and int(codes.max()) + 1 < n
    return Rate(
        value=count / n if n else float("nan"),
        low=interval.low,
        high=interval.high,
        numerator=count,
        denominator=n,
        method="wilson, n_eff" if clustered else "wilson",
        n_eff=n_eff,
        level=1 - alpha,
    )


def difference(first: FloatArray, second: FloatArray, codes: IntArray, *, alpha: float, seed: int) -> Difference:
    """Return mean(first) - mean(second) with its interval.

    Args:
        first: [N] float64 in [0, 1].
        second: [N] float64 in [0, 1], the same samples.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.
        alpha: 1 - confidence.
        seed: seed of the bootstrap.

    >>> difference(np.ones(2), np.zeros(2), np.array([0, 1]), alpha=0.05, seed=0).value
    1.0
    """
    n = len(first)
    if n == 0:
        return Difference(float("nan"), -1.0, 1.0, 0, 0, "newcombe-10", 0, 1 - alpha)
    clusters = int(codes.max()) + 1
    change = first - second
    binary = bool((change == np.rint(change)).all())
    moved = int(np.count_nonzero(np.bincount(codes, weights=np.abs(change))))
    resamples = 0
    if not (binary and clusters == n) and moved >= DISCORDANT_CLUSTERS:
        bootstrap = bootstrap_mean(change, codes, alpha=alpha, seed=seed, resamples=RESAMPLES)
        interval, method, resamples = bootstrap.interval, "image bootstrap", bootstrap.resamples
    else:
        shrink = effective_n(change, codes, alpha=alpha) / n
        first_only, second_only = np.maximum(0, change).sum(), np.maximum(0, -change).sum()
        both = np.minimum(first, second).sum()
        cells = [float(max(0.0, cell)) for cell in (both, first_only, second_only, n - both - first_only - second_only)]
        interval = newcombe_paired(*(cell * shrink for cell in cells), alpha=alpha)
        method = "newcombe-10" if clusters == n else "newcombe-10, n_eff"
    return Difference(
        value=float(change.mean()),
        low=interval.low,
        high=interval.high,
        n=n,
        n_clusters=clusters,
        method=method,
        resamples=resamples,
        level=1 - alpha,
    )
