from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption
from steadyvlm.quota.allocation import (
    allocate,
    check_floor,
    check_percentiles,
    check_saturation,
    check_tau,
    drop_shares,
    keep_count,
    keep_ratios,
    normalise,
    percentile,
    uniform,
)

MEASURED = (0.05, 0.08, 0.06, 0.12, 0.30)


@pytest.mark.parametrize(
    ("sensitivity", "tau", "normalised", "shares", "ratios", "counts"),
    [
        (
            MEASURED,
            1.0,
            (0, 0.149, 0.034, 0.379, 1),
            (0.258, 0.222, 0.249, 0.176, 0.095),
            (0.8196, 0.6642, 0.4899, 0.3664, 0.3000),
            [473, 383, 283, 212, 173],
        ),
        (
            MEASURED,
            0.25,
            (0, 0.149, 0.034, 0.379, 1),
            (0.376, 0.207, 0.328, 0.082, 0.007),
            (0.7367, 0.5919, 0.3626, 0.3048, 0.3000),
            [425, 341, 209, 176, 173],
        ),
        ((0.1,) * 5, 1.0, (0,) * 5, (0.2,) * 5, (0.86, 0.72, 0.58, 0.44, 0.30), [496, 415, 335, 254, 173]),
        ((0.1,) * 5, 0.01, (0,) * 5, (0.2,) * 5, (0.86, 0.72, 0.58, 0.44, 0.30), [496, 415, 335, 254, 173]),
    ],
)
def test_the_vectors_of_the_specification(
    sensitivity: tuple[float, ...],
    tau: float,
    normalised: tuple[float, ...],
    shares: tuple[float, ...],
    ratios: tuple[float, ...],
    counts: list[int],
) -> None:
    found = allocate(sensitivity, tau=tau)
    assert found.sensitivity == sensitivity
    assert found.normalised == pytest.approx(normalised, abs=1e-3)
    assert found.drop_share == pytest.approx(shares, abs=1e-3)
    assert found.keep_ratio == pytest.approx(ratios, abs=1e-4)
    assert [keep_count(ratio, 576) for ratio in found.keep_ratio] == counts


def reference(sensitivity: list[float], floor: float, tau: float) -> list[float]:
    """Equations (2) to (4) with NumPy, straight from the specification."""
    s = np.array(sensitivity)
    low, high = np.percentile(s, (10, 90))
    flat = len(s) <= 2 or high - low < 1e-6
    tilde = np.zeros_like(s) if flat else np.clip((s - low) / (high - low + 1e-8), 0, 1)
    p = np.exp((1 - tilde) / tau - max((1 - tilde) / tau))
    p = p / p.sum()
    r = np.maximum(floor, 1 - np.cumsum((1 - floor) * p))
    r[-1] = floor
    return np.minimum.accumulate(r).tolist()  # type: ignore[no-any-return]  # numpy lists are untyped


LAYERS = st.lists(st.floats(0, 10), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.floats(0.01, 1), st.floats(0.05, 50))
def test_every_schedule_agrees_with_numpy_and_ends_at_the_floor(
    sensitivity: list[float], floor: float, tau: float
) -> None:
    found = allocate(sensitivity, floor=floor, tau=tau)
    assert found.keep_ratio == pytest.approx(reference(sensitivity, floor, tau), abs=1e-9)
    assert list(found.keep_ratio) == sorted(found.keep_ratio, reverse=True)
    assert found.keep_ratio[-1] == floor
    assert 1 >= found.keep_ratio[0] >= floor
    assert math.fsum(share * (1 - floor) for share in found.drop_share) == pytest.approx(1 - floor)


@given(LAYERS, st.integers(1, 2000))
def test_counts_never_grow_and_never_fall_below_one(sensitivity: list[float], tokens: int) -> None:
    counts = [keep_count(ratio, tokens) for ratio in allocate(sensitivity).keep_ratio]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 1


def test_the_least_sensitive_layer_loses_most() -> None:
    shares = allocate(MEASURED).drop_share
    assert max(shares) == shares[MEASURED.index(min(MEASURED))]
    assert min(shares) == shares[MEASURED.index(max(MEASURED))]


@pytest.mark.parametrize("sensitivity", [(0.1,), (0.1, 0.9), (0.5, 0.5 + 1e-7, 0.5)])
def test_where_layers_cannot_be_told_apart_all_lose_the_same(sensitivity: tuple[float, ...]) -> None:
    found = allocate(sensitivity, tau=0.1)
    assert found.normalised == (0.0,) * len(sensitivity)
    assert found.keep_ratio == uniform(len(sensitivity), 0.3).keep_ratio


def test_a_large_temperature_is_uniform_and_a_small_one_takes_all_from_one_layer() -> None:
    assert allocate(MEASURED, tau=1e6).keep_ratio == pytest.approx(uniform(5, 0.3).keep_ratio, abs=1e-5)
    assert drop_shares((0.0, 0.5, 1.0), tau=1e-3) == pytest.approx((1, 0, 0))


def test_a_floor_of_one_drops_nothing() -> None:
    assert allocate(MEASURED, floor=1).keep_ratio == (1.0,) * 5


def test_rounding_and_bounds_of_a_budget() -> None:
    assert keep_count(0.3, 576) == 173
    assert keep_count(0.5, 576) == 288, "what is a whole number is not rounded up"
    assert keep_count(0.1 + 0.2, 10) == 3, "nor what is one up to a rounding error"
    assert [keep_count(0.5, tokens, rounding="round") for tokens in (3, 5)] == [2, 2]
    assert keep_count(0.1, 576, rounding="round") == 58
    assert keep_count(0.3, 576, present=100) == 100
    assert keep_count(0.001, 576, k_min=7) == 7
    assert keep_count(0.3, 576, present=0) == 0


@pytest.mark.parametrize("percent", [0, 5, 10, 50, 90, 95, 100])
@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_percentiles_interpolate_as_numpys_do(percent: float, size: int) -> None:
    values = np.random.default_rng(size).random(size).tolist()
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))


def test_normalised_values_are_clipped() -> None:
    assert normalise((0.0, 1.0, 2.0, 3.0, 100.0), 25, 75) == pytest.approx((0, 0, 0.5, 1, 1))


@pytest.mark.parametrize("sensitivity", [(), (0.1, -0.1), (0.1, math.nan), (math.inf,)])
def test_measurements_that_cannot_be_are_refused(sensitivity: tuple[float, ...]) -> None:
    with pytest.raises(InvalidOption, match="sensitivities"):
        allocate(sensitivity)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one candidate"):
        uniform(0, 0.3)
    for floor in (0, -0.1, 1.01, True, "0.3", math.nan):
        with pytest.raises(InvalidOption, match="floor"):
            check_floor(floor)
    for tau in (0, -1, math.nan, math.inf, "1", False):
        with pytest.raises(InvalidOption, match="tau"):
            check_tau(tau)
    percentiles: list[Any] = [(5, 5), (-1, 5), (5, 101), (5, 50, 95), 95, (True, 95), ("5", "95")]
    for pair in percentiles:
        with pytest.raises(InvalidOption, match="percentiles"):
            check_percentiles(pair)
    with pytest.raises(InvalidOption, match="floor"):
        keep_ratios([1.0], 0)


def test_the_last_cut_may_not_fall_among_tokens_that_all_score_one() -> None:
    check_saturation((5, 95), 0.051)
    check_saturation((0, 100), 0.001)
    with pytest.raises(InvalidOption, match=r"best 5 %.*above 95, for example percentiles=\(5, 99\)"):
        check_saturation((5, 95), 0.05)
