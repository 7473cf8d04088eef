"""What a user applies to a model: `Recipe` says it, `accelerate` does it."""

from __future__ import annotations

from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate, answer
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.recipes.withdrawal import WithdrawalSearch, search_withdrawal_layer

__all__ = ["AcceleratedModel", "Recipe", "WithdrawalSearch", "accelerate", "answer", "search_withdrawal_layer"]
