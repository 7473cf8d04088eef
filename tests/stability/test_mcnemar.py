"""The exact test against scipy, by hand, and what it says in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from steadyvlm.errors import InvalidOption
from steadyvlm.stability.mcnemar import mcnemar


@given(first=st.integers(0, 400), second=st.integers(0, 400))
def test_exact_p_values_equal_scipy(first: int, second: int) -> None:
    found = mcnemar(first, second)
    if first + second:
        assert found.p_two_sided == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)
        one_sided = binomtest(first, first + second, alternative="greater").pvalue
        assert found.p_one_sided == pytest.approx(one_sided, rel=1e-9)
    else:
        assert found.p_one_sided == found.p_two_sided == 1


@given(first=st.integers(0, 400), second=st.integers(0, 400))
def test_mid_p_removes_half_of_the_point(first: int, second: int) -> None:
    found, point = mcnemar(first, second), binom.pmf(first, first + second, 0.5)
    assert found.mid_p_one_sided == pytest.approx(found.p_one_sided - point / 2, abs=1e-12)
    assert found.mid_p_two_sided <= found.p_two_sided
    assert found.mid_p_two_sided == pytest.approx(mcnemar(second, first).mid_p_two_sided, abs=1e-12)


def test_by_hand() -> None:
    # five of five: 1/32 one-sided, 2/32 two-sided; the point itself is 1/32
    found = mcnemar(5, 0)
    assert (found.p_one_sided, found.p_two_sided) == pytest.approx((1 / 32, 1 / 16))
    assert (found.mid_p_one_sided, found.mid_p_two_sided) == pytest.approx((1 / 64, 1 / 32))
    assert found.discordant == 5


def test_large_counts_keep_their_precision() -> None:
    found = mcnemar(120_000, 80_000)
    assert 0 <= found.p_one_sided < 1e-300
    assert mcnemar(100_000, 100_000).p_two_sided == 1


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (5, 0, "5 broke, 0 mended: too few changed answers to tell"),
        (0, 0, "0 broke, 0 mended: too few changed answers to tell"),
        (6, 0, "6 broke, 0 mended: too lopsided for chance (p = 0.031)"),
        (0, 6, "0 broke, 6 mended: too lopsided for chance (p = 0.031)"),
        (5, 3, "5 broke, 3 mended: no clear direction (p = 0.73), which does not show that nothing was lost"),
    ],
)
def test_the_statement_never_claims_equality(first: int, second: int, words: str) -> None:
    assert mcnemar(first, second).statement == words


def test_whether_anything_can_be_told_depends_on_the_level() -> None:
    assert "too few" in mcnemar(6, 0, alpha=0.01).statement
    assert "too few" not in mcnemar(5, 0, alpha=0.10).statement


def test_negative_counts_are_refused() -> None:
    with pytest.raises(InvalidOption, match="cannot be negative"):
        mcnemar(-1, 0)
    with pytest.raises(InvalidOption, match="cannot be negative"):
        mcnemar(0, -1)
