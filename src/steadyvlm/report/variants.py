"""Recipes that were calibrated several times: means over their seeds, and how far two of them can be told apart.

One row per variant and one per contrast. The value of every seed stands beside the mean, because the interval, which
draws questions and seeds again, rests on very few seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadyvlm.report.data import ReportData
from steadyvlm.report.measures import UNDEFINED, Measure
from steadyvlm.report.text import count, interval, percent
from steadyvlm.stability import Contrast, Estimate, Variant


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant in the table; all numbers in percent."""

    name: str
    runs: str
    score: Measure
    retained: Measure
    changed: Measure
    broken: Measure


@dataclass(frozen=True, slots=True)
class ContrastRow:
    """One variant minus another; differences in percentage points.

    Attributes:
        sentence: what may be said of it.
    """

    first: str
    second: str
    score: Measure
    changed: Measure
    broken: Measure
    sentence: str


def variant_rows(data: ReportData) -> tuple[VariantRow, ...]:
    """Return one row per variant, in the order of the study; none when no recipe was run under several seeds."""
    return tuple(_row(found) for found in data.variants.values())


def contrast_rows(data: ReportData) -> tuple[ContrastRow, ...]:
    """Return one row per contrast."""
    return tuple(
        ContrastRow(
            found.first,
            found.second,
            score=of_estimate(found.score, sign=True),
            changed=of_estimate(found.changed, sign=True),
            broken=of_estimate(found.broken, sign=True),
            sentence=sentence(found),
        )
        for found in data.contrasts
    )


def of_estimate(found: Estimate, *, sign: bool = False) -> Measure:
    """Return a mean over seeds as a measure; its denominator names the seeds' own values.

    >>> of_estimate(Estimate(0.05, 0.04, 0.07, (0.04, 0.06), 900, 150, 0.95)).of
    'seeds 4.0, 6.0'
    """
    if not math.isfinite(found.value):
        return UNDEFINED
    seeds = len(found.per_seed)
    title = f"mean of {count(seeds, 'seed')} and {found.n:,} questions in {count(found.n_clusters, 'cluster')}; "
    title += f"{100 * found.level:g} % interval (bootstrap over questions{' and seeds' if seeds > 1 else ''})"
    of = "seeds " + ", ".join(percent(value, sign=sign) for value in found.per_seed) if seeds > 1 else "one run"
    limits = interval(found.low, found.high, sign=sign)
    return Measure(percent(found.value, sign=sign), limits, of, title, found.value, found.low, found.high)


def in_words(row: VariantRow) -> str:
    """Return a variant as one sentence, for where there is no table."""
    retained = f"{row.retained.text} % of the score retained {row.retained.interval}, " if row.retained.defined else ""
    changed = f"{row.changed.text} % changed {row.changed.interval}"
    broken = f"{row.broken.text} % right→wrong {row.broken.interval}"
    return f"{row.runs}: {retained}{changed}, {broken}."


def difference_in_words(row: ContrastRow) -> str:
    """Return a contrast as one sentence."""
    numbers = [("score", row.score), ("changed", row.changed), ("right→wrong", row.broken)]
    told = ", ".join(f"{name} {item.text} {item.interval}" for name, item in numbers)
    return f"{told}: {row.sentence}."


def sentence(found: Contrast) -> str:
    """Return what the contrast's intervals allow to be said."""
    said = []
    for name, estimate in (("answers change", found.changed), ("right answers break", found.broken)):
        if estimate.decided:
            more = "fewer" if estimate.value < 0 else "more"
            said.append(f"{more} {name}")
    if not said:
        return "not told apart: zero lies inside both intervals"
    return f"{' and '.join(said)} under {found.first}"


def _row(found: Variant) -> VariantRow:
    return VariantRow(
        found.name,
        count(len(found.runs), "run"),
        score=of_estimate(found.score),
        retained=of_estimate(found.retained),
        changed=of_estimate(found.changed),
        broken=of_estimate(found.broken),
    )
