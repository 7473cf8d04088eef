"""The table of runs: one row each, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from steadyvlm.records import Prediction
from steadyvlm.report.data import ORIGINAL, ReportData
from steadyvlm.report.measures import Measure, TokenProfile, of_difference, of_rate, token_profile
from steadyvlm.report.summary import p_value
from steadyvlm.report.text import percent
from steadyvlm.stability import Comparison


@dataclass(frozen=True, slots=True)
class OriginalRow:
    """What the accelerated runs are compared with."""

    samples: int
    score: str
    failures: int
    tokens: TokenProfile | None


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One run beside the original; shares and differences are over the samples both sides answered.

    Attributes:
        number: from 1 in the order of the report; "A/A" for the control.
        failures: samples without an answer on one side at least.
        unparsed: accelerated texts from which no answer could be read.
        p: two-sided exact p-value, by image; "" when there is nothing to test.
        test: the finding of that test in words.
    """

    number: str
    name: str
    recipe: str
    is_control: bool
    n: int
    clusters: int
    score: str
    score_change: Measure
    changed: Measure
    floor: Measure
    excess: Measure
    broken: Measure
    excess_broken: Measure
    broken_of_right: Measure
    mended: Measure
    other: int
    format_only: int
    failures: int
    unparsed: int
    tokens: TokenProfile | None
    p: str
    test: str


def original_row(data: ReportData) -> OriginalRow:
    """Return the row of the original."""
    answered = [item for item in data.original if item.failure is None]
    score = sum(item.score for item in answered) / len(answered) if answered else float("nan")
    failures = len(data.original) - len(answered)
    return OriginalRow(len(answered), percent(score), failures, token_profile(answered))


def arm_rows(data: ReportData) -> tuple[ArmRow, ...]:
    """Return one row per run, in the order of the report."""
    rows, number = [], 0
    for arm in data.arms:
        number += not arm.is_control
        label = "A/A" if arm.is_control else str(number)
        rows.append(_row(label, arm.name, arm.recipe, arm.comparison, arm.predictions, arm.is_control))
    return tuple(rows)


def samples_link(**filters: str) -> str:
    """Return the address that shows these samples in the gallery.

    >>> samples_link(run="fastv 50", kind="right_to_wrong")
    '#run=fastv%2050&kind=right_to_wrong'
    """
    return "#" + urlencode({key: value for key, value in filters.items() if value}, quote_via=quote, errors="replace")


def _row(
    label: str, name: str, recipe: str, found: Comparison, predictions: Sequence[Prediction], is_control: bool
) -> ArmRow:
    test = found.mcnemar_by_cluster
    return ArmRow(
        number=label,
        name=name,
        recipe=recipe or (ORIGINAL if is_control else ""),
        is_control=is_control,
        n=found.n,
        clusters=found.n_clusters,
        score=percent(found.score_accelerated),
        score_change=of_difference(found.score_change),
        changed=of_rate(found.divergence_ratio),
        floor=of_rate(found.control_divergence_ratio),
        excess=of_difference(found.excess_divergence_ratio),
        broken=of_rate(found.negative_divergence_ratio),
        excess_broken=of_difference(found.excess_negative_divergence_ratio),
        broken_of_right=of_rate(found.negative_given_right),
        mended=of_rate(found.positive_flip_ratio),
        other=found.other_wrong + found.right_to_other_right,
        format_only=found.format_only,
        failures=found.failures.samples,
        unparsed=found.unparsed.accelerated,
        tokens=token_profile(predictions),
        p=p_value(test.p_two_sided) if test.discordant else "",
        test=test.statement if found.n else "",
    )
