"""What the pocket model really knows: accuracy per family, beside what one scores without looking.

Three blind controls: the *question-only prior* (the most frequent training answer to the same question text), the
model on a *blank* grey image, and the model on *another scene's* image. A good model is far above all three, and
the last two must not beat the prior by more than 3 points, or questions leak their answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from steadyvlm.engine.generate import generate
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.requests import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.pocket.questions import FAMILIES
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.vocabulary import LETTERS, SIZE
from steadyvlm.records import Failure, Sample
from steadyvlm.seeding import stable_seed


@dataclass(frozen=True, slots=True)
class FamilyScore:
    """Mean scores in [0, 1] of one family over `n` questions."""

    n: int
    score: float
    prior: float
    blank: float
    mismatched: float


def evaluate(model: VisionLanguageModel, task: PocketTask, *, batch_size: int = 64) -> dict[str, FamilyScore]:
    """Return scores per family and, under "all", over all questions; `blank` and `mismatched` are blind controls."""
    samples = task.samples()
    grey = Image.new("RGB", (SIZE, SIZE), (110, 110, 110))
    others = _other_images(samples)
    columns = {
        "score": _scores(model, task, samples, [s.images[0].load() for s in samples], batch_size),
        "prior": prior_scores(task, samples),
        "blank": _scores(model, task, samples, [grey] * len(samples), batch_size),
        "mismatched": _scores(model, task, samples, others, batch_size),
    }
    rows = {family: [i for i, s in enumerate(samples) if s.family == family] for family in FAMILIES}
    rows = {family: index for family, index in rows.items() if index} | {"all": list(range(len(samples)))}
    return {
        family: FamilyScore(len(index), **{name: float(np.mean(values[index])) for name, values in columns.items()})
        for family, index in rows.items()
    }


def prior_scores(task: PocketTask, samples: Sequence[Sample], *, scenes: int = 4000) -> np.ndarray:
    """Return the score of always giving the most frequent training answer to the same question text.

    Multiple choice picks the option that is most often the answer to that text; an unseen text falls back to the
    family's most frequent answer.
    """
    counts = _training_answers(scenes)
    scores = []
    for sample in samples:
        seen = counts.get(sample.question) or counts[sample.family]
        if sample.choices:
            best = max(range(len(sample.choices)), key=lambda n: seen[sample.choices[n]])
            text = LETTERS[best]
        else:
            text = seen.most_common(1)[0][0]
        scores.append(task.grade(sample, text).score)
    return np.array(scores)


@cache
def _training_answers(scenes: int) -> Mapping[str, Counter[str]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(scenes):
        scene = make_scene("train", index)
        rng = np.random.default_rng(stable_seed("pocket-prior", index))
        for family, ask in FAMILIES.items():
            question = ask(rng, scene)
            if question is not None:
                counts[question.text][question.answer] += 1
                counts[family][question.answer] += 1
    return counts


def _other_images(samples: Sequence[Sample]) -> list[Image.Image]:
    images = list(dict.fromkeys(s.images[0] for s in samples))
    other = {image: images[(n + len(images) // 2) % len(images)] for n, image in enumerate(images)}
    return [other[s.images[0]].load() for s in samples]


def _scores(
    model: VisionLanguageModel, task: PocketTask, samples: Sequence[Sample], images: list[Image.Image], batch: int
) -> np.ndarray:
    scores, cache = [], VisionCache()
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        asked = [Request((image,), s.prompt) for image, s in zip(images[start : start + batch], part, strict=True)]
        answers = generate(model, asked, max_new_tokens=task.max_new_tokens, vision_cache=cache)
        texts = ["" if isinstance(answer, Failure) else answer.text for answer in answers]
        scores += [task.grade(s, text).score for s, text in zip(part, texts, strict=True)]
    return np.array(scores)


def as_table(scores: Mapping[str, FamilyScore]) -> str:
    """Return a Markdown table of percentages."""
    lines = [
        "| family | questions | score | question-only prior | blank image | another scene's image |",
        "|---|---|---|---|---|---|",
    ]
    for family, row in scores.items():
        values = " | ".join(f"{100 * value:.1f}" for value in (row.score, row.prior, row.blank, row.mismatched))
        lines.append(f"| {family} | {row.n} | {values} |")
    return "\n".join(lines)
