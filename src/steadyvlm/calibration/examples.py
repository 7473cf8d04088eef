"""Which examples a quantiser is calibrated on, found and read before any work begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from steadyvlm.calibration.sets import AUTO, CalibrationSet, find_set
from steadyvlm.engine.requests import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.base import Calibrated
from steadyvlm.seeding import content_hash


def examples_of(quantizer: Calibrated, model: VisionLanguageModel) -> list[Request]:
    """Return the examples a quantiser asks for, pictures loaded and compared with their hashes.

    Raises:
        Unsupported, UnknownName, SampleError, InvalidOption, ImageError: as `sets.find_set`, `CalibrationSet.draw` and
            `CalibrationSet.requests`.
    """
    weights = model.weights_sha256() if quantizer.calibration == AUTO else ""
    return drawn_set(quantizer, weights, model.info.name).requests()


def drawn_set(quantizer: Calibrated, weights_sha256: str, model: str) -> CalibrationSet:
    """Return the samples a quantiser is calibrated on; no picture is looked at.

    Args:
        quantizer: names the set, how many samples, and the seed.
        weights_sha256: content hash of the model, for "auto".
        model: how the model is called, for messages.

    Raises:
        Unsupported, UnknownName, SampleError, InvalidOption: as `sets.find_set` and `CalibrationSet.draw`.
    """
    found = find_set(quantizer.calibration, weights_sha256=weights_sha256, model=model)
    return found.draw(quantizer.samples, quantizer.seed)


def calibration_sha256(quantizer: object, weights_sha256: str, model: str) -> str | None:
    """Return the hash of the samples a quantiser is calibrated on, None for one that needs none.

    It is part of the address of a result: the recipe's text may only name a path.
    """
    return drawn_set(quantizer, weights_sha256, model).sha256 if isinstance(quantizer, Calibrated) else None


def examples_sha256(examples: Sequence[Request]) -> str:
    """Return the hash of what a model sees of the examples: prompts and pixels, in their order."""
    known: dict[int, str] = {}
    for example in examples:
        for image in example.images:
            if id(image) not in known:
                known[id(image)] = _pixels_sha256(image)
    return content_hash(
        [[example.prompt, [known[id(image)] for image in example.images], example.seed] for example in examples]
    )


def _pixels_sha256(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
