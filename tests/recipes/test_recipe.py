"""Recipe text: equal recipes have equal text, and what cannot be read is said with the way out."""

from __future__ import annotations

import pytest

from steadyvlm.errors import CheckpointError, ConfigError, InvalidOption, UnknownName
from steadyvlm.recipes import Recipe
from steadyvlm.registry import Spec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("keep_all", "keep_all"),
        ("keep_all()", "keep_all"),
        ("fastv", "fastv(keep_ratio=0.5, layer=3)"),
        (" fastv( layer = 3 ) ", "fastv(keep_ratio=0.5, layer=3)"),
        ("visionzip(contextual=9)", "visionzip(contextual=9, dominant=54)"),
        (
            "checkpoint(path='a/b+c') + random(layer=+1)",
            "checkpoint(path='a/b+c') + random(keep_ratio=0.5, layer=1, seed=0)",
        ),
    ],
)
def test_canonical_text_spells_defaults_out_and_reads_back(text: str, canonical: str) -> None:
    recipe = Recipe.parse(text)
    assert str(recipe) == canonical
    assert Recipe.parse(canonical) == recipe
    assert Recipe.parse(canonical).sha256() == recipe.sha256()


def test_the_order_of_parts_does_not_matter() -> None:
    first, second = Recipe.parse("rtn(bits=4) + fastv"), Recipe.parse("fastv + rtn(bits=4)")
    assert first == second
    assert first.sha256() == second.sha256() != Recipe.parse("fastv + rtn(bits=3)").sha256()
    assert str(first).startswith("fastv(keep_ratio=0.5, layer=3) + rtn(bits=4, ")


def test_parts_are_built() -> None:
    recipe = Recipe.parse("fastv(layer=2) + rtn(bits=3)")
    reduction, quantizer = recipe.build_reduction(), recipe.build_quantizer()
    assert reduction is not None
    assert [site.layer for site in reduction.sites(8)] == [2]
    assert quantizer is not None
    assert not recipe.is_original
    assert Recipe.parse("keep_all").is_original
    assert Recipe.parse("keep_all").build_reduction() is None


def test_a_recipe_built_from_specs_is_canonical_too() -> None:
    assert Recipe(reduction=Spec("fastv", {"layer": 3})) == Recipe.parse("fastv")
    assert Recipe(reduction=Spec("keep_all", {})) == Recipe()


@pytest.mark.parametrize("text", ["", "  ", "fastv(", "fastv(3)", "fastv - rtn", "1 + 2", "fastv(layer=f())"])
def test_unreadable_text(text: str) -> None:
    with pytest.raises(ConfigError):
        Recipe.parse(text)


@pytest.mark.parametrize(
    "text", ["fastv + visionzip", "fastv + keep_all", "checkpoint(path='a') + checkpoint(path='b')"]
)
def test_two_parts_of_one_kind(text: str) -> None:
    with pytest.raises(ConfigError, match="two parts of one kind"):
        Recipe.parse(text)


@pytest.mark.parametrize("text", ["checkpoint", "checkpoint(path=3)", "checkpoint(path='a', revision='b')"])
def test_a_checkpoint_needs_a_path_and_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match="folder or hub id"):
        Recipe.parse(text)


def test_an_empty_checkpoint() -> None:
    with pytest.raises(InvalidOption, match="folder or hub id"):
        Recipe.parse("checkpoint(path=' ')")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fastv'"):
        Recipe.parse("fastvv(layer=3)")
    with pytest.raises(UnknownName, match="Did you mean 'keep_ratio'"):
        Recipe.parse("fastv(keep_ration=0.5)")
    with pytest.raises(InvalidOption):
        Recipe.parse("fastv(keep_ratio=1.5)")


def test_a_joint_recipe_is_a_path_and_stands_alone() -> None:
    recipe = Recipe.parse('joint(path="runs/a+b/recipe.json")')
    assert recipe == Recipe(joint="runs/a+b/recipe.json")
    assert str(recipe) == "joint(path='runs/a+b/recipe.json')"
    assert Recipe.parse(str(recipe)) == recipe
    assert not recipe.is_original
    assert recipe.build_quantizer() is None
    for other in ("fastv", "rtn(bits=4)", "checkpoint(path='a')", "fastv-k2-50"):
        with pytest.raises(ConfigError, match="leave every other part away"):
            Recipe.parse(f"joint(path='a') + {other}")
    with pytest.raises(ConfigError, match="recipe file"):
        Recipe.parse("joint")
    with pytest.raises(InvalidOption, match="recipe file"):
        Recipe(joint=" ")
    with pytest.raises(CheckpointError, match="there is no"):
        recipe.build_reduction()
