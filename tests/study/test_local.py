"""A study on a real, tiny model: the same records whatever the batch, the order and the interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import CheckpointError, ConfigError, InvalidOption
from steadyvlm.models import load as loading
from steadyvlm.records import Prediction
from steadyvlm.study.backends import local
from steadyvlm.study.backends.local import open_session
from steadyvlm.study.plan import ArmPlan, ControlPlan, Study, TaskPlan
from steadyvlm.study.progress import Progress
from steadyvlm.study.result import StudyResult
from steadyvlm.study.runner import run
from steadyvlm.study.store import ResultStore
from study.pictures import png

QUESTIONS = ("what colour is the star ?", "what shape is red ?", "how ?", "is the star blue ?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for number in range(12):
        shade = number // 4
        (folder / f"{shade}.png").write_bytes(png(80 * shade, side=24))
        question = QUESTIONS[number % 4]
        lines.append(f'{{"id": "{number}", "image": "{shade}.png", "question": "{question}", "answer": "yes"}}\n')
    (folder / "questions.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def study(model: Path, questions: Path) -> Study:
    return Study(
        "tiny",
        str(model),
        (TaskPlan("folder", {"path": str(questions), "max_new_tokens": 4}),),
        arms=(
            ArmPlan("half", "fastv(layer=2, keep_ratio=0.5)"),
            ArmPlan("rtn", "rtn(bits=3, group=8)", limit=5),
            ArmPlan("same", f"checkpoint(path='{model}') + rtn(bits=8, group=16)", limit=3),
        ),
        control=ControlPlan(3),
        device="cpu",
        batch_size=5,
    )


def tokens(rows: tuple[Prediction, ...]) -> dict[Any, Any]:
    return {row.key: row.generation and row.generation.token_ids for row in rows}


def test_a_study_runs_and_resumes(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study.check()
    whole = run(study, tmp_path / "whole")
    assert set(whole.failures.values()) == {0}
    assert whole.control is not None
    assert tokens(whole.control) == tokens(whole.original)
    assert tokens(whole.arms["half"]) != tokens(whole.original)
    assert [len(rows) for rows in whole.arms.values()] == [12, 5, 3]
    (provenance,) = whole.provenance["rtn"]
    assert (provenance.device, provenance.dtype) == ("cpu", "float32")
    assert {"torch", "transformers"} <= set(provenance.versions)
    assert "rtn" in provenance.extra["quantization"]

    def stop(progress: Progress) -> None:
        if progress.arm == "half" and progress.done > progress.stored and progress.cell_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "parts", progress=stop)
    resumed = run(study, tmp_path / "parts")
    for arm, rows in whole.arms.items():
        assert tokens(resumed.arms[arm]) == tokens(rows)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished study must not load its model")

    monkeypatch.setattr(local, "load", refuse)
    run(study, tmp_path / "parts")


def test_a_session_knows_the_model_without_loading_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "load", None)
    session = open_session(str(model), device="cpu", dtype="bfloat16")
    assert session.dtype == "bfloat16"
    assert open_session(str(model), device="cpu", dtype="auto").dtype == "float32"
    assert session.weights_sha256("keep_all") == session.weights_sha256(f"checkpoint(path='{model}')")


def test_the_hash_is_the_loaded_models(model: Path) -> None:
    loaded = loading.load(model, device="cpu")
    assert open_session(str(model), device="cpu", dtype="auto").weights_sha256("keep_all") == loaded.weights_sha256()


def test_other_weights_have_another_hash(model: Path, tmp_path: Path) -> None:
    from tiny import save_tiny

    other = save_tiny(tmp_path / "other", seed=1)
    session = open_session(str(model), device="cpu", dtype="auto")
    assert session.weights_sha256(f"checkpoint(path='{other}')") != session.weights_sha256("keep_all")


def test_what_cannot_run_is_refused_before_anything_is_computed(study: Study, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run(replace(study, model=str(tmp_path / "none")), tmp_path / "run")
    with pytest.raises(InvalidOption):
        run(replace(study, device="cuda:99"), tmp_path / "run")
    arms = (ArmPlan("gone", f"checkpoint(path='{tmp_path / 'none'}')"),)
    with pytest.raises(CheckpointError):
        run(replace(study, arms=arms), tmp_path / "run")


def test_a_preset_is_addressed_as_what_it_became(study: Study, tmp_path: Path) -> None:
    arms = (ArmPlan("published", "fastv-k3-50", limit=2),)
    named = run(replace(study, arms=arms, control=None), tmp_path / "named")
    assert named.recipes["published"] == "fastv(keep_ratio=0.5, layer=1)"
    (about,) = named.about["published"]
    assert "fastv-k3-50 is scaled from 32 layers to 4" in about["provenance"][0]["extra"]["notes"]
    assert "notes" not in named.about["original"][0]["provenance"][0]["extra"]
    arms = (ArmPlan("by hand", "fastv(keep_ratio=0.5, layer=1)", limit=2),)
    by_hand = run(replace(study, arms=arms, control=None), tmp_path / "by-hand")
    assert _key(by_hand, "by hand") == _key(named, "published")
    both = replace(study, arms=(ArmPlan("published", "fastv-k3-50"), ArmPlan("by hand", "fastv(layer=1)")))
    with pytest.raises(ConfigError, match="are the same weights, recipe and questions"):
        run(both, tmp_path / "both")


def _key(result: StudyResult, arm: str) -> str:
    (key,) = (status.entry.key for status in ResultStore(result.folder).status() if status.entry.arm == arm)
    return key


def test_calibration_examples_are_part_of_the_address(model: Path, tmp_path: Path) -> None:
    from tiny_sets import write_set

    session = open_session(str(model), device="cpu", dtype="float32")
    path = write_set(tmp_path)
    plain, recipe = session.weights_sha256("keep_all"), f"flatquant(calibration={str(path)!r}, samples=4)"
    address = session.weights_sha256(recipe)
    assert address != plain
    assert session.weights_sha256("rtn_w4a4") == plain
    path.write_text(path.read_text(encoding="utf-8").replace("what 0", "what else"), encoding="utf-8")
    assert session.weights_sha256(recipe) != address
    with pytest.raises(InvalidOption, match="holds 4 samples, 128 were asked for"):
        session.weights_sha256(f"flatquant(calibration={str(path)!r})")
