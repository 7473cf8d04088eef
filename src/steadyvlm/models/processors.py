"""The image processor of a checkpoint, from its settings, in the variant that needs no torchvision.

Settings were written by many versions of transformers: under older class names, beside the processor or inside it, and
for Qwen with the limits on pixels under either of two names. All of that is read here; the arithmetic is theirs.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.families import Family

_PILLOW = {
    "CLIPImageProcessor": ("transformers.models.clip.image_processing_pil_clip", "CLIPImageProcessorPil"),
    "LlavaImageProcessor": ("transformers.models.llava.image_processing_pil_llava", "LlavaImageProcessorPil"),
    "LlavaNextImageProcessor": (
        "transformers.models.llava_next.image_processing_pil_llava_next",
        "LlavaNextImageProcessorPil",
    ),
    "Qwen2VLImageProcessor": (
        "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl",
        "Qwen2VLImageProcessorPil",
    ),
}
_OLD_NAMES = {"Qwen2_5_VLImageProcessor": "Qwen2VLImageProcessor"}


def load_image_processor(folder: Path, family: Family) -> Any:
    """Return the Pillow variant of the image processor a folder describes.

    Raises:
        CheckpointError: without settings, or for settings that are unreadable or belong to another family.
        Unsupported: for an image processor nobody here has compared.
    """
    settings = optional_json(folder / "preprocessor_config.json") or optional_json(folder / "processor_config.json")
    settings = settings.get("image_processor", settings)
    if "image_mean" not in settings:
        raise CheckpointError(
            f"no image processor settings in '{folder}'; copy preprocessor_config.json of the original checkpoint."
        )
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "CLIPImageProcessor")
    kind = kind.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    kind = _OLD_NAMES.get(kind, kind)
    if kind not in _PILLOW:
        raise Unsupported(f"image processor '{kind}' of '{folder}' is not supported. Known: {', '.join(_PILLOW)}.")
    if kind not in family.image_processors:
        raise CheckpointError(
            f"'{folder}' holds a {family.architecture} but the settings of a {kind}; copy preprocessor_config.json of "
            f"the original checkpoint ({' or '.join(sorted(family.image_processors))})."
        )
    plain = {key: value for key, value in settings.items() if not key.endswith(("_type", "_class"))}
    if kind == "Qwen2VLImageProcessor":
        plain = _with_pixel_limits(plain)
    return pillow_processor(kind)(**plain)


def pillow_processor(kind: str) -> Any:
    """Return the Pillow variant of an image processor class, by the name settings files give it."""
    module, name = _PILLOW[kind]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:  # transformers before 5 has one class of this name, which already is the Pillow one
        return getattr(importlib.import_module("transformers"), kind)


def _with_pixel_limits(settings: dict[str, Any]) -> dict[str, Any]:
    """Return Qwen settings with both limits in `size`, where newer versions of transformers keep them."""
    size = dict(settings.pop("size", None) or {})
    least = settings.pop("min_pixels", None) or size.get("min_pixels") or size.get("shortest_edge")
    most = settings.pop("max_pixels", None) or size.get("max_pixels") or size.get("longest_edge")
    limits = {"shortest_edge": least or 56 * 56, "longest_edge": most or 28 * 28 * 1280}
    if limits["shortest_edge"] > limits["longest_edge"]:
        raise CheckpointError(
            f"the image processor allows at least {limits['shortest_edge']} and at most {limits['longest_edge']} "
            "pixels; repair min_pixels and max_pixels in preprocessor_config.json."
        )
    return {**settings, "size": limits}


def optional_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one when there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: when the file holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"'{path}' should hold a JSON object, found {type(value).__name__}.")
    return value
