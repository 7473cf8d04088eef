"""From a recipe with a published setting to the recipe for one model.

Presets are stated for 32 layers and 576 visual tokens. How many tokens a model makes of a picture is found by asking
it: two blank pictures, one square and one wide, are prepared as any other (the encoder does not run). The square one
is the usual picture; if the wide one comes to another number of tokens, numbers differ from picture to picture.
"""

from __future__ import annotations

from PIL import Image

from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.reduction.presets import Shape

_SQUARE, _WIDE = (672, 672), (672, 224)
"""672 x 672 pixels are 576 tokens of Qwen and the full 2 x 2 mosaic of LLaVA-NeXT: the papers' count, or close."""


def shape_of(model: VisionLanguageModel) -> Shape:
    """Return what of a model presets are scaled to."""
    square, wide = (model.preprocess(Image.new("RGB", size)).layout for size in (_SQUARE, _WIDE))
    return Shape(
        layers=model.info.num_layers,
        tile_tokens=square.tokens_per_tile,
        tokens=square.visual_tokens,
        varies=square.visual_tokens != wide.visual_tokens,
    )


def resolve(model: VisionLanguageModel, recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe `model` would run and notes on what was scaled for it.

    Raises:
        InvalidOption: when the decoder has too few layers for the preset.

    >>> resolve(model, Recipe.parse("pyramiddrop-8-16-24"))[1]   # doctest: +SKIP
    ('pyramiddrop-8-16-24 is scaled from 32 layers to 12: pyramiddrop(…, layers=(3, 6, 9))',)
    """
    if recipe.preset is None:
        return recipe, ()
    resolved, note = recipe.resolve(shape_of(model))
    return resolved, (note,) if note else ()
