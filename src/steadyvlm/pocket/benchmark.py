"""The pocket benchmark: questions about unseen scenes, graded like the real benchmarks.

600 test scenes give more than 6,000 questions in eleven families. Each scene is asked at most once per family;
existence alternates "yes" and "no"; every second scene has a multiple-choice question in its four rotations
(samples of one rotation group). Test and calibration digits are handwriting never seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.pocket.questions import FAMILIES, Question
from steadyvlm.pocket.scenes import Pixels, Scene, Split, make_scene
from steadyvlm.pocket.vocabulary import LETTERS
from steadyvlm.records import Grade, Sample
from steadyvlm.seeding import bytes_hash, stable_seed
from steadyvlm.tasks.scorers import grade as grade_sample

SCENES = {"test": 600, "validation": 200, "calibration": 200, "train": 2000}
"""Scenes per split of the benchmark. The pocket models were trained on "train" and many more, made on the fly."""


@dataclass(frozen=True, slots=True)
class PocketImage:
    """A scene as an `ImageRef`: painted when loaded, addressed by the hash of its raw RGB bytes."""

    split: Split
    index: int

    def load(self) -> Any:
        """Return the scene as a 96x96 RGB `PIL.Image.Image`."""
        from PIL import Image

        return Image.fromarray(_pixels(self.split, self.index))

    def sha256(self) -> str:
        """Return the hash of the raw pixels, which unlike a PNG does not depend on a compression library."""
        return _pixels_hash(self.split, self.index)


@lru_cache(maxsize=128)
def _pixels(split: Split, index: int) -> Pixels:
    return make_scene(split, index).pixels


@cache
def _pixels_hash(split: Split, index: int) -> str:
    return bytes_hash(_pixels(split, index).tobytes())


@dataclass(frozen=True, slots=True)
class PocketTask:
    """The benchmark as a `Task`.

    Attributes:
        split: "test", "validation", "calibration", or "train" for what is trained and never measured on.
        limit: keep the first so many questions; whole scenes come one after another.
        families: keep these families only; empty keeps all.

    >>> PocketTask(limit=3).samples()[0].id
    'test-0-colour'
    """

    split: str = "test"
    limit: int | None = None
    families: tuple[str, ...] = ()
    name: str = field(default="pocket", init=False)
    version: str = field(default="1", init=False)
    max_new_tokens: int = field(default=8, init=False)
    stop: tuple[str, ...] = field(default=(), init=False)
    soft_threshold: float = field(default=0.5, init=False)

    def __post_init__(self) -> None:
        if self.split not in SCENES:
            raise UnknownName.among("pocket split", str(self.split), SCENES)
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise InvalidOption(f"limit must be a positive number of questions, got {self.limit!r}.")
        for family in self.families:
            if family not in FAMILIES:
                raise UnknownName.among("pocket family", str(family), FAMILIES)

    def samples(self) -> Sequence[Sample]:
        """Return the questions, scene by scene."""
        found: list[Sample] = []
        for index in range(SCENES[self.split]):
            found += [s for s in scene_samples(self.split, index) if not self.families or s.family in self.families]
            if self.limit is not None and len(found) >= self.limit:
                return found[: self.limit]
        return found

    def grade(self, sample: Sample, text: str) -> Grade:
        """Grade by the sample's answer kind, with the scorers of the real benchmarks."""
        return grade_sample(sample, text)


@cache
def scene_samples(split: Split, index: int) -> tuple[Sample, ...]:
    """Return the benchmark questions about one scene."""
    scene = make_scene(split, index)
    found: list[Sample] = []
    for number, family in enumerate(FAMILIES):
        if family == "choice" and index % 2:
            continue
        question = _ask(scene, split, index, number, family)
        if question is not None:
            found += _samples(question, split, index)
    return tuple(found)


def _ask(scene: Scene, split: Split, index: int, number: int, family: str) -> Question | None:
    rng = np.random.default_rng(stable_seed("pocket-question-v1", split, index, family))
    ask = FAMILIES[family]
    if not family.startswith("existence"):
        return ask(rng, scene)
    wanted = ("yes", "no")[(index + number) % 2]
    draws = (ask(rng, scene) for _ in range(40))
    return next((question for question in draws if question and question.answer == wanted), None)


def _samples(question: Question, split: Split, index: int) -> list[Sample]:
    base = f"{split}-{index}-{question.family}"
    turns = range(len(question.options)) if question.options else (0,)
    found = []
    for turn in turns:
        options = question.options[turn:] + question.options[:turn]
        turned = Question(question.family, question.text, question.answer, question.golds, options)
        references = question.golds or ((LETTERS[options.index(question.answer)],) if options else (question.answer,))
        found.append(
            Sample(
                id=f"{base}-r{turn}" if options else base,
                task="pocket",
                question=question.text,
                prompt=turned.prompt,
                kind=question.kind,
                references=references,
                choices=options,
                images=(PocketImage(split, index),),
                cluster=f"{split}-{index}",
                family=question.family,
                group=base if options else "",
            )
        )
    return found
