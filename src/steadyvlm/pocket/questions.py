"""Questions about a scene, one generator per family, each with a known answer.

The families cover every answer kind of the real benchmarks: open with ten annotators (colour), open with one
reference (shape, counting, digit, word, relation, position), multiple choice (choice) and yes/no in POPE's three
categories (existence-random, -popular, -adversarial). A generator returns None when the scene gives it nothing to
ask without ambiguity.

Letter binding ("which letter is red?") is asked in training only: it teaches the model to point at an option,
needs no picture, and is not part of the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from steadyvlm.pocket.scenes import Item, Scene
from steadyvlm.pocket.vocabulary import (
    COLOUR_WEIGHTS,
    COLOURS,
    COLUMNS,
    LETTERS,
    RELATIONS,
    ROWS,
    SHAPE_WEIGHTS,
    SHAPES,
    SIZE,
    WORDS,
)
from steadyvlm.records import AnswerKind


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        family: benchmark family.
        text: what is asked, options excluded.
        answer: the majority answer in words; for choice the text of the right option.
        golds: ten annotators' answers for colour, else just the answer.
        options: option texts in the order A, B, C, D; empty unless multiple choice.
    """

    family: str
    text: str
    answer: str
    golds: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def kind(self) -> AnswerKind:
        """How the answer is read."""
        if self.options:
            return "choice"
        if self.family.startswith("existence"):
            return "yes_no"
        return "open_ten" if self.family == "colour" else "open"

    @property
    def prompt(self) -> str:
        """Text sent to the chat template."""
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=False)]
        return "\n".join([self.text, *lines])

    @property
    def reply(self) -> str:
        """What a perfect model says: the answer, or the option letter."""
        return LETTERS[self.options.index(self.answer)] if self.options else self.answer


T = TypeVar("T")
Rng = np.random.Generator
Generator = Callable[[Rng, Scene], Question | None]


def unique(items: tuple[Item, ...], *fields: str) -> list[Item]:
    """Return the items that no other item equals in `fields`."""
    keys = [tuple(getattr(item, name) for name in fields) for item in items]
    return [item for item, key in zip(items, keys, strict=True) if keys.count(key) == 1]


def _pick(rng: Rng, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def colour(rng: Rng, scene: Scene) -> Question | None:
    """What colour is a thing? Ten annotators; between two colours they disagree."""
    targets = [(item, f"the {item.name}") for item in unique(scene.of("shape"), "name")]
    targets += [(item, "the word") for item in scene.of("word")]
    if len(scene.of("digit")) == 1:
        targets += [(item, "the digit") for item in scene.of("digit")]
    if not targets:
        return None
    item, noun = _pick(rng, targets)
    others = round(10 * (item.blend - 0.1)) if item.second else 0
    golds = (item.colour,) * (10 - others) + (item.second,) * others
    return Question("colour", f"what color is {noun}?", item.colour, golds)


def shape(rng: Rng, scene: Scene) -> Question | None:
    """Which shape has this colour?"""
    targets = _clear(unique(scene.of("shape"), "colour"), scene)
    if not targets:
        return None
    item = _pick(rng, targets)
    return Question("shape", f"which shape is {item.colour}?", item.name)


def _clear(items: list[Item], scene: Scene) -> list[Item]:
    """Drop items whose colour name another shape might share in some people's eyes."""
    seconds = {item.second for item in scene.of("shape")}
    return [item for item in items if item.colour not in seconds]


def existence(category: str) -> Generator:
    """Is there such a thing? "No" follows POPE: a random, a popular or an adversarial absent object."""

    def ask(rng: Rng, scene: Scene) -> Question | None:
        shapes = scene.of("shape")
        seen = {(item.colour, item.name) for item in shapes}
        maybe = seen | {(item.second, item.name) for item in shapes}
        if not seen:
            return None
        if rng.random() < 0.5:
            frequent = sorted(seen & set(_POPULAR)) if category == "popular" else []
            pair, answer = _pick(rng, frequent or sorted(seen)), "yes"
        else:
            absent = [pair for pair in _PAIRS_BY_FREQUENCY if pair not in maybe]
            if category == "popular":
                absent = [pair for pair in absent if pair in _POPULAR]
            elif category == "adversarial":
                colours, names = {pair[0] for pair in seen}, {pair[1] for pair in seen}
                absent = [pair for pair in absent if pair[0] in colours and pair[1] in names]
            if not absent:
                return None
            pair, answer = _pick(rng, absent), "no"
        return Question(f"existence-{category}", f"is there a {pair[0]} {pair[1]}?", answer)

    return ask


_PAIRS_BY_FREQUENCY = sorted(
    ((colour, name) for colour in COLOURS for name in SHAPES),
    key=lambda pair: -COLOUR_WEIGHTS[COLOURS.index(pair[0])] * SHAPE_WEIGHTS[SHAPES.index(pair[1])],
)


_POPULAR = tuple(_PAIRS_BY_FREQUENCY[:16])
"""Things that scenes show most often; "popular" questions ask for them, present or not, so that the question alone
does not give the answer away."""


def counting(rng: Rng, scene: Scene) -> Question | None:
    """How many of a kind, or of a colour? The count is drawn first, so that large counts are asked too."""
    shapes = scene.of("shape")
    seconds = {item.second for item in shapes}
    counts = {f"{name}s" if name != "cross" else "crosses": sum(i.name == name for i in shapes) for name in SHAPES}
    counts |= {f"{c} shapes": sum(i.colour == c for i in shapes) for c in COLOURS if c not in seconds}
    values = sorted({n for n in counts.values() if n <= 5})
    weights = np.array([1 + 0.6 * n for n in values])
    value = values[int(rng.choice(len(values), p=weights / weights.sum()))]
    noun = _pick(rng, [noun for noun, n in counts.items() if n == value])
    return Question("counting", f"how many {noun}?", str(value))


def digit(rng: Rng, scene: Scene) -> Question | None:
    """Read a handwritten digit, named by its colour when there are two."""
    digits = scene.of("digit")
    if not digits:
        return None
    item = _pick(rng, digits)
    return Question(
        "digit", f"what is the {item.colour} digit?" if len(digits) > 1 else "what is the digit?", item.name
    )


def word(rng: Rng, scene: Scene) -> Question | None:
    """Read the printed word."""
    words = scene.of("word")
    return Question("word", "what is the word?", words[0].name) if words else None


def relation(rng: Rng, scene: Scene) -> Question | None:
    """Where does one shape lie from another? One axis must clearly dominate."""
    shapes = unique(scene.of("shape"), "colour", "name")
    pairs = []
    for a in shapes:
        for b in shapes:
            dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
            if a is not b and max(abs(dx), abs(dy)) >= 1.5 * min(abs(dx), abs(dy)) and max(abs(dx), abs(dy)) >= 12:
                across = abs(dx) > abs(dy)
                pairs.append((a, b, RELATIONS[(dx > 0) if across else 2 + (dy > 0)]))
    if not pairs:
        return None
    wanted = _pick(rng, sorted({side for _, _, side in pairs}))
    a, b, side = _pick(rng, [pair for pair in pairs if pair[2] == wanted])
    return Question("relation", f"where is the {a.colour} {a.name} from the {b.colour} {b.name}?", side)


def position(rng: Rng, scene: Scene) -> Question | None:
    """Where in the picture is a thing? Nine places, two words; things near a border are not asked."""
    targets = [(item, f"{item.colour} {item.name}") for item in unique(scene.of("shape"), "colour", "name")]
    targets += [(item, "word") for item in scene.of("word")]
    targets = [(item, noun) for item, noun in targets if all(abs(c - 32) >= 2 <= abs(c - 64) for c in item.centre)]
    if not targets:
        return None
    item, noun = _pick(rng, targets)
    x, y = (int(c * 3 // SIZE) for c in item.centre)
    return Question("position", f"where is the {noun}?", f"{ROWS[y]} {COLUMNS[x]}")


def choice(rng: Rng, scene: Scene) -> Question | None:
    """Another family's question with four options; up to two distractors come from the same scene."""
    ask, pool = _pick(rng, _CHOICE_OF)
    base = ask(rng, scene)
    if base is None or (base.golds and len(set(base.golds)) > 1):
        return None
    present = {i.colour for i in scene.items} | {i.name for i in scene.items}
    near = [value for value in pool if value != base.answer and value in present]
    far = [value for value in pool if value != base.answer and value not in present]
    near = [near[i] for i in rng.permutation(len(near))]
    far = [far[i] for i in rng.permutation(len(far))]
    options = [base.answer, *(near[:2] + far + near[2:])[:3]]
    return Question("choice", base.text, base.answer, (), tuple(options[i] for i in rng.permutation(4)))


def binding(rng: Rng, scene: Scene) -> Question | None:
    """Training only: point at the option that says a given word."""
    pool = _CHOICE_OF[int(rng.integers(len(_CHOICE_OF)))][1]
    options = tuple(pool[i] for i in rng.permutation(len(pool))[:4])
    answer = _pick(rng, options)
    return Question("binding", f"which letter is {answer}?", answer, (), options)


_NUMBERS = tuple("0123456789")
_CHOICE_OF: tuple[tuple[Generator, tuple[str, ...]], ...] = (
    (colour, COLOURS),
    (colour, COLOURS),
    (shape, SHAPES),
    (shape, SHAPES),
    (counting, _NUMBERS[:6]),
    (digit, _NUMBERS),
    (word, WORDS),
)

FAMILIES: dict[str, Generator] = {
    "colour": colour,
    "shape": shape,
    "existence-random": existence("random"),
    "existence-popular": existence("popular"),
    "existence-adversarial": existence("adversarial"),
    "counting": counting,
    "digit": digit,
    "word": word,
    "relation": relation,
    "position": position,
    "choice": choice,
}
"""Benchmark families in report order."""
