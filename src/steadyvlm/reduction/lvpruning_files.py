"""Trained LVPruning modules on disk: `lvpruning.json` says what they were made for, `modules.safetensors` holds them.

Only safetensors are read, never a pickle. What is read once stays in memory until the files change.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from steadyvlm.errors import CheckpointError
from steadyvlm.reduction.lvpruning_module import PruningModule

CONFIG, WEIGHTS = "lvpruning.json", "modules.safetensors"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModulesConfig:
    """What a set of modules was made for.

    Attributes:
        model: name of the model they were trained on.
        weights_sha256: content hash of that model.
        width, num_layers: of its decoder.
        layers: decoder layers before which they act, ascending.
        keep_ratios: fraction of the prompt's visual tokens each was trained to leave, not ascending.
        inner, heads: sizes of a module.
        training: how they were trained and what was measured; for people.

    >>> ModulesConfig("mine", "ab12", 32, 4, (1, 2), (0.5, 0.1), inner=16, heads=4).stage(2)
    1
    """

    model: str
    weights_sha256: str
    width: int
    num_layers: int
    layers: tuple[int, ...]
    keep_ratios: tuple[float, ...]
    inner: int = 1024
    heads: int = 8
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no training run can have meant; raises ValueError."""
        sizes = (self.width, self.num_layers, self.inner, self.heads)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or self.inner % self.heads:
            raise ValueError(f"sizes {sizes} of width, layers, inner and heads do not make a module")
        if not all(isinstance(layer, int) for layer in self.layers) or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers {list(self.layers)} are not ascending whole numbers")
        if not self.layers or self.layers[0] < 0 or self.layers[-1] >= self.num_layers:
            raise ValueError(f"layers {list(self.layers)} do not lie in a decoder of {self.num_layers} layers")
        if len(self.keep_ratios) != len(self.layers) or not all(0 < ratio <= 1 for ratio in self.keep_ratios):
            raise ValueError(f"keep_ratios {list(self.keep_ratios)} are not one fraction per layer")

    def stage(self, layer: int) -> int:
        """Return which of the modules acts before decoder layer `layer`."""
        return self.layers.index(layer)

    def make(self) -> list[PruningModule]:
        """Return untrained modules of these sizes, one per stage."""
        return [PruningModule(self.width, self.inner, self.heads) for _ in self.layers]


def save_modules(folder: Path, config: ModulesConfig, modules: Sequence[PruningModule]) -> None:
    """Write modules and what they were made for into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{stage}.{name}": value.detach().cpu().contiguous()
        for stage, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)
    text = json.dumps({"format": FORMAT, **asdict(config)}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def read_config(folder: Path) -> ModulesConfig:
    """Return what the modules in `folder` were made for.

    Raises:
        CheckpointError: when there are none, or their description cannot be read.
    """
    return _config(folder, _stamp(folder / CONFIG))


def read_modules(folder: Path, device: torch.device) -> list[PruningModule]:
    """Return the modules in `folder`, float32 and frozen, on `device`; callers must not change them.

    Raises:
        CheckpointError: when files are missing, cannot be read, or do not fit each other.
    """
    return _modules(folder, read_config(folder), _stamp(folder / WEIGHTS), device)


def _stamp(path: Path) -> tuple[int, int]:
    """Return when a file was written and its size: a cached reading holds as long as these do."""
    try:
        found = path.stat()
    except OSError:
        raise CheckpointError(
            f"no trained LVPruning modules at '{path.parent}': {path.name} is missing (pickled weights are never "
            "loaded). Train them with `steadyvlm train lvpruning --model MODEL --out FOLDER`."
        ) from None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=16)
def _config(folder: Path, stamp: tuple[int, int]) -> ModulesConfig:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found |= {name: tuple(found[name]) for name in ("layers", "keep_ratios")}
        return ModulesConfig(**found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"'{folder / CONFIG}' does not describe LVPruning modules: {error}. Train them again, or restore the file."
        ) from error


@functools.lru_cache(maxsize=4)
def _modules(folder: Path, config: ModulesConfig, stamp: tuple[int, int], device: torch.device) -> list[PruningModule]:
    modules = config.make()
    try:
        tensors = load((folder / WEIGHTS).read_bytes())
        torch.nn.ModuleList(modules).load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"'{folder / WEIGHTS}' does not hold the modules that {CONFIG} describes: {reason}. Train them again, "
            "or restore both files together."
        ) from error
    return [module.to(device).eval().requires_grad_(False) for module in modules]
