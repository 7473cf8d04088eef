"""Whether two quantities rise and fall together over runs, and how much of that hangs on a single method.

Several settings of one method are not independent observations, so a coefficient stands beside its range when all runs
of one method are left out.

Source: Pearson and Spearman coefficients; Sun et al. 2025, arXiv 2503.06794v2, section 5.2, for LID and consistency.
Differs: the paper gives the coefficient alone, over ten points of four methods. No p-value is given here, because it
would take the points for independent.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from steadyvlm.errors import InvalidOption

FEWEST = 3
"""Two points always lie on a line."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """How two quantities go together.

    Attributes:
        pearson: of the values.
        spearman: of their ranks.
        points: runs.
        leave_one_out: smallest and largest Pearson coefficient when all runs of one method are left out; None when
            fewer than three runs would be left.
    """

    pearson: float
    spearman: float
    points: int
    leave_one_out: tuple[float, float] | None


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return Pearson's coefficient in float64; nan when there are fewer than three points or one side never changes.

    Raises:
        InvalidOption: when the two are not lists of one length, or hold a value that is not finite.

    >>> round(pearson([1, 2, 3, 4], [2.0, 4.0, 6.0, 9.0]), 4)
    0.9944
    """
    x, y = _pair(first, second)
    if len(x) < FEWEST:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if scale == 0:
        return float("nan")
    return float(np.clip((x * y).sum() / scale, -1.0, 1.0))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's coefficient, equal values sharing their mean rank; nan as for `pearson`.

    >>> spearman([1, 2, 3], [10, 1000, 1001])
    1.0
    """
    x, y = _pair(first, second)
    return pearson(rankdata(x), rankdata(y))


def correlate(first: ArrayLike, second: ArrayLike, methods: Sequence[Hashable]) -> Correlation:
    """Return both coefficients and their range without one method.

    Args:
        first: [R] one number per run.
        second: [R] the other one.
        methods: [R] which method a run belongs to.

    Raises:
        InvalidOption: when the three are not of one length, or a value is not finite.

    >>> found = correlate([1, 2, 3, 4, 5], [9, 8, 5, 3, 2], ["a", "a", "b", "b", "c"])
    >>> round(found.pearson, 3), found.points
    (-0.985, 5)
    """
    x, y = _pair(first, second)
    if len(methods) != len(x):
        raise InvalidOption(f"{len(x)} runs have {len(methods)} method names; give one for each run.")
    ranges = []
    for method in dict.fromkeys(methods):
        rest = [index for index, name in enumerate(methods) if name != method]
        ranges.append(pearson(x[rest], y[rest]))
    defined = len(ranges) > 1 and not any(np.isnan(ranges))
    return Correlation(pearson(x, y), spearman(x, y), len(x), (min(ranges), max(ranges)) if defined else None)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InvalidOption(
            f"values of shape {x.shape} and {y.shape} cannot be correlated. Give two lists of finite numbers of one "
            "length, one number per run."
        )
    return x, y
