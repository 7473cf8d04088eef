"""Things a reader must know before believing a comparison, as plain sentences.

They do not stop a comparison: they say that the runs look truncated, unparsable, identical, or scored by an artefact.

Source:
    The limits (1 % unparsed, 0.5 % truncated, length ratio 2) are conventions; see docs/stability.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from steadyvlm.records import Prediction
from steadyvlm.stability.summary import Slice

UNPARSED_GAP = 0.01
TRUNCATED_SHARE = 0.005
LENGTH_RATIO = 2.0

Pairs = Sequence[tuple[Prediction, Prediction]]


def caveats_of(pairs: Pairs, summary: Slice, left_out: tuple[int, int]) -> tuple[str, ...]:
    """Return the caveats, most serious first.

    Args:
        pairs: (original, accelerated) of the samples that both sides answered.
        summary: the numbers over those samples.
        left_out: questions left out on request because only the original, or only the accelerated run, had them.
    """
    found = [
        _failures(summary),
        _left_out(left_out),
        _inactive(pairs, summary),
        _unparsed(summary),
        *_truncated(pairs),
        _lengths(pairs),
        _suspicious_gain(summary),
        _no_control(summary),
    ]
    return tuple(item for item in found if item)


def _failures(summary: Slice) -> str:
    failures = summary.failures
    if not failures.samples:
        return ""
    return (
        f"{failures.samples:,} samples have no answer on one side at least (original {failures.original:,}, "
        f"accelerated {failures.accelerated:,}); they are in no share below."
    )


def _left_out(left_out: tuple[int, int]) -> str:
    if not any(left_out):
        return ""
    return (
        f"only common questions are compared: {left_out[0]:,} of the original and {left_out[1]:,} of the "
        "accelerated run are left out."
    )


def _inactive(pairs: Pairs, summary: Slice) -> str:
    if not pairs or summary.text_divergence_ratio.numerator:
        return ""
    return f"all {len(pairs):,} texts are identical on both sides: was the acceleration active?"


def _unparsed(summary: Slice) -> str:
    gap = summary.unparsed.accelerated - summary.unparsed.original
    if abs(gap) <= UNPARSED_GAP * summary.n:
        return ""
    return (
        f"no answer could be read from {summary.unparsed.original:,} original and {summary.unparsed.accelerated:,} "
        "accelerated texts: part of the change may be a change of style."
    )


def _truncated(pairs: Pairs) -> list[str]:
    sentences = []
    for side, name in enumerate(("original", "accelerated")):
        generations = [pair[side].generation for pair in pairs]
        cut = sum(item is not None and item.stop_reason == "length" for item in generations)
        if cut > TRUNCATED_SHARE * len(pairs):
            sentences.append(f"{cut:,} {name} answers were cut off at max_new_tokens; raise it, or read them first.")
    return sentences


def _lengths(pairs: Pairs) -> str:
    original = sum(len(a.text) for a, _ in pairs)
    accelerated = sum(len(b.text) for _, b in pairs)
    if max(original, accelerated) <= LENGTH_RATIO * min(original, accelerated):
        return ""
    return (
        f"answers are {original / len(pairs):.0f} characters long on average in the original and "
        f"{accelerated / len(pairs):.0f} in the accelerated run: another style of answer, or a broken one."
    )


def _suspicious_gain(summary: Slice) -> str:
    test = summary.mcnemar_by_cluster
    if not (test.second_only > test.first_only and test.p_two_sided < 1 - summary.divergence_ratio.level):
        return ""
    return (
        f"significantly more answers mended ({summary.positive:,}) than broke ({summary.negative:,}): acceleration "
        "rarely helps, so look for an artefact of scoring or answer style."
    )


def _no_control(summary: Slice) -> str:
    if summary.noise is not None:
        return ""
    return "no A/A control: how much of the change is noise is unknown. Run the original twice to find out."
