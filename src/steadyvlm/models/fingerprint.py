"""What exactly was loaded: a content hash of weights and everything else that shapes an answer.

The hash of a folder covers weights, configuration, tokenizer, chat template and image processor; a model built in
memory is hashed from its tensors. Libraries and hardware stay out: they belong to provenance.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from steadyvlm import __version__

_WEIGHTS = (".safetensors",)
_TEXT = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_IGNORED = frozenset({"trainer_state.json", "training_args.json", "model_card.json"})
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "bitsandbytes", "numpy", "pillow")


def folder_sha256(folder: Path) -> str:
    """Return one hash over the names and bytes of all files in `folder` that a checkpoint is read from."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS + _TEXT and path.name not in _IGNORED:
            with path.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name}\x1f{inner}\x1e".encode())
    return digest.hexdigest()


def module_sha256(module: nn.Module, *, extra: str = "") -> str:
    """Return one hash over the names, dtypes, shapes and bytes of all tensors of `module`, and `extra`."""
    digest = hashlib.sha256(extra.encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\x1f{value.dtype}\x1f{tuple(value.shape)}\x1e".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of every library that takes part in an answer and is installed."""
    found = {"python": platform.python_version(), "steadyvlm": __version__}
    return found | {name: version for name in _LIBRARIES if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
