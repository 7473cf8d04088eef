"""Where the shipped pocket models lie."""

from __future__ import annotations

from pathlib import Path

from steadyvlm.errors import CheckpointError, UnknownName

ARCHITECTURES = ("llava", "qwen2_5_vl", "llava_next")
FOLDER = Path(__file__).parent / "weights"


def pocket_path(architecture: str = "llava") -> Path:
    """Return the folder of a shipped pocket model, an ordinary Hugging Face checkpoint.

    Raises:
        UnknownName: if there is no such architecture.
        CheckpointError: if this installation came without the weights.

    >>> pocket_path("qwen2_5_vl").name
    'qwen2_5_vl'
    """
    if architecture not in ARCHITECTURES:
        raise UnknownName.among("pocket architecture", architecture, ARCHITECTURES)
    folder = FOLDER / architecture
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"the pocket weights are not at {folder}. Install steadyvlm from a wheel or a full clone, "
            f"or train them with `steadyvlm pocket train --architecture {architecture}`."
        )
    return folder


def qwen_path() -> Path:
    """Return the folder of the shipped Qwen2.5-VL pocket model."""
    return pocket_path("qwen2_5_vl")


def next_path() -> Path:
    """Return the folder of the shipped LLaVA-NeXT pocket model."""
    return pocket_path("llava_next")


def lvpruning_path() -> Path:
    """Return where the LVPruning modules of the pocket models lie, one folder per architecture."""
    return FOLDER / "lvpruning"
