"""One bad sample costs only itself; a model that cannot answer at all stops the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from steadyvlm.errors import RunError, Unsupported
from steadyvlm.records import UNPARSED, Failure, Generation, Grade, Prediction, Sample
from steadyvlm.study.backends.scripted import generation
from steadyvlm.study.cell import STREAK, Cell, arrange, run_cell
from steadyvlm.study.identity import Decoding, Item
from steadyvlm.study.images import ImageCache
from steadyvlm.tasks.sources import BytesImage
from study.pictures import items, picture, sample

Answer = Callable[[Sample], Generation | Failure]


@dataclass
class Arm:
    """Answers "yes" unless told otherwise, and remembers its batches."""

    answer: Answer = lambda sample: generation("yes")
    batches: list[list[str]] = field(default_factory=list)
    extra: int = 0

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int, stop: tuple[str, ...]
    ) -> list[Generation | Failure]:
        assert (max_new_tokens, stop) == (8, ("\n",))
        self.batches.append([item.id for item in samples])
        return [self.answer(item) for item in samples] + [Failure("x", "y")] * self.extra

    def provenance(self) -> dict[str, Any]:
        return {}


class Task:
    name, version, max_new_tokens, stop, soft_threshold = "t", "1", 8, ("\n",), 0.5

    def samples(self) -> list[Sample]:
        return []

    def grade(self, sample: Sample, text: str) -> Grade:
        return Grade(text, float(text in sample.references))


def cell(asked: tuple[Item, ...], batch_size: int = 4, **changes: Any) -> Cell:
    values: dict[str, Any] = {"task": Task(), **changes}
    return Cell("key", "arm", "keep_all", values.pop("task"), asked, Decoding(8, ("\n",)), batch_size, **values)


def answers(one: Cell, arm: Arm, done: Sequence[tuple[str, str, str]] = ()) -> list[Prediction]:
    return [row for batch in run_cell(one, arm, set(done), ImageCache()) for row in batch.predictions]


def collect(one: Cell, arm: Arm, rows: list[Prediction]) -> None:
    for batch in run_cell(one, arm, set(), ImageCache()):
        rows.extend(batch.predictions)


def plain(count: int) -> tuple[Item, ...]:
    return items(*(sample(number) for number in range(count)))


def test_every_sample_is_asked_once_in_batches() -> None:
    arm = Arm()
    rows = answers(cell(plain(10)), arm)
    assert [len(batch) for batch in arm.batches] == [4, 4, 2]
    assert sorted(row.sample_id for row in rows) == sorted(f"s{n}" for n in range(10))
    assert all((row.text, row.answer, row.score, row.failure) == ("yes", "yes", 1.0, None) for row in rows)
    assert all(row.generation is not None and row.generation.text == row.text for row in rows)


def test_what_is_done_is_not_asked_again_and_batches_stay_the_same() -> None:
    whole = Arm()
    answers(cell(plain(10)), whole)
    done = [("t", name, "") for name in [*whole.batches[0], whole.batches[1][2]]]
    rest = Arm()
    answers(cell(plain(10)), rest, done)
    left = [name for name in whole.batches[1] if name != whole.batches[1][2]]
    assert rest.batches == [left, whole.batches[2]]


def test_a_prediction_says_what_was_asked() -> None:
    image = picture(9)
    (row,) = answers(cell(items(sample(1, image))), Arm())
    assert row.key == ("t", "s1", "")
    assert row.image_sha256 == (image.sha256(),)
    assert row.prompt_sha256 == sample(1).prompt_sha256()
    assert (row.kind, row.references, row.question) == ("open", ("yes",), "What?")


def test_a_broken_picture_becomes_a_failure_and_is_never_asked() -> None:
    arm = Arm()
    rows = answers(cell(items(sample(1, BytesImage(b"no picture", name="bad.png")), sample(2))), arm)
    failed = {row.sample_id: row for row in rows}["s1"]
    assert failed.failure is not None
    assert failed.failure.kind == "ImageError"
    assert "bad.png" in failed.failure.message
    assert (failed.text, failed.answer, failed.score, failed.generation) == ("", UNPARSED, 0.0, None)
    assert arm.batches == [["s2"]]


def test_a_failure_from_the_engine_is_recorded_as_it_is() -> None:
    failure = Failure("SampleError", "prompt too long")
    rows = answers(cell(plain(3)), Arm(lambda item: failure if item.id == "s1" else generation("yes")))
    assert [row.failure for row in rows if row.failure] == [failure]


def raising(*names: str, error: Exception | None = None) -> Answer:
    def answer(item: Sample) -> Generation:
        if item.id in names or not names:
            raise error or ValueError(f"cannot do {item.id}")
        return generation("yes")

    return answer


def test_a_sample_that_raises_costs_only_itself() -> None:
    arm = Arm(raising("s1"))
    rows = answers(cell(plain(4)), arm)
    assert {row.sample_id: row.failure for row in rows if row.failure} == {"s1": Failure("ValueError", "cannot do s1")}
    assert [len(batch) for batch in arm.batches] == [4, 1, 1, 1, 1]


def test_an_exception_without_words_still_has_a_message() -> None:
    rows = answers(cell(plain(1)), Arm(raising(error=MemoryError())))
    assert rows[0].failure == Failure("MemoryError", "MemoryError")


def test_a_model_that_never_answers_stops_the_run_and_records_nothing() -> None:
    rows: list[Prediction] = []
    with pytest.raises(RunError, match=f"{STREAK} samples in a row failed with ValueError: cannot do"):
        collect(cell(plain(20), batch_size=1), Arm(raising()), rows)
    assert rows == []


def test_failures_before_an_answer_are_kept() -> None:
    one = cell(plain(20), batch_size=1)
    order = [batch[0].sample.id for batch in one.batches()]
    rows = answers(one, Arm(raising(*order[: STREAK - 1])))
    assert [row.sample_id for row in rows] == order
    assert sum(row.failure is not None for row in rows) == STREAK - 1


def test_answers_before_the_end_are_kept_when_the_model_breaks() -> None:
    one = cell(plain(20))
    order = [item.sample.id for batch in one.batches() for item in batch]
    rows: list[Prediction] = []
    with pytest.raises(RunError):
        collect(one, Arm(raising(*order[4:])), rows)
    assert [row.sample_id for row in rows] == order[:4]


def test_a_few_samples_may_all_fail() -> None:
    rows = answers(cell(plain(STREAK - 1)), Arm(raising()))
    assert sum(row.failure is not None for row in rows) == STREAK - 1


def test_pictures_that_cannot_be_read_never_stop_a_run() -> None:
    bad = tuple(BytesImage(b"bad", name=f"{n}") for n in range(20))
    rows = answers(cell(items(*(sample(n, bad[n]) for n in range(20)))), Arm())
    assert sum(row.failure is not None for row in rows) == 20


def test_a_recipe_that_does_not_fit_is_no_failure_of_samples() -> None:
    with pytest.raises(Unsupported, match="no CLS"):
        answers(cell(plain(3)), Arm(raising(error=Unsupported("no CLS row"))))


def test_a_task_that_cannot_grade_one_text_costs_one_sample() -> None:
    class Picky(Task):
        def grade(self, sample: Sample, text: str) -> Grade:
            if sample.id == "s2":
                raise KeyError("gold")
            return super().grade(sample, text)

    rows = answers(cell(plain(4), task=Picky()), Arm())
    assert [row.sample_id for row in rows if row.failure] == ["s2"]


def test_a_task_that_cannot_grade_at_all_stops_the_run() -> None:
    class Broken(Task):
        def grade(self, sample: Sample, text: str) -> Grade:
            raise KeyError("gold")

    with pytest.raises(RunError, match="KeyError"):
        answers(cell(plain(20), task=Broken()), Arm())


def test_a_model_that_loses_count_is_found_out() -> None:
    with pytest.raises(RunError, match="3 samples were asked and 4 outcomes came back"):
        answers(cell(plain(3)), Arm(extra=1))


def test_questions_about_one_picture_stay_together() -> None:
    red, blue = picture(200), picture(3)
    asked = items(
        sample(1, red, prompt="x" * 40),
        sample(2, blue, prompt="x" * 12),
        sample(3, red, prompt="x" * 10),
        sample(4),
        sample(5, blue, prompt="x" * 11),
    )
    assert [item.sample.id for item in arrange(asked, "by_image", 0)] == ["s4", "s5", "s2", "s3", "s1"]
    assert arrange(asked[::-1], "by_image", 0) == arrange(asked, "by_image", 0)


def test_shuffling_depends_on_the_seed_only() -> None:
    asked = plain(12)
    first = [item.sample.id for item in arrange(asked, "shuffled", 1)]
    assert [item.sample.id for item in arrange(asked[::-1], "shuffled", 1)] == first
    assert [item.sample.id for item in arrange(asked, "shuffled", 2)] != first
    assert sorted(first) == sorted(item.sample.id for item in asked)
