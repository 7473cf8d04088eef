"""One recipe calibrated several times: what its numbers are worth when the calibration's seed is drawn again.

A calibrated quantiser is a random thing: other samples, other starting points, other weights. A difference of one or
two points between two recipes, each calibrated once, may be the seed. So runs that differ in nothing but their seed
form one *variant*; its DR, NDR and score are means over its seeds, and two variants are compared as a *contrast*.

Two things vary: the questions and the seeds. Intervals draw both again: clusters of questions with replacement, and
seeds with replacement. Seeds of two variants that were calibrated alike (as many, in the same order) are drawn in
pairs. With three seeds the second draw is coarse and rather too narrow than too wide; the value of every seed is
therefore kept and shown.

Source: Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8 (resampling at two levels).

Letters: S seeds, N questions, C clusters of questions, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steadyvlm.errors import PairingError
from steadyvlm.records import Prediction
from steadyvlm.seeding import stable_seed
from steadyvlm.stability.clusters import cluster_codes
from steadyvlm.stability.intervals import Interval
from steadyvlm.stability.pairing import Key, pair
from steadyvlm.stability.ratios import outcomes_of
from steadyvlm.stability.table import cluster_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Sides = tuple[Sequence[Prediction], Sequence[Prediction]]
"""Answers of the original and of one run to the same questions."""

RESAMPLES = 5_000
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and questions.

    Attributes:
        value: the mean; nan without questions.
        low, high: limits of the two-sided interval.
        per_seed: the value of every seed, in order.
        n: questions.
        n_clusters: clusters among them.
        level: confidence, such as 0.95.
    """

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    n: int
    n_clusters: int
    level: float

    @property
    def decided(self) -> bool:
        """Whether zero lies outside the interval; of use for contrasts."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Variant:
    """Runs that differ in nothing but their seed, beside the original.

    Attributes:
        name: of the variant.
        runs: names of its runs.
        changed, broken: DR and NDR.
        score: mean score.
        retained: its score as a share of the original's; undefined (nan) when that is 0.
    """

    name: str
    runs: tuple[str, ...]
    changed: Estimate
    broken: Estimate
    score: Estimate
    retained: Estimate


@dataclass(frozen=True, slots=True)
class Contrast:
    """One variant minus another on the same questions; negative DR and NDR are in favour of the first."""

    first: str
    second: str
    changed: Estimate
    broken: Estimate
    score: Estimate


@dataclass(frozen=True, slots=True)
class Runs:
    """Columns of a variant's runs over the questions that all sides answered.

    Attributes:
        changed, broken, score: [S, N] float64.
        original: [N] float64, the original's score.
        codes: [N] int64, cluster of each question.
    """

    changed: FloatArray
    broken: FloatArray
    score: FloatArray
    original: FloatArray
    codes: IntArray


def read_runs(variants: Mapping[str, Sequence[Sides]], *, correct_threshold: float = 0.5) -> dict[str, Runs]:
    """Return the columns of every variant, over the questions that the original and every run answered.

    Args:
        variants: name -> for each of its runs, the original's answers and the run's.
        correct_threshold: a score at or above it counts as right.

    Raises:
        PairingError: when a run was not asked what the original was, or no question was answered by all.
    """
    paired = {name: [pair(*sides).pairs for sides in runs] for name, runs in variants.items()}
    everything = [pairs for runs in paired.values() for pairs in runs]
    common: set[Key] = set.intersection(
        *({a.key for a, b in pairs if a.failure is None and b.failure is None} for pairs in everything)
    )
    if not common:
        raise PairingError(
            f"no question was answered by the original and all {len(everything)} runs of "
            f"{', '.join(variants)}; compare runs of one study."
        )
    found = {}
    for name, runs in paired.items():
        outcomes = [
            outcomes_of([row for row in pairs if row[0].key in common], correct_threshold=correct_threshold)
            for pairs in runs
        ]
        questions = [a for a, _ in runs[0] if a.key in common]
        found[name] = Runs(
            changed=np.stack([item.changed for item in outcomes]).astype(np.float64),
            broken=np.stack([item.negative for item in outcomes]).astype(np.float64),
            score=np.stack([item.accelerated_score for item in outcomes]),
            original=outcomes[0].original_score,
            codes=cluster_codes([cluster_of(a) for a in questions]),
        )
    return found


def variant(name: str, names: Sequence[str], runs: Runs, *, alpha: float = 0.05, seed: int = 0) -> Variant:
    """Return the means of one variant.

    Args:
        name: of the variant.
        names: of its runs.
        runs: their columns.
        alpha: intervals have confidence 1 - alpha.
        seed: changes the resamples, not the estimates.
    """
    base = float(runs.original.mean())
    return Variant(
        name,
        tuple(names),
        changed=_estimate(runs.changed, runs.codes, alpha, seed),
        broken=_estimate(runs.broken, runs.codes, alpha, seed),
        score=_estimate(runs.score, runs.codes, alpha, seed),
        retained=_estimate(runs.score, runs.codes, alpha, seed, over=runs.original)
        if base > 0
        else _undefined(runs, alpha),
    )


def contrast(first: str, second: str, runs: Mapping[str, Runs], *, alpha: float = 0.05, seed: int = 0) -> Contrast:
    """Return one variant minus another; arguments as `variant`."""
    a, b = runs[first], runs[second]
    return Contrast(
        first,
        second,
        changed=_estimate(a.changed, a.codes, alpha, seed, minus=b.changed),
        broken=_estimate(a.broken, a.codes, alpha, seed, minus=b.broken),
        score=_estimate(a.score, a.codes, alpha, seed, minus=b.score),
    )


def _estimate(
    values: FloatArray,
    codes: IntArray,
    alpha: float,
    seed: int,
    *,
    minus: FloatArray | None = None,
    over: FloatArray | None = None,
) -> Estimate:
    """Return the mean of [S, N] values, minus that of others [S', N] or divided by that of [N], with its interval."""
    own, other = values.mean(axis=1), None if minus is None else minus.mean(axis=1)
    scale = 1.0 if over is None else float(over.mean())
    paired = other is None or len(other) == len(own)
    per_seed = own / scale if other is None else own - other if paired else own - other.mean()
    value = float(own.mean() / scale - (0.0 if other is None else other.mean()))
    interval = _resample(values, codes, alpha, seed, minus, over, paired)
    clusters = int(codes.max()) + 1
    return Estimate(value, interval.low, interval.high, tuple(per_seed.tolist()), len(codes), clusters, 1 - alpha)


def _resample(
    values: FloatArray,
    codes: IntArray,
    alpha: float,
    seed: int,
    minus: FloatArray | None,
    over: FloatArray | None,
    paired: bool,
) -> Interval:
    clusters = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=clusters).astype(np.float64)
    own = _by_cluster(values, codes, clusters)
    other = None if minus is None else _by_cluster(minus, codes, clusters)
    base = None if over is None else _by_cluster(over[None], codes, clusters)
    generator = np.random.default_rng(stable_seed("two-level bootstrap", seed, own.shape, own.tobytes().hex()))
    draws: list[FloatArray] = []
    for start in range(0, RESAMPLES, _CHUNK):
        count = min(_CHUNK, RESAMPLES - start)
        weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=count).astype(np.float64)
        totals = weights @ sizes
        seeds = _draw_seeds(generator, len(own), count)
        mean = ((weights @ own.T) * seeds).sum(axis=1) / totals
        if other is not None:
            seeds = seeds if paired else _draw_seeds(generator, len(other), count)
            mean = mean - ((weights @ other.T) * seeds).sum(axis=1) / totals
        if base is not None:
            scale = (weights @ base.T)[:, 0] / totals
            mean = mean[scale > 0] / scale[scale > 0]  # a draw in which the original scores nothing has no share
        draws.append(mean)
    low, high = np.quantile(np.concatenate(draws), [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))


def _draw_seeds(generator: np.random.Generator, seeds: int, count: int) -> FloatArray:
    """Return [R, S] weights that sum to 1: how often each seed was drawn."""
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).astype(np.float64) / seeds


def _by_cluster(values: FloatArray, codes: IntArray, clusters: int) -> FloatArray:
    return np.stack([np.bincount(codes, weights=row, minlength=clusters) for row in values])


def _undefined(runs: Runs, alpha: float) -> Estimate:
    nan = float("nan")
    return Estimate(nan, nan, nan, (nan,) * len(runs.score), len(runs.codes), int(runs.codes.max()) + 1, 1 - alpha)
