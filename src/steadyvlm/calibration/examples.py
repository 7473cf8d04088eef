"""Which examples a quantiser is calibrated on, found and read before any work begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from steadyvlm.calibration.sets import AUTO, CalibrationSet, find_set
from steadyvlm.engine.requests import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.seeding import content_hash


class Asking(Protocol):
    """Whatever says which examples it wants: a quantiser that learns, a schedule that is measured."""

    @property
    def calibration(self) -> str:
        """Name or path of a calibration set, or "auto"."""

    @property
    def samples(self) -> int:
        """How many of its samples."""

    @property
    def seed(self) -> int:
        """Draws them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Examples by set, number and seed."""

    calibration: str
    samples: int
    seed: int


def examples_of(asking: Asking, model: VisionLanguageModel) -> list[Request]:
    """Return the examples a quantiser or a schedule asks for, pictures loaded and compared with their hashes.

    Raises:
        Unsupported, UnknownName, SampleError, InvalidOption, ImageError: as `sets.find_set`, `CalibrationSet.draw` and
            `CalibrationSet.requests`.
    """
    weights = model.weights_sha256() if asking.calibration == AUTO else ""
    return drawn_set(asking, weights, model.info.name).requests()


def drawn_set(asking: Asking, weights_sha256: str, model: str) -> CalibrationSet:
    """Return the samples that are asked for; no picture is looked at.

    Args:
        asking: names the set, how many samples, and the seed.
        weights_sha256: content hash of the model, for "auto".
        model: how the model is called, for messages.

    Raises:
        Unsupported, UnknownName, SampleError, InvalidOption: as `sets.find_set` and `CalibrationSet.draw`.
    """
    found = find_set(asking.calibration, weights_sha256=weights_sha256, model=model)
    return found.draw(asking.samples, asking.seed)


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
