"""Intervals against published tables, scipy, and their own promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from steadyvlm.errors import InvalidOption
from steadyvlm.stability.intervals import Interval, clopper_pearson, newcombe_paired, wilson

# Newcombe 1998, Statistics in Medicine 17:857, table I: count, n, Wilson (method 3), Clopper-Pearson (method 5).
PUBLISHED = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]


@pytest.mark.parametrize(("count", "n", "score", "exact"), PUBLISHED)
def test_intervals_reproduce_the_published_table(
    count: int, n: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    assert (wilson(count, n).low, wilson(count, n).high) == pytest.approx(score, abs=6e-5)
    found = clopper_pearson(count, n)
    assert (found.low, found.high) == pytest.approx(exact, abs=6e-5)


@pytest.mark.parametrize(("count", "n"), [(0, 7), (7, 7), (3, 11), (288, 3000), (1, 100_000)])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.01])
def test_intervals_equal_scipy(count: int, n: int, alpha: float) -> None:
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = binomtest(count, n).proportion_ci(1 - alpha, method=method)
        found = ours(count, n, alpha=alpha)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    upper = binomtest(count, n, alternative="less").proportion_ci(1 - alpha, method="exact")
    lower = binomtest(count, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
    assert clopper_pearson(count, n, alpha=alpha, side="upper").low == 0
    assert clopper_pearson(count, n, alpha=alpha, side="upper").high == pytest.approx(upper.high, abs=1e-12)
    assert clopper_pearson(count, n, alpha=alpha, side="lower").low == pytest.approx(lower.low, abs=1e-12)
    assert clopper_pearson(count, n, alpha=alpha, side="lower").high == 1


@pytest.mark.parametrize(("margin", "smallest"), [(0.01, 299), (0.02, 149), (0.005, 598)])
def test_zero_flips_certify_a_margin_from_the_known_sample_size_on(margin: float, smallest: int) -> None:
    # acceptance check 1 of the statistics specification; U = 1 - alpha^(1/n)
    assert clopper_pearson(0, smallest, side="upper").high <= margin
    assert clopper_pearson(0, smallest - 1, side="upper").high > margin


def test_the_upper_bound_of_a_gate_never_covers_less_than_promised() -> None:
    n = 300
    uppers = [clopper_pearson(count, n, side="upper").high for count in range(n + 1)]
    for rate in (0.001, 0.005, 0.01, 0.02, 0.05):
        covered = sum(binom.pmf(count, n, rate) for count in range(n + 1) if uppers[count] >= rate)
        assert covered >= 0.95 - 1e-9


def test_newcombe_reproduces_the_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:2635, method 10
    found = newcombe_paired(36, 12, 2, 0)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_newcombe_by_hand() -> None:
    # No sample on the diagonal's far end and none discordant: phi = 0, so the two Wilson limits of 10/10 combine.
    wilson_width = 1 - wilson(10, 10).low
    assert newcombe_paired(10, 0, 0, 0) == Interval(pytest.approx(-wilson_width), pytest.approx(wilson_width))
    # A surplus within n/2 is corrected away: phi = 0 and the limits combine as if the sides were independent.
    one, two = wilson(4, 8), wilson(3, 8)
    low = 1 / 8 - ((4 / 8 - one.low) ** 2 + (two.high - 3 / 8) ** 2) ** 0.5
    assert newcombe_paired(2, 2, 1, 3).low == pytest.approx(low)


@given(cells=st.lists(st.integers(0, 400), min_size=4, max_size=4).filter(any))
def test_newcombe_mirrors_when_the_sides_are_swapped(cells: list[int]) -> None:
    both, first, second, neither = cells
    found, mirrored = newcombe_paired(both, first, second, neither), newcombe_paired(both, second, first, neither)
    assert found.low == pytest.approx(-mirrored.high, abs=1e-12)
    assert -1 <= found.low <= (first - second) / sum(cells) <= found.high <= 1


@given(count=st.floats(0, 1), n=st.floats(0.5, 1e6), alpha=st.floats(0.001, 0.5))
def test_fractional_counts_give_ordered_limits_around_the_rate(count: float, n: float, alpha: float) -> None:
    found = wilson(count * n, n, alpha=alpha)
    assert 0 <= found.low <= count + 1e-12
    assert count - 1e-12 <= found.high <= 1


def test_nothing_seen_says_nothing() -> None:
    assert wilson(0, 0) == clopper_pearson(0, 0) == Interval(0, 1)
    assert newcombe_paired(0, 0, 0, 0) == Interval(-1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(3, 2), "3 out of 2"),
        (lambda: wilson(-1, 2), "-1 out of 2"),
        (lambda: wilson(0, float("inf")), "inf"),
        (lambda: wilson(float("nan"), 2), "nan"),
        (lambda: clopper_pearson(1, 2, alpha=1), "alpha is 1"),
        (lambda: clopper_pearson(1, 2, alpha=0), "alpha is 0"),
        (lambda: clopper_pearson(1, 2, side="both"), "'two', 'lower' or 'upper'"),
        (lambda: newcombe_paired(1, -1, 0, 0), "at least 0"),
        (lambda: newcombe_paired(1, float("nan"), 0, 0), "at least 0"),
        (lambda: newcombe_paired(1, 1, 0, 0, alpha=2), "alpha is 2"),
    ],
)
def test_impossible_requests_are_refused(call, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        call()
