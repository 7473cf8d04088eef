"""What counts as which kind of flip, and the identities that must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stability.factory import prediction
from steadyvlm.errors import RunError
from steadyvlm.records import UNPARSED
from steadyvlm.stability.ratios import (
    FLIP_KINDS,
    FlipCounts,
    check_identities,
    count_flips,
    flip_codes,
    flows,
    outcomes_of,
)


def kind(
    before: tuple[str, float], after: tuple[str, float], text: tuple[str, str] | None = None, **options: Any
) -> str:
    texts = text or (before[0], after[0])
    pair = (prediction("q", *before, text=texts[0]), prediction("q", *after, text=texts[1]))
    return FLIP_KINDS[int(flip_codes(outcomes_of([pair], **options))[0])]


@pytest.mark.parametrize(
    ("before", "after", "text", "expected"),
    [
        (("red", 1.0), ("blue", 0.0), None, "right_to_wrong"),
        (("blue", 0.0), ("red", 1.0), None, "wrong_to_right"),
        (("blue", 0.0), ("green", 0.0), None, "wrong_to_other_wrong"),
        (("red", 1.0), ("maroon", 0.9), None, "right_to_other_right"),
        (("red", 1.0), ("red", 1.0), ("red", "It is red."), "format_only"),
        (("blue", 0.0), ("blue", 0.0), ("blue", "Blue."), "format_only"),
        (("red", 1.0), ("red", 1.0), None, "unchanged"),
        (("red", 1.0), (UNPARSED, 0.0), ("red", "..."), "right_to_wrong"),
        (("blue", 0.0), (UNPARSED, 0.0), ("blue", "..."), "wrong_to_other_wrong"),
        ((UNPARSED, 0.0), ("red", 1.0), ("...", "red"), "wrong_to_right"),
        ((UNPARSED, 0.0), (UNPARSED, 0.0), ("...", "?"), "unchanged"),
    ],
)
def test_kinds_of_flips(before: Any, after: Any, text: Any, expected: str) -> None:
    assert kind(before, after, text) == expected


def test_what_is_right_depends_on_the_threshold() -> None:
    soft = ("maroon", 0.6), ("dark red", 0.3)
    assert kind(*soft) == "right_to_wrong"
    assert kind(*soft, correct_threshold=0.9) == "wrong_to_other_wrong"
    assert kind(*soft, correct_threshold=0.1) == "right_to_other_right"


def test_a_score_on_the_threshold_is_right_despite_rounding() -> None:
    almost = 1 - 0.1  # 0.9 exactly, while 0.3 * 3 is a little below
    assert kind(("a", 0.3 * 3), ("b", 0.0), correct_threshold=0.9) == "right_to_wrong"
    assert kind(("a", almost), ("b", 0.0), correct_threshold=0.9) == "right_to_wrong"


def test_rounding_never_makes_an_unchanged_answer_flip() -> None:
    found = outcomes_of([(prediction("q", "a", 0.5 - 0.9e-9), prediction("q", "a", 0.5 - 1.8e-9))])
    assert not (found.negative | found.positive).any()


def test_raw_text_is_counted_beside_the_answer() -> None:
    found = outcomes_of([(prediction("q", UNPARSED, 0.0, text="."), prediction("q", UNPARSED, 0.0, text="?"))])
    assert found.text_changed.tolist() == [True]
    assert found.changed.tolist() == [False]
    assert found.original_unparsed.tolist() == found.accelerated_unparsed.tolist() == [True]


def test_flows_need_no_threshold() -> None:
    # benchmarks specification, section 5: red 1.0 -> maroon 0.9 is a loss of 0.1 without an NDR event
    pairs = [
        (prediction("a", "red", 1.0), prediction("a", "maroon", 0.9)),
        (prediction("b", "blue", 0.0), prediction("b", "dark red", 0.3)),
    ]
    assert flows(outcomes_of(pairs)) == pytest.approx((0.05, 0.15))
    assert count_flips(outcomes_of(pairs)).right_to_wrong == 0
    assert all(np.isnan(flow) for flow in flows(outcomes_of([])))


def test_rows_can_be_taken() -> None:
    found = outcomes_of([(prediction("a", "red"), prediction("a", "blue")), (prediction("b"), prediction("b"))])
    assert found.take(np.array([1])).changed.tolist() == [False]
    assert len(found) == 2


GOOD = {
    "n": 4,
    "counts": FlipCounts(2, 1, 0, 0, 0, 1),
    "right_change": -0.25,
    "score_change": -0.2,
    "loss_flow": 0.5,
    "gain_flow": 0.3,
}


def test_identities_hold_or_stop_everything() -> None:
    check_identities(**GOOD)
    for change, words in (
        ({"n": 5}, "sums to n"),
        ({"right_change": -0.25 + 1e-11}, "PFR - NDR"),
        ({"score_change": -0.2 + 1e-11}, "gain - loss"),
        ({"right_change": float("nan")}, "PFR - NDR"),
    ):
        with pytest.raises(RunError, match=words):
            check_identities(**{**GOOD, **change})


def test_nothing_has_no_identities() -> None:
    nan = float("nan")
    check_identities(
        n=0, counts=FlipCounts(0, 0, 0, 0, 0, 0), right_change=nan, score_change=nan, loss_flow=nan, gain_flow=nan
    )
