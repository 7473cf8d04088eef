"""Every question has the answer its scene says, and none can be read two ways."""

from __future__ import annotations

import numpy as np
import pytest

from steadyvlm.pocket.questions import FAMILIES, binding
from steadyvlm.pocket.scenes import Item, Scene, make_scene
from steadyvlm.pocket.vocabulary import COLOURS, LETTERS, RELATIONS, SHAPES, WORDS

BLANK = np.zeros((96, 96, 3), np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def item(kind: str, name: str, colour: str, x: int, y: int, second: str = "", blend: float = 0.0) -> Item:
    return Item(kind, name, colour, second, blend, (x - 6, y - 6, x + 6, y + 6))


def scene(*items: Item) -> Scene:
    return Scene("hand-made", BLANK, items)


def test_colour_has_ten_annotators_who_disagree_between_two_colours() -> None:
    question = FAMILIES["colour"](rng(), scene(item("shape", "star", "red", 20, 20, "orange", 0.4)))
    assert question is not None
    assert question.text == "what color is the star?"
    assert question.golds == ("red",) * 7 + ("orange",) * 3


def test_colour_is_not_asked_of_one_of_two_stars() -> None:
    assert (
        FAMILIES["colour"](rng(), scene(item("shape", "star", "red", 9, 9), item("shape", "star", "blue", 60, 60)))
        is None
    )


def test_shape_is_not_asked_when_another_may_share_the_colour() -> None:
    both = scene(item("shape", "star", "orange", 9, 9), item("shape", "ring", "red", 60, 60, "orange", 0.3))
    assert all(FAMILIES["shape"](rng(n), both).answer == "ring" for n in range(20))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("dx", "dy", "side"), [(-40, 5, "left"), (40, 5, "right"), (5, -40, "above"), (5, 40, "below")]
)
def test_relation_says_where_the_first_lies_from_the_second(dx: int, dy: int, side: str) -> None:
    a, b = item("shape", "star", "red", 48 + dx, 48 + dy), item("shape", "ring", "blue", 48, 48)
    asked = [FAMILIES["relation"](rng(n), scene(a, b)) for n in range(20)]
    found = {q.text: q.answer for q in asked if q}
    assert found["where is the red star from the blue ring?"] == side


def test_relation_is_not_asked_on_the_diagonal() -> None:
    assert (
        FAMILIES["relation"](rng(), scene(item("shape", "star", "red", 20, 20), item("shape", "ring", "blue", 60, 60)))
        is None
    )


def test_position_names_row_and_column() -> None:
    question = FAMILIES["position"](rng(), scene(item("shape", "star", "red", 80, 15)))
    assert question is not None
    assert question.answer == "top right"


def test_position_is_not_asked_on_a_border() -> None:
    assert FAMILIES["position"](rng(), scene(item("shape", "star", "red", 32, 15))) is None


def test_existence_categories_follow_pope() -> None:
    shown = scene(item("shape", "star", "red", 9, 9), item("shape", "ring", "blue", 60, 60, "purple", 0.3))
    for seed in range(60):
        for category in ("random", "popular", "adversarial"):
            question = FAMILIES[f"existence-{category}"](rng(seed), shown)
            assert question is not None
            pair = tuple(question.text.removeprefix("is there a ").removesuffix("?").split())
            assert (question.answer == "yes") == (pair in {("red", "star"), ("blue", "ring")})
            assert pair != ("purple", "ring"), "a thing some people would see is never asked as absent"
            if category == "adversarial" and question.answer == "no":
                assert pair in {("red", "ring"), ("blue", "star")}


@pytest.mark.parametrize("index", range(40))
def test_answers_agree_with_the_scene(index: int) -> None:
    shown = make_scene("validation", index)
    shapes = shown.of("shape")
    for family, ask in FAMILIES.items():
        question = ask(rng(index), shown)
        if question is None:
            continue
        if family == "counting":
            noun = question.text.removeprefix("how many ").removesuffix("?")
            colour = noun.removesuffix(" shapes")
            kind = "cross" if noun == "crosses" else noun.removesuffix("s")
            counted = (
                sum(i.colour == colour for i in shapes) if colour in COLOURS else sum(i.name == kind for i in shapes)
            )
            assert question.answer == str(counted)
        elif family == "word":
            assert question.answer == shown.of("word")[0].name
        elif family == "digit":
            assert question.answer in {i.name for i in shown.of("digit")}
        elif family == "relation":
            assert question.answer in RELATIONS
        elif family == "choice":
            assert len(set(question.options)) == 4
            assert question.options[LETTERS.index(question.reply)] == question.answer
            assert set(question.options) <= {*COLOURS, *SHAPES, *WORDS, *"0123456789"}


def test_letter_binding_needs_no_picture() -> None:
    question = binding(rng(), scene())
    assert question is not None
    assert question.text == f"which letter is {question.answer}?"
    assert question.options[LETTERS.index(question.reply)] == question.answer


def test_a_scene_without_anything_asks_nothing_it_cannot_answer() -> None:
    empty = scene()
    asked = {family: ask(rng(), empty) for family, ask in FAMILIES.items() if family != "choice"}
    assert {family for family, question in asked.items() if question} == {"counting"}
