"""Answers are read out of sentences, and not invented."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.tasks.parse import YES_NO_WINDOW, choice_letter, option_letters, yes_no


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes, there is a snowboard.", "yes"),
        ("No", "no"),
        ("  YES.  ", "yes"),
        ("**No**, the picture shows yes-men", "no"),
        ("The answer is yes, not no.", "yes"),
        ("There is no car.", "no"),
        ("There is not a single car.", "no"),
        ("Not in this picture.", "no"),
        ("It isn't.", "no"),
        ("it isn\u2019t there", "no"),
        ("doesnt look like it", "no"),
        ("y", "yes"),
        ("(N).", "no"),
        ("", None),
        ("Church", None),
        ("Religious", None),
        ("Nothing, I know nobody; yesterday's notes.", None),
        ("Not sure.", None),
        ("I cannot tell.", None),
        ("maybe", None),
    ],
)
def test_yes_no(text: str, answer: str | None) -> None:
    assert yes_no(text) == answer


def test_yes_no_reads_a_window_and_whole_words_at_its_edge() -> None:
    assert yes_no("x" * (YES_NO_WINDOW - 4) + " yes") == "yes"
    assert yes_no("x" * (YES_NO_WINDOW - 3) + " yes") is None
    assert yes_no("x" * (YES_NO_WINDOW - 3) + " nothing") is None


def test_a_reader_of_sentences_does_not_reverse_a_ranking() -> None:
    """Strict equality calls the terse model better, though both give the same answers."""
    talkative, terse = ["Yes, there is a dog.", "No, there is no cat."], ["Yes", "No"]
    assert [text.lower() in ("yes", "no") for text in talkative] == [False, False]
    assert [yes_no(text) for text in talkative] == [yes_no(text) for text in terse] == ["yes", "no"]


ANIMALS = ["a cat", "a dog", "a cow", "a hen"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # Rule 1: one letter.
        ("B", "B"),
        (" c\n", "C"),
        # Rule 2: at the start, then end or space.
        ("(A)", "A"),
        ("A. a dog", "A"),
        ("d) because", "D"),
        ("B:", "B"),
        ("(B) not A", "B"),
        # Rule 3: the last "answer is".
        ("The answer is B", "B"),
        ("The correct answer is: **(C)**.", "C"),
        ("First the answer is A. Rather, the ANSWER IS D", "D"),
        ("the answer is D, not C", "D"),
        # Rule 4: one letter alone, near the end.
        ("I would choose option B here", "B"),
        ("Answer: C", "C"),
        ("Surely it must be [D]!", "D"),
        ("The best option is A", "A"),
        ("I pick option (A) today", "A"),
        ("B is right and B again", "B"),
        ("B it is, as far as anyone could ever tell", None),  # not within the last five words
        ("Either A or B, who knows", None),
        ("Either A and then maybe B", None),
        ("C, D", None),
        # Rule 5: the option's text.
        ("a dog", "B"),
        ("A DOG.", "B"),
        ("A dog", "B"),
        ("A it is", "A"),
        ("I see a   cow.", "C"),
        ("a cat or a dog", None),
        ("a dog " + "and more words " * 5, None),
        ("a catfish", None),
        # Rule 6.
        ("", None),
        ("a horse", None),
        ("A horse stands here", None),
        ("I think so", None),
        ("the answer is a horse", None),
    ],
)
def test_choice_letter(text: str, letter: str | None) -> None:
    assert choice_letter(text, ANIMALS) == letter


@pytest.mark.parametrize("text", ["C", "(C)", "C. x", "The answer is C, not A", "Option C", "c"])
def test_a_letter_beyond_the_options_is_unparsed(text: str) -> None:
    assert choice_letter(text, ["left", "right"]) is None


def test_a_letter_beyond_the_options_may_still_be_an_options_text() -> None:
    assert choice_letter("C", ["B", "C"]) == "B"
    assert choice_letter("I", list("abcdefghi")) == "I"
    assert choice_letter("so I guess", list("abcdefghi")) == "I"


def test_an_option_inside_a_longer_option_does_not_make_the_text_ambiguous() -> None:
    places = ["left", "top left", "top", "right"]
    assert choice_letter("top left", places) == "B"
    assert choice_letter("it is top left", places) == "B"
    assert choice_letter("it is left", places) == "A"
    assert choice_letter("left of top left", places) is None


def test_odd_options() -> None:
    assert choice_letter("is 10", ["1", "10", "", "1"]) == "B"
    assert choice_letter("x", ["same", "same"]) is None
    assert choice_letter("the same", ["same", "same", "other"]) == "A"
    assert choice_letter("$5 (five)", ["$5 (five)", "$6"]) == "A"
    assert choice_letter("it is $6", ["$5", "$6"]) == "B"
    assert choice_letter("", ["", ""]) is None
    assert choice_letter("A dog", ["cat", "dog"]) == "B"
    assert choice_letter("A", ["cat", "dog"]) == "A"


def test_option_letters() -> None:
    assert option_letters(["x"] * 3) == "ABC"
    assert option_letters(["x"] * 40) == string.ascii_uppercase


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=30))
def test_any_text_gives_a_present_letter_or_none_and_the_same_one_twice(text: str, choices: list[str]) -> None:
    letter = choice_letter(text, choices)
    assert letter is None or letter in option_letters(choices)
    assert letter == choice_letter(text, choices)
    assert yes_no(text) in ("yes", "no", None)
