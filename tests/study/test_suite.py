"""One file for several models becomes a study and a folder per model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import ConfigError, UnknownName
from steadyvlm.study.plan import ArmPlan, LidPlan, Study
from steadyvlm.study.suite import Suite, model_label

BOTH = ["pocket", "/data/models/mine"]


def mapping(**changes: Any) -> dict[str, Any]:
    base = {
        "study": "s",
        "models": BOTH,
        "tasks": [{"name": "pocket"}],
        "recipes": [
            {"name": "all", "recipe": "fastv()"},
            {"name": "some", "recipe": "visionzip()", "models": ["pocket"]},
        ],
        "lid": {"limit": 8, "scope": "visual"},
        "tables": ["lofi-main", {"table": "lofi-next", "models": ["/data/models/mine"]}],
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def test_each_model_gets_its_study_with_the_recipes_meant_for_it() -> None:
    suite = Suite.from_mapping(mapping())
    assert suite.name == "s"
    assert not suite.is_single
    first, second = suite.studies
    assert (first.name, first.model) == ("s pocket", "pocket")
    assert (second.name, second.model) == ("s mine", "/data/models/mine")
    assert first.arms == (ArmPlan("all", "fastv()"), ArmPlan("some", "visionzip()"))
    assert second.arms == (ArmPlan("all", "fastv()"),)
    assert first.lid == LidPlan(8, "visual")
    assert first.tables == ("lofi-main",)
    assert second.tables == ("lofi-main", "lofi-next")
    assert suite.folders(Path("runs/s")) == [Path("runs/s/pocket"), Path("runs/s/mine")]
    assert Study.from_mapping(first.to_mapping()) == first


def test_a_file_with_one_model_is_a_suite_of_one() -> None:
    suite = Suite.from_mapping(mapping(models=None, model="pocket", recipes=None, tables=None))
    assert suite.is_single
    assert suite.folders(Path("runs/s")) == [Path("runs/s")]
    assert suite.studies[0].name == "s"


def test_a_list_of_one_model_still_has_a_folder_of_its_own() -> None:
    suite = Suite.from_mapping(mapping(models=["pocket"], recipes=None, tables=None))
    assert suite.folders(Path("r")) == [Path("r/pocket")]


def test_names_in_the_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("study: s\nmodels: [pocket]\ntasks: [{name: pocket}]\nrecipes: [{name: a, recipe: fastvv()}]\n")
    with pytest.raises(UnknownName, match="fastv"):
        Suite.from_yaml(path)
    path.write_text("study: s\nmodels: [pocket]\ntasks: [{name: pocket}]\n")
    assert Suite.from_yaml(path).studies[0].name == "s pocket"
    with pytest.raises(ConfigError, match="several models"):
        Study.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "pocket"}, "both 'model' and 'models'"),
        ({"models": []}, "should be a list"),
        ({"models": "pocket"}, "should be a list"),
        ({"models": ["pocket", ""]}, "should be a list"),
        ({"models": ["a/mine", "b/mine"]}, "mine twice"),
        ({"recipes": [{"name": "a", "recipe": "fastv()", "models": []}]}, r"recipes\[0\].models"),
        ({"recipes": {"name": "a"}}, "must be a list"),
        ({"recipes": ["fastv()"]}, "must be a mapping"),
        ({"lid": {"limit": 0}}, "whole number of at least 1"),
        ({"tables": "lofi-main"}, "a list of texts"),
    ],
)
def test_mistakes_name_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Suite.from_mapping(mapping(**changes))


def test_a_recipe_for_a_model_that_is_not_there_names_the_ones_that_are() -> None:
    recipe = {"name": "a", "recipe": "fastv()", "models": ["pockett"]}
    with pytest.raises(UnknownName, match="pocket"):
        Suite.from_mapping(mapping(recipes=[recipe]))


def test_labels_are_safe_in_paths() -> None:
    assert model_label("../..") == "model"
    assert model_label("a b/ü?x") == "ü-x"


def test_contrasts_follow_the_recipes_that_are_meant_for_a_model() -> None:
    both = {"name": "both", "recipe": "fastv"}
    one = {"name": "one", "recipe": "vtw(layer=3)", "models": ["a"]}
    rest = {"name": "rest", "recipe": "random(keep_ratio=0.5)"}
    suite = Suite.from_mapping(
        {
            "study": "s",
            "models": ["a", "b"],
            "tasks": [{"name": "t"}],
            "recipes": [both, one, rest],
            "contrasts": [["one", "both"], ["both", "rest"]],
        }
    )
    assert [study.contrasts for study in suite.studies] == [(("one", "both"), ("both", "rest")), (("both", "rest"),)]
