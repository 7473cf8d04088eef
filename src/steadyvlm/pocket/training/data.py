"""Training examples: a scene, its per-patch targets, a caption and a packed sequence of questions.

Example `i` is a pure function of `i`, so training can stop anywhere and go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from steadyvlm.pocket.questions import FAMILIES, Question, binding
from steadyvlm.pocket.scenes import Pixels, Scene, Split, make_scene
from steadyvlm.pocket.tokenizer import ASSISTANT, EOS
from steadyvlm.pocket.vocabulary import COLOURS, GRID, LETTERS, PATCH, SHAPES, SIZE, WORDS
from steadyvlm.seeding import stable_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT = 232
"""Packed text tokens per picture."""
CAPTION = 48

WEIGHTS = {
    "colour": 4,
    "shape": 6,
    "existence-random": 2,
    "existence-popular": 2,
    "existence-adversarial": 5,
    "counting": 11,
    "digit": 8,
    "word": 6,
    "relation": 15,
    "position": 9,
    "choice": 20,
}
BINDING_WEIGHT = 10
DRILL = 0.6
"""Share of letter-binding questions that are drills: every option in turn, its letter asked after each."""
BLANK = 0.02
"""Share of pictures replaced by plain grey, with another scene's questions: teaches the prior for "no image"."""
TYPO = 0.04

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How an architecture looks at a picture.

    Attributes:
        grid: cells along one side that vision targets name.
        copy: side in pixels of a reduced copy of the whole picture, 0 without; the copy's cells are patches.
    """

    grid: int = GRID
    copy: int = 0


@dataclass(frozen=True)
class PocketExamples(Dataset[dict[str, Any]]):
    """Examples `start` … `start + length - 1` of the training stream."""

    tokenizer: Tokenizer
    start: int
    length: int
    split: Split = "train"
    questions: bool = True
    layout: Layout = Layout()

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.length

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return tensors of one example, see `make_example`."""
        return make_example(self.tokenizer, self.split, self.start + row, questions=self.questions, layout=self.layout)


def make_example(
    tokenizer: Tokenizer, split: Split, index: int, *, questions: bool = True, layout: Layout = Layout()
) -> dict[str, Any]:
    """Return one training example.

    Pixels [96, 96, 3] uint8, dense targets [grid * grid], caption ids [48] and packed text [232] with targets; with
    a reduced copy also its pixels and dense targets.
    """
    scene = make_scene(split, index)
    rng = np.random.default_rng(stable_seed("pocket-example-v1", split, index))
    pixels, asked = scene.pixels, scene
    blank = rng.random() < BLANK
    if blank:
        pixels, asked = np.full_like(pixels, int(rng.integers(60, 160))), make_scene(split, index + 10**9)
    packed = pack(tokenizer, _questions(rng, asked), rng) if questions else {}
    example: dict[str, Any] = {
        "pixels": torch.from_numpy(pixels),
        "dense": _dense(scene, layout.grid, blank),
        "caption": torch.from_numpy(caption_ids(tokenizer, scene, rng)),
        **{name: torch.from_numpy(value) for name, value in packed.items()},
    }
    if layout.copy:
        example["copy"] = torch.from_numpy(reduced(pixels, layout.copy))
        example["dense_copy"] = _dense(scene, layout.copy // PATCH, blank)
    return example


def reduced(pixels: Pixels, side: int) -> Pixels:
    """Return the picture at `side` x `side` pixels, as image processors reduce it: bicubic, by Pillow."""
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def _dense(scene: Scene, grid: int, blank: bool) -> dict[str, torch.Tensor]:
    targets = dense_targets(scene, grid)
    return {name: torch.from_numpy(value * 0 if blank else value) for name, value in targets.items()}


def dense_targets(scene: Scene, grid: int = GRID) -> dict[str, Ids]:
    """Return what each of grid * grid cells shows: item class, colour, letter, whether an item's centre is in it."""
    grids = {name: np.zeros((grid, grid), np.int64) for name in ("item", "colour", "letter", "centre")}
    cell = SIZE // grid
    for item in scene.items:
        left, top, right, bottom = item.box
        code = {
            "shape": lambda n: 1 + SHAPES.index(n),
            "digit": lambda n: 7 + int(n),
            "word": lambda n: 17 + WORDS.index(n),
        }[item.kind](item.name)
        rows = slice(round(top / cell), max(round(bottom / cell), round(top / cell) + 1))
        columns = slice(round(left / cell), max(round(right / cell), round(left / cell) + 1))
        grids["item"][rows, columns] = code
        grids["colour"][rows, columns] = 1 + COLOURS.index(item.colour)
        x, y = item.centre
        grids["centre"][int(y) // cell, int(x) // cell] = 1
        if item.kind == "word":
            for column in range(columns.start, min(columns.stop, grid)):
                spot = (column + 0.5) * cell - left
                letter = int(np.searchsorted(item.letter_edges, spot))
                if letter < len(item.name):
                    grids["letter"][rows, column] = ord(item.name[letter]) - 96
    return {name: grid.ravel() for name, grid in grids.items()}


def caption_ids(tokenizer: Tokenizer, scene: Scene, rng: np.random.Generator) -> Ids:
    """Return a list caption ("red star, word cat, blue digit 3"): 48 tokens, closed and padded by the end token."""
    names = {"shape": "{c} {n}", "digit": "{c} digit {n}", "word": "word {n}"}
    parts = [names[item.kind].format(c=item.colour, n=item.name) for item in scene.items]
    text = " " + ", ".join(parts[i] for i in rng.permutation(len(parts)))
    end = tokenizer.token_to_id(EOS)
    ids = tokenizer.encode(text).ids[: CAPTION - 1]
    return np.array([*ids, *[end] * (CAPTION - len(ids))], np.int64)


def _questions(rng: np.random.Generator, scene: Scene) -> list[Question]:
    names = list(WEIGHTS)
    weights = np.array([*WEIGHTS.values(), BINDING_WEIGHT], float)
    picks = rng.choice(len(weights), 40, p=weights / weights.sum())
    found: list[Question] = []
    seen: set[str] = set()
    for pick in picks:
        ask = binding if pick == len(names) else FAMILIES[names[pick]]
        question = ask(rng, scene)
        if question is not None and question.prompt not in seen:
            seen.add(question.prompt)
            found.append(question)
    return found


def _drill(tokenizer: Tokenizer, question: Question, prompt: str, rng: np.random.Generator) -> tuple[list[int], Ids]:
    """After the options, say each of them in another order; its letter is the target at its last token.

    Binding a word to the letter before it is the skill multiple choice waits for; asked four times in a row, without
    a picture to read, it is learned several times sooner.
    """
    row = list(_encode(tokenizer, prompt))
    targets = [-100] * len(row)
    for pick in rng.permutation(len(question.options)):
        option = _encode(tokenizer, f" {question.options[pick]}")
        letter = _encode(tokenizer, f" {LETTERS[pick]}")
        row += [*option, *letter]
        targets += [*[-100] * (len(option) - 1), *letter, -100]
    return row, np.array(targets, np.int64)


_ENCODED: dict[int, tuple[Any, dict[str, list[int]]]] = {}
"""Of each tokenizer, by identity: itself, so that the identity stays its own, and what it made of which text."""


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode with a memory: questions repeat, and encoding them costs as much as painting the scene."""
    _, known = _ENCODED.setdefault(id(tokenizer), (tokenizer, {}))
    ids = known.get(text)
    if ids is None:
        ids = tokenizer.encode(text).ids
        if len(known) < 200_000:
            known[text] = ids
    return ids


def _typo(rng: np.random.Generator, text: str) -> str:
    at = int(rng.integers(len(text) - 1))
    kind = int(rng.integers(3))
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if kind == 1 else text[:at] + text[at] + text[at:]


def pack(tokenizer: Tokenizer, questions: list[Question], rng: np.random.Generator) -> dict[str, Ids]:
    """Lay questions one after another: ids, question number (-1 padding), position in it, target id (-100 none), kind.

    `kind` is 1 on answer tokens and 2 on the end token, 0 elsewhere; targets are already shifted by one.
    """
    ids, numbers, places = (np.zeros(TEXT, np.int64) for _ in range(3))
    targets, kinds = np.full(TEXT, -100, np.int64), np.zeros(TEXT, np.int64)
    numbers -= 1
    start = 0
    prompts, replies, drills = [], [], []
    for question in questions:
        drills.append(question.family == "binding" and rng.random() < DRILL)
        prompt, reply = question.prompt, question.reply
        if question.golds:
            reply = question.golds[int(rng.integers(10))]
        if not question.options and rng.random() < TYPO:
            prompt = _typo(rng, prompt)
        prompts.append(f"{prompt}\n{ASSISTANT}")
        replies.append(f" {reply}{EOS}")
    for n, (question, prompt, reply, drill) in enumerate(zip(questions, prompts, replies, drills, strict=True)):
        answered = _encode(tokenizer, reply)
        row = [*_encode(tokenizer, prompt), *answered[:-1]]
        if drill:
            row, asked = _drill(tokenizer, question, prompt, rng)
        if start + len(row) > TEXT:
            continue
        end = start + len(row)
        ids[start:end], numbers[start:end] = row, n
        places[start:end] = np.arange(len(row))
        if drill:
            targets[start:end] = asked
            kinds[start:end] = asked >= 0
            start = end
            continue
        first = end - len(answered)
        targets[first:end] = answered
        kinds[first:end] = [1] * (len(answered) - 1) + [2]
        start = end
    return {"text": ids, "questions": numbers, "places": places, "targets": targets, "kinds": kinds}
