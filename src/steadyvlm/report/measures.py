"""One number of a table, with everything a reader needs to judge it: interval, denominator and method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steadyvlm.records import Prediction
from steadyvlm.report.text import DASH, count, interval, number, percent
from steadyvlm.stability import Difference, Rate

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Measure:
    """A number ready to be shown.

    Attributes:
        text: the estimate in percent or points, without unit; a dash when undefined.
        interval: its limits, "" when there are none.
        of: what it is a share of, such as "58 of 1,080".
        title: confidence, method and effective n, as one sentence.
        value, low, high: the same as fractions, for drawing; nan when undefined.
    """

    text: str
    interval: str
    of: str
    title: str
    value: float = NAN
    low: float = NAN
    high: float = NAN

    @property
    def defined(self) -> bool:
        """Whether there is an estimate."""
        return math.isfinite(self.value)


UNDEFINED = Measure(DASH, "", "", "not measured")


def of_rate(rate: Rate | None) -> Measure:
    """Return a share of samples; undefined for None or an empty denominator."""
    if rate is None:
        return UNDEFINED
    of = f"{rate.numerator:,} of {rate.denominator:,}"
    if not rate.defined:
        return Measure(DASH, "", of, "undefined: there were no such samples")
    title = f"{of}; {_confidence(rate.level)} ({rate.method})"
    if rate.n_eff < rate.denominator:
        title += f"; samples share images, so they are worth {rate.n_eff:,.0f} independent ones"
    return Measure(percent(rate.value), interval(rate.low, rate.high), of, title, rate.value, rate.low, rate.high)


def of_difference(difference: Difference | None) -> Measure:
    """Return a difference in percentage points; undefined for None or no samples."""
    if difference is None:
        return UNDEFINED
    of = f"n = {difference.n:,}"
    if not difference.defined:
        return Measure(DASH, "", of, "undefined: there were no samples")
    title = f"{of}; {_confidence(difference.level)} ({difference.method}"
    title += f", {difference.resamples:,} resamples)" if difference.resamples else ")"
    title += f"; {count(difference.n_clusters, 'image or other cluster', 'images or other clusters')}"
    return Measure(
        percent(difference.value, sign=True),
        interval(difference.low, difference.high, sign=True),
        of,
        title,
        difference.value,
        difference.low,
        difference.high,
    )


@dataclass(frozen=True, slots=True)
class TokenProfile:
    """Visual tokens that the decoder really processed, averaged over samples.

    Attributes:
        mean: over layers and samples.
        per_layer: mean over samples, for each decoder layer.
        samples: how many samples told.
    """

    mean: float
    per_layer: tuple[float, ...]
    samples: int

    @property
    def text(self) -> str:
        """The mean, as text."""
        return number(self.mean)

    @property
    def steps(self) -> str:
        """The profile in words, runs of equal layers together, such as "144 × 3 layers, 72 × 9 layers"."""
        runs: list[tuple[str, int]] = []
        for tokens in self.per_layer:
            text = number(tokens)
            if runs and runs[-1][0] == text:
                runs[-1] = (text, runs[-1][1] + 1)
            else:
                runs.append((text, 1))
        return ", ".join(f"{text} × {count(layers, 'layer')}" for text, layers in runs)


def token_profile(predictions: Iterable[Prediction]) -> TokenProfile | None:
    """Return the mean tokens per layer, or None when no prediction tells (imported logs, no picture).

    Samples of another depth than the first are left out: their layers cannot be averaged.
    """
    found = [
        item.generation.cost.visual_tokens_per_layer
        for item in predictions
        if item.generation is not None and item.generation.cost.visual_tokens_per_layer
    ]
    rows = [row for row in found if len(row) == len(found[0])]
    if not rows or not any(map(any, rows)):
        return None
    per_layer = tuple(_mean(column) for column in zip(*rows, strict=True))
    return TokenProfile(_mean(per_layer), per_layer, len(rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _confidence(level: float) -> str:
    return f"{100 * level:g} % interval"
