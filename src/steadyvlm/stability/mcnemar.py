"""Did more answers break than mend? The exact test on the samples where the two sides disagree.

Samples both sides get right, or both get wrong, say nothing about a drift. Of the m that differ, b went the first way
and m - b the other; if neither direction is favoured, b is Binomial(m, 1/2). No model, no approximation.

Source:
    McNemar 1947, Psychometrika 12:153, in its exact conditional form; mid-p: Lancaster 1961, Fagerland et al. 2013.
Differs:
    The two-sided mid-p is twice the one-sided mid-p of the smaller tail. Mid-p may exceed its level (7 % instead of
    5 % at m = 8), so it is for display and ranking only.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import bdtr, bdtrc

from steadyvlm.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Exact sign test on discordant pairs.

    Attributes:
        first_only: pairs that went the first way; for McNemar right→wrong.
        second_only: pairs that went the other way; for McNemar wrong→right.
        p_one_sided: probability of at least `first_only` under no preference.
        p_two_sided: twice the smaller tail, at most 1.
        mid_p_one_sided, mid_p_two_sided: less cautious versions for display and ranking, never for a decision.
        unit: what is counted: "sample" or "image".
        statement: the finding in words; never claims that the sides are equal.
    """

    first_only: int
    second_only: int
    p_one_sided: float
    p_two_sided: float
    mid_p_one_sided: float
    mid_p_two_sided: float
    unit: str
    statement: str

    @property
    def discordant(self) -> int:
        """Pairs that went either way."""
        return self.first_only + self.second_only


def mcnemar(
    first_only: int,
    second_only: int,
    *,
    alpha: float = 0.05,
    first: str = "broke",
    second: str = "mended",
    unit: str = "sample",
) -> PairedTest:
    """Return the exact test of `first_only` against `second_only`.

    Args:
        first_only: discordant pairs that went the first way (b).
        second_only: discordant pairs that went the other way (c).
        alpha: two-sided level used in the statement.
        first: words for the first way, used in the statement.
        second: words for the other way.
        unit: what is counted.

    Raises:
        InvalidOption: for a negative count.

    >>> round(mcnemar(10, 2).p_two_sided, 6)
    0.038574
    """
    if first_only < 0 or second_only < 0:
        raise InvalidOption(f"asked to test {first_only} against {second_only}; counts cannot be negative.")
    total = first_only + second_only
    at_most = float(bdtr(first_only, total, 0.5))
    at_least = float(bdtrc(first_only - 1, total, 0.5)) if first_only else 1.0
    exactly = max(0.0, at_most + at_least - 1)
    smaller = min(at_most, at_least)
    two_sided = min(1.0, 2 * smaller)
    return PairedTest(
        first_only=first_only,
        second_only=second_only,
        p_one_sided=at_least,
        p_two_sided=two_sided,
        mid_p_one_sided=at_least - exactly / 2,
        mid_p_two_sided=min(1.0, 2 * smaller - exactly),
        unit=unit,
        statement=_statement(first_only, second_only, two_sided, alpha, first, second),
    )


def _statement(first_only: int, second_only: int, p: float, alpha: float, first: str, second: str) -> str:
    counts = f"{first_only:,} {first}, {second_only:,} {second}"
    total = first_only + second_only
    if 2 * 0.5**total > alpha:
        return f"{counts}: too few changed answers to tell"
    if p > alpha:
        return f"{counts}: no clear direction (p = {p:.2g}), which does not show that nothing was lost"
    return f"{counts}: too lopsided for chance (p = {p:.2g})"
