"""From how sensitive each candidate layer is to how many visual tokens stay after it.

Sensitivities s_l are pulled to 0..1 between two percentiles (2); a softmax gives the less sensitive layers more of the
drop (3); adding up gives keep ratios that never grow and end at the floor (4); a ratio of the reference length gives a
count (5):

    s~_l = clip((s_l - P10) / (P90 - P10 + eps), 0, 1)
    p_l  = exp((1 - s~_l) / tau) / sum_i exp((1 - s~_i) / tau)
    r_l  = max(floor, 1 - (1 - floor) (p_1 + ... + p_l)),   the last one equal to the floor
    k_l  = max(k_min, ceil(r_l N - 1e-9)),   at most the tokens there are

Source: Li et al. 2026, arXiv 2604.17320, section 3.2, equations (2) to (5); P10, P90, clipping, the softmax with its
temperature, the floor and the monotone schedule are published.
Differs: the formulas themselves, `tau`, `eps` and the rounding are reconstructed from the prose. With fewer than three
layers, or sensitivities that hardly differ, nothing can be normalised and every layer gets the same share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steadyvlm.errors import InvalidOption

EPS = 1e-8
LEAST_SPREAD = 1e-6
"""Sensitivities whose percentiles lie closer than this are taken to be equal."""

Rounding = Literal["ceil", "round"]
ROUNDINGS: tuple[Rounding, ...] = ("ceil", "round")


@dataclass(frozen=True, slots=True)
class Allocation:
    """A schedule and how it came about; one entry per candidate layer, in order.

    Attributes:
        sensitivity: s, as measured; empty for the uniform schedule.
        normalised: s~; zeros for the uniform schedule.
        drop_share: p, which sum to 1.
        keep_ratio: r, which do not grow and end at the floor.
    """

    sensitivity: tuple[float, ...]
    normalised: tuple[float, ...]
    drop_share: tuple[float, ...]
    keep_ratio: tuple[float, ...]


def allocate(
    sensitivity: Sequence[float],
    *,
    floor: float = 0.3,
    tau: float = 1.0,
    percentiles: tuple[float, float] = (10.0, 90.0),
) -> Allocation:
    """Return the schedule for layers of these sensitivities.

    Args:
        sensitivity: of each candidate layer, none negative.
        floor: share of the visual tokens that is left after the last candidate layer, above 0 and at most 1.
        tau: temperature; large gives equal shares, small gives the least sensitive layer everything.
        percentiles: low and high one of the normalisation.

    Raises:
        InvalidOption: for no layers, a value that is negative or not finite, or a setting out of range.

    >>> found = allocate([0.05, 0.08, 0.06, 0.12, 0.30])
    >>> [keep_count(ratio, 576) for ratio in found.keep_ratio]
    [473, 383, 283, 212, 173]
    """
    measured = tuple(float(value) for value in sensitivity)
    if not measured or not all(math.isfinite(value) and value >= 0 for value in measured):
        raise InvalidOption(
            f"quota: the sensitivities {measured} cannot be turned into a schedule. Give one finite number of at "
            "least 0 per candidate layer."
        )
    low, high = check_percentiles(percentiles)
    normalised = normalise(measured, low, high)
    shares = drop_shares(normalised, tau)
    return Allocation(measured, normalised, shares, keep_ratios(shares, floor))


def uniform(layers: int, floor: float) -> Allocation:
    """Return the schedule that drops the same number after each of `layers` layers.

    >>> [keep_count(ratio, 576) for ratio in uniform(5, 0.3).keep_ratio]
    [496, 415, 335, 254, 173]
    """
    if layers < 1:
        raise InvalidOption("quota: a schedule needs at least one candidate layer.")
    shares = (1 / layers,) * layers
    return Allocation((), (0.0,) * layers, shares, keep_ratios(shares, floor))


def normalise(sensitivity: Sequence[float], low: float = 10.0, high: float = 90.0) -> tuple[float, ...]:
    """Return s~ of equation (2), zeros where there is nothing to tell layers apart by.

    >>> [round(value, 3) for value in normalise([0.05, 0.08, 0.06, 0.12, 0.30])]
    [0.0, 0.149, 0.034, 0.379, 1.0]
    """
    least, most = percentile(sensitivity, low), percentile(sensitivity, high)
    if len(sensitivity) <= 2 or most - least < LEAST_SPREAD:
        return (0.0,) * len(sensitivity)
    return tuple(min(1.0, max(0.0, (value - least) / (most - least + EPS))) for value in sensitivity)


def drop_shares(normalised: Sequence[float], tau: float = 1.0) -> tuple[float, ...]:
    """Return p of equation (3).

    Raises:
        InvalidOption: for a temperature that is not above 0.

    >>> [round(share, 3) for share in drop_shares((0.0, 0.149, 0.034, 0.379, 1.0))]
    [0.258, 0.222, 0.249, 0.176, 0.095]
    """
    tau = check_tau(tau)
    logits = [(1 - value) / tau for value in normalised]
    weights = [math.exp(logit - max(logits)) for logit in logits]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def keep_ratios(drop_share: Sequence[float], floor: float) -> tuple[float, ...]:
    """Return r of equation (4).

    Raises:
        InvalidOption: for a floor outside (0, 1].

    >>> [round(ratio, 2) for ratio in keep_ratios([0.2] * 5, 0.3)]
    [0.86, 0.72, 0.58, 0.44, 0.3]
    """
    floor = check_floor(floor)
    found: list[float] = []
    for dropped in itertools.accumulate(drop_share):
        found.append(min(found[-1] if found else 1.0, max(floor, 1 - (1 - floor) * dropped)))
    found[-1] = floor
    return tuple(found)


def keep_count(
    ratio: float, reference: int, *, present: int | None = None, rounding: Rounding = "ceil", k_min: int = 1
) -> int:
    """Return k of equation (5).

    Args:
        ratio: r of the layer.
        reference: N, the visual tokens it is a ratio of.
        present: visual tokens there are, which bounds the count; `reference` when None.
        rounding: "ceil", or "round" to the nearest (half to even).
        k_min: at least as many, while there are any.

    >>> keep_count(0.3, 576), keep_count(0.3, 576, rounding="round"), keep_count(0.3, 576, present=100)
    (173, 173, 100)
    """
    wanted = math.ceil(ratio * reference - 1e-9) if rounding == "ceil" else round(ratio * reference)
    return min(reference if present is None else present, max(k_min, wanted))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated linearly between the two nearest values.

    >>> percentile([1.0, 2.0, 4.0], 75)
    3.0
    """
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def check_floor(floor: object) -> float:
    """Return the share that is left in the end, above 0 and at most 1; raises InvalidOption otherwise."""
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 < floor <= 1:
        raise InvalidOption(
            f"quota: floor={floor!r} is not a share of visual tokens to end with. Give a number above 0 and at most 1, "
            "for example floor=0.3."
        )
    return float(floor)


def check_tau(tau: object) -> float:
    """Return the temperature, finite and above 0; raises InvalidOption otherwise."""
    if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 < tau < math.inf:
        raise InvalidOption(f"quota: tau={tau!r} is no temperature. Give a number above 0, for example tau=1.0.")
    return float(tau)


def check_percentiles(percentiles: object, option: str = "percentiles") -> tuple[float, float]:
    """Return (low, high) with 0 <= low < high <= 100; raises InvalidOption otherwise.

    >>> check_percentiles([5, 95])
    (5.0, 95.0)
    """
    listed = tuple(percentiles) if isinstance(percentiles, (tuple, list)) else ()
    numbers = [float(value) for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(listed) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 100:
        raise InvalidOption(
            f"quota: {option}={percentiles!r} is not a low and a high percentile. Give two numbers between 0 and 100, "
            f"the lower one first, for example {option}=(5, 95)."
        )
    return numbers[0], numbers[1]


def check_saturation(percentiles: tuple[float, float], floor: float) -> None:
    """Return quietly if more tokens are kept than lie above the high percentile, where all scores are equal.

    Raises:
        InvalidOption: if the last cut would fall among tokens of equal score, that is among mere places.

    >>> check_saturation((5, 95), 0.3)
    """
    above = 100 - percentiles[1]
    if not above < 100 * floor:
        raise InvalidOption(
            f"quota: with percentiles={percentiles} the best {above:g} % of tokens all score 1, and floor={floor:g} "
            "keeps no more than those, so their places would decide. Give a high percentile above "
            f"{100 - 100 * floor:g}, for example percentiles=({percentiles[0]:g}, {100 - 20 * floor:g})."
        )
