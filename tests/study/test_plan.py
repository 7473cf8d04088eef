"""A study file becomes a value, or an error that says where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import ConfigError, SteadyVLMError, UnknownName
from steadyvlm.study.plan import ArmPlan, ControlPlan, Study, TaskPlan, shipped_studies
from steadyvlm.study.suite import Suite

TEXT = """
study: my study
model: pocket
batch_size: 8
tasks:
  - name: pocket
    families: [counting, digit]
    limit: 20
control: {batch_size: 3, order: shuffled}
recipes:
  - {name: half, recipe: "fastv(layer=5, keep_ratio=0.5)"}
  - {name: few, recipe: "rtn(bits=4, group=32)", limit: 9, batch_size: 2}
"""

STUDY = Study(
    name="my study",
    model="pocket",
    tasks=(TaskPlan("pocket", {"families": ("counting", "digit")}, 20),),
    arms=(
        ArmPlan("half", "fastv(layer=5, keep_ratio=0.5)"),
        ArmPlan("few", "rtn(bits=4, group=32)", limit=9, batch_size=2),
    ),
    control=ControlPlan(3),
    batch_size=8,
)


def minimal(**changes: Any) -> dict[str, Any]:
    return {"study": "s", "model": "m", "tasks": [{"name": "t"}], **changes}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the look-up of tasks and recipes."""
    monkeypatch.setattr(Study, "check", lambda self: None)


@pytest.mark.usefixtures("unchecked")
def test_a_file_becomes_a_study(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert Study.from_yaml(path) == Study.from_yaml(str(path)) == STUDY


def test_a_study_survives_the_store() -> None:
    assert Study.from_mapping(STUDY.to_mapping()) == STUDY
    plain = Study("s", "m", (TaskPlan("t"),))
    assert Study.from_mapping(plain.to_mapping()) == plain
    limited = Study("s", "m", (TaskPlan("t"),), control=ControlPlan(2, "by_image", 5))
    assert Study.from_mapping(limited.to_mapping()) == limited


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"recipe": []}, UnknownName, "'recipe'. Did you mean 'recipes'"),
        ({"tasks": []}, ConfigError, "has no tasks"),
        ({"tasks": [{"limit": 3}]}, ConfigError, r"'tasks\[0\].name' is missing"),
        ({"tasks": [{"name": "t", "limit": 0}]}, ConfigError, r"tasks\[0\].limit must be"),
        ({"batch_size": 5000}, ConfigError, "batch_size must be a whole number from 1 to 4096"),
        ({"seed": -1}, ConfigError, "seed must be"),
        ({"dtype": "float31"}, UnknownName, "Did you mean 'float32'"),
        ({"device": "gpu"}, ConfigError, "device 'gpu' is unknown"),
        ({"control": {"order": "shuffled"}}, ConfigError, "'control.batch_size' is missing"),
        ({"control": {"batch_size": 2, "ordr": "x"}}, UnknownName, "Did you mean 'order'"),
        ({"recipes": [{"name": "a"}]}, ConfigError, r"'recipes\[0\].recipe' is missing"),
        ({"recipes": [{"name": "a", "recipe": "r", "batch": 2}]}, UnknownName, "Did you mean 'batch_size'"),
        ({"recipes": [{"name": "original", "recipe": "r"}]}, ConfigError, "'original' is reserved"),
        ({"recipes": [{"name": "a", "recipe": "r"}] * 2}, ConfigError, "'a' is used twice"),
        ({"recipes": [{"name": "a/b", "recipe": "r"}]}, ConfigError, "name 'a/b' cannot be used"),
        ({"recipes": [{"name": "..", "recipe": "r"}]}, ConfigError, "cannot be used"),
        ({"recipes": [{"name": "x" * 81, "recipe": "r"}]}, ConfigError, "80 characters"),
        ({"study": "no\x1b[31m"}, ConfigError, "cannot be used"),
    ],
)
def test_mappings_that_are_refused(changes: dict[str, Any], kind: type[SteadyVLMError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Study.from_mapping(minimal(**changes), "mine.yaml")


def test_numbers_are_checked_in_python_too() -> None:
    with pytest.raises(ConfigError, match="batch_size of 0"):
        Study("s", "m", (TaskPlan("t"),), batch_size=0)
    with pytest.raises(ConfigError, match="batch_size of -1"):
        Study("s", "m", (TaskPlan("t"),), control=ControlPlan(-1))
    with pytest.raises(ConfigError, match="limit of 0"):
        Study("s", "m", (TaskPlan("t"),), arms=(ArmPlan("a", "r", limit=0),))
    with pytest.raises(UnknownName, match="dtype"):
        Study("s", "m", (TaskPlan("t"),), dtype="int7")


def test_names_of_studies(tmp_path: Path) -> None:
    assert "pocket-demo" in shipped_studies()
    with pytest.raises(UnknownName, match="Did you mean 'pocket-demo'"):
        Study.from_yaml("pocket-dmo")
    with pytest.raises(ConfigError, match="there is no study file"):
        Study.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="there is no study file"):
        Study.from_yaml(tmp_path)


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_sound(name: str) -> None:
    suite = Suite.from_yaml(name)
    assert suite.name == name
    for study in suite.studies:
        assert study.control is not None
        assert study.arms


def test_unknown_tasks_options_and_methods_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'folder'"):
        Study("s", "m", (TaskPlan("foldr"),)).check()
    with pytest.raises(UnknownName, match="Did you mean 'path'"):
        Study("s", "m", (TaskPlan("folder", {"pth": "x"}),)).check()


def folder_task(tmp_path: Path) -> TaskPlan:
    (tmp_path / "questions.jsonl").write_text('{"id": "1", "question": "Is it?", "answer": "yes"}\n')
    return TaskPlan("folder", {"path": str(tmp_path)})


def test_recipes_are_checked(tmp_path: Path) -> None:
    task = folder_task(tmp_path)
    Study("s", "m", (task,), arms=(ArmPlan("a", "fastv(layer=1)"), ArmPlan("b", "fastv(layer=2)"))).check()
    with pytest.raises(UnknownName, match="Did you mean 'fastv'"):
        Study("s", "m", (task,), arms=(ArmPlan("a", "fastvv(layer=1)"),)).check()
    with pytest.raises(ConfigError, match="is the original itself"):
        Study("s", "m", (task,), arms=(ArmPlan("a", "keep_all"),)).check()
    with pytest.raises(ConfigError, match="'a' and 'b' are the same"):
        Study("s", "m", (task,), arms=(ArmPlan("a", "fastv(layer=1)"), ArmPlan("b", "fastv(layer=1)"))).check()


@pytest.mark.usefixtures("unchecked")
def test_seeds_become_runs_of_one_variant_that_survive_the_store() -> None:
    joint = {"name": "joint", "recipe": "flatquant(seed={seed})", "seeds": [0, 7], "limit": 5}
    study = Study.from_mapping(minimal(recipes=[joint, {"name": "few", "recipe": "rtn"}], contrasts=[["joint", "few"]]))
    assert [(arm.name, arm.recipe, arm.variant, arm.limit) for arm in study.arms] == [
        ("joint-s0", "flatquant(seed=0)", "joint", 5),
        ("joint-s7", "flatquant(seed=7)", "joint", 5),
        ("few", "rtn", "", None),
    ]
    assert study.variants == {"joint": ("joint-s0", "joint-s7"), "few": ("few",)}
    assert study.contrasts == (("joint", "few"),)
    assert Study.from_mapping(study.to_mapping()) == study


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": [{"name": "a", "recipe": "rtn", "seeds": [0]}]}, r"nowhere to put them; write \{seed\}"),
        ({"recipes": [{"name": "a", "recipe": "f(seed={seed})", "seeds": [0, 0]}]}, "different whole numbers"),
        ({"recipes": [{"name": "a", "recipe": "f(seed={seed})", "seeds": [True]}]}, "different whole numbers"),
        (
            {
                "recipes": [
                    {"name": "a", "recipe": "f(seed={seed})", "seeds": [0]},
                    {"name": "b", "recipe": "rtn", "variant": "a-s0"},
                ]
            },
            "'a-s0' is both a run and a variant",
        ),
        ({"recipes": [{"name": "a", "recipe": "rtn"}], "contrasts": [["a", "b"]]}, "variant or recipe in 'contrasts'"),
        ({"recipes": [{"name": "a", "recipe": "rtn"}], "contrasts": [["a", "a"]]}, "names two variants"),
        ({"recipes": [{"name": "a", "recipe": "rtn"}], "contrasts": ["a"]}, "a list of lists"),
    ],
)
def test_seeds_and_contrasts_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SteadyVLMError, match=message):
        Study.from_mapping(minimal(**changes))
