from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from steadyvlm.cli.main import main
from steadyvlm.records import Failure, Sample
from steadyvlm.study.backends.scripted import ScriptedLoader
from steadyvlm.study.plan import Study

LOGS = Path(__file__).parent / "logs"


@dataclass(frozen=True)
class Done:
    """What one command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def steadyvlm(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Done:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A folder task of six yes/no questions about two pictures."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (24, 24), (90 * index, 120, 40)).save(folder / name)
    rows = [
        {"id": str(n), "image": "ab"[n % 2] + ".png", "question": f"Is there thing {n}?", "references": ["yes"]}
        for n in range(6)
    ]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def scripted(recipe: str, sample: Sample) -> str | Failure:
    """A model that loses question 3 to FastV and cannot answer question 5."""
    if sample.id == "5":
        return Failure("ImageError", "the picture is corrupt")
    return "no" if "fastv" in recipe and sample.id == "3" else "yes"


def _study_of(questions: Path, recipes: Sequence[str] = ("fastv(layer=3, keep_ratio=0.5)",)) -> Study:
    return Study.from_mapping(
        {
            "study": "toy",
            "model": "toy-model",
            "tasks": [{"name": "folder", "path": str(questions)}],
            "control": {"batch_size": 2},
            "recipes": [{"name": f"arm{number}", "recipe": text} for number, text in enumerate(recipes)],
        }
    )


@pytest.fixture
def loader() -> ScriptedLoader:
    return ScriptedLoader(scripted)


@pytest.fixture
def finished(questions: Path, tmp_path: Path, loader: ScriptedLoader) -> Path:
    """The folder of a study that has run; planning one checks its recipes, which needs the methods and so torch."""
    pytest.importorskip("torch", reason="the light tests run without the extra 'models'")
    from steadyvlm.study.runner import run

    folder = tmp_path / "runs" / "toy"
    run(_study_of(questions), folder, loader=loader)
    return folder


@pytest.fixture
def study_of() -> Callable[..., Study]:
    return _study_of
