"""One arm on one task: ask every sample once, and write down what came of it.

A batch that breaks is asked again sample by sample, so that one bad sample costs only itself: its failure is recorded
with its reason, and the others are answered. When sample after sample breaks with not one answer in between, the
cause is not the samples; then the run stops with that cause instead of recording failures that are not theirs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steadyvlm.errors import ImageError, RunError, SteadyVLMError, UsageError
from steadyvlm.records import UNPARSED, Failure, Generation, Prediction, Sample
from steadyvlm.seeding import stable_seed
from steadyvlm.study.backends import Answerer
from steadyvlm.study.identity import UNREADABLE, Decoding, Item
from steadyvlm.study.images import ImageCache
from steadyvlm.study.plan import Order

if TYPE_CHECKING:
    from steadyvlm.tasks.base import Task

STREAK = 8
"""So many samples in a row that raise, with no answer between them, stop the run."""

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm on one task, addressed by content.

    Attributes:
        key: the content hash (`identity.cell_key`).
        arm: "original", "control" or the recipe's name; a label, not part of the key.
        recipe: canonical text; "keep_all" for original and control.
        task: the task, which also grades.
        items: the samples in the order the task lists them.
        decoding: when an answer ends.
        batch_size, order, seed: how the samples are grouped.
    """

    key: str
    arm: str
    recipe: str
    task: Task
    items: tuple[Item, ...]
    decoding: Decoding
    batch_size: int
    order: Order = "by_image"
    seed: int = 0

    def batches(self) -> list[tuple[Item, ...]]:
        """Return the samples grouped as they will be asked; the same for the same cell, whatever is done already."""
        ordered = arrange(self.items, self.order, self.seed)
        return [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]


@dataclass(frozen=True, slots=True)
class Batch:
    """Predictions that belong together, and the seconds the model took for them."""

    predictions: tuple[Prediction, ...]
    model_s: float


def arrange(items: Sequence[Item], order: Order, seed: int) -> tuple[Item, ...]:
    """Return items in an order that depends on what they are, not on how they came.

    "by_image" keeps the questions of one picture together and puts pictures with similarly long prompts next to each
    other, so that a batch decodes few pictures and pads little. "shuffled" is a fixed random order.
    """
    if order == "shuffled":
        return tuple(sorted(items, key=lambda item: (stable_seed("shuffle", seed, item.sha256), item.sha256)))
    longest: dict[tuple[str, ...], int] = {}
    for item in items:
        longest[item.image_sha256] = max(longest.get(item.image_sha256, 0), len(item.sample.prompt))
    return tuple(
        sorted(
            items,
            key=lambda item: (
                len(item.image_sha256),
                longest[item.image_sha256],
                item.image_sha256,
                len(item.sample.prompt),
                item.sha256,
            ),
        )
    )


def run_cell(cell: Cell, answerer: Answerer, done: Collection[Key], cache: ImageCache) -> Iterator[Batch]:
    """Answer the samples whose key is not in `done`, batch by batch.

    Raises:
        UsageError: if the recipe cannot run on this model.
        RunError: if at least `STREAK` samples in a row raise and none is answered.
    """
    held: list[Prediction] = []
    held_s = 0.0
    for batch in cell.batches():
        items = [item for item in batch if item.key not in done]
        if not items:
            continue
        attempt = _attempt(cell, answerer, items, cache)
        held.extend(attempt.predictions)
        held_s += attempt.model_s
        if attempt.error is None:
            yield Batch(tuple(held), held_s)
            held, held_s = [], 0.0
        elif len(held) >= STREAK:
            raise RunError(
                f"arm '{cell.arm}' on task '{cell.task.name}' cannot run: {len(held)} samples in a row failed with "
                f"{_describe(attempt.error)}. Answers so far are kept; mend the cause and run the study again."
            ) from attempt.error
    if held:
        yield Batch(tuple(held), held_s)


@dataclass(slots=True)
class _Attempt:
    predictions: list[Prediction]
    model_s: float
    error: Exception | None
    """The last exception, if samples raised and none was answered."""


def _attempt(cell: Cell, answerer: Answerer, items: Sequence[Item], cache: ImageCache) -> _Attempt:
    outcomes: dict[Key, Generation | Failure] = {}
    ready: dict[Key, Sample] = {}
    for item in items:
        try:
            ready[item.key] = cache.decoded(item)
        except ImageError as error:
            outcomes[item.key] = _failure(error)
    started = time.perf_counter()
    asked = _ask(answerer, list(ready.values()), cell.decoding) if ready else []
    model_s = time.perf_counter() - started
    raised: list[Exception] = []
    answered = 0
    for key, outcome in zip(ready, asked, strict=True):
        if isinstance(outcome, Exception):
            raised.append(outcome)
            outcomes[key] = _failure(outcome)
        else:
            answered += isinstance(outcome, Generation)
            outcomes[key] = outcome
    predictions = []
    for item in items:
        try:
            predictions.append(_prediction(cell, item, outcomes[item.key]))
        except Exception as error:  # a task's own code; treated like a model that raises for this sample
            raised.append(error)
            answered -= 1
            predictions.append(_prediction(cell, item, _failure(error)))
    return _Attempt(predictions, model_s, raised[-1] if raised and answered <= 0 else None)


def _ask(
    answerer: Answerer, samples: Sequence[Sample], decoding: Decoding
) -> Sequence[Generation | Failure | Exception]:
    try:
        outcomes = answerer.answer_batch(samples, max_new_tokens=decoding.max_new_tokens, stop=decoding.stop)
    except UsageError:  # the recipe does not fit the model; no sample is to blame
        raise
    except Exception as error:  # whatever one sample can provoke in a model must not cost the others
        if len(samples) == 1:
            return [error]
        return [outcome for sample in samples for outcome in _ask(answerer, [sample], decoding)]
    if len(outcomes) != len(samples):
        raise RunError(f"{len(samples)} samples were asked and {len(outcomes)} outcomes came back.")
    return outcomes


def _prediction(cell: Cell, item: Item, outcome: Generation | Failure) -> Prediction:
    sample = item.sample
    failed = isinstance(outcome, Failure)
    text = "" if isinstance(outcome, Failure) else outcome.text
    grade = None if failed else cell.task.grade(sample, text)
    return Prediction(
        sample_id=sample.id,
        task=sample.task,
        kind=sample.kind,
        question=sample.question,
        prompt_sha256=item.prompt_sha256,
        image_sha256=() if UNREADABLE in item.image_sha256 else item.image_sha256,
        references=sample.references,
        choices=sample.choices,
        cluster=sample.cluster,
        family=sample.family,
        text=text,
        answer=grade.answer if grade else UNPARSED,
        score=grade.score if grade else 0.0,
        group=sample.group,
        perturbation=sample.perturbation,
        parent=sample.parent,
        generation=outcome if isinstance(outcome, Generation) else None,
        failure=outcome if isinstance(outcome, Failure) else None,
    )


def _failure(error: Exception) -> Failure:
    return Failure(type(error).__name__, str(error)[:500] or type(error).__name__)


def _describe(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, SteadyVLMError) else f"{type(error).__name__}: {text[:500]}"
