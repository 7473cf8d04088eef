"""The findings in plain words; the terminal and the page say the same sentences.

The headline states how far the score moved and, beside it, how many answers changed: the first without the second is
how instability stays unseen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadyvlm.report.data import ArmReport, ReportData
from steadyvlm.report.measures import of_difference
from steadyvlm.report.text import count, one_line, percent
from steadyvlm.stability import Comparison, Rate

FEW_SAMPLES = 100
"""Below so many samples a run gets a warning of its own."""
QUIET_CHANGE = 0.015
"""A score change up to this size passes for "no change" when it is reported alone."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run did, in a sentence, and the exact test behind it."""

    arm: ArmReport
    sentence: str
    test: str


def headline(data: ReportData) -> str:
    """Return the first line of the report.

    >>> headline(ReportData("empty", "pocket", [], []))
    'pocket: no accelerated run to compare yet'
    """
    model = one_line(data.model, 80)
    arms = [arm for arm in data.accelerated if arm.comparison.n]
    if not data.accelerated:
        return f"{model}: no accelerated run to compare yet"
    if not arms:
        return f"{model}: no sample was answered on both sides, so nothing can be compared"
    moved = sorted((arm.comparison.score_change.value for arm in arms), key=abs)
    changed = sorted(arm.comparison.divergence_ratio.value for arm in arms)
    broke = sorted(arm.comparison.negative_divergence_ratio.value for arm in arms)
    floor = noise_rate(data)
    noise = "not measured" if floor is None else f"{percent(floor.value)} %"
    single = f"{one_line(arms[0].name, 60)} on {model}"
    return (
        f"{single if len(arms) == 1 else f'{len(arms)} accelerations of {model}'}: "
        f"score moved by {_span(moved, sign=True)} points; {_span(changed)} % of answers changed, "
        f"{_span(broke)} % went from right to wrong; repeat-run noise {noise}"
    )


def insight(data: ReportData) -> str:
    """Return the case where the score hides most, or "" when no quiet score hides changed answers."""
    quiet = [
        arm
        for arm in data.accelerated
        if arm.comparison.n
        and abs(arm.comparison.score_change.value) <= QUIET_CHANGE
        and _hidden(arm.comparison) >= 5 * abs(arm.comparison.score_change.value)
        and arm.comparison.changed
    ]
    if not quiet:
        return ""
    arm = max(quiet, key=lambda item: _hidden(item.comparison))
    found = arm.comparison
    return (
        f"The score alone would hide it: {one_line(arm.name, 60)} moved the score by "
        f"{percent(found.score_change.value, sign=True)} points, yet {count(found.changed, 'answer')} of {found.n:,} "
        f"changed ({found.negative:,} right→wrong, {found.positive:,} wrong→right)."
    )


def readings(data: ReportData) -> tuple[Reading, ...]:
    """Return one sentence per accelerated run."""
    return tuple(Reading(arm, _reading(arm.comparison), _test(arm.comparison)) for arm in data.accelerated)


def caveats(data: ReportData) -> tuple[str, ...]:
    """Return what must be known before believing the numbers; sentences shared by several runs are said once."""
    by_sentence: dict[str, list[str]] = {}
    for arm in data.accelerated:
        for sentence in (*arm.comparison.caveats, *_small(arm.comparison)):
            by_sentence.setdefault(sentence, []).append(one_line(arm.name, 60))
    everyone = len(data.accelerated)
    said = [
        sentence[:1].upper() + sentence[1:] if len(names) == everyone else f"{', '.join(names)}: {sentence}"
        for sentence, names in by_sentence.items()
    ]
    return tuple(one_line(sentence, 600) for sentence in (*data.notes, *said))


def noise_rate(data: ReportData) -> Rate | None:
    """Return the share of answers that changed when the original was run again, over as many samples as possible."""
    if data.control is not None and data.control.comparison.n:
        return data.control.comparison.divergence_ratio
    known = [arm.comparison.noise for arm in data.arms if arm.comparison.noise is not None]
    return max((noise.control_divergence_ratio for noise in known), key=lambda rate: rate.denominator, default=None)


def p_value(value: float) -> str:
    """Return a p-value as text.

    >>> p_value(0.0386), p_value(1e-9), p_value(1.0)
    ('0.039', '<0.001', '1')
    """
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def _span(values: list[float], *, sign: bool = False) -> str:
    """The first and the last value, or one of them where both read the same."""
    ends = [percent(value, sign=sign) for value in (values[0], values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _reading(found: Comparison) -> str:
    if not found.n:
        return "No sample was answered on both sides."
    rate = found.divergence_ratio
    sentence = f"{count(found.changed, 'answer')} of {found.n:,} changed ({percent(rate.value)} %"
    excess = found.excess_divergence_ratio
    if excess is not None and excess.defined:
        sentence += f", {percent(excess.value, sign=True)} points beyond noise"
    sentence += f"): {found.negative:,} broke, {found.positive:,} mended"
    other = found.other_wrong + found.right_to_other_right
    if other:
        sentence += f", {other:,} otherwise"
    change = of_difference(found.score_change)
    return f"{sentence}. Score {change.text} points {change.interval}."


def _test(found: Comparison) -> str:
    return found.mcnemar_by_cluster.statement if found.n else ""


def _small(found: Comparison) -> list[str]:
    if not 0 < found.n < FEW_SAMPLES:
        return []
    return [f"only {count(found.n, 'sample')}: read the intervals, not the estimates."]


def _hidden(found: Comparison) -> float:
    excess = found.excess_divergence_ratio
    value = found.divergence_ratio.value if excess is None or not excess.defined else excess.value
    return value if math.isfinite(value) else 0.0
