"""Answers and scores by kind of question."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.errors import SampleError
from steadyvlm.records import UNPARSED, AnswerKind, Grade, Sample
from steadyvlm.tasks.scorers import (
    check_gold,
    check_options,
    check_sample,
    exact_form,
    grade,
    grade_text,
    soft_accuracy,
    token_recall,
)

REDS = ["red"] * 6 + ["maroon"] * 3 + ["dark red"]


def ask(kind: AnswerKind, references: list[str], choices: tuple[str, ...] = ()) -> Sample:
    return Sample("1", "t", "What?", "What?", kind, tuple(references), choices)


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_accuracy_of_ten_golds_is_in_exact_tenths(matches: int, score: float) -> None:
    golds = ["p"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert soft_accuracy("p", golds) == Fraction(round(10 * score), 10)
    assert grade_text("open_ten", golds, (), "P.").score == score


def test_soft_accuracy_is_the_leave_one_out_sum_for_any_number_of_golds() -> None:
    for total in range(1, 14):
        for matches in range(total + 1):
            golds = ["p"] * matches + ["q"] * (total - matches)
            left_out = [golds[:i] + golds[i + 1 :] for i in range(total)]
            expected = sum((min(Fraction(1), Fraction(rest.count("p"), 3)) for rest in left_out), Fraction(0)) / total
            assert soft_accuracy("p", golds) == expected


def test_worked_example_of_soft_scores_and_what_counts_as_a_negative_flip() -> None:
    original, accelerated = (grade_text("open_ten", REDS, (), text) for text in ("red", "maroon"))
    assert [grade_text("open_ten", REDS, (), text).score for text in ("red", "maroon", "dark red", "blue")] == [
        1.0,
        0.9,
        0.3,
        0.0,
    ]
    assert original.answer != accelerated.answer
    assert Fraction(original.score).limit_denominator(30) - Fraction(accelerated.score).limit_denominator(30) == (
        Fraction(1, 10)
    )
    flips = {t: original.score >= t > accelerated.score for t in (0.5, 0.9, 1.0)}
    assert flips == {0.5: False, 0.9: False, 1.0: True}


def test_two_and_2_are_one_answer_grey_and_gray_are_two() -> None:
    golds = ["two"] * 10
    assert grade_text("open_ten", golds, (), "Two.") == grade_text("open_ten", golds, (), "2") == Grade("2", 1.0)
    assert grade_text("open_ten", golds, (), "grey").answer != grade_text("open_ten", golds, (), "gray").answer


def test_one_reference_is_compared_without_punctuation_and_case() -> None:
    assert grade(ask("open", ["t-shirt"]), " T-Shirt.\n") == Grade("tshirt", 1.0)
    assert grade(ask("open", ["tshirt"]), "t-shirt").score == 1.0
    assert grade(ask("open", ["a cat"]), "cat") == Grade("cat", 0.0)  # no article handling here
    assert grade(ask("open", ["sofa", "couch"]), "Couch").score == 1.0
    assert exact_form(" 'Top left'. ") == "top left"


@pytest.mark.parametrize("kind", ["open", "open_ten", "yes_no", "choice"])
@pytest.mark.parametrize("text", ["", " \n", "?!"])
def test_nothing_is_unparsed_and_wrong(kind: AnswerKind, text: str) -> None:
    references = {"open": ["cat"], "open_ten": REDS, "yes_no": ["no"], "choice": ["A"]}[kind]
    choices = ("cat", "dog") if kind == "choice" else ()
    made = grade(ask(kind, references, choices), text)
    assert made == Grade(UNPARSED, 0.0)
    assert not made.parsed


def test_a_gold_that_normalises_to_nothing_can_be_met_but_not_by_silence() -> None:
    assert grade(ask("open_ten", ["the"] * 10), "The") == Grade("", 1.0)
    assert grade(ask("open_ten", ["the"] * 10), " ") == Grade(UNPARSED, 0.0)
    assert grade(ask("open", ["?"]), "?") == Grade("", 1.0)


def test_yes_no_answers() -> None:
    sample = ask("yes_no", [" Yes "])
    assert grade(sample, "Yes, there is.") == Grade("yes", 1.0)
    assert grade(sample, "No.") == Grade("no", 0.0)
    assert grade(sample, "Portrait") == Grade(UNPARSED, 0.0)


def test_a_choice_is_its_text_so_that_rotation_does_not_matter() -> None:
    first = ask("choice", ["A"], ("cat", "dog", "cow"))
    rotated = ask("choice", ["C"], ("dog", "cow", " cat\n"))
    assert grade(first, "A") == grade(rotated, "(C)") == Grade("cat", 1.0)
    assert grade(first, "B") == grade(rotated, "A") == Grade("dog", 0.0)
    assert grade(first, "A").answer != grade(rotated, "A").answer
    assert grade(first, "E") == Grade(UNPARSED, 0.0)


def test_options_with_one_text_are_one_answer_with_one_score() -> None:
    sample = ask("choice", ["B"], ("cat", "cat", "dog"))
    assert grade(sample, "A") == grade(sample, "B") == Grade("cat", 1.0)


@given(
    st.sampled_from(
        [
            ask("open", ["Cat"]),
            ask("open_ten", REDS),
            ask("yes_no", ["no"]),
            ask("choice", ["B"], ("cat", "dog", "red")),
        ]
    ),
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(["red", "Red.", "RED", "maroon", "cat", "A cat", "B", "(b)", "yes", "no", "No!", "not"]),
        ),
        min_size=2,
        max_size=8,
    ),
)
def test_an_unchanged_answer_never_changes_its_score(sample: Sample, texts: list[str]) -> None:
    grades = [grade(sample, text) for text in texts]
    scores: dict[str, set[float]] = {}
    for made in grades:
        scores.setdefault(made.answer, set()).add(made.score)
        assert 0.0 <= made.score <= 1.0
        assert made.parsed or made.score == 0.0
    assert all(len(found) == 1 for found in scores.values())


def test_token_recall() -> None:
    assert token_recall("lobe of the right lung", "right lower lobe") == Fraction(2, 3)
    assert token_recall("", "lung") == 0
    assert token_recall("anything", "the") is None


@pytest.mark.parametrize(
    ("kind", "references", "choices", "message"),
    [
        ("opne", ["x"], (), "kind is 'opne'; use open"),
        ("open", [], (), "no reference answer"),
        ("open", ["x"], ("a", "b"), "there are options, but the kind is 'open'"),
        ("yes_no", ["maybe"], (), "'maybe'; write yes or no"),
        ("yes_no", ["yes", "no"], (), "takes one reference, found 2"),
        ("open_ten", ["x"] * 3, (), "at least 4 annotators' answers, found 3"),
        ("choice", ["A"], (), "2 to 26 options, found 0"),
        ("choice", ["A"], ("x",) * 27, "found 27"),
        ("choice", ["A"], ("x", " "), "option B is empty"),
        ("choice", ["A"], (UNPARSED, "x"), "option A is empty or reserved"),
        ("choice", ["C"], ("x", "y"), "gold option is 'C'; write one of A, B"),
        ("choice", ["AB"], ("x", "y"), "gold option is 'AB'"),
        ("choice", ["A", "B"], ("x", "y"), "takes one reference"),
    ],
)
def test_golds_that_do_not_fit_are_refused(kind: Any, references: list[str], choices: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        check_gold(kind, references, choices)
    with pytest.raises(SampleError, match=message):
        grade_text(kind, references, choices, "x")
    with pytest.raises(SampleError, match=f"sample '1' of task 't': .*{message}"):
        check_sample(ask(kind, references, choices))


def test_golds_that_fit() -> None:
    check_options(["x", "x"])
    check_sample(ask("choice", ["B"], ("x", "y")))
    check_sample(ask("open_ten", ["x"] * 4))
