"""`run`, `status` and `report` on a study whose model is a script: everything but the weights is real."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from steadyvlm.cli.demo import STUDY, limited
from steadyvlm.cli.report_data import PictureShelf, study_report
from steadyvlm.cli.run import keep_loading_quiet, run_study
from steadyvlm.errors import RunError
from steadyvlm.study.backends.scripted import ScriptedLoader
from steadyvlm.study.plan import Study, TaskPlan, build_task
from steadyvlm.study.result import read_result
from steadyvlm.study.runner import ArmWarning, run
from steadyvlm.study.store import ResultStore


def test_run_ends_with_the_summary_and_the_page(questions, tmp_path, loader, capsys, study_of):
    folder = tmp_path / "runs" / "toy"
    run_study(study_of(questions), folder, loader=loader)
    captured = capsys.readouterr()
    assert "arm0" in captured.out
    assert f"Report: {folder / 'report.html'}" in captured.out
    assert "everything else" in captured.out
    assert "arm0 on questions: 6/6" in captured.err
    assert (folder / "report.html").is_file()


def test_run_stopped_by_the_user_says_how_to_go_on(questions, tmp_path, capsys, study_of, loader):
    def stop(recipe, sample):
        raise KeyboardInterrupt

    folder = tmp_path / "toy"
    with pytest.raises(KeyboardInterrupt):
        run_study(study_of(questions), folder, loader=dataclasses.replace(loader, script=stop))
    assert "the same command goes on" in capsys.readouterr().err
    run_study(study_of(questions), folder, loader=loader)
    assert (folder / "report.html").is_file()


def test_failed_samples_are_asked_again_only_when_asked_for(finished, questions, study_of, loader, capsys):
    mended = ScriptedLoader(lambda recipe, sample: "yes")
    run_study(study_of(questions), finished, loader=mended)
    assert read_result(finished).failures == {"original": 1, "control": 1, "arm0": 1}
    run_study(study_of(questions), finished, loader=mended, retry_failures=True)
    assert read_result(finished).failures == {"original": 0, "control": 0, "arm0": 0}
    assert "failed" not in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("model", "quiet"), [("pocket", True), (".", True), ("somebody/on-a-hub", False)])
def test_only_a_download_keeps_a_bar_of_its_own(monkeypatch, model, quiet):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    keep_loading_quiet(model)
    assert ("HF_HUB_DISABLE_PROGRESS_BARS" in os.environ) is quiet


def test_run_refuses_an_unknown_study_and_a_missing_file(steadyvlm):
    unknown, missing = steadyvlm("run", "pocket-dmeo"), steadyvlm("run", "nothing/here.yaml")
    assert (unknown.code, missing.code) == (2, 2)
    assert "Did you mean 'pocket-demo'?" in unknown.err
    assert "nothing/here.yaml" in missing.err


def test_status_of_a_finished_and_of_an_unfinished_study(steadyvlm, finished):
    done = steadyvlm("status", finished)
    assert done.code == 0
    assert done.out.count("complete") == 4
    assert "1 failed" in done.out
    assert "3 of 3 cells complete, 18 of 18 samples" in done.out
    store = ResultStore(finished)
    store.cell_path(store.arms()["arm0"][0].key).unlink()
    done = steadyvlm("status", finished)
    assert "not begun" in done.out
    assert "2 of 3 cells complete, 12 of 18 samples" in done.out
    assert f"--folder {finished}" in done.out


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_folder_without_a_study_is_a_bad_request_and_names_those_nearby(
    steadyvlm, finished, command, monkeypatch, tmp_path
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")  # whoever ran the demo here before has a study in ./runs
    done = steadyvlm(command, finished.parent)
    assert (done.code, done.out) == (2, "")
    assert str(finished) in done.err
    assert "steadyvlm run" in steadyvlm(command, finished / "cells").err


def test_report_draws_a_stored_study_again(steadyvlm, finished, tmp_path):
    done = steadyvlm("report", finished)
    assert done.code == 0, done.err
    assert "arm0" in done.out
    assert (finished / "report.html").is_file()
    page = tmp_path / "elsewhere.html"
    assert steadyvlm("report", finished, "--html", page, "--no-images").code == 0
    text = page.read_text(encoding="utf-8")
    assert "data:image" not in text.split("<body", 1)[1]
    assert "data:image" in (finished / "report.html").read_text(encoding="utf-8").split("<body", 1)[1]


def test_a_study_report_compares_each_arm_with_the_original_and_the_control(finished):
    data = study_report(read_result(finished))
    assert [arm.name for arm in data.arms] == ["control", "arm0"]
    control, arm = (item.comparison for item in data.arms)
    assert (control.n, control.changed) == (5, 0)
    assert (arm.n, arm.changed, arm.negative) == (5, 1, 1)
    assert arm.noise is not None
    assert any("failed" in note for note in data.notes)
    assert set(data.provenance) == {"original", "control", "arm0"}


def test_a_report_says_which_arm_was_asked_fewer_questions(questions, tmp_path, loader, study_of):
    study = study_of(questions)
    study = dataclasses.replace(study, arms=tuple(dataclasses.replace(arm, limit=3) for arm in study.arms))
    data = study_report(run(study, tmp_path / "short", loader=loader))
    assert "arm0 was asked 3 of the 6 questions, as the study says." in data.notes


def test_a_picture_is_shown_only_if_it_is_the_one_that_was_asked_about(finished, questions):
    result = read_result(finished)
    shown, gone = (next(p for p in result.original if p.sample_id == i) for i in ("0", "1"))
    assert PictureShelf(result.study)(shown) == (questions / "a.png").read_bytes()
    Image.new("RGB", (24, 24), "white").save(questions / "a.png")
    assert PictureShelf(result.study)(shown) is None
    (questions / "b.png").unlink()
    assert PictureShelf(result.study)(gone) is None
    (questions / "questions.jsonl").unlink()
    assert PictureShelf(result.study)(shown) is None
    assert PictureShelf(result.study)(dataclasses.replace(shown, image_sha256=())) is None


def test_a_picture_that_is_painted_when_needed_becomes_a_png(finished):
    study = dataclasses.replace(read_result(finished).study, tasks=(TaskPlan("pocket", limit=1),))
    (sample,) = build_task(study.tasks[0]).samples()
    prediction = dataclasses.replace(
        read_result(finished).original[0],
        task="pocket",
        sample_id=sample.id,
        image_sha256=(sample.images[0].sha256(),),
    )
    data = PictureShelf(study)(prediction)
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("PNG", (96, 96))


def test_an_arm_that_cannot_run_leaves_a_report_about_the_others(questions, tmp_path, capsys, study_of, loader):
    def script(recipe, sample):
        if "visionzip" in recipe:
            raise RuntimeError("no CLS row")
        return loader.script(recipe, sample)

    study = study_of(_many(questions), ["visionzip(dominant=8, contextual=2)", "fastv(layer=3, keep_ratio=0.5)"])
    with pytest.warns(ArmWarning, match="no CLS row"), pytest.raises(RunError, match="no CLS row"):
        run_study(study, tmp_path / "toy", loader=ScriptedLoader(script))
    captured = capsys.readouterr()
    assert "arm1" in captured.out
    assert "arm0 is unfinished" in " ".join(captured.out.split())
    assert (tmp_path / "toy" / "report.html").is_file()


def test_an_original_that_cannot_run_leaves_no_report(questions, tmp_path, study_of):
    def script(recipe, sample):
        raise RuntimeError("no memory")

    with pytest.raises(RunError, match="no memory"):
        run_study(study_of(_many(questions)), tmp_path / "toy", loader=ScriptedLoader(script))
    assert not (tmp_path / "toy" / "report.html").exists()


def _many(questions: Path) -> Path:
    """Enough questions for a run to be sure that it is not the questions that fail."""
    rows = [
        {"id": str(n), "image": "a.png", "question": f"Is there thing {n}?", "references": ["yes"]} for n in range(12)
    ]
    (questions / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return questions


def test_the_demo_can_be_limited_without_asking_more_than_the_study_does():
    whole = Study.from_yaml(STUDY)
    asked = {arm.name: arm.limit for arm in whole.arms if arm.limit is not None}
    assert asked.keys() == {"llm-int8"}
    for limit in (asked["llm-int8"] + 100, asked["llm-int8"] - 100):
        study = limited(whole, limit)
        assert [task.limit for task in study.tasks] == [limit]
        limits = {arm.name: arm.limit for arm in study.arms}
        assert limits.pop("llm-int8") == min(limit, asked["llm-int8"])
        assert set(limits.values()) == {None}


def test_the_demo_does_without_an_arm_whose_library_is_missing(monkeypatch, capsys):
    from steadyvlm.cli import demo

    real = importlib.util.find_spec
    study = Study.from_yaml(STUDY)
    assert demo._without_missing_libraries(study) == (study, ())
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest)
    )
    smaller, notes = demo._without_missing_libraries(study)
    assert {arm.name for arm in study.arms} - {arm.name for arm in smaller.arms} == {"llm-int8"}
    assert "steadyvlm[int8]" in notes[0]
    assert "steadyvlm[int8]" in capsys.readouterr().err


def test_pocket_sample_writes_a_picture_and_its_questions(steadyvlm, tmp_path: Path):
    path = tmp_path / "new" / "scene.png"
    done = steadyvlm("pocket", "sample", "7", "--out", path)
    assert done.code == 0, done.err
    with Image.open(path) as picture:
        assert picture.size == (96, 96)
    assert "colour" in done.out
    assert steadyvlm("pocket", "sample", "7", "--out", tmp_path).code == 2
