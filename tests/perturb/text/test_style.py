"""How a sentence is put: voices by rule and back, registers, tense, denial; each against forms written by hand."""

from __future__ import annotations

import pytest

from steadyvlm.perturb.text import apply_text, register, voice, wordnet
from steadyvlm.perturb.text.style import _OPPOSITES

TURNED = [
    ("A man is riding a horse in the park.", "A horse is being ridden by a man in the park."),
    ("The dogs chased him.", "He was chased by the dogs."),
    ("The boy throws the ball.", "The ball is thrown by the boy."),
    ("The boys throw the ball", "The ball is thrown by the boys"),
    ("Is the man riding a horse?", "Is a horse being ridden by the man?"),
    ("Are they eating the woman's cake?", "Is the woman's cake being eaten by them?"),
    ("Does the man wear glasses?", "Are glasses worn by the man?"),
    ("Did she catch the ball?", "Was the ball caught by her?"),
    ("what is the man holding?", "what is being held by the man?"),
    ("What do the children eat?", "What is eaten by the children?"),
    ("I catch the ball.", "The ball is caught by me."),
    ("Is the man watching me?", "Am I being watched by the man?"),
    ("What am I eating?", "What is being eaten by me?"),
]


@pytest.mark.parametrize(("active", "passive"), TURNED, ids=[active for active, _ in TURNED])
def test_voices_there_and_back(active: str, passive: str) -> None:
    assert voice.passive(active) == passive
    assert voice.active(passive) == active


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "There are two dogs.",
        "The dog is a poodle.",
        "The man has a hat.",
        "What is the cat sitting on?",
        "What color is the bus?",
        "What about the bus?",
        "What is it?",
        "Who is wearing a hat?",
        "The women are wearing hats and coats.",
        "The women are quickly.",
        "Is the man riding?",
        "Does the man 5 a horse?",
        "Does the man",
        "The man in",
        "A man rides a horse. A dog runs.",
        "Is the woman's quickly riding it?",
    ],
)
def test_clauses_without_a_passive(text: str) -> None:
    assert voice.passive(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The bus is parked by the curb.",
        "The bus is red.",
        "The bus runs.",
        "Is the ball thrown?",
        "Is the ball thrown by quickly?",
        "What is being done?",
        "What now?",
        "Is the ball threw by the boy?",
        "Red is by the boy.",
        "Quickly.",
    ],
)
def test_clauses_without_an_active(text: str) -> None:
    assert voice.active(text) is None


def test_what_belongs_to_the_agent_stays_with_it() -> None:
    text = "The dog in the left image is chasing a red ball on the grass."
    assert voice.passive(text) == "A red ball is being chased by the dog in the left image on the grass."
    assert voice.active("The cat in the car was seen by the men.") == "The men saw the cat in the car."
    assert voice.active("The cat is surrounded by flowers.") == "Flowers surround the cat."
    assert voice.active("The cat was liked by the girl.") == "The girl liked the cat."
    assert voice.active("The cat is liked by the girl.") == "The girl likes the cat."


def test_very_long_phrases_are_read_without_deep_recursion() -> None:
    assert voice.passive("the man " + "in the hat " * 5000 + "is riding a horse.") is not None


@pytest.mark.parametrize(
    ("text", "formal", "casual"),
    [
        ("what's the kid doing", "What is the child doing?", "what's the kid doing"),
        ("The man isn't big.", "The man is not large.", "the guy isn't big"),
        ("I cannot see the picture.", "I cannot see the picture.", "I can't see the pic"),
        ("I'm here and i know what it is.", "I am here and I know what it is.", "I'm here and i know what it is"),
        ("Is the TV on the dog's bed?", "Is the television on the dog's bed?", "is the TV on the dog's bed?"),
        ("How many children are there?", "How many children are there?", "how many kids are there?"),
        ("Lots of bikes...", "Many bicycles...", "lots of bikes..."),
        ("nobody knows", "Nobody knows.", "nobody knows"),
        ("", "", ""),
    ],
)
def test_registers(text: str, formal: str, casual: str) -> None:
    assert register.formal(text) == formal
    assert register.casual(text) == casual


def test_contractions_there_and_back() -> None:
    long = "It is not red, they are here, I will go, she does not know, we have seen it and he cannot stop."
    short = "It isn't red, they're here, I'll go, she doesn't know, we've seen it and he can't stop."
    assert register.expanded(short) == long
    assert register.contracted(long) in (short, short.replace("It isn't", "It's not"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two dogs run on the grass.", "On the grass, two dogs run."),
        ("Anna sits near the door.", "Near the door, Anna sits."),
        ("Is it on the grass?", "Is it on the grass?"),
        ("Two dogs run.", "Two dogs run."),
    ],
)
def test_a_place_moves_to_the_front_of_a_statement(text: str, expected: str) -> None:
    assert register.fronted(text) == expected


def test_one_verb_takes_another_of_its_forms() -> None:
    texts = {apply_text("What is the man holding?", "tense", 1, seed=seed).text for seed in range(40)}
    assert texts == {f"What is the man {form}?" for form in ("held", "hold", "holds")}
    was = {apply_text("Was it red?", "tense", 1, seed=seed).text for seed in range(40)}
    assert was == {f"{form} it red?" for form in ("Be", "Been", "Being", "Is")}
    assert apply_text("Is it red?", "tense", 1).status == "noop"  # "is" is a function word


def test_long_texts_change_at_most_ten_verbs() -> None:
    text = "dogs running " * 200
    after = apply_text(text, "tense", 1).text
    assert sum(a != b for a, b in zip(text.split(), after.split(), strict=True)) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is this a good meal?", "Is this a not bad meal?"),
        ("Good dogs like it best.", "Not bad dogs don't dislike it not worst."),
        ("GREAT", "NOT SMALL"),
        ("Is it goods?", "Is it goods?"),
    ],
)
def test_denial(text: str, expected: str) -> None:
    result = apply_text(text, "double_denial", 1)
    assert result.text == expected
    assert result.status == ("noop" if text == expected else "applied")


def test_the_triggers_of_denial_and_their_opposites() -> None:
    """24 of the 26 of the original; where WordNet has an antonym of the word, ours is one of them."""
    assert len(_OPPOSITES) == 24
    ours = {word: opposite.split()[1] for word, opposite in _OPPOSITES.items()}
    # The antonym of "worth" is that of the noun.
    for word in sorted(set(ours) - {"worth"}):
        antonyms = wordnet.antonyms(word)
        assert not antonyms or ours[word] in antonyms, word
    assert all(opposite.split()[0] in ("not", "don't") for opposite in _OPPOSITES.values())


@pytest.mark.parametrize("id", ["to_formal", "to_casual", "to_passive", "to_active"])
def test_rules_say_that_they_are_rules(id: str) -> None:
    result = apply_text("What is the kid holding", id, 1)
    assert (result.status, result.info["fallback"]) == ("fallback", "rules")
    empty = apply_text("", id, 1)
    assert (empty.status, empty.info["why"]) == ("noop", "empty")
