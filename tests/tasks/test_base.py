"""What every task must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from steadyvlm.errors import SampleError, UnknownName
from steadyvlm.records import Grade, Sample
from steadyvlm.tasks import TASKS
from steadyvlm.tasks.base import Task, checked_samples
from steadyvlm.tasks.folder import FolderTask
from steadyvlm.tasks.prompts import prompt_for
from steadyvlm.tasks.scorers import grade


@dataclass(frozen=True)
class Quiz:
    given: tuple[Sample, ...]
    name: str = "quiz"
    version: str = "1"
    max_new_tokens: int = 4
    stop: tuple[str, ...] = ()
    soft_threshold: float = 0.5

    def samples(self) -> Sequence[Sample]:
        return self.given

    def grade(self, sample: Sample, text: str) -> Grade:
        return grade(sample, text)


ONE = Sample("1", "quiz", "Is it?", "Is it?", "yes_no", ("yes",))


def test_good_samples_come_back_in_order() -> None:
    task = Quiz((ONE, replace(ONE, id="0")))
    assert isinstance(task, Task)
    assert [sample.id for sample in checked_samples(task)] == ["1", "0"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), "task 'quiz' has no samples"),
        ((ONE, ONE), "yields the id '1' twice"),
        ((replace(ONE, task="exam"),), "yields sample '1' of task 'exam'"),
        ((replace(ONE, references=("maybe",)),), "sample '1' of task 'quiz': .*write yes or no"),
    ],
)
def test_bad_samples_are_refused(samples: tuple[Sample, ...], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        checked_samples(Quiz(samples))


def test_the_registry_knows_the_folder_task_and_suggests_names() -> None:
    assert {"folder", "pocket"} <= set(TASKS)
    assert TASKS.load("folder") is FolderTask
    with pytest.raises(UnknownName, match="Did you mean 'folder'"):
        TASKS.load("foldr")


def test_prompts() -> None:
    assert prompt_for("open", "Why?") == "Why?\nAnswer the question using a single word or phrase."
    assert prompt_for("choice", "Which?", ["x", "y"]) == (
        "Which?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )
