"""One file per Hugging Face family, behind one protocol; `MODELS` names the checkpoints that need no path.

A registered entry is a function without arguments that returns the folder of a checkpoint.
"""

from __future__ import annotations

from steadyvlm.registry import Registry

MODELS = Registry(
    "model",
    {
        "pocket": "steadyvlm.pocket.weights:pocket_path",
        "pocket-qwen": "steadyvlm.pocket.weights:qwen_path",
        "pocket-next": "steadyvlm.pocket.weights:next_path",
    },
    group="steadyvlm.models",
)
