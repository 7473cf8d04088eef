"""Numbers that know their denominator, their interval and the method behind it.

A share without its n, or an interval without its method, cannot carry a decision, so neither can exist here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of samples.

    Attributes:
        value: numerator / denominator; nan when the denominator is 0.
        low, high: limits of the two-sided interval; [0, 1] when the denominator is 0.
        numerator: samples with the event.
        denominator: samples it could have happened to.
        method: how the interval was made: "wilson", or "wilson, n_eff" when samples share images.
        n_eff: the independent samples the data are worth; the denominator itself when samples share no image.
        level: confidence of the interval, such as 0.95.
    """

    value: float
    low: float
    high: float
    numerator: int
    denominator: int
    method: str
    n_eff: float
    level: float

    @property
    def defined(self) -> bool:
        """Whether there was anything to take a share of."""
        return self.denominator > 0

    def __str__(self) -> str:
        if not self.defined:
            return "undefined (0 of 0)"
        interval = f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f} % {interval} ({self.numerator:,} of {self.denominator:,})"


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of one quantity minus the mean of another, over the same samples.

    Attributes:
        value: the difference, in [-1, 1]; nan when there are no samples.
        low, high: limits of the two-sided interval; [-1, 1] when there are no samples.
        n: samples.
        n_clusters: groups of samples that share an image.
        method: "newcombe-10", "newcombe-10, n_eff" or "image bootstrap".
        resamples: bootstrap resamples; 0 for a closed form.
        level: confidence of the interval, such as 0.95.
    """

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str
    resamples: int
    level: float

    @property
    def defined(self) -> bool:
        """Whether there were samples."""
        return self.n > 0

    def __str__(self) -> str:
        if not self.defined:
            return "undefined (no samples)"
        return f"{100 * self.value:+.1f} pp [{100 * self.low:+.1f}, {100 * self.high:+.1f}] (n = {self.n:,})"


def json_ready(value: Any) -> Any:
    """Return `value` as JSON types: dataclasses become objects, tuples lists, nan null.

    >>> json_ready({"share": float("nan"), "ids": ("a", "b")})
    {'share': None, 'ids': ['a', 'b']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: json_ready(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
