"""Questions about the same picture are not independent; these numbers allow for it.

With six questions per image and an intra-image correlation of 0.2, an interval that ignores the images and promises
95 % covers 82 %. Shares keep Wilson's shape with a smaller, effective n; means and differences are resampled by image.

Source:
    Miller 2024, arXiv 2411.00640 (cluster-robust standard error); Kish 1965 (design effect);
    Korn and Graubard 1998, Survey Methodology 24:193 (degrees of freedom in the effective n);
    Efron and Tibshirani 1993, chapter 13 (percentile bootstrap), with images as the units drawn.
Differs:
    Images with equal sum and equal number of samples are interchangeable, so a resample is one multinomial draw over
    the distinct (sum, size) pairs: exactly the bootstrap over images, at a cost that hardly grows with their number.
    Without an event there is no correlation to estimate; the design effect is then 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from steadyvlm.seeding import stable_seed
from steadyvlm.stability.intervals import Interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RESAMPLES = 5_000
_CHUNK_CELLS = 2_000_000
_TYPE_COST = 10


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A percentile interval and what it was made from."""

    interval: Interval
    resamples: int


def cluster_codes(names: Sequence[Hashable]) -> IntArray:
    """Return for each sample the index of its cluster, numbered by first appearance.

    >>> cluster_codes(["cat.png", "dog.png", "cat.png"])
    array([0, 1, 0])
    """
    seen: dict[Hashable, int] = {}
    return np.fromiter((seen.setdefault(name, len(seen)) for name in names), dtype=np.int64, count=len(names))


def renumber(codes: IntArray) -> IntArray:
    """Return the same clusters numbered from 0 without gaps, in the same order.

    >>> renumber(np.array([4, 2, 4]))
    array([1, 0, 1])
    """
    if not len(codes):
        return codes
    present = np.bincount(codes) > 0
    return (np.cumsum(present) - 1)[codes].astype(np.int64)


def cluster_standard_error(values: FloatArray, codes: IntArray) -> float:
    """Return the cluster-robust standard error of the mean; nan for fewer than two clusters.

    Args:
        values: [N] float64, one number per sample.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.

    >>> round(cluster_standard_error(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])), 6)
    0.5
    """
    n, clusters = len(values), _count(codes)
    if clusters < 2:
        return float("nan")
    residuals = np.bincount(codes, weights=values - values.mean(), minlength=clusters)
    return float(np.sqrt(clusters / (clusters - 1) * np.square(residuals).sum()) / n)


def effective_n(values: FloatArray, codes: IntArray, *, alpha: float = 0.05) -> float:
    """Return how many independent samples `values` are worth, between 1 and N.

    N itself when no two samples share a cluster, 1 when all do. Otherwise N / max(1, SE² / (variance / N)), times
    (t(N-1) / t(G-1))² with the two-sided quantiles at `alpha`, because few clusters estimate SE badly.

    Args:
        values: [N] float64, one number per sample.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.
        alpha: 1 - confidence of the interval that will use the result.

    >>> round(effective_n(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])), 6)
    1.0
    """
    n, clusters = len(values), _count(codes)
    if clusters == n:
        return float(n)
    if clusters == 1:
        return 1.0
    naive = float(values.var()) / n
    effect = max(1.0, cluster_standard_error(values, codes) ** 2 / naive) if naive > 0 else 1.0
    tail = 1 - alpha / 2
    few = float(stdtrit(n - 1, tail) / stdtrit(clusters - 1, tail)) ** 2
    return max(1.0, n / effect * few)


def bootstrap_mean(
    values: FloatArray, codes: IntArray, *, alpha: float = 0.05, seed: int = 0, resamples: int = RESAMPLES
) -> Bootstrap:
    """Return the percentile interval of the mean when whole clusters are drawn with replacement.

    The generator is seeded by the data and `seed`, so equal data give equal limits, whatever the sample order.

    Args:
        values: [N] float64, N >= 1, one number per sample.
        codes: [N] int64, cluster of each sample, numbered from 0 without gaps.
        alpha: 1 - confidence.
        seed: changes the resamples, not the estimate.
        resamples: how many; 5,000 leaves a limit uncertain by about 2 % of the interval's width.

    >>> bootstrap_mean(np.array([0.25, 0.25]), np.array([0, 1])).interval
    Interval(low=0.25, high=0.25)
    """
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, weights=values).round(12)
    types, frequency = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    digest = stable_seed("image bootstrap", seed, resamples, types.tobytes().hex(), frequency.tobytes().hex())
    generator = np.random.default_rng(digest)
    clusters = len(sizes)
    by_type = len(types) * _TYPE_COST <= clusters
    draw, width = (_draw_types, len(types)) if by_type else (_draw_clusters, clusters)
    chunk = max(1, _CHUNK_CELLS // width)
    counts = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = np.concatenate([draw(generator, types, frequency, count) for count in counts])
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Bootstrap(Interval(float(low), float(high)), resamples)


def _draw_types(generator: np.random.Generator, types: FloatArray, frequency: IntArray, count: int) -> FloatArray:
    """Means of `count` resamples, drawn as how often each kind of cluster occurs."""
    clusters = int(frequency.sum())
    weights = generator.multinomial(clusters, frequency / clusters, size=count).astype(np.float64)
    totals = weights @ types
    return np.asarray(totals[:, 0] / totals[:, 1], dtype=np.float64)


def _draw_clusters(generator: np.random.Generator, types: FloatArray, frequency: IntArray, count: int) -> FloatArray:
    """The same means drawn cluster by cluster: faster when most clusters are of a kind of their own."""
    sums, sizes = np.repeat(types, frequency, axis=0).T.copy()
    chosen = generator.integers(len(sums), size=(count, len(sums)), dtype=np.int32)
    samples = len(sums) * sizes[0] if sizes.min() == sizes.max() else sizes[chosen].sum(axis=1)
    return np.asarray(sums[chosen].sum(axis=1) / samples, dtype=np.float64)


def _count(codes: IntArray) -> int:
    return int(codes.max()) + 1 if len(codes) else 0
