"""Which trained LVPruning modules belong to a model: the link between a method that sees no model and its weights.

`lvpruning(modules="auto")` names no folder. When the recipe meets a model, the modules whose description carries the
model's content hash are taken, and modules of another checkpoint are refused: they would prune by what other weights
meant by a hidden state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.reduction.base import Reduction
from steadyvlm.reduction.lvpruning import AUTO, LVPruning
from steadyvlm.reduction.lvpruning_files import CONFIG, WEIGHTS, read_config
from steadyvlm.registry import Registry
from steadyvlm.seeding import bytes_hash, content_hash

LVPRUNING_MODULES = Registry(
    "set of LVPruning modules",
    {"pocket": "steadyvlm.pocket.weights:lvpruning_path"},
    group="steadyvlm.lvpruning_modules",
)
"""An entry is a function without arguments that returns a folder with one folder of trained modules per model."""


def needs_modules(reduction: Reduction | None) -> bool:
    """Whether this method can only run with modules trained for the model it runs on."""
    return isinstance(reduction, LVPruning)


def resolve_modules(reduction: Reduction | None, model: VisionLanguageModel) -> Reduction | None:
    """Return `reduction` with "auto" replaced by the folder of the modules trained for `model`.

    Any other reduction is returned as it is, and its model is not hashed.

    Raises:
        Unsupported: when no modules were trained for this model; names the command that trains them.
        CheckpointError: when the modules that were named belong to another checkpoint.
    """
    if not isinstance(reduction, LVPruning):
        return reduction
    folder = find_modules(reduction, model.weights_sha256(), model.info.name)
    return dataclasses.replace(reduction, modules=str(folder))


def modules_sha256(reduction: Reduction | None, weights_sha256: str, name: str) -> str | None:
    """Return the content hash of the modules a method will run with, None for a method without.

    Args:
        reduction: as a recipe builds it.
        weights_sha256: content hash of the model it will meet.
        name: of that model, for messages.

    Raises:
        Unsupported, CheckpointError: as `resolve_modules`.
    """
    if not isinstance(reduction, LVPruning):
        return None
    folder = find_modules(reduction, weights_sha256, name)
    return content_hash([bytes_hash((folder / part).read_bytes()) for part in (CONFIG, WEIGHTS)])


def find_modules(reduction: LVPruning, weights_sha256: str, name: str) -> Path:
    """Return the folder of the modules for a model with this content hash; raises as `resolve_modules`."""
    if reduction.modules == AUTO:
        for folder in known_modules():
            if read_config(folder).weights_sha256 == weights_sha256:
                return folder
        raise Unsupported(
            f"no LVPruning modules were trained for '{name}'. Train them: {_command(name)}, and name the folder: "
            "lvpruning(modules='FOLDER')."
        )
    config = read_config(reduction.folder)
    if config.weights_sha256 != weights_sha256:
        raise CheckpointError(
            f"the LVPruning modules in '{reduction.modules}' were trained for '{config.model}' with weights "
            f"{config.weights_sha256[:12]}, but '{name}' holds {weights_sha256[:12]}. Train modules for it: "
            f"{_command(name)}."
        )
    return reduction.folder


def known_modules() -> Iterator[Path]:
    """Yield the folders of all registered modules."""
    for name in LVPRUNING_MODULES:
        root = Path(LVPRUNING_MODULES.load(name)())
        yield from sorted(path.parent for path in root.glob(f"*/{CONFIG}"))


def _command(name: str) -> str:
    return f"`steadyvlm train lvpruning --model {name} --task TASK --out FOLDER`"
