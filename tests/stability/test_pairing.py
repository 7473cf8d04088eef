"""Runs are joined by content; everything that does not fit is refused by name and number."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from stability.factory import failed, prediction
from steadyvlm.errors import PairingError, SampleError
from steadyvlm.records import Prediction
from steadyvlm.stability.pairing import key_text, pair

RUN = [prediction(f"q{row}") for row in range(5)]


def changed(row: int, **changes: Any) -> list[Prediction]:
    """RUN with one prediction altered."""
    return [dataclasses.replace(item, **changes) if at == row else item for at, item in enumerate(RUN)]


def test_order_is_irrelevant() -> None:
    shuffled = random.Random(0).sample(RUN, len(RUN))
    assert pair(RUN, shuffled) == pair(shuffled, RUN) == pair(RUN, RUN)
    assert [a.sample_id for a, _ in pair(shuffled, RUN).pairs] == ["q0", "q1", "q2", "q3", "q4"]


def test_same_id_in_another_task_or_perturbation_is_another_question() -> None:
    run = [prediction("q1"), prediction("q1", task="other"), prediction("q1", perturbation="blur-3")]
    assert len(pair(run, list(reversed(run))).pairs) == 3


def test_samples_on_one_side_are_counted_named_and_explained() -> None:
    run = [prediction(f"q{row:04d}") for row in range(1000)]
    with pytest.raises(PairingError) as caught:
        pair(run, run[37:])
    assert "37 of 1,000 sample ids appear only in the original run (toy/q0000, toy/q0001, toy/q0002, …)." in str(
        caught.value
    )
    assert "The accelerated run looks unfinished" in str(caught.value)
    with pytest.raises(PairingError, match="The original run looks unfinished"):
        pair(run[1:], run)


def test_samples_on_both_sides_only_are_different_runs() -> None:
    with pytest.raises(PairingError) as caught:
        pair(RUN[1:], RUN[:-1])
    assert "1 of 4 sample ids appear only in the original run (toy/q4)" in str(caught.value)
    assert "1 of 4 sample ids appear only in the accelerated run (toy/q0)" in str(caught.value)
    assert "different runs" in str(caught.value)


def test_common_questions_can_be_compared_on_purpose() -> None:
    found = pair(RUN[1:], RUN[:-1], common_only=True)
    assert [a.sample_id for a, _ in found.pairs] == ["q1", "q2", "q3"]
    assert (found.only_first, found.only_second) == ((("toy", "q4", ""),), (("toy", "q0", ""),))


def test_two_runs_over_different_questions_with_equal_numbers_are_refused() -> None:
    # acceptance check 10: equal indices, other questions
    other = [dataclasses.replace(item, prompt_sha256=f"other prompt {row}") for row, item in enumerate(RUN)]
    with pytest.raises(PairingError, match="5 differ in the prompt") as caught:
        pair(RUN, other)
    assert "not asked the same questions" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("common_only", [False, True])
def test_runs_without_a_common_question_are_refused(common_only: bool) -> None:
    other = [dataclasses.replace(item, task="other") for item in RUN[:2]]
    with pytest.raises(PairingError, match=r"original run \(5 samples\) and the accelerated run \(2 samples\)"):
        pair(RUN, other, common_only=common_only)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt_sha256": "x"}, "the prompt"),
        ({"image_sha256": ("x",)}, "the images"),
        ({"image_sha256": ()}, "the images"),
        ({"references": ("blue",)}, "the reference answers"),
        ({"choices": ("a", "b")}, "the options"),
        ({"kind": "yes_no"}, "the kind of answer"),
    ],
)
def test_any_difference_in_what_was_asked_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(PairingError, match=rf"1 differ in {words} \(toy/q3\)"):
        pair(RUN, changed(3, **changes))


def test_several_differences_are_all_listed() -> None:
    with pytest.raises(PairingError) as caught:
        pair(RUN, changed(2, prompt_sha256="x", references=("blue",)))
    assert "the prompt (toy/q2);\n  1 differ in the reference answers (toy/q2)" in str(caught.value)


def test_what_does_not_identify_the_question_may_differ() -> None:
    assert len(pair(RUN, changed(1, family="else", cluster="img", text="Red!")).pairs) == 5


def test_duplicates_are_refused() -> None:
    with pytest.raises(PairingError, match=r"2 of 5 questions occur more than once in the original run") as caught:
        pair([*RUN, RUN[3], RUN[1]], RUN)
    assert "(toy/q1, toy/q3)" in str(caught.value)
    with pytest.raises(PairingError, match="in the accelerated run"):
        pair(RUN, [*RUN, RUN[0]])


@pytest.mark.parametrize("side", [0, 1])
def test_an_empty_run_is_refused(side: int) -> None:
    runs = [RUN, RUN]
    runs[side] = []
    with pytest.raises(PairingError, match="holds no predictions"):
        pair(*runs)


def test_a_failed_sample_is_paired_even_if_its_image_could_not_be_read() -> None:
    broken = failed("q3", image_sha256=())
    assert pair(RUN, [*RUN[:3], broken, RUN[4]]).pairs[3][1] == broken
    assert pair([*RUN[:3], broken, RUN[4]], RUN).pairs[3][0] == broken


def test_a_failed_sample_must_still_have_been_asked_the_same() -> None:
    with pytest.raises(PairingError, match="the prompt"):
        pair(RUN, [*RUN[:3], failed("q3", prompt_sha256="x", image_sha256=()), RUN[4]])
    with pytest.raises(PairingError, match="the images"):
        pair(RUN, [*RUN[:3], failed("q3", image_sha256=("other picture",)), RUN[4]])


def test_equal_answers_with_different_scores_were_graded_differently() -> None:
    with pytest.raises(PairingError, match=r"1 of 5 samples .* \(toy/q2\).*graded differently"):
        pair(RUN, changed(2, score=0.9))


def test_equal_texts_with_different_answers_were_graded_differently() -> None:
    with pytest.raises(PairingError, match="graded differently"):
        pair(RUN, changed(2, answer="blue", text="red", score=0.0))


def test_logs_without_texts_may_still_change_answers() -> None:
    silent = [dataclasses.replace(item, text="") for item in RUN]
    assert len(pair(silent, [dataclasses.replace(silent[0], answer="blue", score=0.0), *silent[1:]]).pairs) == 5


def test_rounding_of_a_score_is_no_difference() -> None:
    assert len(pair(RUN, changed(2, score=1 - 1e-12)).pairs) == 5


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_scores_outside_0_and_1_are_refused(score: float) -> None:
    with pytest.raises(SampleError, match=r"toy/q2.*between 0 and 1"):
        pair(RUN, changed(2, answer="blue", text="blue", score=score))
    with pytest.raises(SampleError, match="toy/q2"):
        pair(changed(2, answer="blue", text="blue", score=score), RUN)


def test_the_score_of_a_failed_sample_is_never_read() -> None:
    broken = failed("q3")
    assert pair([*RUN[:3], dataclasses.replace(broken, score=float("nan")), RUN[4]], RUN).pairs


def test_keys_read_well() -> None:
    assert key_text(("pope", "17", "")) == "pope/17"
    assert key_text(("pope", "17", "blur-3")) == "pope/17@blur-3"
