"""What a benchmark is: samples, generation limits and a scorer.

A task owns everything that decides which question is asked and what counts as its answer, and nothing about how a
model produces it. The limits belong to the task because they change scores: a model cut off at 16 tokens and one that
may write a paragraph do not answer the same question. Stop strings are applied by whoever generates, on the decoded
text, since back ends honour them unevenly.

Source: the shape follows inspect_ai's task = data + prompt + scorer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from steadyvlm.errors import SampleError
from steadyvlm.records import Grade, Sample
from steadyvlm.tasks.scorers import check_sample


@runtime_checkable
class Task(Protocol):
    """A benchmark. Implementations are frozen dataclasses whose fields are their options.

    Bad options and bad data fail on construction; a picture that cannot be read does not: it raises ImageError when
    it is loaded, so that a run records one failed sample and goes on.
    """

    @property
    def name(self) -> str:
        """Name under which results are stored; equal to `Sample.task` of every sample."""

    @property
    def version(self) -> str:
        """Changes whenever samples, prompts or scoring change; part of a result's address."""

    @property
    def max_new_tokens(self) -> int:
        """Upper bound of the answer's length, the end token included."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which an answer is cut; the stop string itself is not part of the answer."""

    @property
    def soft_threshold(self) -> float:
        """Score from which an answer counts as correct when scores are soft; fixed before a run."""

    def samples(self) -> Sequence[Sample]:
        """Return all samples in a fixed order."""

    def grade(self, sample: Sample, text: str) -> Grade:
        """Read the answer out of `text` and score it; pure, and never random."""


def checked_samples(task: Task) -> tuple[Sample, ...]:
    """Return the task's samples after checking what every comparison relies on.

    Raises:
        SampleError: for no samples, a sample of another task, an id that occurs twice, or a sample no answer can be
            graded against.
    """
    samples = tuple(task.samples())
    if not samples:
        raise SampleError(f"task '{task.name}' has no samples; check its folder, split, families and limit.")
    seen: set[str] = set()
    for sample in samples:
        if sample.task != task.name:
            raise SampleError(f"task '{task.name}' yields sample '{sample.id}' of task '{sample.task}'; use one name.")
        if sample.id in seen:
            raise SampleError(f"task '{task.name}' yields the id '{sample.id}' twice; give each sample a unique id.")
        seen.add(sample.id)
        check_sample(sample)
    return samples
