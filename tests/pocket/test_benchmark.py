"""The benchmark has the size and the answer kinds it promises."""

from __future__ import annotations

from collections import Counter

import pytest

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.pocket.questions import FAMILIES
from steadyvlm.tasks.base import Task, checked_samples


def test_size_kinds_and_balance() -> None:
    task = PocketTask()
    assert isinstance(task, Task)
    samples = checked_samples(task)
    assert len(samples) > 5000
    assert {sample.kind for sample in samples} == {"open", "open_ten", "choice", "yes_no"}
    assert {sample.family for sample in samples} == set(FAMILIES)
    assert len({sample.cluster for sample in samples}) == 600
    assert all(len(sample.references) == 10 for sample in samples if sample.kind == "open_ten")
    for family in ("existence-random", "existence-popular", "existence-adversarial"):
        golds = Counter(sample.references[0] for sample in samples if sample.family == family)
        assert abs(golds["yes"] - golds["no"]) <= 0.06 * golds.total()


def test_rotations_turn_the_options_and_keep_the_answer() -> None:
    rows = PocketTask(families=("choice",), limit=4).samples()
    assert len({row.group for row in rows}) == 1
    assert sorted(row.references[0] for row in rows) == ["A", "B", "C", "D"]
    assert len({row.choices["ABCD".index(row.references[0])] for row in rows}) == 1
    assert [row.id[-2:] for row in rows] == ["r0", "r1", "r2", "r3"]
    assert all(f"{row.references[0]}. " in row.prompt for row in rows)


def test_the_right_reply_scores_one_and_a_wrong_one_zero() -> None:
    task = PocketTask(limit=200)
    for sample in task.samples():
        assert task.grade(sample, sample.references[0]).score == 1
        assert task.grade(sample, "spam").score == 0


def test_splits_limits_and_families() -> None:
    test, validation = PocketTask(limit=50).samples(), PocketTask(split="validation", limit=50).samples()
    assert len(test) == len(validation) == 50
    assert not {s.images[0].sha256() for s in test} & {s.images[0].sha256() for s in validation}
    assert {s.family for s in PocketTask(families=("word", "digit"), limit=20).samples()} == {"word", "digit"}


def test_images_load_and_hash_by_their_pixels() -> None:
    image = PocketTask(limit=1).samples()[0].images[0]
    assert image.load().size == (96, 96)
    assert image.sha256() == image.sha256()


def test_bad_options_are_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'test'"):
        PocketTask(split="tests")
    with pytest.raises(UnknownName, match="counting"):
        PocketTask(families=("countin",))
    with pytest.raises(InvalidOption, match="limit"):
        PocketTask(limit=0)
