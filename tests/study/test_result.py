"""The two sides of a comparison answer the same questions, and a reader is told what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steadyvlm.errors import StoreError
from steadyvlm.study.plan import ControlPlan, TaskPlan
from steadyvlm.study.result import StudyResult, Times, read_result
from steadyvlm.study.runner import run
from steadyvlm.study.store import ResultStore
from study.killable import ScriptedLoader, Words, script, study


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    plan = replace(study(), control=ControlPlan(3, limit=20), tasks=(TaskPlan("words"),))
    folder = tmp_path_factory.mktemp("result") / "run"
    return run(plan, folder, loader=ScriptedLoader(script), tasks={"words": Words()})


def test_sides_answer_the_same_questions(result: StudyResult) -> None:
    for arm, count in (("half", 40), ("few", 15), ("control", 20)):
        original, accelerated = result.paired(arm)
        assert len(original) == len(accelerated) == count
        assert [row.content for row in original] == [row.content for row in accelerated]


def test_the_control_is_cut_to_the_arm(result: StudyResult) -> None:
    control = result.control_of("few")
    assert control is not None
    assert {row.key for row in control} <= {row.key for row in result.arms["few"]}
    assert len(result.control_of("half") or ()) == 20
    assert replace(result, control=None).control_of("half") is None


def test_arms_that_are_not_there(result: StudyResult) -> None:
    with pytest.raises(StoreError, match=r"arm 'none' .* does not exist. Complete: half, few, control"):
        result.paired("none")
    with pytest.raises(StoreError, match=r"arm 'late' .* is unfinished"):
        replace(result, incomplete={"late": (1, 2)}).paired("late")


def test_different_circumstances_are_noted(result: StudyResult) -> None:
    (cell,) = result.about["half"]
    row = dict(cell["provenance"][0], device="cuda", versions={"torch": "9"})
    other = replace(result, about={**result.about, "half": ({**cell, "provenance": [row]},)})
    notes = " ".join(other.notes)
    assert "not all arms ran on the same device (original: none; control: none; half: cuda; few: none)" in notes
    assert "not all arms ran with the same versions of torch" in notes
    assert "dtype" not in notes
    assert "not all arms" not in " ".join(result.notes)


def test_times() -> None:
    times = Times(wall_s=10.0, setup_s=2.0, model_s=7.0)
    assert (times.harness_s, times.harness_share) == (1.0, 0.1)
    assert Times(0.0, 0.0, 0.0).harness_share == 0.0
    assert Times(1.0, 0.5, 0.6).harness_s == 0.0


def test_without_a_finished_original_there_is_nothing_to_compare(result: StudyResult, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no study"):
        read_result(tmp_path)
    store = ResultStore(result.folder)
    key = store.arms()["original"][0].key
    path = store.cell_path(key)
    path.rename(tmp_path / "kept")
    try:
        with pytest.raises(StoreError, match=r"the original in .* is unfinished \(0 of 40 samples\)"):
            read_result(result.folder)
    finally:
        (tmp_path / "kept").rename(path)
    assert replace(read_result(result.folder), times=result.times) == result
