"""`compare` reads whatever holds answers; `answer` asks one question with any kind of picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import steadyvlm
from steadyvlm.api import answer, compare, compare_study, study_variants
from steadyvlm.errors import ImageError, InvalidOption, LogError, PairingError, SampleError, StoreError, UnknownName
from steadyvlm.study.plan import ArmPlan, ControlPlan
from steadyvlm.study.result import StudyResult
from steadyvlm.study.runner import run
from steadyvlm.tasks.sources import FileImage
from study.killable import ScriptedLoader, Words, script, study
from study.pictures import picture, png


def write_log(path: Path, answers: list[str]) -> Path:
    rows = [
        {"question_id": str(n), "image": "a.png", "prompt": f"Is {n} there?", "prediction": text, "answers": ["yes"]}
        for n, text in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("study") / "run"
    return run(study(), folder, loader=ScriptedLoader(script), tasks={"words": Words()})


def test_the_public_names_lead_here() -> None:
    assert steadyvlm.compare is compare
    assert steadyvlm.answer is answer


def test_two_logs(tmp_path: Path) -> None:
    first = write_log(tmp_path / "original.jsonl", ["Yes", "Yes, it is.", "No", "yes"])
    second = write_log(tmp_path / "accelerated.jsonl", ["yes", "No", "Yes", "No"])
    found = compare(first, str(second))
    assert (found.divergence_ratio.numerator, found.divergence_ratio.denominator) == (3, 4)
    assert found.negative_divergence_ratio.numerator == 2
    assert found.noise is None
    again = compare(first, second, first, correct_threshold=0.4, alpha=0.1, seed=3)
    assert again.noise is not None
    assert again.noise.control_divergence_ratio.numerator == 0
    assert (again.correct_threshold, again.alpha, again.seed) == (0.4, 0.1, 3)


def test_logs_of_other_questions_are_refused(tmp_path: Path) -> None:
    first = write_log(tmp_path / "a.jsonl", ["yes"] * 4)
    second = write_log(tmp_path / "b.jsonl", ["yes"] * 3)
    with pytest.raises(PairingError, match="appear only in the original"):
        compare(first, second)
    assert compare(first, second, common_only=True).n == 3


def test_columns_and_kind_reach_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("number,said,truth,prompt\n1,yes,yes,Is it?\n")
    columns = {"id": "number", "prediction": "said", "gold": "truth"}
    with pytest.raises(LogError, match="no column for the id"):
        compare(path, path)
    assert compare(path, path, columns=columns, kind="open").n == 1
    with pytest.raises(InvalidOption):
        compare(path, path, columns=columns, kind="essay")  # type: ignore[arg-type]


def test_predictions_in_memory(result: StudyResult) -> None:
    original, accelerated = result.paired("half")
    found = compare(original, accelerated)
    assert found.n == len(original) - len(found.failed)
    assert found.noise is None


def test_arms_of_a_study_folder(result: StudyResult) -> None:
    folder = result.folder
    by_arm = compare(folder, folder / "half")
    assert by_arm == compare(str(folder / "original"), folder / "half")
    assert by_arm == compare(*result.paired("half"), result.control)
    assert by_arm.noise is not None
    few = compare(folder, folder / "few")
    assert few.n + len(few.failed) == 15
    swapped = compare(folder / "half", folder / "original")
    assert swapped.noise is None
    assert swapped.positive == by_arm.negative
    control = compare(folder, folder / "control")
    assert control.noise is None
    between = compare(folder / "few", folder / "half", common_only=True)
    assert between.n <= 15


def test_a_finished_cell(result: StudyResult) -> None:
    cells = {arm: result.folder / "cells" / f"{about[0]['key']}.parquet" for arm, about in result.about.items()}
    assert compare(cells["original"], cells["half"]) == compare(*result.paired("half"))


def test_a_folder_must_say_which_arm(result: StudyResult, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"holds 2 accelerated arms; name one as .* one of: half, few"):
        compare(result.folder, result.folder)
    with pytest.raises(UnknownName, match=r"'hafl'\. Did you mean 'half'"):
        compare(result.folder, result.folder / "hafl")
    with pytest.raises(LogError, match="a folder without a study"):
        compare(tmp_path, tmp_path)
    with pytest.raises(LogError):
        compare(tmp_path / "none.jsonl", tmp_path / "none.jsonl")
    only = replace(study(), arms=study().arms[:1])
    one = run(only, tmp_path / "one", loader=ScriptedLoader(script), tasks={"words": Words()})
    assert compare(one.folder, one.folder) == compare(one.folder, one.folder / "half")


def test_every_arm_of_a_study(result: StudyResult) -> None:
    found = compare_study(result)
    assert list(found) == ["half", "few"]
    assert found["half"] == compare(result.folder, result.folder / "half")
    assert found["few"] == compare(result.folder, result.folder / "few")
    assert compare_study(result.folder) == found
    assert compare_study(result, correct_threshold=1.0, alpha=0.2)["half"].alpha == 0.2
    with pytest.raises(StoreError):
        compare_study(result.folder / "cells")


def test_a_control_that_was_asked_less(tmp_path: Path) -> None:
    plan = replace(study(), control=ControlPlan(3, limit=20))
    found = compare_study(run(plan, tmp_path / "run", loader=ScriptedLoader(script), tasks={"words": Words()}))
    assert found["half"].n > 30
    assert found["half"].noise is not None
    assert found["half"].noise.n <= 20
    assert found["half"] == compare(tmp_path / "run", tmp_path / "run" / "half")


def test_tasks_that_disagree_about_right_and_wrong(result: StudyResult) -> None:
    (cell,) = result.about["half"]
    other = replace(result, about={**result.about, "half": ({**cell, "soft_threshold": 0.3},)})
    with pytest.raises(InvalidOption, match=r"right from 0\.3, 0\.5; give correct_threshold"):
        compare_study(other)
    assert compare_study(other, correct_threshold=0.5)["half"].correct_threshold == 0.5


def test_one_question(tmp_path: Path) -> None:
    from tiny import tiny_llava

    model = tiny_llava()
    path = tmp_path / "red.png"
    path.write_bytes(png(200))
    expected = answer(model, path, "what colour is the star ?", max_new_tokens=4)
    assert len(expected.token_ids) <= 4
    for image in (str(path), path.read_bytes(), Image.open(path), FileImage(path), picture(200)):
        found = answer(model, image, "what colour is the star ?", max_new_tokens=4)
        assert found.token_ids == expected.token_ids
    accelerated = steadyvlm.accelerate(model, "fastv(layer=1, keep_ratio=0.25)")
    fewer = answer(accelerated, path, "what colour is the star ?", max_new_tokens=4)
    assert fewer.cost.visual_tokens_per_layer[-1] < expected.cost.visual_tokens_per_layer[-1]
    assert answer(model, None, "what is a star ?", max_new_tokens=2).cost.visual_tokens_per_layer[0] == 0


def test_one_question_that_cannot_be_asked(tmp_path: Path) -> None:
    from tiny import tiny_llava

    model = tiny_llava()
    with pytest.raises(ImageError, match="does not exist"):
        answer(model, tmp_path / "none.png", "what ?")
    with pytest.raises(ImageError):
        answer(model, b"no picture", "what ?")
    with pytest.raises(SampleError):
        answer(model, png(1), " ")
    with pytest.raises(InvalidOption):
        answer(model, png(1), "what ?", max_new_tokens=0)


def test_a_model_may_be_named(tmp_path: Path) -> None:
    from tiny import save_tiny

    folder = save_tiny(tmp_path / "model")
    assert answer(folder, png(3), "what ?", max_new_tokens=2) is not None
    assert answer(str(folder), png(3), "what ?", max_new_tokens=2).text is not None


def test_runs_that_differ_in_a_seed_become_a_variant(tmp_path: Path) -> None:
    arms = (
        ArmPlan("random-s0", "random(keep_ratio=0.5)", variant="random"),
        ArmPlan("random-s1", "random(keep_ratio=0.25)", variant="random"),
        ArmPlan("few", "fastv(keep_ratio=0.25)"),
    )
    plan = replace(study(), arms=arms, contrasts=(("random", "few"),))
    result = run(plan, tmp_path / "run", loader=ScriptedLoader(script), tasks={"words": Words()})
    variants, contrasts = study_variants(result)
    assert list(variants) == ["random", "few"]
    assert variants["random"].runs == ("random-s0", "random-s1")
    comparisons = compare_study(result)
    assert variants["random"].changed.per_seed == tuple(
        comparisons[name].divergence_ratio.value for name in ("random-s0", "random-s1")
    )
    assert variants["few"].broken.value == comparisons["few"].negative_divergence_ratio.value
    (found,) = contrasts
    assert found.changed.value == pytest.approx(variants["random"].changed.value - variants["few"].changed.value)
    assert study_variants(tmp_path / "run") == (variants, contrasts)


def test_without_seeds_and_contrasts_there_are_no_variants(result: StudyResult) -> None:
    assert study_variants(result) == ({}, ())
