"""What a user applies to a model: `Recipe` says it, `accelerate` does it."""

from __future__ import annotations

from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate, answer
from steadyvlm.recipes.recipe import Recipe

__all__ = ["AcceleratedModel", "Recipe", "accelerate", "answer"]
