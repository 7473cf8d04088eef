"""Where the shipped pocket model lies."""

from __future__ import annotations

from pathlib import Path

from steadyvlm.errors import CheckpointError

FOLDER = Path(__file__).parent / "weights" / "llava"


def pocket_path() -> Path:
    """Return the folder of the shipped LLaVA pocket model, an ordinary Hugging Face checkpoint.

    Raises:
        CheckpointError: if this installation came without the weights.
    """
    if not (FOLDER / "model.safetensors").is_file():
        raise CheckpointError(
            f"the pocket weights are not at {FOLDER}. Install steadyvlm from a wheel or a full clone, "
            "or train them with `steadyvlm pocket train`."
        )
    return FOLDER
