"""A benchmark in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steadyvlm.errors import ImageError, InvalidOption, SampleError, UnknownName
from steadyvlm.records import Grade
from steadyvlm.tasks import TASKS
from steadyvlm.tasks.base import Task, checked_samples
from steadyvlm.tasks.folder import FolderTask

GOOD: list[dict[str, Any]] = [
    {"id": 1, "image": "images/cat.png", "question": "Is it a cat?", "references": ["Yes"], "family": "existence"},
    {
        "id": "2",
        "images": ["images/cat.png", "images/dog.png"],
        "question": "Which?",
        "choices": ["dog", "cat"],
        "answer": 1,
    },
    {
        "id": "3",
        "question": "Colour?",
        "answers": ["red"] * 10,
        "cluster": "c",
        "kind": "open_ten",
        "prompt": "Say it.",
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (2, 2), "red").save(root / "images/cat.png")
    return root


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def question(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "question": "Is it?", "answer": "yes", **changes}


def test_samples_of_every_kind(folder: Path) -> None:
    task = FolderTask(write(folder, GOOD))
    assert isinstance(task, Task)
    one, two, three = checked_samples(task)
    assert (task.name, one.task, task.max_new_tokens, task.stop, task.soft_threshold) == (
        "animals",
        "animals",
        16,
        (),
        0.5,
    )
    assert (one.id, one.kind, one.references, one.family) == ("1", "yes_no", ("yes",), "existence")
    assert one.prompt == "Is it a cat?\nAnswer the question using a single word or phrase."
    assert one.images[0].load().size == (2, 2)
    assert (one.cluster, two.cluster, three.cluster) == ("images/cat.png", "images/cat.png", "c")
    assert (two.kind, two.references, two.choices, len(two.images)) == ("choice", ("B",), ("dog", "cat"), 2)
    assert two.prompt.splitlines()[:3] == ["Which?", "A. dog", "B. cat"]
    assert (three.kind, three.prompt, three.images) == ("open_ten", "Say it.", ())
    assert task.grade(two, "(B)") == Grade("cat", 1.0)


def test_a_missing_picture_stops_nothing_until_it_is_loaded(folder: Path) -> None:
    sample = FolderTask(write(folder, GOOD)).samples()[1]
    with pytest.raises(ImageError, match=r"dog.png' does not exist"):
        sample.images[1].load()


def test_the_same_questions_as_csv(folder: Path) -> None:
    expected = FolderTask(write(folder, GOOD[:2])).samples()
    (folder / "questions.jsonl").unlink()
    (folder / "questions.csv").write_text(
        "id,images,question,choices,answer,family\r\n"
        "1,images/cat.png,Is it a cat?,,Yes,existence\r\n"
        '2,"[""images/cat.png"", ""images/dog.png""]",Which?,"[""dog"", ""cat""]",1,\r\n'
    )
    assert FolderTask(folder).samples() == expected


def test_options(folder: Path) -> None:
    write(folder, GOOD)
    task = TASKS.create(f"folder(path={str(folder)!r}, name='mine', limit=2, max_new_tokens=4, stop=('x',))")
    assert [sample.task for sample in task.samples()] == ["mine", "mine"]
    assert (task.max_new_tokens, task.stop) == (4, ("x",))
    with pytest.raises(UnknownName, match="Did you mean 'limit'"):
        TASKS.create(f"folder(path={str(folder)!r}, limt=2)")
    small = FolderTask(folder, max_pixels=3).samples()[0].images[0]
    with pytest.raises(ImageError, match="more than the 3 allowed"):
        small.load()


def test_the_name_may_be_left_to_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(folder, GOOD))
    assert FolderTask(".").name == "animals"
    assert TASKS.create("folder(path='.', name=None)").name == "animals"


@pytest.mark.parametrize(
    ("option", "value"),
    [("limit", 0), ("limit", 1.5), ("max_new_tokens", True), ("max_pixels", -1), ("soft_threshold", 0)],
)
def test_options_outside_their_range(option: str, value: Any, folder: Path) -> None:
    with pytest.raises(InvalidOption, match=f"task 'folder': {option} is {value}; give"):
        FolderTask(write(folder, GOOD), **{option: value})


def test_the_version_follows_the_question_file(folder: Path) -> None:
    first = FolderTask(write(folder, GOOD)).version
    assert FolderTask(folder).version == first
    assert FolderTask(write(folder, GOOD[:2])).version != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "questions.jsonl:2: field 'id' is missing or empty; fill it"),
        ({"id": None}, "field 'id' is missing or empty"),
        ({"id": "1"}, "field 'id': '1' occurs twice; give each row its own id"),
        ({"id": 1.0}, "field 'id': '1' occurs twice"),
        ({"question": " "}, "field 'question' is missing or empty"),
        ({"question": ["x"]}, "field 'question': found .* where a text belongs"),
        ({"answer": None}, "questions.jsonl:2: there is no reference answer"),
        ({"answer": {"x": 1}}, "field 'answer': found"),
        ({"answers": ["yes"]}, "fields references and answers and answer mean the same; keep one"),
        ({"refrences": ["yes"]}, "field 'refrences' is unknown; known: answer, answers"),
        ({"kind": "opne"}, "field 'kind' is 'opne'; use one of open"),
        ({"kind": "yes_no", "answer": "maybe"}, "questions.jsonl:2: the reference of a yes/no question is 'maybe'"),
        ({"kind": "open_ten"}, "at least 4 annotators"),
        ({"kind": "open", "choices": ["x", "y"]}, "there are options, but the kind is 'open'"),
        ({"choices": ["x", "y"]}, "the gold option is 'yes'"),
        ({"choices": ["yes"]}, "2 to 26 options, found 1"),
        ({"image": "../secret.png"}, "field 'image': '../secret.png' leads out of the folder; copy the file into it"),
        ({"image": "..\\secret.png"}, "leads out of the folder"),
        ({"image": "/etc/passwd"}, "leads out of the folder"),
        ({"image": "link.png"}, "leads out of the folder"),
        ({"image": "nul\0.png"}, "is no path"),
        ({"image": {"bytes": "x"}}, "field 'image': found"),
    ],
)
def test_a_bad_row_names_file_line_and_field(changes: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "link.png").symlink_to(folder.parent / "elsewhere.png")
    with pytest.raises(SampleError, match=f"questions.jsonl:2: .*{message.removeprefix('questions.jsonl:2: ')}"):
        FolderTask(write(folder, [question(), question(**{"id": "2", **changes})]))


def test_a_broken_line_is_a_sample_error(folder: Path) -> None:
    (folder / "questions.jsonl").write_text('{"id": "1", "question"')
    with pytest.raises(SampleError, match=r"questions.jsonl:1: not valid JSON"):
        FolderTask(folder)


def test_folders_without_one_question_file(folder: Path) -> None:
    with pytest.raises(SampleError, match=r"animals' holds none; give a folder with one of questions.jsonl"):
        FolderTask(folder)
    with pytest.raises(SampleError, match="gone' is not a folder"):
        FolderTask(folder / "gone")
    write(folder, GOOD)
    (folder / "questions.csv").write_text("id\n1")
    with pytest.raises(SampleError, match=r"holds questions.jsonl and questions.csv; keep one of them"):
        FolderTask(folder)
