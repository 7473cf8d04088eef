"""What must never change: placeholders, options, instructions; for every level and every form of prompt."""

from __future__ import annotations

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.suite import TEXT_LEVELS, parse
from steadyvlm.perturb.text import Resources, perturb_sample, split_prompt, split_text
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.records import Sample
from steadyvlm.tasks.prompts import prompt_for

WORST = parse("text/random_char_replace@5")
CASES = [
    ("<image>\nWhat is it?\nAnswer the question using a single word or phrase.", "What is it?"),
    ("Answer with one word. What is it?", "What is it?"),
    ("What is it? (A) a cat (B) a dog (C) 3 birds", "What is it?"),
    ("What is it? (a) cat (b) dog", "What is it?"),
    ("what is it? a) cat b) dog", "what is it?"),
    ("what shape is red? A cat B dog C bird D hat", "what shape is red?"),
    ("What is it?\nA 1 cat\nB 2 dogs", "What is it?"),
    ("What is it?\nA. 1 cat\nB. 2 dogs\n", "What is it?"),
    ("How many?\n(1) one\n(2) two\nReply with the number of your option.", "How many?"),
    ("Question: What is it?\nOptions:\n1. one 2. two\nAnswer:", "What is it?"),
    ("Which one? Options: cat, dog", "Which one?"),
    ("<|vision_start|><|image_pad|><|vision_end|>Is it red? Please answer yes or no.", "Is it red?"),
    ("<s><image_1>Is it red?</s>", "Is it red?"),
    ("[IMG1] Is it red? Yes or no?", "Is it red?"),
    ("Is there a cat in <image> or in the other picture?", "or in the other picture?"),
    ("Hint: Please choose the correct option letter.\nQuestion: How many?\nChoices:\n(A) 5\n(B) 6", "How many?"),
    ("USER: <image>\nWhat is it? ASSISTANT:", "What is it?"),
    ("Does the A train stop at B street?", "Does the A train stop at B street?"),
    ("Which is bigger, A or B?", "Which is bigger, A or B?"),
    ("A. cat", "A. cat"),
    ("Choose the right color of the bus?", "Choose the right color of the bus?"),
    ("Can you give a name to the dog?", "Can you give a name to the dog?"),
    ("Is this true or false?", "Is this true or false?"),
    ("<image>", ""),
    ("", ""),
]


@pytest.mark.parametrize(("prompt", "question"), CASES, ids=[prompt for prompt, _ in CASES])
def test_the_question_of_a_prompt(prompt: str, question: str) -> None:
    parts = split_text(prompt)
    assert parts.question == question
    assert parts.rebuilt(parts.question) == prompt


@settings(max_examples=200, deadline=None)
@drawn(st.text(alphabet="AB. ?\n()1:<image>|_use word,", max_size=60))
def test_any_text_is_split_without_loss(text: str) -> None:
    parts = split_text(text)
    assert parts.prefix + parts.question + parts.suffix == text
    assert parts.question == parts.question.strip()


def sample(question: str, prompt: str) -> Sample:
    return Sample("s1", "t", question, prompt, "open", ("x",))


@pytest.mark.parametrize("level", TEXT_LEVELS, ids=str)
def test_no_level_touches_options_or_instructions(level: object) -> None:
    options = ["3 red dogs", "a cat", "(B) 12"]
    prompt = "<image>\n" + prompt_for("choice", "What is the man holding?", options)
    given = Sample(
        "s1", "t", "What is the man holding?", prompt, "choice", ("B",), tuple(options), cluster="c", group="g"
    )
    changed, result = perturb_sample(given, level)  # type: ignore[arg-type]  # a Level
    assert changed.prompt == prompt.replace(given.question, result.text)
    assert changed.question == result.text
    assert (changed.perturbation, changed.parent, changed.id) == (str(level), "s1", "s1")
    assert (changed.choices, changed.references, changed.cluster, changed.group) == (given.choices, ("B",), "c", "g")


def test_every_pocket_prompt_keeps_its_options() -> None:
    for given in PocketTask(limit=60).samples():
        changed, result = perturb_sample(given, WORST)
        kept = given.prompt.split("\n")[1:]
        assert changed.prompt.split("\n")[-len(kept) :] == kept or not kept
        assert changed.prompt.startswith(result.text)
        assert result.status == "applied"
        assert len(kept) == len(given.choices)


def test_rotations_of_a_question_see_the_same_words() -> None:
    turned = [item for item in PocketTask(limit=200).samples() if item.group]
    by_group: dict[str, set[str]] = {}
    for item in turned:
        by_group.setdefault(item.group, set()).add(perturb_sample(item, WORST)[1].text)
    assert by_group
    assert all(len(texts) == 1 for texts in by_group.values())


def test_a_question_that_the_prompt_words_otherwise() -> None:
    given = sample("bus color", "<image>What color is the bus?\nAnswer briefly in one word.")
    changed, result = perturb_sample(given, parse("text/drop_first"))
    assert changed.prompt == "<image>[UNK] color is the bus?\nAnswer briefly in one word."
    assert changed.question == result.text == "[UNK] color is the bus?"


def test_a_placeholder_inside_the_question_stays() -> None:
    given = sample("<image> What color is the bus?", "<image> What color is the bus?\nShort answer:")
    changed, _ = perturb_sample(given, parse("text/drop_last"))
    assert changed.question == "<image> What color is the [UNK]"
    assert changed.prompt == "<image> What color is the [UNK]\nShort answer:"
    assert split_prompt(given).prefix == "<image> "


def test_settings_reach_the_level_and_pictures_are_refused() -> None:
    given = sample("What is it?", "What is it?")
    changed, _ = perturb_sample(given, parse("text/drop_first"), resources=Resources(drop_token="___"))
    assert changed.question == "___ is it?"
    first, second = (perturb_sample(given, WORST, seed=seed)[0].question for seed in (1, 2))
    assert first != second
    with pytest.raises(InvalidOption, match="changes pictures"):
        perturb_sample(given, parse("image/fog@1"))
