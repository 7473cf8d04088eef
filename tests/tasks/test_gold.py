"""Gold answers in all the spellings seen in real files."""

from __future__ import annotations

from typing import Any

import pytest

from steadyvlm.errors import SampleError
from steadyvlm.tasks.gold import infer_kinds, references, text_of, texts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("cat", ("cat",)),
        (2, ("2",)),
        (2.0, ("2",)),
        (2.5, ("2.5",)),
        (["a", 1], ("a", "1")),
        ([{"answer": "a", "answer_confidence": "yes", "answer_id": 1}], ("a",)),
        ("['a', 'b']", ("a", "b")),  # a Python list saved as text
        (' ["a", "b"] ', ("a", "b")),
        ("['it\\'s \\d']", ("it's \\d",)),
        ("[a, b]", ("[a, b]",)),  # no list of texts: the text itself
        ("[1+2j]", ("[1+2j]",)),
        ("[['a']]", ("[['a']]",)),
        ("[" * 500 + "]" * 500, ("[" * 500 + "]" * 500,)),
        ("['" + "x" * 20_000 + "']", ("['" + "x" * 20_000 + "']",)),
        ("[oops", ("[oops",)),
    ],
)
def test_texts(value: Any, expected: tuple[str, ...]) -> None:
    assert texts(value) == expected


@pytest.mark.parametrize("value", [True, {"text": "a"}, [["a"]], [None]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(SampleError, match="where a text belongs; write a text, a number, or a list of them"):
        texts(value)


def test_a_printed_numpy_array_is_not_read_as_one_long_text() -> None:
    with pytest.raises(SampleError, match="has no commas"):
        texts("['cat' 'dog']")


def test_whole_floats_lose_their_point() -> None:
    assert (text_of(17.0), text_of(17), text_of("17.0")) == ("17", "17", "17.0")


ANIMALS = ("cat", "dog", "cow")


@pytest.mark.parametrize("gold", ["B", "b", " B ", "1", "dog", " dog"])
def test_a_gold_option_by_letter_index_or_text(gold: str) -> None:
    assert references("choice", [gold], ANIMALS) == ("B",)


@pytest.mark.parametrize("gold", ["D", "3", "-1", "horse", "", "01", "Dog", "1.5", "\u00b9"])
def test_a_gold_option_that_names_none(gold: str) -> None:
    with pytest.raises(SampleError, match=r"write a letter \(A, B, C\), an index from 0, or the text of one option"):
        references("choice", [gold], ANIMALS)


@pytest.mark.parametrize(
    ("gold", "choices", "readings"),
    [("2", ("1", "2", "3"), "B or C"), ("A", ("B", "A"), "A or B"), ("b", ("b", "a"), "A or B")],
)
def test_a_gold_option_with_two_readings_is_refused(gold: str, choices: tuple[str, ...], readings: str) -> None:
    with pytest.raises(SampleError, match=f"can mean option {readings}"):
        references("choice", [gold], choices)


def test_readings_that_agree_are_one() -> None:
    assert references("choice", ["0"], ("0", "1")) == ("A",)
    assert references("choice", ["B"], ("A", "B")) == ("B",)
    assert references("choice", ["x"], ("x", "x")) == ("A",)


def test_options_are_checked_before_the_gold() -> None:
    with pytest.raises(SampleError, match="found 1"):
        references("choice", ["A"], ("x",))


def test_other_kinds() -> None:
    assert references("yes_no", [" Yes"], ()) == ("yes",)
    assert references("open", ["Cat", "cat"], ()) == ("Cat", "cat")
    assert references("choice", [], ANIMALS) == ()


def test_kinds_are_inferred_from_the_whole_file() -> None:
    no = [""] * 4
    assert infer_kinds([["Yes"], ["no "]], [(), ()], no[:2]) == ["yes_no", "yes_no"]
    assert infer_kinds([["yes"], ["red"], ["a"] * 10, ["a"] * 3], [()] * 4, no) == ["open", "open", "open_ten", "open"]
    assert infer_kinds([["yes"], ["B"]], [(), ("x", "y")], no[:2]) == ["yes_no", "choice"]
    assert infer_kinds([["yes"] * 10], [()], [""]) == ["open_ten"]
    assert infer_kinds([[]], [()], [""]) == ["open"]


def test_a_stated_kind_stays_and_does_not_sway_the_others() -> None:
    assert infer_kinds([["yes"], ["red"]], [(), ()], ["", "open"]) == ["yes_no", "open"]
    assert infer_kinds([["yes"], ["no"]], [(), ()], ["vqa", "open"]) == ["yes_no", "open"]
    assert infer_kinds([["A"]], [("x", "y")], ["open"]) == ["open"]
