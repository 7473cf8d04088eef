"""Many arms, one threshold: which of the p-values still count?

Holm for an alarm list that must not cry wolf; Benjamini-Hochberg for exploring a grid, where one false find in ten is
accepted. A gate that demands that *every* benchmark passes needs neither (Berger 1982).

Source:
    Holm 1979, Scand. J. Statist. 6:65; Benjamini and Hochberg 1995, JRSS-B 57:289.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steadyvlm.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Adjusted:
    """One p-value among several.

    Attributes:
        p: as computed.
        adjusted: comparable with the level as if it were the only one.
        rejected: whether `adjusted` is at most the level.
    """

    p: float
    adjusted: float
    rejected: bool


def holm(p_values: Mapping[str, float], *, alpha: float = 0.05) -> dict[str, Adjusted]:
    """Return Holm's adjustment: the chance of even one false alarm is at most `alpha`.

    Raises:
        InvalidOption: for a p-value outside [0, 1].

    >>> {name: item.adjusted for name, item in holm({"fastv": 0.01, "rtn": 0.04}).items()}
    {'fastv': 0.02, 'rtn': 0.04}
    """
    values = _checked(p_values)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, raised)
    return _named(p_values, adjusted, alpha)


def benjamini_hochberg(p_values: Mapping[str, float], *, q: float = 0.10) -> dict[str, Adjusted]:
    """Return the adjustment that keeps the expected share of false finds among the finds at most `q`.

    Raises:
        InvalidOption: for a p-value outside [0, 1].

    >>> {name: item.adjusted for name, item in benjamini_hochberg({"fastv": 0.01, "rtn": 0.04}).items()}
    {'fastv': 0.02, 'rtn': 0.04}
    """
    from scipy.stats import false_discovery_control  # scipy.stats takes half a second to import

    values = _checked(p_values)
    adjusted = np.asarray(false_discovery_control(values, method="bh")) if len(values) else values
    return _named(p_values, adjusted, q)


def _checked(p_values: Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise InvalidOption(f"the p-value of '{name}' is {value}; p-values lie between 0 and 1.")
    return np.fromiter(p_values.values(), dtype=np.float64, count=len(p_values))


def _named(
    p_values: Mapping[str, float], adjusted: np.ndarray[tuple[int], np.dtype[np.float64]], level: float
) -> dict[str, Adjusted]:
    return {
        name: Adjusted(p, float(value), bool(value <= level))
        for (name, p), value in zip(p_values.items(), adjusted, strict=True)
    }
