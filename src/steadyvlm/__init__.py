"""Accelerate a vision-language model and prove, sample by sample, whether its answers stayed.

>>> import steadyvlm as sv                                            # doctest: +SKIP
>>> model = sv.load("pocket")                                         # doctest: +SKIP
>>> fast = sv.accelerate(model, "visionzip(dominant=32, contextual=8)")  # doctest: +SKIP
>>> sv.compare("original.jsonl", "accelerated.jsonl").divergence_ratio  # doctest: +SKIP

Importing this package loads no torch: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "steadyvlm.models.load:load",
    "accelerate": "steadyvlm.recipes.accelerate:accelerate",
    "answer": "steadyvlm.api:answer",
    "compare": "steadyvlm.api:compare",
    "Recipe": "steadyvlm.recipes.recipe:Recipe",
    "Sample": "steadyvlm.records:Sample",
    "Prediction": "steadyvlm.records:Prediction",
    "Comparison": "steadyvlm.stability.compare:Comparison",
    "SteadyVLMError": "steadyvlm.errors:SteadyVLMError",
}

__all__ = [*sorted(_LAZY), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'steadyvlm' has no attribute '{name}'")
    module, _, attribute = _LAZY[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
