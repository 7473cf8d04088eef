"""A preset becomes numbers when it meets a model, and the notes say which."""

from __future__ import annotations

import pytest

from steadyvlm.engine import Request
from steadyvlm.errors import ConfigError, InvalidOption, UnknownName, Unsupported
from steadyvlm.recipes import Recipe, accelerate
from steadyvlm.recipes.resolve import resolve, shape_of
from steadyvlm.records import Generation
from steadyvlm.reduction.presets import Shape
from steadyvlm.registry import Spec
from tiny import VISUAL, make_image, tiny_llava
from tiny_families import tiny_family


@pytest.mark.parametrize(
    "text",
    ["visionzip-192 + rtn(bits=4)", "rtn(bits=4)+visionzip-192", "preset('visionzip-192') + rtn(bits=4)"],
)
def test_a_preset_is_read_in_any_place(text: str) -> None:
    recipe = Recipe.parse(text)
    assert recipe.preset == "visionzip-192"
    assert recipe.reduction is None
    assert recipe.quantizer is not None
    assert not recipe.is_original
    assert str(recipe).startswith("visionzip-192 + rtn(bits=4, ")
    assert Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize("text", ["divprune-9.8", 'preset("divprune-9.8")', "preset( name = 'divprune-9.8' )"])
def test_a_preset_by_itself(text: str) -> None:
    assert Recipe.parse(text) == Recipe(preset="divprune-9.8")
    assert str(Recipe.parse(text)) == "divprune-9.8"


def test_plus_signs_in_quotes_and_numbers_do_not_split() -> None:
    recipe = Recipe.parse(r"checkpoint(path='a+b\'c+d') + fastv-k2-50")
    assert recipe.checkpoint == "a+b'c+d"
    assert recipe.preset == "fastv-k2-50"
    assert Recipe.parse("random(layer=+1)").reduction == Spec("random", {"layer": 1, "keep_ratio": 0.5, "seed": 0})


def test_unknown_and_doubled_presets_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'visionzip-192'"):
        Recipe.parse("visionzip-193")
    with pytest.raises(UnknownName, match="no preset is called ''"):
        Recipe.parse("preset('')")
    with pytest.raises(ConfigError, match="two parts of one kind"):
        Recipe.parse("visionzip-192 + fastv")
    with pytest.raises(ConfigError, match="two reductions"):
        Recipe(reduction=Spec("fastv", {}), preset="vtw-15")


def test_without_a_model_a_preset_is_no_reduction_yet() -> None:
    recipe = Recipe.parse("vtw-15")
    with pytest.raises(Unsupported, match=r"preset 'vtw-15' .* accelerate\(model, recipe\)"):
        recipe.build_reduction()
    resolved, note = recipe.resolve(Shape(layers=4))
    assert str(resolved) == "vtw(layer=2, reindex=False)"
    assert "32 layers to 4" in note
    assert resolved.resolve(Shape()) == (resolved, "")


def test_shapes_are_asked_of_the_model() -> None:
    assert shape_of(tiny_llava()) == Shape(4, VISUAL, VISUAL)
    tiled = shape_of(tiny_family("llava_next"))
    assert tiled == Shape(4, 36, 5 * 36 + 12, varies=True)
    assert shape_of(tiny_family("qwen2_5_vl")).varies


def test_what_runs_is_what_the_recipe_says() -> None:
    fast = accelerate(tiny_llava(), "pyramiddrop-8-16-24 + rtn(bits=8, group=8)")
    assert str(fast.recipe).startswith("pyramiddrop(keep_ratios=(0.5, 0.25, 0.125), layers=(1, 2, 3)) + rtn(")
    assert fast.notes == (
        "pyramiddrop-8-16-24 is scaled from 32 layers to 4: "
        "pyramiddrop(keep_ratios=(0.5, 0.25, 0.125), layers=(1, 2, 3))",
    )
    (answer,) = fast.answer_requests([Request((make_image(1),), "what colour?", 1)])
    assert isinstance(answer, Generation)
    assert answer.cost.visual_tokens_per_layer == (36, 18, 9, 4)
    assert accelerate(tiny_llava(), "hired-20").notes == ()
    assert accelerate(tiny_llava(), "fastv(layer=1)").notes == ()


def test_a_recipe_without_preset_prepares_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = tiny_llava(), Recipe.parse("fastv(layer=1)")
    monkeypatch.setattr("steadyvlm.recipes.resolve.shape_of", None)
    assert resolve(model, recipe) == (recipe, ())


def test_a_decoder_that_is_too_shallow_is_refused() -> None:
    with pytest.raises(InvalidOption, match="cannot be scaled to a decoder of 2"):
        accelerate(tiny_llava(layers=2), "pyramiddrop-8-16-24")
