"""Closed-form intervals for a share of samples and for the difference of two shares of the same samples.

A chart shows Wilson, a gate decides on Clopper-Pearson: Wilson's one-sided upper bound covers only 93 % at small
rates, Clopper-Pearson never less than promised. Counts may be fractional, because an effective sample size is.

Source:
    Wilson 1927, JASA 22:209; Clopper and Pearson 1934, Biometrika 26:404;
    Newcombe 1998, Statistics in Medicine 17:2635, method 10 (score limits, phi with continuity correction).
Differs:
    `newcombe_paired` accepts fractional cells. With scores in [0, 1] instead of right and wrong the cells are sums
    of parts of a score; since x² <= x there, the interval is then wider than needed, never narrower.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist
from typing import Literal

from scipy.special import betaincinv

from steadyvlm.errors import InvalidOption

Side = Literal["two", "lower", "upper"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Limits of an interval; on the same scale as the quantity they surround."""

    low: float
    high: float


def wilson(count: float, n: float, *, alpha: float = 0.05) -> Interval:
    """Return the two-sided Wilson score interval of `count` / `n`; [0, 1] when `n` is 0.

    Args:
        count: events, 0 <= count <= n; fractional when `n` is an effective sample size.
        n: samples, or effective samples.
        alpha: 1 - confidence, in (0, 1).

    Raises:
        InvalidOption: for a count outside [0, n] or an alpha outside (0, 1).

    >>> interval = wilson(288, 3000)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.086, 0.1071)
    """
    _check(count, n, alpha)
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    rate = count / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(
        0.0 if count == 0 else max(0.0, centre - half),
        1.0 if count == n else min(1.0, centre + half),
    )


def clopper_pearson(count: float, n: float, *, alpha: float = 0.05, side: Side = "two") -> Interval:
    """Return the exact binomial interval of `count` / `n`; [0, 1] when `n` is 0.

    Args:
        count: events, 0 <= count <= n.
        n: samples.
        alpha: 1 - confidence, in (0, 1); with side "two" each tail gets half of it.
        side: "two"; or "upper" / "lower" for a one-sided bound, the other limit then being 0 / 1.

    Raises:
        InvalidOption: for a count outside [0, n], an alpha outside (0, 1) or an unknown side.

    >>> clopper_pearson(0, 299, side="upper").high < 0.01 < clopper_pearson(0, 298, side="upper").high
    True
    """
    _check(count, n, alpha)
    if side not in ("two", "lower", "upper"):
        raise InvalidOption(f"side is '{side}'; use 'two', 'lower' or 'upper'.")
    tail = alpha / 2 if side == "two" else alpha
    low, high = 0.0, 1.0
    if side != "upper" and count > 0:
        low = float(betaincinv(count, n - count + 1, tail))
    if side != "lower" and count < n:
        high = float(betaincinv(count + 1, n - count, 1 - tail))
    return Interval(low, high)


def newcombe_paired(
    both: float, first_only: float, second_only: float, neither: float, *, alpha: float = 0.05
) -> Interval:
    """Return the interval of `first rate - second rate`, both measured on the same samples.

    Args:
        both: samples with the event on both sides.
        first_only: samples with the event on the first side only.
        second_only: samples with the event on the second side only.
        neither: samples without the event.
        alpha: 1 - confidence, in (0, 1).

    Returns:
        The limits; [-1, 1] when there are no samples.

    Raises:
        InvalidOption: for a negative cell or an alpha outside (0, 1).

    >>> interval = newcombe_paired(36, 12, 2, 0)  # the published example
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0569, 0.3404)
    """
    cells = (both, first_only, second_only, neither)
    if not all(isfinite(cell) and cell >= 0 for cell in cells):
        raise InvalidOption(f"a paired table has the cells {cells}; each must be a number of at least 0.")
    n = sum(cells)
    if n == 0:
        return Interval(-1.0, 1.0)
    rate1, rate2 = min(1.0, (both + first_only) / n), min(1.0, (both + second_only) / n)
    limits1, limits2 = wilson(rate1 * n, n, alpha=alpha), wilson(rate2 * n, n, alpha=alpha)
    below1, above1 = rate1 - limits1.low, limits1.high - rate1
    below2, above2 = rate2 - limits2.low, limits2.high - rate2
    phi = _phi(both, first_only, second_only, neither)
    difference = (first_only - second_only) / n
    low = difference - sqrt(max(0.0, below1**2 - 2 * phi * below1 * above2 + above2**2))
    high = difference + sqrt(max(0.0, above1**2 - 2 * phi * above1 * below2 + below2**2))
    return Interval(max(-1.0, low), min(1.0, high))


def _phi(both: float, first_only: float, second_only: float, neither: float) -> float:
    """Correlation of the paired table with Newcombe's continuity correction; 0 when a margin is empty."""
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    if margins == 0:
        return 0.0
    surplus = both * neither - first_only * second_only
    if surplus > 0:
        surplus = max(0.0, surplus - (both + first_only + second_only + neither) / 2)
    return surplus / sqrt(margins)


def _check(count: float, n: float, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidOption(f"alpha is {alpha}; choose a number between 0 and 1, such as 0.05.")
    if not 0 <= count <= n or not isfinite(n):
        raise InvalidOption(f"asked for the interval of {count} out of {n}; the count must lie between 0 and n.")
