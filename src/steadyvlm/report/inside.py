"""What a run saves and what it moves inside the model, beside how many answers stayed the same.

Arithmetic is counted from the tokens each layer really processed, answer by answer; inner disruption (LID) is measured
on a sample of the questions. Both arrive here as finished numbers: this file only lines them up with consistency,
which is 1 - DR.

Source: LoFi (low-rank token filtering and layer-wise inner disruption), section 3.1, Table 2 and Figure 3.
Differs: every number carries its interval and n; the correlation is shown with its range when one method is left out,
since several points of such a plot are settings of one method and not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steadyvlm.report.data import Arithmetic, ArmReport, Correlation, Disruption, ReportData
from steadyvlm.report.inside_figures import small_bars
from steadyvlm.report.measures import UNDEFINED, Measure, of_rate
from steadyvlm.report.text import DASH, percent
from steadyvlm.stability import Rate


@dataclass(frozen=True, slots=True)
class InsideRow:
    """One run in the table of cost and disruption.

    Attributes:
        number: as in the table of runs.
        name, recipe: of the run.
        consistency: share of answers that stayed, 1 - DR.
        retained: accelerated score over original score, in percent; a dash when the original scored nothing.
        operations: mean arithmetic per answer, as text with its unit.
        share: of the original's arithmetic on the same questions, in percent.
        counted: what that was counted on.
        lid: layer-wise inner disruption.
        layers: the same per layer, drawn.
    """

    number: str
    name: str
    recipe: str
    consistency: Measure
    retained: str
    operations: str
    share: str
    counted: str
    lid: Measure
    layers: Markup


def inside_rows(data: ReportData) -> tuple[InsideRow, ...]:
    """Return one row per accelerated run, or none when neither arithmetic nor disruption is known."""
    if not data.arithmetic and not data.disruption:
        return ()
    highest = max((max(item.per_layer, default=0.0) for item in data.disruption.values()), default=0.0)
    return tuple(
        _row(str(number), arm, data.arithmetic.get(arm.name), data.disruption.get(arm.name), highest)
        for number, arm in enumerate(data.accelerated, start=1)
    )


def consistency(rate: Rate) -> Measure:
    """Return 1 - DR with its interval.

    >>> from steadyvlm.stability import Rate
    >>> consistency(Rate(0.25, 0.2, 0.3, 25, 100, "wilson", 100, 0.95)).text
    '75.0'
    """
    if not rate.defined:
        return UNDEFINED
    changed = of_rate(rate)
    same = f"{rate.denominator - rate.numerator:,} of {rate.denominator:,}"
    low, high = 1 - rate.high, 1 - rate.low
    title = f"{same} answers are the original's; {changed.title}"
    return Measure(
        percent(1 - rate.value), f"[{percent(low)}, {percent(high)}]", same, title, 1 - rate.value, low, high
    )


def of_disruption(item: Disruption | None) -> Measure:
    """Return LID, a sum over layers without unit, as a measure."""
    if item is None or not math.isfinite(item.value):
        return UNDEFINED
    title = f"mean of {item.n:,} questions, sum over {len(item.per_layer)} layers; 95 % interval ({item.method})"
    limits = f"[{item.low:.2f}, {item.high:.2f}]"
    return Measure(f"{item.value:.2f}", limits, f"n = {item.n:,}", title, item.value, item.low, item.high)


def operations_text(flops: float) -> str:
    """Return operations with a unit that fits.

    >>> operations_text(3.73e12), operations_text(8.1e8)
    ('3.73 TFLOP', '810 MFLOP')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(flops) >= size:
            return f"{flops / size:.3g} {unit}FLOP"
    return f"{flops:.3g} FLOP"


def correlation_text(found: Correlation | None) -> str:
    """Return the correlation of LID and consistency in words, or "" when there are too few runs for one."""
    if found is None:
        return ""
    sentence = f"Over {found.points} runs, LID and consistency correlate with r = {_signed(found.pearson)}"
    if found.leave_one_out is not None:
        low, high = found.leave_one_out
        sentence += f" ({_signed(low)} to {_signed(high)} when one method is left out"
        sentence += f"; by rank {_signed(found.spearman)})"
    return (
        f"{sentence}. Several runs are settings of one method, so they are not {found.points} independent observations."
    )


def lid_points(rows: Sequence[InsideRow]) -> Mapping[int, tuple[str, Measure, Measure]]:
    """Return number -> (name, LID, consistency) of the runs that have both."""
    return {
        int(row.number): (row.name, row.lid, row.consistency)
        for row in rows
        if row.lid.defined and row.consistency.defined
    }


def _row(number: str, arm: ArmReport, cost: Arithmetic | None, moved: Disruption | None, highest: float) -> InsideRow:
    found = arm.comparison
    before = found.score_original
    retained = percent(found.score_accelerated / before) if found.n and before > 0 else DASH
    return InsideRow(
        number=number,
        name=arm.name,
        recipe=arm.recipe,
        consistency=consistency(found.divergence_ratio),
        retained=retained,
        operations=DASH if cost is None else operations_text(cost.flops),
        share=DASH if cost is None else percent(cost.of_original),
        counted="" if cost is None else f"mean of {cost.n:,} answers, prompt and answer tokens; {cost.profile}",
        lid=of_disruption(moved),
        layers=Markup("") if moved is None else small_bars(moved.per_layer, highest),
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
